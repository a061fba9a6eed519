"""Three steps of each learned method on the bundled `demo-vit`, as numbers that rounding does not move.

With all images in one batch an epoch is a step: the first at the rate of the warm-up, the second at the full rate, the
third on the cosine. Images and directions come from integer and float64 arithmetic, so that no processor, BLAS, or
version of Pillow has a say in them.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from ipo_dspy.baselines import build_method
from ipo_dspy.baselines.base import FewShotTask
from ipo_dspy.clip.bundled import resolve_model_name
from ipo_dspy.clip.loading import load_backbone
from ipo_dspy.template import Template

FILE = Path(__file__).parent / "learned_steps.json"
CLASSES = ("cat", "sea_gull", "U-boat", "dog")
SENTENCES = {name: [f"a {name.replace('_', ' ')} seen from above."] for name in CLASSES}
EVERYWHERE = {"epochs": 3, "batch_size": 8}
METHODS: Mapping[str, Mapping[str, Any]] = {
    "coop": {},
    "cocoop": {},
    "maple": {},
    "promptsrc": {"gpa_mean": 2.0},
    "coprompt": {"sentences": SENTENCES, "augment": False, "n_ctx": 4, "consistency_weight": 8.0},
    "vpt": {},
}
STEPS = 3

Numbers = dict[str, list[list[float]]]


def three_steps(method: str) -> dict[str, Any]:
    """Losses of the steps, the gradients of each, and how far all parameters have moved in the end.

    A tensor is identified by its length and by its products with two fixed directions.
    """
    gradients: list[list[list[float]]] = []
    started: list[Tensor] = []

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        learned = optimizer.param_groups[0]["params"]
        started.extend(one.detach().clone() for one in learned if len(started) < len(learned))
        gradients.append([_told(one.grad) for one in learned])
        parameters[:] = learned

    parameters: list[Tensor] = []
    with _watching(note):
        fitted: Any = build_method(method, **EVERYWHERE, **METHODS[method]).fit(_task(), seed=0)
    moved = [_told(one.detach() - begin) for one, begin in zip(parameters, started, strict=True)]
    return {"losses": list(fitted.losses), "gradients": gradients, "moved": moved}


def _task() -> FewShotTask:
    """Two patterned images of each class, in the size that the model takes."""
    across, down, color = np.arange(64)[None, :, None], np.arange(64)[:, None, None], np.arange(3)
    images = [
        Image.fromarray(((across * (number + 1) + down * (color + 2) + 40 * number) % 256).astype(np.uint8))
        for number in range(2 * len(CLASSES))
    ]
    backbone = load_backbone(resolve_model_name("demo-vit"), None, device="cpu")
    return FewShotTask(backbone, images, CLASSES * 2, CLASSES, Template.parse("a photo of a <CLASS>."))


@contextmanager
def _watching(note: Any) -> Iterator[None]:
    hook = register_optimizer_step_pre_hook(note)
    try:
        yield
    finally:
        hook.remove()


def _told(tensor: Tensor | None) -> list[float]:
    if tensor is None:
        return [0.0] * 3
    flat = tensor.detach().double().flatten().numpy()
    places = np.arange(len(flat), dtype=np.float64)
    return [float(np.linalg.norm(flat)), *(float(flat @ np.cos(turn * places)) for turn in (0.7, 2.3))]

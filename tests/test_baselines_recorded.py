"""Three steps of each learned method are those that were seen to agree with its authors' code.

The numbers are written by `scripts/record_learned_steps.py`. Processors and BLAS code paths differ by 1e-5 of a
gradient; of the mistakes that were tried, the smallest changed one by 3e-2.
"""

import json
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from helpers.learned_steps import FILE, METHODS, STEPS, three_steps
from ipo_dspy.baselines import coprompt, towers
from ipo_dspy.baselines import training as descent
from ipo_dspy.baselines.towers import ImageTower, TextTower

RECORDED: dict[str, Any] = json.loads(FILE.read_text())
LOSS, SHARE = 2e-4, 1e-3
"""Tolerances of losses, and of gradients and moves as a share of their length."""


def difference(method: str) -> float:
    """The largest difference between what a method does and what is recorded, in tolerances."""
    found, known = three_steps(method), RECORDED[method]
    assert len(found["losses"]) == len(found["gradients"]) == STEPS
    off: list[float] = [abs(one - other) / LOSS for one, other in zip(found["losses"], known["losses"], strict=True)]
    for step, recorded in zip(
        [*found["gradients"], found["moved"]], [*known["gradients"], known["moved"]], strict=True
    ):
        for numbers, right in zip(step, recorded, strict=True):
            off += [abs(one - other) / (SHARE * right[0]) for one, other in zip(numbers, right, strict=True)]
    return max(off)


@pytest.mark.parametrize("method", METHODS)
def test_three_steps_are_the_recorded_ones(method: str) -> None:
    assert difference(method) < 1


def one_block_late(transformer: Any, x: Tensor, deep: Any, mask: Tensor | None = None) -> Tensor:
    """Deep prompts before the third block instead of the second, and so on."""
    for index, block in enumerate(transformer.resblocks):
        if 1 < index <= len(deep) + 1:
            x = towers._placed(x, *deep[index - 2])
        x = x if transformer.batch_first else x.transpose(0, 1)
        x = block(x, attn_mask=mask)
        x = x if transformer.batch_first else x.transpose(0, 1)
    return x


def behind_the_norm(self: ImageTower, pixels: Tensor, prompts: Tensor | None) -> Tensor:
    """Image prompts that do not go through the norm before the first block."""
    x = EMBEDDED(self, pixels, None)
    return x if prompts is None else torch.cat([x, prompts.expand(len(x), -1, -1)], dim=1)


EMBEDDED, ENCODE = ImageTower._embedded, TextTower.encode


def shifted(self: TextTower, tokens: Tensor, ends: Tensor, deep: Any = (), **options: Any) -> Tensor:
    """Positions of texts off by one."""
    where = self._tower.positional_embedding
    places = where.data.clone()
    try:
        where.data = places.roll(1, dims=0)
        return ENCODE(self, tokens, ends, deep, **options)
    finally:
        where.data = places


def ending_at_zero(self: descent.SGDConfig, epoch: int) -> float:
    """A cosine over the epochs after the warm-up, so that the last of them would be followed by a rate of zero."""
    return self.warmup_lr if epoch == 0 else self.lr * (1 + math.cos(math.pi * (epoch - 1) / (self.epochs - 1))) / 2


def without_second_relu(self: coprompt.Adapter, features: Tensor, share: float) -> Tensor:
    own = F.linear(F.relu(F.linear(features, self.down)), self.up)
    return F.normalize(share * own + (1 - share) * features, dim=-1)


IN_IMAGES, IN_TEXTS = ("maple", "promptsrc", "coprompt", "vpt"), ("coop", "cocoop", "maple", "promptsrc", "coprompt")
MISTAKES: list[tuple[Any, str, Any, tuple[str, ...]]] = [
    (towers, "_run", one_block_late, IN_IMAGES),
    (ImageTower, "_embedded", behind_the_norm, IN_IMAGES),
    (descent.SGDConfig, "rate", ending_at_zero, tuple(METHODS)),
    (coprompt.Adapter, "__call__", without_second_relu, ("coprompt",)),
    (TextTower, "encode", shifted, IN_TEXTS),
]


@pytest.mark.parametrize(
    ("place", "name", "wrong", "method"),
    [
        pytest.param(place, name, wrong, method, id=f"{wrong.__name__}-{method}")
        for place, name, wrong, methods in MISTAKES
        for method in methods
    ],
)
def test_a_mistake_is_seen(place: Any, name: str, wrong: Any, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, name, wrong)
    assert difference(method) > 20

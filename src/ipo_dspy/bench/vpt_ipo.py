"""VPT + IPO: a template for images as learned visual prompts show them (the paper's Table 5).

First the prompts of the image tower are learned, then IPO searches a template with these in place. They are kept beside
the journal of the search, so that one which was killed goes on with the very same features.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ipo_dspy._internal.file_io import atomic_write
from ipo_dspy.baselines.deep_prompts import Prompts
from ipo_dspy.baselines.towers import ImageTower
from ipo_dspy.baselines.vpt import VPT
from ipo_dspy.bench.method_runners import CellContext, MethodResult, few_shot, ipo
from ipo_dspy.errors import JournalError

if TYPE_CHECKING:
    from ipo_dspy.clip.backbone import Backbone

KEPT = "prompts.safetensors"


def vpt_ipo(job: CellContext) -> MethodResult:
    """IPO with the image tower of VPT."""
    content = _prompts(job)
    prompts, tower = _to_prompts(load(content), job.backbone), ImageTower(job.backbone)

    def encode(pixels: Tensor) -> Tensor:
        return tower.encode(pixels, prompts.first, prompts.deep)

    learned = hashlib.sha256(content).hexdigest()
    return ipo(replace(job, backbone=job.backbone.with_image_encoder(encode, learned)))


def _prompts(job: CellContext) -> bytes:
    """The learned prompts as a safetensors file; those of an earlier sitting where there are some."""
    path = job.folder / KEPT
    try:
        if path.exists():
            content = path.read_bytes()
            load(content)
            return content
        content = save(_learned(job))
        job.folder.mkdir(parents=True, exist_ok=True)
        atomic_write(path, content)
    except SafetensorError as error:
        raise JournalError(f"{str(path)!r} is damaged; remove its folder, and the cell begins anew") from error
    except OSError as error:
        raise JournalError(
            f"{str(path)!r} cannot be kept ({error.strerror}); free space or name another folder"
        ) from error
    return content


def _learned(job: CellContext) -> dict[str, Tensor]:
    """The prompts of each block by its number, learned on the split."""
    fitted = VPT(**job.arguments).fit(few_shot(job), seed=job.seed, progress=job.progress)
    return {f"{block:03}": one.cpu().contiguous() for block, one in enumerate(fitted.model.parameters)}


def _to_prompts(found: Mapping[str, Tensor], backbone: "Backbone") -> Prompts:
    first, *deep = (found[block].to(backbone.device) for block in sorted(found))
    return Prompts(first, tuple(deep))

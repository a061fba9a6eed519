"""VPT + IPO: learn visual prompts, then search for a template with them in place (Table 5 of the paper).

The learned prompts of the image encoder are stored next to the journal of the search, so that an interrupted search
resumes with exactly the same features.
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
    """Run IPO with the image encoder of VPT."""
    content = _prompts(job)
    prompts, tower = _to_prompts(load(content), job.backbone), ImageTower(job.backbone)

    def encode(pixels: Tensor) -> Tensor:
        return tower.encode(pixels, prompts.first, prompts.deep)

    prompt_digest = hashlib.sha256(content).hexdigest()
    return ipo(replace(job, backbone=job.backbone.with_image_encoder(encode, prompt_digest)))


def _prompts(job: CellContext) -> bytes:
    """Return the learned prompts as a safetensors file, from an earlier session if there is one."""
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
        raise JournalError(f"{str(path)!r} is damaged; delete its folder to restart the cell") from error
    except OSError as error:
        raise JournalError(
            f"{str(path)!r} cannot be written ({error.strerror}); free space or name another folder"
        ) from error
    return content


def _learned(job: CellContext) -> dict[str, Tensor]:
    """Return the prompts learned on the split, by block number."""
    fitted = VPT(**job.arguments).fit(few_shot(job), seed=job.seed, progress=job.progress)
    return {f"{block:03}": prompt.cpu().contiguous() for block, prompt in enumerate(fitted.model.parameters)}


def _to_prompts(tensors: Mapping[str, Tensor], backbone: "Backbone") -> Prompts:
    first, *deep = (tensors[block].to(backbone.device) for block in sorted(tensors))
    return Prompts(first, tuple(deep))

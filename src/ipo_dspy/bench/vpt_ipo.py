"""VPT + IPO: learn visual prompts, then search for a template with them in place (Table 5 of the paper).

The learned prompts of the image encoder are stored next to the journal of the search, so that an interrupted search
resumes with exactly the same features.
"""

import hashlib
from dataclasses import replace

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ipo_dspy._internal.file_io import atomic_write
from ipo_dspy.baselines.towers import ImageTower
from ipo_dspy.baselines.vpt import VPT
from ipo_dspy.bench.method_runners import CellContext, MethodResult, ipo
from ipo_dspy.bench.result_rows import unwritable_as_journal_error
from ipo_dspy.errors import JournalError

KEPT = "prompts.safetensors"


def vpt_ipo(job: CellContext) -> MethodResult:
    """Run IPO with the image encoder of VPT."""
    path = job.folder / KEPT
    with unwritable_as_journal_error(path):
        if not path.exists():
            fitted = VPT(**job.cell.arguments).fit(job.task, seed=job.cell.seed, progress=job.progress)
            learned = {f"{block:03}": prompt.cpu().contiguous() for block, prompt in enumerate(fitted.model.parameters)}
            job.folder.mkdir(parents=True, exist_ok=True)
            atomic_write(path, save(learned))
        content = path.read_bytes()
    try:
        prompts = load(content)
    except SafetensorError as error:
        raise JournalError(f"{str(path)!r} is damaged; delete its folder to restart the cell") from error
    first, *deep = (prompts[block].to(job.backbone.device) for block in sorted(prompts))
    tower = ImageTower(job.backbone)

    def encode(pixels: Tensor) -> Tensor:
        return tower.encode(pixels, first, tuple(deep))

    prompt_digest = hashlib.sha256(content).hexdigest()
    return ipo(replace(job, backbone=job.backbone.with_image_encoder(encode, prompt_digest)))

"""Train the demo's second image tower, a small vision transformer that sees what the first one, a ResNet, sees.

Methods that learn visual prompts need a transformer. Its targets are the features of the bundled CLIP for freshly drawn
pictures, so no captions and no text tower are trained: both models share one text tower, and their features mean the
same. The learning rate follows elapsed time, as in `train`.
"""

import argparse
import copy
import random
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from demo.concepts import load_concepts
from demo.glyphs import build_bank
from demo.model import CONTEXT, MODEL_CFG, PREPROCESS_CFG, Vocabulary, encode_image, write_folder
from demo.openclip import open_clip
from demo.train import LEARNING_RATE, Run, draw_batch, learning_rate, update_average

VISION_CFG: dict[str, Any] = {"image_size": 64, "layers": 4, "width": 192, "head_width": 32, "patch_size": 16}
WARMUP, WEIGHT_DECAY = 200, 0.05
POOL = 16
"""Batches of captions, over whose features both models' probabilities are compared."""
COSINE = 8.0
"""Weight of the distance of features, beside that of the probabilities."""


def build_student() -> Any:
    """A fresh model with the vision transformer; its text tower waits for the weights of the other model."""
    return open_clip.CLIP(MODEL_CFG["embed_dim"], VISION_CFG, MODEL_CFG["text_cfg"])


def load_teacher(folder: Path) -> Any:
    """The bundled CLIP, in evaluation mode."""
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    return model.eval().requires_grad_(False)


def new_run(teacher: Any, seed: int) -> Run:
    """A fresh student with the teacher's text tower; matrices alone have weight decay."""
    torch.manual_seed(seed)
    student = build_student()
    text = {name: value for name, value in teacher.state_dict().items() if not name.startswith("visual.")}
    student.load_state_dict(text, strict=False)
    visual = student.visual
    groups = [
        {"params": [p for p in visual.parameters() if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in visual.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    return Run(
        student, copy.deepcopy(student), torch.optim.AdamW(groups, LEARNING_RATE, betas=(0.9, 0.98)), Vocabulary()
    )


def loss_of(student: torch.Tensor, teacher: torch.Tensor, texts: torch.Tensor, scale: float) -> torch.Tensor:
    """Distance of unit features [N, D] to those of the teacher, and of their probabilities over texts [M, D]."""
    wanted = (scale * teacher @ texts.T).log_softmax(1)  # [N, M]
    seen = (scale * student @ texts.T).log_softmax(1)
    apart = functional.kl_div(seen, wanted, log_target=True, reduction="batchmean")
    return COSINE * (1 - (student * teacher).sum(1)).mean() + apart


def distil_step(run: Run, teacher: Any, images: torch.Tensor, texts: torch.Tensor, scale: float) -> tuple[float, float]:
    """One optimizer step on pictures [N, 3, 64, 64]; returns the loss and the mean cosine of the features."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            wanted = encode_image(teacher.visual, images)
        seen = encode_image(run.model.visual, images)
    loss = loss_of(seen, wanted, texts, scale)
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(run.model.visual.parameters(), 2.0)
    run.optimizer.step()
    update_average(run.average.visual, run.model.visual, run.step)
    run.step += 1
    return loss.item(), (seen * wanted).sum(1).mean().item()


def train(folder: Path, model: Path, *, minutes: float, seed: int, save_every: float) -> None:
    """Train until the minutes are spent, counting those of earlier runs in the same folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path, concepts, teacher = folder / "checkpoint.pt", load_concepts(), load_teacher(model)
    run, bank = new_run(teacher, seed), build_bank(concepts)
    if path.exists():
        run.load(path)
    rng = random.Random(seed * 1_000_003 + run.step)
    gen = torch.Generator().manual_seed(seed * 1_000_003 + run.step)
    captions = [text for _ in range(POOL) for text in draw_batch(concepts, bank, rng, gen).texts]
    tokens = open_clip.SimpleTokenizer(context_length=CONTEXT)(captions)
    with torch.no_grad():
        texts = functional.normalize(teacher.encode_text(tokens), dim=-1)  # [M, D]
    scale, begin, saved = float(teacher.logit_scale.exp()), time.monotonic(), time.monotonic()
    while (elapsed := run.spent + time.monotonic() - begin) < 60 * minutes:
        if time.monotonic() - saved > save_every:
            saved = time.monotonic()
            run.save(path, elapsed)
        for group in run.optimizer.param_groups:
            group["lr"] = learning_rate(run.step, elapsed / (60 * minutes), WARMUP)
        loss, cosine = distil_step(run, teacher, draw_batch(concepts, bank, rng, gen).images, texts, scale)
        if run.step % 100 == 0:
            print(f"step {run.step} minute {elapsed / 60:.2f} loss {loss:.4f} cosine {cosine:.4f}", flush=True)
    run.save(path, elapsed)
    print(f"done: {run.step} steps in {elapsed / 60:.1f} minutes")


def main() -> None:
    """Parse arguments; train, or export what is trained so far."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints are kept")
    parser.add_argument("--model", type=Path, required=True, help="folder of the bundled CLIP, the teacher")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=float, default=120.0, help="seconds between checkpoints")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--export", type=Path, help="write the checkpoint's averaged weights to this folder and stop")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.export:
        state = torch.load(args.folder / "checkpoint.pt", weights_only=True)
        config = {"model_cfg": {**MODEL_CFG, "vision_cfg": VISION_CFG}, "preprocess_cfg": PREPROCESS_CFG}
        write_folder(state["average"], config, args.export)
        print(f"exported step {state['step']} ({state['spent'] / 60:.1f} minutes) to {args.export}")
        return
    train(args.folder, args.model, minutes=args.minutes, seed=args.seed, save_every=args.save_every)


if __name__ == "__main__":
    main()

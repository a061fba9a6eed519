"""Train the demo CLIP on rendered glyphs for a number of minutes, resumably, and export the averaged weights.

The learning rate follows elapsed time, not steps, so the schedule ends on time on a busy machine as well; the steps
reached are printed. What is given up: the step count, hence the exact weights, depends on the machine.
"""

import argparse
import copy
import math
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from demo.captions import caption
from demo.concepts import Concept, load_concepts
from demo.glyphs import COLOUR, LINE, PIXEL, Bank, build_bank
from demo.model import Vocabulary, build_model, encode_image, encode_text_by_length, export
from demo.styles import ATTRIBUTES, CONFLICTS, GROUPS, HUE_NAMES, Spec, allowed, render

BATCH, REPEATS = 256, 96
LEARNING_RATE, WARMUP, WEIGHT_DECAY, EMA = 2e-3, 100, 0.1, 0.998
FONT_WEIGHTS = {COLOUR: 0.36, LINE: 0.32, PIXEL: 0.32}
NUMBER_OF_ATTRIBUTES = (0.25, 0.40, 0.35)


@dataclass(frozen=True)
class Batch:
    """Pictures [N, 3, 64, 64] with one caption each."""

    images: torch.Tensor
    texts: list[str]


def draw_concepts(count: int, rng: random.Random) -> list[int]:
    """BATCH concepts; REPEATS of them occur twice, so that the style has to tell pictures of one thing apart."""
    first = rng.sample(range(count), BATCH - REPEATS)
    return first + first[:REPEATS]


def draw_font(concept: int, present: Sequence[Sequence[bool]], rng: random.Random, avoid: int | None) -> int:
    """A font that has the glyph, not the one to avoid."""
    fonts = [font for font in FONT_WEIGHTS if present[font][concept] and font != avoid]
    return rng.choices(fonts, [FONT_WEIGHTS[font] for font in fonts])[0]


def draw_attributes(font: int, rng: random.Random) -> tuple[str, ...]:
    """None to two attributes of different groups, none that hides all."""
    count = rng.choices((0, 1, 2), NUMBER_OF_ATTRIBUTES)[0]
    while True:
        groups = rng.sample(list(GROUPS), count)
        names = tuple(rng.choice([name for name in GROUPS[group] if allowed(name, font)] or [""]) for group in groups)
        if all(names) and not any(pair <= set(names) for pair in CONFLICTS):
            return names


def draw_batch(concepts: Sequence[Concept], bank: Bank, rng: random.Random, gen: torch.Generator) -> Batch:
    """Draw and caption one training batch."""
    present = _present(bank)
    ids = draw_concepts(len(concepts), rng)
    fonts: list[int] = []
    for i, concept in enumerate(ids):
        avoid = fonts[i - (BATCH - REPEATS)] if i >= BATCH - REPEATS and rng.random() < 0.8 else None
        fonts.append(draw_font(concept, present, rng, avoid))
    attrs = [draw_attributes(font, rng) for font in fonts]
    hues = [rng.randrange(len(HUE_NAMES)) for _ in ids]
    table = torch.tensor([[name in names for name in ATTRIBUTES] for names in attrs])
    spec = Spec(torch.tensor(ids), torch.tensor(fonts), torch.tensor(hues), table)
    rows = zip(ids, fonts, attrs, hues, strict=True)
    return Batch(render(bank, spec, gen), [caption(concepts[c], f, names, hue, rng) for c, f, names, hue in rows])


_PRESENT: dict[int, list[list[bool]]] = {}


def _present(bank: Bank) -> list[list[bool]]:
    """The bank's table of glyphs as lists, converted once."""
    return _PRESENT.setdefault(id(bank), bank.present.tolist())


def learning_rate(step: int, progress: float, warmup: int = WARMUP) -> float:
    """Linear warm-up by steps, cosine to zero by progress in 0..1."""
    return LEARNING_RATE * min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def contrastive_loss(image: torch.Tensor, text: torch.Tensor, logit_scale: torch.Tensor) -> torch.Tensor:
    """CLIP's symmetric InfoNCE over a batch of unit features [N, D]."""
    logits = logit_scale.exp() * image @ text.T
    target = torch.arange(len(image))
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2


@torch.no_grad()
def update_average(average: torch.nn.Module, model: torch.nn.Module, step: int) -> None:
    """Exponential moving average of weights and batch statistics, shorter at the start."""
    decay = min(EMA, (1 + step) / (10 + step))
    for mine, theirs in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if mine.is_floating_point():
            mine.lerp_(theirs, 1 - decay)
        else:
            mine.copy_(theirs)


@dataclass
class Run:
    """What a checkpoint holds: model, its average, optimizer, vocabulary, steps made and seconds spent."""

    model: Any  # open_clip ships no types
    average: Any
    optimizer: torch.optim.AdamW
    vocabulary: Vocabulary
    step: int = 0
    spent: float = 0.0

    def save(self, path: Path, elapsed: float) -> None:
        """Write a checkpoint whole."""
        state = {
            "model": self.model.state_dict(), "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(), "vocabulary": self.vocabulary.ids, "step": self.step,
            "spent": elapsed,
        }  # fmt: skip
        temporary = path.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.replace(path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint."""
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.vocabulary, self.step, self.spent = Vocabulary(state["vocabulary"]), state["step"], state["spent"]


def new_run(seed: int) -> Run:
    """A fresh model with its optimizer; matrices alone have weight decay."""
    torch.manual_seed(seed)
    vocabulary, model = Vocabulary(), build_model()
    model.visual.to(memory_format=torch.channels_last)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    return Run(model, copy.deepcopy(model), torch.optim.AdamW(groups, LEARNING_RATE, betas=(0.9, 0.98)), vocabulary)


def train_step(run: Run, visual: Callable[[torch.Tensor], torch.Tensor], batch: Batch, rate: float) -> float:
    """One optimizer step; returns the loss."""
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    rows, ends = run.vocabulary.encode(batch.texts)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        image = encode_image(visual, batch.images)
    text = encode_text_by_length(run.model, rows, ends)  # in fp32: quicker than bf16 at this width
    loss = contrastive_loss(image, text, run.model.logit_scale)
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), 2.0)
    run.optimizer.step()
    run.model.logit_scale.data.clamp_(0, math.log(100))
    update_average(run.average, run.model, run.step)
    run.step += 1
    return float(loss.detach())


def train(folder: Path, *, minutes: float, seed: int, save_every: float, compiled: bool) -> None:
    """Train until the minutes are spent, counting those of earlier runs in the same folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path, concepts, run = folder / "checkpoint.pt", load_concepts(), new_run(seed)
    bank = build_bank(concepts)
    if path.exists():
        run.load(path)
    rng = random.Random(seed * 1_000_003 + run.step)
    gen = torch.Generator().manual_seed(seed * 1_000_003 + run.step)
    visual: Callable[[torch.Tensor], torch.Tensor] = torch.compile(run.model.visual) if compiled else run.model.visual
    begin = saved = time.monotonic()
    losses: deque[float] = deque(maxlen=100)
    while (elapsed := run.spent + time.monotonic() - begin) < 60 * minutes:
        if time.monotonic() - saved > save_every:
            saved = time.monotonic()
            run.save(path, elapsed)
        rate = learning_rate(run.step, elapsed / (60 * minutes))
        losses.append(train_step(run, visual, draw_batch(concepts, bank, rng, gen), rate))
        if run.step % 100 == 0:
            print(f"step {run.step} minute {elapsed / 60:.2f} loss {sum(losses) / len(losses):.4f}", flush=True)
    run.save(path, elapsed)
    print(f"done: {run.step} steps in {elapsed / 60:.1f} minutes, loss {sum(losses) / max(1, len(losses)):.4f}")


def main() -> None:
    """Parse arguments; train, or export what is trained so far."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints are kept")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=float, default=120.0, help="seconds between checkpoints")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--export", type=Path, help="write the checkpoint's averaged weights to this folder and stop")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.export:
        state = torch.load(args.folder / "checkpoint.pt", weights_only=True)
        export(state["average"], Vocabulary(state["vocabulary"]), args.export)
        print(f"exported step {state['step']} ({state['spent'] / 60:.1f} minutes) to {args.export}")
        return
    train(args.folder, minutes=args.minutes, seed=args.seed, save_every=args.save_every, compiled=not args.no_compile)


if __name__ == "__main__":
    main()

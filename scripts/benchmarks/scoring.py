"""Scoring

Image features of width 512 against 8 templates with 1,000 classes. Ours takes images in blocks
(`ipo_dspy.scoring.metrics`). The plain way makes, for each template, a float32 table of all logits and takes
`F.cross_entropy` and `argmax` of it. Features are random, which does not affect the time. Seconds are medians, in
turn in one process; peak memory is that of a process for each way, with features and PyTorch. Finalists are the
templates that are compared in pairs at the end of a search.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from benchmarks.common import Size, interleaved, seconds, table
from ipo_dspy import demo
from ipo_dspy.clip.feature_dtype import storage_dtype
from ipo_dspy.clip.image_features import encode_images
from ipo_dspy.clip.text_features import class_features
from ipo_dspy.scoring.half_precision_check import TEMPLATES
from ipo_dspy.scoring.metrics import predict, tally_pairs, tally_templates

CLASSES, COUNT, WIDTH, SCALE = 1000, 8, 512, 100.0
IMAGENET, FINALISTS = 1_280_000, 100

Problem = tuple[Tensor, Tensor, Tensor]
"""Image features [N, D], labels [N] and text features [T, C, D]."""


def problem(images: int, seed: int, templates: int = COUNT) -> Problem:
    """Drawn features; those of the images are made in parts, in the format in which they are kept."""
    draw = torch.Generator().manual_seed(seed)
    text = F.normalize(torch.randn(templates, CLASSES, WIDTH, generator=draw), dim=-1)
    features = torch.empty(images, WIDTH, dtype=storage_dtype(images, WIDTH))
    for part in torch.split(features, 10_000):
        part.copy_(F.normalize(torch.randn(part.shape, generator=draw), dim=-1))
    return features, torch.randint(CLASSES, (images,), generator=draw), text


def ours(features: Tensor, labels: Tensor, text: Tensor) -> list[tuple[float, float]]:
    """Accuracy and loss of each template."""
    tallies = tally_templates(features, labels, text, logit_scale=SCALE)
    return [(tally.score.accuracy, tally.score.loss) for tally in tallies]


def plain(features: Tensor, labels: Tensor, text: Tensor) -> list[tuple[float, float]]:
    """The same, with all logits of a template in one table."""
    found = []
    for one in text:
        logits = SCALE * features.float() @ one.T  # [N, C]
        correct = (logits.argmax(dim=1) == labels).double().mean()
        found.append((100 * correct.item(), F.cross_entropy(logits, labels).item()))
    return found


def pairs(features: Tensor, labels: Tensor, text: Tensor) -> list[tuple[float, float]]:
    """The same, from the sums of the comparison in pairs."""
    sums = tally_pairs(features, labels, text, logit_scale=SCALE).sums.sum(axis=0) / len(features)
    return [(100 * float(accuracy), float(loss)) for accuracy, loss in sums.reshape(2, -1).T]


WAYS = {"ours": ours, "plain": plain}
ALONE = {**WAYS, "pairs": pairs}


def run(size: Size, seed: int) -> None:
    """Print the tables."""
    print(f"{torch.get_num_threads()} threads.\n")
    header = ("images", "seconds", "plain", "times faster", "peak MiB", "plain", "loss differs by")
    counts = (1_000, 10_000, 50_000, 200_000) if size == "full" else (1_000, 20_000)
    table(header, (row(images, seed, 5 if size == "full" else 3) for images in counts))
    if size == "full":
        found = alone("ours", IMAGENET, seed)
        print(
            f"\n{IMAGENET:,} images, kept in float16, {COUNT} templates: {found['seconds']:.0f} seconds, peak ", end=""
        )
        print(f"{found['peak']:,.0f} MiB. All logits of one template are {4 * IMAGENET * CLASSES / 1e9:.1f} GB.")
        print(f"\n{counts[-1]:,} images, {FINALISTS} finalists:\n")
        table(("what", "seconds", "peak MiB"), (finalists(way, counts[-1], seed) for way in ("ours", "pairs")))
    print("\nEffect of storing features in float16, on the test images of the bundled tasks, over 8 templates:\n")
    table(("task", "predictions", "changed", "maximum change in loss"), map(rounding, demo.names()))


def row(images: int, seed: int, repeats: int) -> tuple[str, ...]:
    """One line of the first table."""
    drawn = problem(images, seed)
    took = interleaved({name: lambda way=way: way(*drawn) for name, way in WAYS.items()}, repeats=repeats)  # type: ignore[misc]
    apart = max(abs(a[1] - b[1]) for a, b in zip(ours(*drawn), plain(*drawn), strict=True))
    peaks = [alone(name, images, seed)["peak"] for name in WAYS]
    return (
        f"{images:,}",
        f"{took['ours']:.3f}",
        f"{took['plain']:.3f}",
        f"{took['plain'] / took['ours']:.1f}",
        *(f"{peak:,.0f}" for peak in peaks),
        f"{apart:.0e}",
    )


def finalists(way: str, images: int, seed: int) -> tuple[str, ...]:
    """One line of the table of finalists."""
    found = alone(way, images, seed, FINALISTS)
    return {"ours": "scored", "pairs": "compared in pairs"}[way], f"{found['seconds']:.0f}", f"{found['peak']:,.0f}"


def rounding(name: str) -> tuple[str, ...]:
    """One line of the second table: features of real images, rounded and not."""
    task = demo.load(name, classes="all")
    backbone = task.program.backbone
    features = encode_images(backbone, [example.image for example in task.testset]).features  # [N, D]
    kept, labels = features.half(), torch.tensor([task.classes.index(label) for label in task.testset.labels()])
    text = class_features(backbone, TEMPLATES, task.classes)  # [T, C, D]
    scale = backbone.logit_scale
    others = sum(
        int((predict(features, one, logit_scale=scale)[0] != predict(kept, one, logit_scale=scale)[0]).sum())
        for one in text
    )
    pairs = zip(*(tally_templates(side, labels, text, logit_scale=scale) for side in (features, kept)), strict=True)
    moved = max(abs(whole.score.loss - rounded.score.loss) for whole, rounded in pairs)
    return name, f"{len(labels) * len(text):,}", f"{others}", f"{moved:.0e}"


def alone(way: str, images: int, seed: int, templates: int = COUNT) -> dict[str, float]:
    """Seconds and peak memory in MiB of one method in a separate process."""
    where = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, __file__, way, *map(str, (images, seed, templates))]
    completed = subprocess.run(command, capture_output=True, text=True, check=True, env=where)
    return dict(json.loads(completed.stdout))


def peak_memory() -> float:
    """Largest resident memory of this process so far, in MiB; `ru_maxrss` would count its parent's too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    name, drawn = sys.argv[1], problem(*map(int, sys.argv[2:]))
    took, _ = seconds(lambda: ALONE[name](*drawn))
    print(json.dumps({"seconds": took, "peak": peak_memory()}))

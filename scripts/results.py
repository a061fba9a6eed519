"""Measure IPO on the bundled tasks and write docs/results.md: `make results`.

For every task and seed: the template that IPO finds on 16 shots of the base classes with the embedded proposer and
describer, against "a photo of a <CLASS>." and against the best of the 80 ImageNet templates that open_clip ships,
chosen on the same training images. All are scored on all test images of the base and of the novel classes.
"""

import argparse
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from rich.progress import track

from ipo_dspy import IPO, ClipClassifier, Template, demo
from ipo_dspy.evaluation import evaluate

ROOT = Path(__file__).resolve().parent.parent
START = Template.parse("a photo of a <CLASS>.")


@dataclass(frozen=True)
class Row:
    """Test accuracies in percent, (base, novel) for each method, of one task and seed."""

    task: str
    seed: int
    start: tuple[float, float]
    imagenet: tuple[float, float]
    ipo: tuple[float, float]
    imagenet_template: str
    ipo_template: str
    trials: int
    seconds: float


def imagenet_templates() -> list[Template]:
    """The 80 templates of Radford et al. 2021, from open_clip."""
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return [Template.parse(fill("<CLASS>")) for fill in OPENAI_IMAGENET_TEMPLATES]


def measure(name: str, seed: int, *, shots: int, steps: int) -> Row:
    """One row: search on the base classes, test on both halves."""
    base = demo.load(name, shots=shots, seed=seed)
    novel = demo.load(name, shots=shots, seed=seed, classes="novel")
    began = time.perf_counter()
    best: ClipClassifier = IPO(proposer="evolution", steps=steps, seed=seed).compile(base.program, base.trainset)
    seconds = time.perf_counter() - began
    published = imagenet_templates()
    trained = evaluate(base.program, base.trainset, templates=published)
    chosen = min(trained, key=lambda e: (-e.score.accuracy, e.score.loss)).template
    templates = [START, chosen, best.template]
    scores = [
        [e.score.accuracy for e in evaluate(part.program, part.testset, templates=templates)] for part in (base, novel)
    ]
    start, imagenet, ipo = zip(*scores, strict=True)
    trials = len(best.detailed_results.trials)
    return Row(name, seed, start, imagenet, ipo, str(chosen), str(best.template), trials, seconds)


def mean_error(values: Sequence[float]) -> str:
    """Mean and standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.1f} ± {error:.1f}"


def table(rows: Sequence[Row]) -> str:
    """Mean over seeds of each task, and over all tasks."""
    lines = [
        "| task | half | a photo of a | best of 80 ImageNet | IPO | gain over start | gain over ImageNet |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    tasks = list(dict.fromkeys(row.task for row in rows))
    for half, index in (("base", 0), ("novel", 1)):
        for task in [*tasks, "mean"]:
            chosen = [row for row in rows if task in (row.task, "mean")]
            lines.append(_line(task, half, chosen, index))
    return "\n".join(lines)


def _line(task: str, half: str, rows: Sequence[Row], index: int) -> str:
    by_seed = {row.seed: [r for r in rows if r.seed == row.seed] for row in rows}

    def means(method: str) -> list[float]:
        return [statistics.fmean(getattr(row, method)[index] for row in group) for group in by_seed.values()]

    start, imagenet, ipo = means("start"), means("imagenet"), means("ipo")
    cells = [mean_error(start), mean_error(imagenet), mean_error(ipo)]
    gains = [f"{statistics.fmean(ipo) - statistics.fmean(other):+.1f}" for other in (start, imagenet)]
    name = f"**{task}**" if task == "mean" else task
    return f"| {name} | {half} | {' | '.join(cells)} | {' | '.join(gains)} |"


def winners(rows: Sequence[Row]) -> str:
    """The templates themselves."""
    lines = ["| task | seed | IPO | best of 80 ImageNet | templates tried | seconds |", "|---|---:|---|---|---:|---:|"]
    lines += [
        f"| {r.task} | {r.seed} | `{r.ipo_template}` | `{r.imagenet_template}` | {r.trials} | {r.seconds:.1f} |"
        for r in rows
    ]
    return "\n".join(lines)


def page(rows: Sequence[Row], command: str, *, shots: int) -> str:
    """docs/results.md."""
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "open_clip_torch", "dspy"))
    seeds = sorted({row.seed for row in rows})
    return f"""# Results on the bundled tasks

Test accuracy in percent, mean and standard error over seeds {seeds[0]} to {seeds[-1]}. The seed draws the training
images and the search; the tasks have 16 training images a class, so at 16 shots only the search differs. Search on
{shots} shots of the base classes with the embedded proposer and describer; base and novel classes are scored on all
their test images, each against its own class names. "Best of 80 ImageNet" is the one of the templates that open_clip
ships which does best on the same training images. The tasks are small and drawn for demonstration (see the
[model card](demo-model-card.md)): they say how the search works, not how a large CLIP does on photographs.

{table(rows)}

## The templates

{winners(rows)}

Printed by `{command}` at commit {git.stdout.strip() or "unknown"}, {platform.machine()},
{torch.get_num_threads()} threads, Python {platform.python_version()}, {versions}.
Seconds hold whatever else the machine was doing.
"""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="*", default=list(demo.names()))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results.md")
    given = parser.parse_args()
    cells = [(task, seed) for task in given.tasks for seed in given.seeds]
    rows = [
        measure(*cell, shots=given.shots, steps=given.steps) for cell in track(cells, disable=not sys.stderr.isatty())
    ]
    print(table(rows), winners(rows), sep="\n\n")
    command = " ".join(["python scripts/results.py", *sys.argv[1:]])
    given.out.write_text(page(rows, command, shots=given.shots))


if __name__ == "__main__":
    main()

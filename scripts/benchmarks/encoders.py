"""Templates under another model

Templates of 20 steps of the built-in search, 16 images per class, found with one bundled model or with both
(`also`, the mean of their accuracies), and scored with each. Accuracy in percent on test images, means over the bundled
tasks and seeds.
"""

import statistics
from collections.abc import Iterator

from benchmarks.common import Size, table
from ipo_dspy import IPO, Template, demo
from ipo_dspy.clip.bundled import DEMO, DEMO_VIT
from ipo_dspy.optimizer.evaluation import evaluate

MODELS = (DEMO, DEMO_VIT)
SEARCHED: dict[str, tuple[str, ...]] = {DEMO: (DEMO,), DEMO_VIT: (DEMO_VIT,), "both": MODELS}
START = "a photo of a <CLASS>."


def found(task: str, seed: int) -> Iterator[tuple[str, Template]]:
    """Yield the start template, and the one of each search, by name."""
    yield START, Template.parse(START)
    for name, (model, *others) in SEARCHED.items():
        data = demo.load(task, seed=seed, model=model)
        optimizer = IPO(proposer="evolution", steps=20, seed=seed, also=others, progress=False)
        yield name, optimizer.compile(data.program, data.trainset).template


def run(size: Size, seed: int) -> None:
    """Print a line for the start template and for each search."""
    accuracies: dict[str, list[list[float]]] = {}
    for number in range(seed + 1, seed + (4 if size == "full" else 2)):
        for task in demo.names():
            names, templates = zip(*found(task, number), strict=True)
            columns = []
            for model in MODELS:
                for half in ("base", "novel"):
                    data = demo.load(task, seed=number, classes=half, model=model)
                    results = evaluate(data.program, data.testset, templates=templates)
                    columns.append([result.score.accuracy for result in results])
            for name, row in zip(names, zip(*columns, strict=True), strict=True):
                accuracies.setdefault(name, []).append(list(row))
    header = ("found with", *(f"{model}, {half}" for model in MODELS for half in ("base", "novel")))
    means = ((name, *(statistics.fmean(c) for c in zip(*rows, strict=True))) for name, rows in accuracies.items())
    table(header, ((f"`{name}`", *(f"{value:.1f}" for value in values)) for name, *values in means))

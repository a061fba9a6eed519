"""Plot loss and accuracy of the IPO cells over the steps, raw and smoothed, from their journals.

The value of a step is the mean over its scored templates. Each step is averaged over the seeds that reached it.
Smoothing is an exponential moving average with bias correction, as in TensorBoard.
"""

import contextlib
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from ipo_dspy._internal.counts import pluralize
from ipo_dspy.bench.cells import Cell, Grid
from ipo_dspy.bench.runner import CELLS
from ipo_dspy.errors import JournalError
from ipo_dspy.report.figures import Curve, draw_curves
from ipo_dspy.run.journal import replay
from ipo_dspy.run.state import RunState

SMOOTHING = 0.8
AXES = ("accuracy on the training images, %", "loss on the training images, nats")


def smooth(values: Sequence[float], weight: float = SMOOTHING) -> tuple[float, ...]:
    """Return the exponential moving average with bias correction.

    >>> smooth([1.0, 1.0, 4.0], 0.5)
    (1.0, 1.0, 2.7142857142857144)
    """
    average, smoothed = 0.0, []
    for index, value in enumerate(values, start=1):
        average = weight * average + (1 - weight) * value
        smoothed.append(average / (1 - weight**index))
    return tuple(smoothed)


def curves(folder: Path, cells: Sequence[Cell]) -> dict[str, Curve]:
    """Return the mean curves over the journals of cells, by axis; empty without journals."""
    by_step: dict[int, list[tuple[float, ...]]] = defaultdict(list)
    for cell in cells:
        with contextlib.suppress(JournalError):
            scores: dict[int, list[tuple[float, float]]] = defaultdict(list)
            for search in RunState(replay(folder / CELLS / cell.folder)).searches.values():
                for trial in (trial for trial in search.history if trial.stage == "search"):
                    scores[trial.step].append((trial.score.accuracy, trial.score.loss))
            for step, pairs in scores.items():
                by_step[step].append(_means(pairs))
    if not by_step:
        return {}
    steps = tuple(sorted(by_step))
    columns = zip(*(_means(by_step[step]) for step in steps), strict=True)
    return {axis: Curve(steps, raw, smooth(raw)) for axis, raw in zip(AXES, columns, strict=True)}


def _means(scores: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(map(statistics.fmean, zip(*scores, strict=True)))


def plot_curves(folder: Path, grid: Grid, titles: Mapping[str, str]) -> tuple[Path, ...]:
    """Draw a figure `curves-K-shot` for each number of shots, with a line per data set; nothing without IPO cells."""
    if "ipo" not in grid.methods:
        return ()
    files: tuple[Path, ...] = ()
    for shots in grid.shots:
        panels: dict[str, dict[str, Curve]] = {}
        for dataset in grid.datasets:
            cells = [grid.cell(dataset, "ipo", shots, seed) for seed in grid.seeds]
            for axis, curve in curves(folder, cells).items():
                panels.setdefault(axis, {})[titles[dataset]] = curve
        if panels:
            name = "transfer-curves" if grid.targets else "curves"
            title = (
                f"IPO, {pluralize(shots, 'training image')} per class, mean over {pluralize(len(grid.seeds), 'seed')}"
            )
            files += draw_curves(panels, folder / f"{name}-{shots}-shot", title=title)
    return files

"""Plot loss and accuracy of the IPO cells over the steps, raw and smoothed, from their journals.

The value of a step is the mean over its scored templates. Each step is averaged over the seeds that reached it.
Smoothing is an exponential moving average with bias correction, as in TensorBoard.
"""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from ipo_dspy.bench.cells import Cell, Grid
from ipo_dspy.bench.runner import CELLS
from ipo_dspy.errors import JournalError
from ipo_dspy.report.figures import Curve, draw_curves
from ipo_dspy.run.journal import replay
from ipo_dspy.run.state import RunState

SMOOTHING = 0.8
MEASURES = {"accuracy": "accuracy on the training images, %", "loss": "loss on the training images, nats"}


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


def per_step(folder: Path, cell: Cell) -> Mapping[int, Mapping[str, float]]:
    """Return mean accuracy and loss of the templates of each step in the journal of a cell; empty without a journal."""
    try:
        searches = RunState(replay(folder / CELLS / cell.folder)).searches.values()
    except JournalError:
        return {}
    steps: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for trial in (trial for search in searches for trial in search.history):
        steps[trial.step].append((trial.score.accuracy, trial.score.loss))
    return {
        step: dict(zip(MEASURES, map(statistics.fmean, zip(*pairs, strict=True)), strict=True))
        for step, pairs in sorted(steps.items())
    }


def curve(folder: Path, cells: Sequence[Cell], measure: str) -> Curve | None:
    """Return the mean over the journals of cells; `None` if there are none."""
    values: dict[int, list[float]] = defaultdict(list)
    for cell in cells:
        for step, means in per_step(folder, cell).items():
            values[step].append(means[measure])
    if not values:
        return None
    steps = tuple(sorted(values))
    raw = tuple(statistics.fmean(values[step]) for step in steps)
    return Curve(steps, raw, smooth(raw))


def plot_curves(folder: Path, grid: Grid, titles: Mapping[str, str]) -> tuple[Path, ...]:
    """Draw a figure `curves-K-shot` for each number of shots, with a line per data set; nothing without IPO cells."""
    if "ipo" not in grid.methods:
        return ()
    files: tuple[Path, ...] = ()
    for shots in grid.shots:
        panels: dict[str, dict[str, Curve]] = {}
        for measure, axis in MEASURES.items():
            for dataset in grid.datasets:
                cells = [grid.cell(dataset, "ipo", shots, seed) for seed in grid.seeds]
                if (mean_curve := curve(folder, cells, measure)) is not None:
                    panels.setdefault(axis, {})[titles[dataset]] = mean_curve
        if panels:
            name = "transfer-curves" if grid.targets else "curves"
            files += draw_curves(panels, folder / f"{name}-{shots}-shot")
    return files

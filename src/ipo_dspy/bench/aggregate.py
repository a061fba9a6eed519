"""Means and standard errors over seeds of what the cells measured."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ipo_dspy.bench.cells import Grid
from ipo_dspy.bench.paper_figures import AVERAGE
from ipo_dspy.bench.result_rows import Row
from ipo_dspy.scoring.score import harmonic_mean


@dataclass(frozen=True, slots=True)
class MeanWithError:
    """A mean over seeds and its standard error; the error is `None` where there is one seed.

    >>> MeanWithError.of([70.0, 74.0])
    Mean(value=72.0, error=2.0)
    """

    value: float
    error: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "MeanWithError":
        """Of at least one value."""
        error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
        return cls(statistics.fmean(values), error)


@dataclass(frozen=True, slots=True)
class TableRow:
    """A line of a table.

    Attributes:
        dataset: its name, or `average`.
        method, shots, variant: of its cells.
        base, novel, h: means over the seeds that are whole; `None` where none is.
        seeds: how many seeds are whole.
    """

    dataset: str
    method: str
    shots: int
    variant: str
    base: MeanWithError | None
    novel: MeanWithError | None
    h: MeanWithError | None
    seeds: int


def transferred(
    grid: Grid, rows: Mapping[str, Row], names: Sequence[str], method: str, shots: int
) -> MeanWithError | None:
    """Accuracy of what a method learned on the grid's source: of each seed the mean over data sets, source or targets.

    Seeds that are not whole are left out; `None` where none is.
    """
    found = []
    for seed in grid.seeds:
        row = rows.get(grid.cell(grid.datasets[0], method, shots, seed).key)
        if row is not None and row.source is not None:
            measured = {row.dataset: row.source, **row.targets}
            found.append(statistics.fmean(measured[name] for name in names))
    return MeanWithError.of(found) if found else None


def entry(grid: Grid, rows: Mapping[str, Row], dataset: str, method: str, shots: int, variant: str = "") -> TableRow:
    """The line of a method on a data set, or on `average`.

    The average over data sets is taken seed by seed, over seeds for which no data set is missing; its H is that of the
    average base and novel accuracy, as in the paper.
    """
    datasets = grid.datasets if dataset == AVERAGE else (dataset,)
    pairs = []
    for seed in grid.seeds:
        keys = [grid.cell(name, method, shots, seed, variant).key for name in datasets]
        found = [row for key in keys if (row := rows.get(key)) is not None]
        both = [(row.base, row.novel) for row in found if row.base is not None and row.novel is not None]
        if len(both) == len(datasets):
            base, novel = zip(*both, strict=True)
            pairs.append((statistics.fmean(base), statistics.fmean(novel)))
    if not pairs:
        return TableRow(dataset, method, shots, variant, None, None, None, 0)
    base, novel = zip(*pairs, strict=True)
    h = [harmonic_mean(*pair) for pair in pairs]
    return TableRow(
        dataset,
        method,
        shots,
        variant,
        MeanWithError.of(base),
        MeanWithError.of(novel),
        MeanWithError.of(h),
        len(pairs),
    )

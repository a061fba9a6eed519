"""Compute means and standard errors of the results of cells over seeds."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ipo_dspy.bench.cells import Grid
from ipo_dspy.bench.result_rows import Row
from ipo_dspy.scoring.score import harmonic_mean

AVERAGE = "average"
"""Name of the average over the data sets of a grid."""


@dataclass(frozen=True, slots=True)
class MeanWithError:
    """A mean over seeds and its standard error; the error is `None` for a single seed.

    >>> MeanWithError.of([70.0, 74.0])
    MeanWithError(value=72.0, error=2.0)
    """

    value: float
    error: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "MeanWithError":
        """Return mean and error of at least one value."""
        error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
        return cls(statistics.fmean(values), error)


class BaseNovelMeans(NamedTuple):
    """Means over the complete seeds of base and novel accuracy and of H; `None` for missing values."""

    base: MeanWithError | None = None
    novel: MeanWithError | None = None
    h: MeanWithError | None = None


def transferred(
    grid: Grid, rows: Mapping[str, Row], names: Sequence[str], method: str, shots: int
) -> MeanWithError | None:
    """Return the accuracy on data sets, source or targets, after learning on the source of the grid.

    The value of a seed is the mean over the data sets. Incomplete seeds are skipped; `None` if no seed is complete, as
    for a method that cannot classify one of the data sets.
    """
    means = []
    for seed in grid.seeds:
        row = rows.get(grid.cell(grid.datasets[0], method, shots, seed).key)
        if row is not None and row.source is not None:
            measured = {row.dataset: row.source, **row.targets}
            if measured.keys() >= set(names):
                means.append(statistics.fmean(measured[name] for name in names))
    return MeanWithError.of(means) if means else None


def entry(
    grid: Grid, rows: Mapping[str, Row], dataset: str, method: str, shots: int, variant: str = ""
) -> BaseNovelMeans:
    """Return the means of a method on a data set, or on `average`.

    The average over data sets is computed for each seed without a missing data set. Its H is that of the average base
    and novel accuracy, as in the paper. A method without novel accuracy has no H.
    """
    datasets = grid.datasets if dataset == AVERAGE else (dataset,)
    by_seed = []
    for seed in grid.seeds:
        seed_rows = [rows.get(grid.cell(name, method, shots, seed, variant).key) for name in datasets]
        base, novel = (_complete_mean([getattr(row, half, None) for row in seed_rows]) for half in ("base", "novel"))
        h = None if base is None or novel is None else harmonic_mean(base, novel)
        by_seed.append((base, novel, h))
    columns = ([value for value in column if value is not None] for column in zip(*by_seed, strict=True))
    return BaseNovelMeans(*(MeanWithError.of(column) if column else None for column in columns))


def _complete_mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if len(known) == len(values) else None

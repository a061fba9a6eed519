"""Plot base, novel, and H over the number of shots: a table, and a figure for each data set and for their average.

Means and standard errors are those of the tables. A zero-shot method has the same values at each number of shots.
"""

from collections.abc import Mapping
from pathlib import Path

from ipo_dspy._internal.file_io import atomic_write
from ipo_dspy.bench.aggregate import MeanWithError, TableRow, entry
from ipo_dspy.bench.cells import Grid
from ipo_dspy.bench.paper_figures import AVERAGE
from ipo_dspy.bench.registry import find_kind
from ipo_dspy.bench.result_rows import Row
from ipo_dspy.bench.suites import Suite
from ipo_dspy.bench.tables import MEASURES, Table, comma_separated
from ipo_dspy.errors import JournalError
from ipo_dspy.report.figures import ErrorBarSeries, draw_points

TABLE = "shots.csv"
"""Name of the table in the folder of a sweep; figures are `shots-NAME`."""
AXIS = "training images per class"


def write_shots(folder: Path, grid: Grid, rows: Mapping[str, Row], suite: Suite) -> tuple[Path, ...]:
    """Write the table and the figures if there are several numbers of shots and at least one result.

    Raises:
        JournalError: a file cannot be written.
    """
    if len(grid.shots) < 2 or grid.targets:
        return ()
    files: tuple[Path, ...] = ()
    for dataset in _datasets(grid):
        if dataset_panels := panels(grid, rows, dataset):
            files += draw_points(dataset_panels, folder / f"shots-{dataset}", axis=AXIS)
    if not files:
        return ()
    path = folder / TABLE
    try:
        atomic_write(path, f"{comma_separated(shots_table(grid, rows, suite))}\n".encode())
    except OSError as error:
        raise JournalError(
            f"{str(path)!r} cannot be written ({error.strerror}); free space or name another folder"
        ) from error
    return (path, *files)


def shots_table(grid: Grid, rows: Mapping[str, Row], suite: Suite) -> Table:
    """Return base, novel, and H of each method at each number of shots, with the average over data sets first."""
    groups = []
    for dataset in _datasets(grid):
        title = AVERAGE if dataset == AVERAGE else suite.titles[dataset]
        groups.append(
            tuple(
                (title, find_kind(row.method).title, f"{row.shots}", row.base, row.novel, row.h)
                for row in _entries(grid, rows, dataset)
            )
        )
    return Table("base to novel by shots", ("data set", "method", "shots", *MEASURES), 3, tuple(groups))


def panels(grid: Grid, rows: Mapping[str, Row], dataset: str) -> dict[str, dict[str, ErrorBarSeries]]:
    """Return the points of each method by measure; missing measurements have no point."""
    panels_by_measure: dict[str, dict[str, ErrorBarSeries]] = {}
    for method in grid.methods:
        method_rows = [row for row in _entries(grid, rows, dataset) if row.method == method]
        for measure in MEASURES:
            means = {row.shots: mean for row in method_rows if (mean := _mean(row, measure)) is not None}
            if means:
                values, errors = zip(*((mean.value, mean.error or 0.0) for mean in means.values()), strict=True)
                panels_by_measure.setdefault(f"{measure}, %", {})[find_kind(method).title] = ErrorBarSeries(
                    tuple(means), values, errors
                )
    return panels_by_measure


def _mean(row: TableRow, measure: str) -> MeanWithError | None:
    return {"base": row.base, "novel": row.novel, "H": row.h}[measure]


def _datasets(grid: Grid) -> tuple[str, ...]:
    return (*([AVERAGE] if len(grid.datasets) > 1 else []), *grid.datasets)


def _entries(grid: Grid, rows: Mapping[str, Row], dataset: str) -> list[TableRow]:
    return [entry(grid, rows, dataset, method, shots) for method in grid.methods for shots in sorted(grid.shots)]

"""Plot base, novel, and H over the number of shots: a table, and a figure for each data set and for their average.

Means and standard errors are those of the tables. A zero-shot method has the same values at each number of shots.
"""

from collections.abc import Mapping
from pathlib import Path

from ipo_dspy._internal.counts import pluralize
from ipo_dspy._internal.file_io import atomic_write
from ipo_dspy.bench.aggregate import entry
from ipo_dspy.bench.cells import Grid
from ipo_dspy.bench.registry import find_kind
from ipo_dspy.bench.result_rows import Row, unwritable_as_journal_error
from ipo_dspy.bench.suites import Suite
from ipo_dspy.bench.tables import MEASURES, Table, comma_separated, titles_with_average
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
    spread = "mean ± standard error over" if len(grid.seeds) > 1 else "without error bars:"
    for dataset, name in titles_with_average(grid, suite).items():
        if dataset_panels := panels(grid, rows, dataset):
            title = f"{name}, {spread} {pluralize(len(grid.seeds), 'seed')}"
            files += draw_points(dataset_panels, folder / f"shots-{dataset}", axis=AXIS, title=title)
    if not files:
        return ()
    path = folder / TABLE
    with unwritable_as_journal_error(path):
        atomic_write(path, f"{comma_separated(shots_table(grid, rows, suite))}\n".encode())
    return (path, *files)


def shots_table(grid: Grid, rows: Mapping[str, Row], suite: Suite) -> Table:
    """Return base, novel, and H of each method at each number of shots, with the average over data sets first."""
    groups = tuple(
        tuple(
            (title, find_kind(method).title, f"{shots}", *entry(grid, rows, dataset, method, shots))
            for method in grid.methods
            for shots in sorted(grid.shots)
        )
        for dataset, title in titles_with_average(grid, suite).items()
    )
    return Table("base to novel by shots", ("data set", "method", "shots", *MEASURES), 3, groups)


def panels(grid: Grid, rows: Mapping[str, Row], dataset: str) -> dict[str, dict[str, ErrorBarSeries]]:
    """Return the points of each method by measure; missing measurements have no point."""
    panels_by_measure: dict[str, dict[str, ErrorBarSeries]] = {}
    for method in grid.methods:
        entries = {shots: entry(grid, rows, dataset, method, shots) for shots in sorted(grid.shots)}
        for index, measure in enumerate(MEASURES):
            means = {shots: mean for shots, row in entries.items() if (mean := row[index]) is not None}
            if means:
                values, errors = zip(*((mean.value, mean.error or 0.0) for mean in means.values()), strict=True)
                series = ErrorBarSeries(tuple(means), values, errors)
                panels_by_measure.setdefault(f"{measure}, %", {})[find_kind(method).title] = series
    return panels_by_measure

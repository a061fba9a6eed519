"""Build the tables of the paper from measured rows, as Markdown, LaTeX, or CSV.

`paper_table` and `ablation_table` build a `Table` of texts and numbers; the renderers decide how it looks.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ipo_dspy.bench.aggregate import AVERAGE, MeanWithError, entry, transferred
from ipo_dspy.bench.cells import Grid
from ipo_dspy.bench.registry import find_kind
from ipo_dspy.bench.result_rows import Row
from ipo_dspy.bench.suites import Suite
from ipo_dspy.errors import InputError

Value = str | float | MeanWithError | None
MEASURES = ("base", "novel", "H")
Figures = tuple[float | None, ...]
"""Published base, novel, and H in percent; `None` if the paper has no value."""
NOTHING: Figures = (None, None, None)


@cache
def _published() -> Mapping[str, Any]:
    return dict(json.loads(Path(__file__).with_name("published.json").read_text()))


def published(dataset: str, method: str, shots: int) -> Figures:
    """Return the published values of a method on a data set, or on `average` over all eleven.

    >>> published("average", "ipo", 1), published("dtd", "ipo", 4)
    ((71.76, 77.0, 74.29), (None, None, None))
    """
    return tuple(_published()["shots"].get(str(shots), {}).get(dataset, {}).get(method, NOTHING))


@dataclass(frozen=True, slots=True)
class Table:
    """A table, independent of the output format.

    Attributes:
        title: above the table.
        columns: names; all but the first `texts` columns contain numbers.
        texts: number of text columns.
        groups: groups of lines, separated by a rule in LaTeX.
    """

    title: str
    columns: tuple[str, ...]
    texts: int
    groups: tuple[tuple[tuple[Value, ...], ...], ...]

    @property
    def lines(self) -> tuple[tuple[Value, ...], ...]:
        """Lines of all groups."""
        return tuple(line for group in self.groups for line in group)


def paper_table(grid: Grid, rows: Mapping[str, Row], suite: Suite, shots: int) -> Table:
    """Return base, novel, and H of each method next to the published values, with the average over data sets first."""
    with_paper, complete = suite.name == "paper", set(grid.datasets) == set(suite.titles)

    def paper(dataset: str, method: str) -> Figures:
        if not with_paper:
            return ()
        comparable = complete or dataset != AVERAGE  # the averages of the paper are over all eleven data sets
        return published(dataset, method, shots) if comparable else NOTHING

    groups = tuple(
        tuple(
            (title, find_kind(method).title, *entry(grid, rows, dataset, method, shots), *paper(dataset, method))
            for method in grid.methods
        )
        for dataset, title in titles_with_average(grid, suite).items()
    )
    return Table(f"{shots}-shot, base to novel", _columns("method", with_paper), 2, groups)


def transfer_table(grid: Grid, rows: Mapping[str, Row], suite: Suite, shots: int) -> Table:
    """Return the accuracy of each method on the source, on each target, and averaged over the targets."""
    (source,) = grid.datasets
    titles = {**suite.titles, **suite.variants}
    evaluated = {f"{titles[source]} (source)": (source,), **_averages(grid.targets, suite)}
    evaluated |= {titles[name]: (name,) for name in grid.targets}
    groups = tuple(
        tuple(
            (title, find_kind(method).title, transferred(grid, rows, names, method, shots)) for method in grid.methods
        )
        for title, names in evaluated.items()
    )
    return Table(f"{shots}-shot, learned on {titles[source]}", ("data set", "method", "accuracy"), 2, groups)


def _averages(targets: Sequence[str], suite: Suite) -> dict[str, tuple[str, ...]]:
    """Return the averages over all targets, and separately over variants and other data sets if there are both."""
    kinds = {
        "average of data sets": tuple(name for name in targets if name not in suite.variants),
        "average of variants": tuple(name for name in targets if name in suite.variants),
    }
    return {AVERAGE: tuple(targets), **(kinds if all(kinds.values()) else {})}


def ablation_table(name: str, grid: Grid, rows: Mapping[str, Row], suite: Suite, shots: int) -> Table:
    """Return the variants of IPO, with the average over data sets first; the paper has averages only."""
    comparable = suite.name == "paper" and set(grid.datasets) == set(suite.titles)
    averages = _published()["ablations"].get(name, {}) if comparable else {}

    def paper(dataset: str, variant: str) -> Figures:
        if not averages:
            return ()
        return tuple(averages.get(variant, NOTHING)) if dataset == AVERAGE else NOTHING

    groups = tuple(
        tuple(
            (title, variant, *entry(grid, rows, dataset, "ipo", shots, variant), *paper(dataset, variant))
            for variant in grid.variants
        )
        for dataset, title in titles_with_average(grid, suite).items()
    )
    return Table(f"IPO by {name}, {shots}-shot", _columns(name, bool(averages)), 2, groups)


def titles_with_average(grid: Grid, suite: Suite) -> dict[str, str]:
    """Return the titles of the data sets by name; if there are several, their average comes first."""
    titles = {name: suite.titles[name] for name in grid.datasets}
    return {AVERAGE: AVERAGE, **titles} if len(titles) > 1 else titles


def _columns(varied: str, with_paper: bool) -> tuple[str, ...]:
    return ("data set", varied, *MEASURES, *(f"paper {measure}" for measure in MEASURES if with_paper))


def markdown(table: Table) -> str:
    """Return a Markdown table below its title."""
    head = [
        f"| {' | '.join(table.columns)} |",
        f"|{'---|' * table.texts}{'---:|' * (len(table.columns) - table.texts)}",
    ]
    lines = [[cell_text(value).replace("|", "\\|") for value in line] for line in table.lines]
    body = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([f"**{table.title}**", "", *head, *body])


def latex(table: Table) -> str:
    """Return a LaTeX `tabular` with booktabs rules, including one between groups."""
    spec = "l" * table.texts + "r" * (len(table.columns) - table.texts)
    groups = ["\n".join(f"{' & '.join(map(_tex, line))} \\\\" for line in group) for group in table.groups]
    head = " & ".join(map(_tex, table.columns))
    lines = [f"% {table.title}", f"\\begin{{tabular}}{{{spec}}}", "\\toprule", f"{head} \\\\", "\\midrule"]
    return "\n".join([*lines, "\n\\midrule\n".join(groups), "\\bottomrule", "\\end{tabular}"])


def comma_separated(table: Table) -> str:
    """Return CSV with full precision; each mean is followed by a column with its standard error."""
    means = range(table.texts, table.texts + len(MEASURES))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = ["table"]
    for index, name in enumerate(table.columns):
        head += [name, f"{name} error"] if index in means else [name]
    writer.writerow(head)
    for line in table.lines:
        cells: list[object] = [table.title]
        for index, value in enumerate(line):
            if index in means:
                cells += [value.value, value.error] if isinstance(value, MeanWithError) else [None, None]
            else:
                cells.append(value)
        writer.writerow(cells)
    return out.getvalue().rstrip("\n")


FORMATS: Mapping[str, Callable[[Table], str]] = MappingProxyType(
    {"md": markdown, "latex": latex, "csv": comma_separated}
)
"""Renderers by format."""


def render(tables: Sequence[Table], form: str) -> str:
    """Render tables in one of `FORMATS`.

    Raises:
        InputError: the format is unknown.
    """
    if form not in FORMATS:
        raise InputError(f"must be one of {', '.join(FORMATS)}", argument="format", value=form)
    return "\n\n".join(FORMATS[form](table) for table in tables)


def cell_text(value: Value) -> str:
    """Format a value with one decimal, or two for published values."""
    if value is None:
        return "-"
    if isinstance(value, MeanWithError):
        return f"{value.value:.1f}" if value.error is None else f"{value.value:.1f} ± {value.error:.1f}"
    return f"{value:.2f}" if isinstance(value, float) else value


def _tex(value: Value) -> str:
    if isinstance(value, MeanWithError) and value.error is not None:
        return f"${value.value:.1f} \\pm {value.error:.1f}$"
    return re.sub(r"([&%$#_{}])", r"\\\1", cell_text(value))

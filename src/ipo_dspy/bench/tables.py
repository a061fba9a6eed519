"""The tables of the paper from measured rows, as Markdown, LaTeX or CSV.

`paper_table` and `ablation_table` make a `Table` of texts and numbers; what it looks like is the renderers' matter.
"""

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ipo_dspy.bench.aggregate import MeanWithError, TableRow, entry, transferred
from ipo_dspy.bench.cells import Grid
from ipo_dspy.bench.paper_figures import AVERAGE, NOTHING, Figures, published, published_ablation
from ipo_dspy.bench.registry import find_kind
from ipo_dspy.bench.result_rows import Row
from ipo_dspy.bench.suites import Suite
from ipo_dspy.errors import InputError

Value = str | float | MeanWithError | None
MEASURES = ("base", "novel", "H")


@dataclass(frozen=True, slots=True)
class Table:
    """A table before it is written in a format.

    Attributes:
        title: above it.
        columns: names; all but the first `texts` hold numbers.
        texts: how many columns hold text.
        groups: lines that belong together.
    """

    title: str
    columns: tuple[str, ...]
    texts: int
    groups: tuple[tuple[tuple[Value, ...], ...], ...]

    @property
    def lines(self) -> tuple[tuple[Value, ...], ...]:
        """All lines."""
        return tuple(line for group in self.groups for line in group)


def paper_table(grid: Grid, rows: Mapping[str, Row], suite: Suite, shots: int) -> Table:
    """Base, novel and H of each method, the average over the data sets first, beside the paper's figures."""
    with_paper = suite.name == "paper"
    datasets = [*([AVERAGE] if len(grid.datasets) > 1 else []), *grid.datasets]
    groups = []
    for dataset in datasets:
        lines = []
        for method in grid.methods:
            found = entry(grid, rows, dataset, method, shots)
            theirs = published(dataset, method, shots) if _covers_all_datasets(dataset, grid, suite) else NOTHING
            title = AVERAGE if dataset == AVERAGE else suite.titles[dataset]
            lines.append(_line([title, find_kind(method).title], found, theirs if with_paper else None))
        groups.append(tuple(lines))
    return Table(f"{shots}-shot, base to novel", _columns(["data set", "method"], with_paper), 2, tuple(groups))


def transfer_table(grid: Grid, rows: Mapping[str, Row], suite: Suite, shots: int) -> Table:
    """What each method learned on the source, there, on each target, and averaged over the targets."""
    (source,) = grid.datasets
    titles = {**suite.titles, **suite.variants}
    tested = {f"{titles[source]} (source)": (source,), **_averages(grid.targets, suite)}
    tested |= {titles[name]: (name,) for name in grid.targets}
    groups = [
        tuple(
            (title, find_kind(method).title, transferred(grid, rows, names, method, shots)) for method in grid.methods
        )
        for title, names in tested.items()
    ]
    return Table(f"{shots}-shot, learned on {titles[source]}", ("data set", "method", "accuracy"), 2, tuple(groups))


def _averages(targets: Sequence[str], suite: Suite) -> dict[str, tuple[str, ...]]:
    """Over all targets; where variants are among them, over these and over the others too, as papers have it."""
    kinds = {
        "average of data sets": tuple(name for name in targets if name not in suite.variants),
        "average of variants": tuple(name for name in targets if name in suite.variants),
    }
    return {AVERAGE: tuple(targets), **(kinds if all(kinds.values()) else {})}


def ablation_table(name: str, grid: Grid, rows: Mapping[str, Row], suite: Suite, shots: int) -> Table:
    """The variants of IPO side by side, the average over the data sets first; the paper gives averages only."""
    theirs = published_ablation(name) if suite.name == "paper" and set(grid.datasets) == set(suite.titles) else {}
    datasets = [*([AVERAGE] if len(grid.datasets) > 1 else []), *grid.datasets]
    groups = []
    for dataset in datasets:
        title = AVERAGE if dataset == AVERAGE else suite.titles[dataset]
        lines = []
        for variant in grid.variants:
            found = entry(grid, rows, dataset, grid.methods[0], shots, variant)
            paper = theirs.get(variant, NOTHING) if dataset == AVERAGE else NOTHING
            lines.append(_line([title, variant], found, paper if theirs else None))
        groups.append(tuple(lines))
    return Table(f"IPO by {name}, {shots}-shot", _columns(["data set", name], bool(theirs)), 2, tuple(groups))


def _covers_all_datasets(dataset: str, grid: Grid, suite: Suite) -> bool:
    """Whether a line is about what the paper's is: its averages are over all eleven data sets."""
    return dataset != AVERAGE or set(grid.datasets) == set(suite.titles)


def _columns(texts: Sequence[str], with_paper: bool) -> tuple[str, ...]:
    return (*texts, *MEASURES, *(f"paper {one}" for one in MEASURES if with_paper))


def _line(texts: Sequence[str], found: TableRow, paper: Figures | None) -> tuple[Value, ...]:
    return (*texts, found.base, found.novel, found.h, *(paper or ()))


def markdown(table: Table) -> str:
    """A table of Markdown below its title."""
    heads = [
        f"| {' | '.join(table.columns)} |",
        f"|{'---|' * table.texts}{'---:|' * (len(table.columns) - table.texts)}",
    ]
    lines = [[_text(value).replace("|", "\\|") for value in line] for line in table.lines]
    body = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([f"**{table.title}**", "", *heads, *body])


def latex(table: Table) -> str:
    """A `tabular` with the rules of booktabs, a rule between groups."""
    spec = "l" * table.texts + "r" * (len(table.columns) - table.texts)
    groups = ["\n".join(f"{' & '.join(map(_tex, line))} \\\\" for line in group) for group in table.groups]
    head = " & ".join(map(_tex, table.columns))
    lines = [f"% {table.title}", f"\\begin{{tabular}}{{{spec}}}", "\\toprule", f"{head} \\\\", "\\midrule"]
    return "\n".join([*lines, "\n\\midrule\n".join(groups), "\\bottomrule", "\\end{tabular}"])


def comma_separated(table: Table) -> str:
    """CSV with full precision; each mean is followed by a column with its standard error."""
    means = range(table.texts, table.texts + len(MEASURES))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head: list[str] = []
    for index, name in enumerate(table.columns):
        head += [name, f"{name} error"] if index in means else [name]
    writer.writerow(["table", *head])
    for line in table.lines:
        cells: list[object] = []
        for index, value in enumerate(line):
            if index in means:
                cells += [value.value, value.error] if isinstance(value, MeanWithError) else [None, None]
            else:
                cells.append(value)
        writer.writerow([table.title, *cells])
    return out.getvalue().rstrip("\n")


FORMATS: Mapping[str, Callable[[Table], str]] = MappingProxyType(
    {"md": markdown, "latex": latex, "csv": comma_separated}
)
"""How tables are written, by name."""


def render(tables: Sequence[Table], form: str) -> str:
    """Tables in one of `FORMATS`.

    Raises:
        InputError: an unknown one.
    """
    if form not in FORMATS:
        raise InputError(f"must be one of {', '.join(FORMATS)}", argument="format", value=form)
    return "\n\n".join(FORMATS[form](table) for table in tables)


def _text(value: Value) -> str:
    """As people read it: one digit behind the point, two for what the paper prints."""
    if value is None:
        return "-"
    if isinstance(value, MeanWithError):
        return f"{value.value:.1f}" if value.error is None else f"{value.value:.1f} ± {value.error:.1f}"
    return f"{value:.2f}" if isinstance(value, float) else value


def _tex(value: Value) -> str:
    if isinstance(value, MeanWithError) and value.error is not None:
        return f"${value.value:.1f} \\pm {value.error:.1f}$"
    return re.sub(r"([&%$#_{}])", r"\\\1", _text(value))

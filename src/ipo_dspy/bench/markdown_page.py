"""Write a sweep as a page of Markdown: result tables, the templates, cost, and provenance."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ipo_dspy._internal.file_io import atomic_write
from ipo_dspy.bench.aggregate import MeanWithError
from ipo_dspy.bench.registry import find_kind
from ipo_dspy.bench.result_rows import Row
from ipo_dspy.bench.suites import Suite
from ipo_dspy.bench.tables import Table, Value, markdown
from ipo_dspy.errors import JournalError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Provenance:
    """Code, machines, and versions of the results of a page.

    Attributes:
        commits, machines, versions: distinct values of the rows.
    """

    commits: tuple[str, ...]
    machines: tuple[str, ...]
    versions: tuple[str, ...]

    @classmethod
    def of(cls, rows: Iterable[Row]) -> "Provenance":
        """Return the provenance of rows."""
        rows = list(rows)
        return cls(
            _once(row.commit or "unknown" for row in rows),
            _once(_machine(row) for row in rows if row.machine),  # unknown for a worker that died
            _once(", ".join(f"{name} {number}" for name, number in row.versions.items()) for row in rows),
        )

    def __str__(self) -> str:
        return f"commit {' and '.join(self.commits)}; {'; '.join(self.machines)}; {'; '.join(self.versions)}"


@dataclass(frozen=True, slots=True)
class Content:
    """Content of a page.

    Attributes:
        tables: the result tables, which come first.
        rows: the available rows of the requested cells.
        cells: number of requested cells.
        suite: of the data sets.
        command: the command that reproduces the page.
        variants: variant names of the cells of an ablation, by key.
    """

    tables: Sequence[Table]
    rows: Sequence[Row]
    cells: int
    suite: Suite
    command: str
    variants: Mapping[str, str] = field(default_factory=dict)


def write_page(path: Path, content: Content) -> Path:
    """Write a page and return its path.

    Raises:
        JournalError: the page cannot be written.
    """
    try:
        atomic_write(path, page(content).encode())
    except OSError as error:
        raise JournalError(
            f"{str(path)!r} cannot be written ({error.strerror}); free space or name another folder"
        ) from error
    return path


def page(content: Content) -> str:
    """Return the page of a sweep as Markdown."""
    complete = [row for row in content.rows if row.error is None]
    suite = content.suite
    parts = [
        f"# Results: {suite.about}",
        f"Test accuracy in percent, mean and standard error over the seeds {_seeds(content.rows)}. {suite.note}",
        *_missing(content),
        *map(markdown, content.tables),
        *([markdown(_templates(complete, content))] if any(_finds(row) for row in complete) else []),
        *([markdown(_price(complete, content))] if complete else []),
        f"Printed by this command at {Provenance.of(content.rows)}. Timings include other load on the machine.",
        f"```console\n$ {content.command}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _seeds(rows: Sequence[Row]) -> str:
    return ", ".join(map(str, sorted({row.seed for row in rows})))


def _missing(content: Content) -> list[str]:
    """Return notes on cells that are missing from the means."""
    failed = [row for row in content.rows if row.error is not None]
    notes = []
    if failed or len(content.rows) < content.cells:
        unreached = content.cells - len(content.rows)
        notes.append(
            f"**Incomplete:** of {content.cells} cells, {len(failed)} failed and {unreached} have not run. "
            "Means are over the available seeds; a single seed has no standard error."
        )
    if failed:
        notes.append(
            "\n".join(
                f"- {row.method}, {row.dataset}, {row.shots}-shot, seed {row.seed}: {code(row.error or '')}"
                for row in failed
            )
        )
    return notes


def _templates(rows: Sequence[Row], content: Content) -> Table:
    """Return the table of the templates of the methods that search for one."""
    lines: list[tuple[Value, ...]] = [
        (
            content.suite.titles[row.dataset],
            _title(row, content),
            f"{row.shots}",
            f"{row.seed}",
            code(row.template or ""),
            *map(_mean, _accuracies(row)),
        )
        for row in rows
        if _finds(row)
    ]
    measures = ("source", "targets") if any(row.targets for row in rows) else ("base", "novel")
    return Table("The templates", ("data set", "method", "shots", "seed", "template", *measures), 5, (tuple(lines),))


def _accuracies(row: Row) -> tuple[float | None, float | None]:
    """Return the accuracy on base and novel classes, or on the source and averaged over the targets."""
    return (row.source, statistics.fmean(row.targets.values())) if row.targets else (row.base, row.novel)


def _price(rows: Sequence[Row], content: Content) -> Table:
    """Return the table of seconds per cell and language model usage, by method and shots."""
    lines: list[tuple[Value, ...]] = []
    shots_of = {row.key: f"{row.shots}" if find_kind(row.method).learns else "none" for row in rows}
    for title, shots in _once((_title(row, content), shots_of[row.key]) for row in rows):
        group = [row for row in rows if (_title(row, content), shots_of[row.key]) == (title, shots)]
        costs = [row.cost for row in group]
        total = "unknown" if None in costs else f"{sum(cost or 0 for cost in costs):.2f}"
        usage = (f"{sum(row.calls for row in group)}", f"{sum(row.tokens for row in group)}", total)
        lines.append((title, shots, f"{len(group)}", *usage, MeanWithError.of([row.seconds for row in group])))
    names = ("method", "shots", "cells", "LLM calls", "tokens", "USD", "seconds a cell")
    return Table("What it took", names, 6, (tuple(lines),))


def code(text: str) -> str:
    r"""Return any text as inline code of Markdown, one code span per line.

    >>> print(code("a `<CLASS>`"), code("one\ntwo"))
    `` a `<CLASS>` `` `one`<br>`two`
    """
    return "<br>".join(f"`` {line} ``" if "`" in line else f"`{line}`" for line in text.splitlines())


def _finds(row: Row) -> bool:
    return row.template is not None and find_kind(row.method).learns


def _title(row: Row, content: Content) -> str:
    title, variant = find_kind(row.method).title, content.variants.get(row.key)
    return title if variant is None else f"{title}, {variant}"


def _mean(value: float | None) -> MeanWithError | None:
    return None if value is None else MeanWithError(value, None)


def _machine(row: Row) -> str:
    machine = row.machine
    where = machine.get("gpu") or f"{machine.get('processor')}, threads: {machine.get('threads')}"
    return f"{where}, Python {machine.get('python')}"


def _once(items: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(items))

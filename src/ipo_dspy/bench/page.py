"""A sweep as one page of Markdown: tables, the templates that were found, what it took, and where it was measured."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ipo_dspy.bench.means import Mean
from ipo_dspy.bench.methods import find_kind
from ipo_dspy.bench.rows import Row
from ipo_dspy.bench.suites import Suite
from ipo_dspy.bench.tables import Table, Value, markdown
from ipo_dspy.errors import JournalError
from ipo_dspy.files import write_whole

T = TypeVar("T")

PAGE = "results.md"
"""Name of the page in the folder of a sweep."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the figures of a page are from.

    Attributes:
        commits, machines, versions: each as the rows have them, once.
    """

    commits: tuple[str, ...]
    machines: tuple[str, ...]
    versions: tuple[str, ...]

    @classmethod
    def of(cls, rows: Iterable[Row]) -> "Sources":
        """Of all rows."""
        rows = list(rows)
        return cls(
            _once(row.commit or "unknown" for row in rows),
            _once(_machine(row) for row in rows if row.machine),  # none is known of a worker that died
            _once(", ".join(f"{name} {number}" for name, number in row.versions.items()) for row in rows),
        )

    def __str__(self) -> str:
        return f"commit {' and '.join(self.commits)}; {'; '.join(self.machines)}; {'; '.join(self.versions)}"


def write_page(folder: Path, tables: Sequence[Table], rows: Sequence[Row], suite: Suite, command: str) -> Path:
    """Write `results.md` into the folder of a sweep.

    Raises:
        JournalError: it cannot be written.
    """
    path = folder / PAGE
    try:
        write_whole(path, page(tables, rows, suite, command).encode())
    except OSError as error:
        raise JournalError(
            f"{str(path)!r} cannot be written ({error.strerror}); free space or name another folder"
        ) from error
    return path


def page(tables: Sequence[Table], rows: Sequence[Row], suite: Suite, command: str) -> str:
    """The page of the rows of a sweep."""
    whole = [row for row in rows if row.error is None]
    seeds = ", ".join(map(str, sorted({row.seed for row in rows})))
    parts = [
        f"# Results: {suite.about}",
        f"Test accuracy in percent, mean and standard error over the seeds {seeds}. {suite.note}",
        *map(markdown, tables),
        *([markdown(_templates(whole, suite))] if any(_finds(row) for row in whole) else []),
        markdown(_price(whole)),
        f"Printed by `{command}`: {Sources.of(rows)}. Seconds hold whatever else the machine was doing.",
    ]
    return "\n\n".join(parts) + "\n"


def _templates(rows: Sequence[Row], suite: Suite) -> Table:
    """What the methods found that find a template."""
    lines: list[tuple[Value, ...]] = [
        (
            suite.titles[row.dataset],
            _title(row),
            f"{row.shots}",
            f"{row.seed}",
            f"`{row.template}`",
            *map(_mean, _accuracies(row)),
        )
        for row in rows
        if _finds(row)
    ]
    measures = ("source", "targets") if any(row.targets for row in rows) else ("base", "novel")
    return Table("The templates", ("data set", "method", "shots", "seed", "template", *measures), 5, (tuple(lines),))


def _accuracies(row: Row) -> tuple[float | None, float | None]:
    """On base and novel classes, or on the source and on average on its targets."""
    return (row.source, statistics.fmean(row.targets.values())) if row.targets else (row.base, row.novel)


def _price(rows: Sequence[Row]) -> Table:
    """Seconds of a cell, and what language models were asked, by method and shots."""
    lines: list[tuple[Value, ...]] = []
    for method, shots in _once((row.method, row.shots) for row in rows):
        own = [row for row in rows if (row.method, row.shots) == (method, shots)]
        costs = [row.cost for row in own]
        cost = "unknown" if None in costs else f"{sum(one or 0 for one in costs):.2f}"
        drawn = f"{shots}" if find_kind(method).learns else "none"
        asked = (f"{sum(row.calls for row in own)}", f"{sum(row.tokens for row in own)}", cost)
        lines.append((find_kind(method).title, drawn, f"{len(own)}", *asked, Mean.of([row.seconds for row in own])))
    names = ("method", "shots", "cells", "LLM calls", "tokens", "USD", "seconds a cell")
    return Table("What it took", names, 6, (tuple(lines),))


def _finds(row: Row) -> bool:
    return row.template is not None and find_kind(row.method).learns


def _title(row: Row) -> str:
    return find_kind(row.method).title


def _mean(value: float | None) -> Mean | None:
    return None if value is None else Mean(value, None)


def _machine(row: Row) -> str:
    machine = row.machine
    where = machine.get("gpu") or f"{machine.get('processor')}, threads: {machine.get('threads')}"
    return f"{where}, Python {machine.get('python')}"


def _once(items: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(items))

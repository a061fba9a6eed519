"""Write a sweep as a page of Markdown: result tables, the templates, cost, and provenance."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ipo_dspy._internal.file_io import atomic_write
from ipo_dspy.bench.aggregate import MeanWithError
from ipo_dspy.bench.registry import find_kind
from ipo_dspy.bench.result_rows import Row, unwritable_as_journal_error
from ipo_dspy.bench.suites import Suite
from ipo_dspy.bench.tables import Table, Value, markdown


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
    with unwritable_as_journal_error(path):
        atomic_write(path, page(content).encode())
    return path


def page(content: Content) -> str:
    """Return the page of a sweep as Markdown."""
    complete = [row for row in content.rows if row.error is None]
    searched = [row for row in complete if row.template is not None and find_kind(row.method).learns]
    suite, seeds = content.suite, ", ".join(map(str, sorted({row.seed for row in content.rows})))
    parts = [
        f"# Results: {suite.about}",
        f"Test accuracy in percent, mean and standard error over the seeds {seeds}. {suite.note}",
        *_missing(content),
        *_closed_set(complete),
        *map(markdown, content.tables),
        *([markdown(_templates(searched, content))] if searched else []),
        *([markdown(_price(complete, content))] if complete else []),
        f"Printed by this command at {_provenance(content.rows)}. Timings include other load on the machine.",
        f"```console\n$ {content.command}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _missing(content: Content) -> list[str]:
    """Return notes on cells that are missing from the means."""
    failed = [row for row in content.rows if row.error is not None]
    unreached = content.cells - len(content.rows)
    notes = []
    if failed or unreached > 0:
        notes.append(
            f"**Incomplete:** of {content.cells} cells, {len(failed)} failed and {unreached} have not run. "
            "Means are over the available seeds; a single seed has no standard error."
        )
    if failed:
        lines = (
            f"- {row.method}, {row.dataset}, {row.shots}-shot, seed {row.seed}: {code(row.error or '')}"
            for row in failed
        )
        notes.append("\n".join(lines))
    return notes


def _closed_set(rows: Sequence[Row]) -> list[str]:
    """Return a note on the methods that have no accuracy on some of the classes."""
    titles = dict.fromkeys(find_kind(row.method).title for row in rows if not find_kind(row.method).any_classes)
    if not titles:
        return []
    return [f"{', '.join(titles)}: classifies only the classes of its training images, so other columns have no value."]


def _templates(rows: Sequence[Row], content: Content) -> Table:
    """Return the table of the templates of the methods that search for one."""
    lines: list[tuple[Value, ...]] = []
    for row in rows:
        scores = (row.source, statistics.fmean(row.targets.values())) if row.targets else (row.base, row.novel)
        means = [None if score is None else MeanWithError(score, None) for score in scores]
        place = (content.suite.titles[row.dataset], _title(row, content), f"{row.shots}", f"{row.seed}")
        lines.append((*place, code(row.template or ""), *means))
    measures = ("source", "targets") if any(row.targets for row in rows) else ("base", "novel")
    return Table("The templates", ("data set", "method", "shots", "seed", "template", *measures), 5, (tuple(lines),))


def _price(rows: Sequence[Row], content: Content) -> Table:
    """Return the table of seconds per cell and language model usage, by method and shots."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[_title(row, content), f"{row.shots}" if find_kind(row.method).learns else "none"].append(row)
    lines: list[tuple[Value, ...]] = []
    for place, group in groups.items():
        costs = [row.cost for row in group]
        total = "unknown" if None in costs else f"{sum(cost or 0 for cost in costs):.2f}"
        usage = (f"{sum(row.calls for row in group)}", f"{sum(row.tokens for row in group)}", total)
        lines.append((*place, f"{len(group)}", *usage, MeanWithError.of([row.seconds for row in group])))
    names = ("method", "shots", "cells", "LLM calls", "tokens", "USD", "seconds per cell")
    return Table("Time and cost", names, 6, (tuple(lines),))


def code(text: str) -> str:
    r"""Return any text as inline code of Markdown, one code span per line.

    >>> print(code("a `<CLASS>`"), code("one\ntwo"))
    `` a `<CLASS>` `` `one`<br>`two`
    """
    return "<br>".join(f"`` {line} ``" if "`" in line else f"`{line}`" for line in text.splitlines())


def _title(row: Row, content: Content) -> str:
    title, variant = find_kind(row.method).title, content.variants.get(row.key)
    return title if variant is None else f"{title}, {variant}"


def _provenance(rows: Sequence[Row]) -> str:
    """Return the distinct commits, machines, and package versions of rows."""
    commits = dict.fromkeys(row.commit or "unknown" for row in rows)
    machines = dict.fromkeys(_machine(row.machine) for row in rows if row.machine)  # unknown for a worker that died
    versions = dict.fromkeys(", ".join(f"{name} {number}" for name, number in row.versions.items()) for row in rows)
    return f"commit {' and '.join(commits)}; {'; '.join(machines)}; {'; '.join(versions)}"


def _machine(machine: Mapping[str, Any]) -> str:
    processor = machine.get("gpu") or f"{machine.get('processor')}, threads: {machine.get('threads')}"
    return f"{processor}, Python {machine.get('python')}"

"""Tables for people, JSON for machines."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ipo_dspy.cli.runs import Outcome


def as_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def outcome(result: Outcome) -> None:
    """Start against best on every set of images, and where the files are."""
    table = Table(title="accuracy in percent (start, best, gain) and loss in nats", title_justify="left")
    table.add_column("")
    table.add_column("images", justify="right")
    table.add_column("start", justify="right")
    table.add_column("best", justify="right", style="bold")
    table.add_column("gain", justify="right")
    table.add_column("loss start", justify="right")
    table.add_column("loss best", justify="right")
    for name, (start, best) in result.scores.items():
        numbers = (start.accuracy, best.accuracy, best.accuracy - start.accuracy)
        table.add_row(name, str(result.images[name]), *map(_percent, numbers), f"{start.loss:.3f}", f"{best.loss:.3f}")
    if result.harmonic is not None:
        before, after = result.harmonic
        table.add_row("H (base, novel)", "", _percent(before), _percent(after), _percent(after - before), "", "")
    console = _console()
    console.print(table)
    console.print(Text.assemble("start template  ", (result.start, "bold")))
    console.print(Text.assemble("best template   ", (result.best, "bold green")))
    if result.left_out:
        console.print(f"{result.left_out} images could not be read and were left out")
    console.print(
        f"{result.trials} templates tried, {result.rejected} rejected, {result.calls} LLM calls, "
        f"{result.tokens} tokens, {result.seconds:.1f} s"
    )
    console.print(Text(f"program  {result.folder}/best.json\nreport   {result.report}"), soft_wrap=True)


def rows(title: str, columns: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    """A plain table; columns whose name ends in '>' are set right."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column.rstrip(">"), justify="right" if column.endswith(">") else "left", overflow="fold")
    for line in lines:
        table.add_row(*map(Text, line))
    _console().print(table)


def note(text: str) -> None:
    """A line for people on stderr, so that stdout stays clean."""
    Console(stderr=True).print(Text(text), soft_wrap=True)


def _console() -> Console:
    console = Console()
    # Piped output has no width of its own; 80 columns would break the tables.
    return console if console.is_terminal else Console(width=140)


def _percent(value: float) -> str:
    return f"{value:.2f}"

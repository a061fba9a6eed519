"""Tables for people, JSON for machines."""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from ipo_dspy._internal.counts import counted
from ipo_dspy._internal.file_kinds import PROGRAM_FILE
from ipo_dspy._internal.untrusted import printable
from ipo_dspy.cli.run_command import Outcome
from ipo_dspy.cli.terminal import Terminal
from ipo_dspy.run.ledger import Limits, Spent

if TYPE_CHECKING:
    from ipo_dspy.optimizer.cost_estimate import Estimate


def as_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def outcome(result: Outcome, limits: Limits) -> None:
    """Start against best on every set of images, what was spent, and where the files are."""
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
    console.print(Text.assemble("start template  ", (result.start, "bold")), soft_wrap=True)
    console.print(Text.assemble("best template   ", (result.best, "bold green")), soft_wrap=True)
    if result.left_out:
        console.print(Text(f"{counted(result.left_out, 'image')} could not be read: left out"))
    if result.spent.calls or limits != Limits():
        console.print(_spending(result.spent, limits))
    told = (
        f"{counted(result.trials, 'template')} tried, {result.rejected} rejected, "
        f"{counted(result.spent.calls, 'LLM call')}, {counted(result.spent.tokens, 'token')}, "
        f"{result.spent.seconds:.1f} s{_ended(result.status)}"
    )
    console.print(Text(told), soft_wrap=True)
    if result.was_finished:
        console.print(
            "this run was finished before, so nothing was searched; "
            "a greater --steps goes on with it, another --out begins a new one"
        )
    console.print(Text(f"program  {result.folder}/{PROGRAM_FILE}\nreport   {result.report}"), soft_wrap=True)


def estimate(found: "Estimate", *, machine: bool) -> None:
    """What a run would cost, by kind of request."""
    if machine:
        total = found.total
        as_json(
            {
                "calls": total.calls,
                "tokens": total.tokens,
                "cost": None if total.unpriced else total.cost,
                "items": [asdict(item) for item in found.items],
            }
        )
        return
    if not found.items:
        note("no language model would be asked: 0 calls, 0 tokens, 0 USD")
        return
    lines = [
        (i.what, i.model, str(i.calls), str(i.prompt_tokens), str(i.completion_tokens), _usd(i.cost))
        for i in found.items
    ]
    total = found.total
    cost = _usd(total.cost) + (" + unknown" if total.unpriced else "")
    lines.append(("total", "", str(total.calls), str(total.prompt_tokens), str(total.completion_tokens), cost))
    columns = ["requests", "model", "calls>", "prompt tokens>", "completion tokens>", "USD>"]
    rows("about what to expect; nothing was asked", columns, lines)


def _spending(spent: Spent, limits: Limits) -> Table:
    """What was spent beside what was allowed."""
    table = Table(title="spent on language models", title_justify="left")
    for column in ("", "spent", "limit"):
        table.add_column(column, justify="right" if column else "left")
    unknown = f" + {counted(spent.unpriced, 'call')} of unknown price" if spent.unpriced else ""
    for name, amount, limit in (
        ("calls", str(spent.calls), limits.max_lm_calls),
        ("prompt tokens", str(spent.prompt_tokens), None),
        ("completion tokens", str(spent.completion_tokens), None),
        ("tokens", str(spent.tokens) + (" (estimated)" if spent.estimated else ""), limits.max_tokens),
        ("USD", _usd(spent.cost) + unknown, limits.max_cost),
        ("seconds", f"{spent.seconds:.1f}", limits.max_seconds),
    ):
        table.add_row(name, amount, "" if limit is None else f"{limit:g}")
    return table


def _ended(status: str) -> str:
    """A word on why a search ended early."""
    told = {
        "finished": "",
        "patience": "; no better template for as many steps as --patience",
        "exhausted": "; nothing new was proposed any more",
        "errors": "; the language model failed",
        "interrupted": "; stopped",
    }
    return told.get(status, f"; --{status.replace('_', '-')} is spent")


def _usd(cost: float | None) -> str:
    return "unknown" if cost is None else f"{cost:.4f}"


def template(text: str) -> None:
    """A template on lines of its own, to be read and copied whole."""
    _console().print(Text.assemble("template  ", (text, "bold")), soft_wrap=True)


def rows(title: str, columns: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    """A plain table; columns whose name ends in '>' are set right."""
    table = Table(title=Text(title) if title else None, title_justify="left")
    for column in columns:
        table.add_column(column.rstrip(">"), justify="right" if column.endswith(">") else "left", overflow="fold")
    for line in lines:
        table.add_row(*(Text(printable(cell)) for cell in line))  # before the columns get their widths
    _console().print(table)


def note(text: str) -> None:
    """A line for people on stderr, so that stdout stays clean."""
    Terminal(stderr=True).print(Text(text), soft_wrap=True)


def _console() -> Terminal:
    console = Terminal()
    # Piped output has no width of its own, and a path that is broken over two lines can be neither found nor copied.
    return console if console.is_terminal else Terminal(width=1000)


def _percent(value: float) -> str:
    return f"{value:.2f}"

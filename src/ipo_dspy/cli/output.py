"""Print the output of commands: tables, notes and JSON."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from ipo_dspy._internal.counts import pluralize
from ipo_dspy._internal.file_kinds import PROGRAM_FILE
from ipo_dspy._internal.untrusted import printable
from ipo_dspy.cli.terminal import Terminal
from ipo_dspy.run.budget import Budget, Usage
from ipo_dspy.scoring.objectives import ObjectiveText

if TYPE_CHECKING:
    from ipo_dspy.cli.run_summary import RunSummary
    from ipo_dspy.optimizer.cost_estimate import Estimate
    from ipo_dspy.optimizer.search import SearchResult
    from ipo_dspy.scoring.intervals import Interval
    from ipo_dspy.scoring.score import Score


def write_json(value: Any) -> None:
    """Print one JSON document to stdout."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def run_summary(result: "RunSummary", limits: Budget) -> None:
    """Print the scores of each template on every set of images, the usage, and the files."""
    details, spent, imagenet = result.details, result.details.spent, result.final.imagenet
    labels, published = {"start": "start", "best": "best"}, []
    if imagenet is not None:
        count = len(imagenet.ensemble.lines)
        named = {"imagenet_best": f"best of {count}", "imagenet_ensemble": f"ensemble of {count}"}
        labels = {"start": "start", **named, "best": "best"}
        published = [(named["imagenet_best"], imagenet.best, "bold")]
    _scores(result, labels)
    _encoders(details.searches[0])
    console = _console()
    start = "start template", details.baseline.template, "bold"
    for label, shown, style in (start, *published, ("best template", details.best.template, "bold green")):
        aligned = str(shown).replace("\n", f"\n{'':16}")
        console.print(Text.assemble(f"{label:16}", (aligned, style)), soft_wrap=True)
    labeled(result.findings)
    if result.left_out:
        console.print(Text(f"{pluralize(result.left_out, 'image')} could not be read: left out"))
    if spent.calls or limits != Budget():
        _spending(spent, limits)
    endings = {
        "finished": "",
        "exhausted": "; nothing new was proposed",
        "errors": "; the language model failed",
        "interrupted": "; stopped",
    }
    ended = endings.get(details.status, f"; --{details.status.replace('_', '-')} reached")
    compared = details.searches[0].choice.compared
    only = f" ({compared} of them compared in pairs)" if compared < len(details.trials) else ""
    totals = (
        f"{pluralize(len(details.trials), 'template')} tried{only}, {result.rejected} rejected, "
        f"{pluralize(spent.calls, 'LLM call')}, {pluralize(spent.tokens, 'token')}, "
        f"{spent.seconds:.1f} s{ended}"
    )
    console.print(Text(totals), soft_wrap=True)
    if result.was_finished:
        console.print(
            "this run was already finished, so nothing was searched; "
            "raise --steps to continue it, or use another --log-dir"
        )
    console.print(Text(f"program  {result.folder}/{PROGRAM_FILE}\nreport   {result.report}"), soft_wrap=True)


def _scores(result: "RunSummary", labels: Mapping[str, str]) -> None:
    """Print a column for each set of images and a row for each template, with these labels by role."""
    scores, intervals, harmonic = result.final.scores, result.final.intervals, result.final.harmonic or {}
    gains = {name: scores[name]["best"].accuracy - scores[name]["start"].accuracy for name in intervals}
    accuracies = {role: {name: f"{scores[name][role].accuracy:.2f}" for name in scores} for role in labels}
    title, columns = "accuracy in percent, loss in nats", [*scores]
    if harmonic:
        title, columns = f"{title}; H is the harmonic mean of base and novel", [*columns, "H"]
        gains["H"] = harmonic["best"] - harmonic["start"]
        accuracies = {role: {**cells, "H": f"{harmonic[role]:.2f}"} for role, cells in accuracies.items()}
    table = {
        "images": {name: str(count) for name, count in result.final.images.items()},
        **{labels[role]: cells for role, cells in accuracies.items()},
        # Images that chose the template would flatter it, so only test images have these two.
        "95 %": {name: interval(found) for name, found in intervals.items()},
        "gain": {name: f"{gain:.2f}" for name, gain in gains.items()},
        **_objective_rows(result, labels),
        **{f"loss, {labels[role]}": {name: f"{scores[name][role].loss:.3f}" for name in scores} for role in labels},
    }
    lines = [(label, *(cells.get(name, "") for name in columns)) for label, cells in table.items() if cells]
    rows(title, ["", *(f"{name}>" for name in columns)], lines)


def _encoders(search: "SearchResult") -> None:
    """Print the start and the best template under each model, if there are several."""
    if not search.encoders:
        return
    start = next(i for i, finalist in enumerate(search.finalists) if finalist.trial == search.baseline)
    lines = [
        (model, *(text for i in (start, 0) for text in (f"{scores[i].accuracy:.2f}", f"{scores[i].loss:.3f}")))
        for model, scores in search.encoders.items()
    ]
    images = "validation" if search.decided_by == "validation" else "training"
    rows(f"by model, on {images} images", ["model", "start %>", "loss>", "best %>", "loss>"], lines)


def _objective_rows(result: "RunSummary", labels: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return a row with the values of another objective than accuracy and loss for each template, and missed floors."""
    objective, scores = result.details.searches[0].choice.objective, result.final.scores
    text = ObjectiveText.of(objective)
    table = {}
    for role, label in labels.items():
        if objective not in ("accuracy", "loss"):
            table[f"{text.label}, {label}"] = {name: text.number(scores[name][role].goal) for name in scores}
        missed = {name: scores[name][role].missed for name in scores}
        if any(missed.values()):
            table[f"below floors, {label}"] = {name: f"{points:.1f}" for name, points in missed.items()}
    return table


def measures(values: Mapping[str, float], objective: str, score: "Score") -> None:
    """Print the other measures of a classifier, and the objective if it is none of them."""
    known = [name for name in values if name not in ("accuracy", "loss")]
    shown = {ObjectiveText.of(name).label: ObjectiveText.of(name).number(values[name]) for name in known}
    if objective not in values and score.value is not None:
        shown[ObjectiveText.of(objective).label] = ObjectiveText.of(objective).number(score.value)
    if score.missed:
        shown["below the floors"] = f"{score.missed:.2f} points"
    rows("other measures", ["", ">"], shown.items())


def labeled(lines: Mapping[str, str]) -> None:
    """Print texts, each after its label."""
    for label, text in lines.items():
        _console().print(Text(f"{label:16}" + text.replace("\n", f"\n{'':16}")), soft_wrap=True)


def estimate(found: "Estimate", plan: Mapping[str, str] = MappingProxyType({}), *, as_json: bool) -> None:
    """Print what a run would do, as texts by label, and its expected cost by kind of request."""
    total = found.total
    if as_json:
        summary = {"calls": total.calls, "tokens": total.tokens, "cost": None if total.unpriced else total.cost}
        items = [asdict(item) for item in found.items]
        write_json({**summary, "items": items, **({"plan": plan} if plan else {})})
        return
    labeled(plan)
    if not found.items:
        note("no language model is used and no key is needed: 0 calls, 0 tokens, 0 USD")
        return
    lines = [
        (i.what, i.model, str(i.calls), str(i.prompt_tokens), str(i.completion_tokens), _usd(i.cost))
        for i in found.items
    ]
    cost = _usd(total.cost) + (" + unknown" if total.unpriced else "")
    lines.append(("total", "", str(total.calls), str(total.prompt_tokens), str(total.completion_tokens), cost))
    columns = ["requests", "model", "calls>", "prompt tokens>", "completion tokens>", "USD>"]
    rows("cost estimate (no requests were sent)", columns, lines)


def _spending(spent: Usage, limits: Budget) -> None:
    unknown = f" + {pluralize(spent.unpriced, 'call')} of unknown price" if spent.unpriced else ""
    lines = (
        ("calls", str(spent.calls), limits.max_lm_calls),
        ("prompt tokens", str(spent.prompt_tokens), None),
        ("completion tokens", str(spent.completion_tokens), None),
        ("tokens", str(spent.tokens) + (" (estimated)" if spent.estimated else ""), limits.max_tokens),
        ("USD", _usd(spent.cost) + unknown, limits.max_cost),
        ("seconds", f"{spent.seconds:.1f}", limits.max_seconds),
    )
    cells = [(name, amount, "" if limit is None else f"{limit:g}") for name, amount, limit in lines]
    rows("spent on language models", ["", "spent>", "limit>"], cells)


def interval(found: "Interval") -> str:
    """Return an interval of at most nine characters, so that the table fits into 80 columns."""
    return f"{found.low:.1f}\u2013{found.high:.1f}".replace("100.0", "100")


def _usd(cost: float | None) -> str:
    return "unknown" if cost is None else f"{cost:.4f}"


def template(text: str) -> None:
    """Print a template on separate lines."""
    _console().print(Text.assemble("template  ", (text, "bold")), soft_wrap=True)


def rows(title: str, columns: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    """Print a plain table; columns whose name ends in '>' are aligned right."""
    table = Table(title=Text(title) if title else None, title_justify="left")
    for column in columns:
        table.add_column(column.rstrip(">"), justify="right" if column.endswith(">") else "left", overflow="fold")
    for line in lines:
        table.add_row(*(Text(printable(cell)) for cell in line))  # escape before the column widths are computed
    _console().print(table)


def figure(value: float, error: float, decimals: int) -> str:
    """Return a difference with its standard error, which one image does not give."""
    return f"{value:+.{decimals}f} ± " + (f"{error:.{decimals}f}" if error < 1e6 else "unknown")


def note(text: str) -> None:
    """Print a line to stderr."""
    Terminal(stderr=True).print(Text(text), soft_wrap=True)


def size(count: float) -> str:
    """Return a number of bytes as text.

    >>> size(12), size(2500), size(18_000_000_000_000)
    ('12 B', '2.5 kB', '18.0 TB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if count == int(count) else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _console() -> Terminal:
    console = Terminal()
    # Piped output has no width. Paths are not wrapped, so that they can be searched and copied.
    return console if console.is_terminal else Terminal(width=1000)

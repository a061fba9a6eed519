"""Follow a run through its journal (read-only).

Templates, errors and reasons come from language models, so they are never parsed as markup.
"""

import contextlib
import difflib
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text
from typer import Argument, Option

from ipo_dspy._internal.counts import pluralize
from ipo_dspy.cli import signals
from ipo_dspy.cli.terminal import Terminal, line
from ipo_dspy.errors import InputError, PathError
from ipo_dspy.history import Trial
from ipo_dspy.report.choice import outcome
from ipo_dspy.report.run_watcher import RunWatcher, spending, status
from ipo_dspy.run.journal import FILE_NAME
from ipo_dspy.run.state import SearchState
from ipo_dspy.scoring.objectives import ObjectiveText

SHOWN_BETTER = 5
WIDEST_LINE = 40
BARS, ASCII_BARS = "▁▂▃▄▅▆▇█", "_.-~=+*#"


def watch(
    run: Annotated[Path, Argument(help="Folder of a run, which may not have begun yet.")],
    once: Annotated[bool, Option("--once", help="Print the current state and exit.")] = False,
    no_wait: Annotated[bool, Option("--no-wait", help="Exit if the run has not begun, instead of waiting.")] = False,
    web: Annotated[bool, Option("--web", help="Show the run on a page, which only this machine can open.")] = False,
    port: Annotated[int | None, Option(min=0, max=65535, help="Port of --web.", show_default="a free port")] = None,
) -> None:
    """Follow a run from its journal; Ctrl-C stops watching, not the run."""
    if web and once:
        raise InputError("--web shows each change, and --once only the current state; use one of them")
    if port is not None and not web:
        raise InputError("--port is the port of --web; add --web")
    console, watched = Terminal(), RunWatcher(run)
    if not console.is_terminal:
        console = Terminal(width=140)  # a pipe has no width, and 80 would break the tables
    over = watched.look()
    if not watched.state.begun:
        if once or no_wait:
            raise PathError(_no_journal(run))
        waiting = Text(f"waiting for {watched.folder / FILE_NAME}; press Ctrl-C to quit", style="yellow")
        Terminal(stderr=True).print(waiting, soft_wrap=True)
    if once:
        console.print(draw(watched, console))
        return
    try:
        if web:
            _serve(run, port)
        elif console.is_terminal:
            # Refresh from this thread only: Live's own thread would read the state while it changes.
            with Live(console=console, get_renderable=lambda: draw(watched, console), auto_refresh=False) as live:
                for _ in watched.looks():
                    live.refresh()
        else:
            _lines(watched, console, over=over)
    except KeyboardInterrupt as interrupt:
        if signals.exit_code(interrupt) != 130:  # Ctrl-C is the normal way to quit, not an error
            raise
    if not web and not console.is_terminal:
        console.print(draw(watched, console))


def _serve(run: Path, port: int | None) -> None:
    from ipo_dspy.serve.run_page import RunPageServer

    with RunPageServer(run, port=port or 0) as server:
        line(server.url)
        sys.stdout.flush()
        server.serve_forever()


def _lines(watched: RunWatcher, console: Console, *, over: bool) -> None:
    """Print a line for each improvement as it occurs."""
    printed: Counter[str] = Counter()
    looks = watched.looks()
    while True:
        for name, search in watched.state.searches.items():
            for trial in search.better[printed[name] :]:
                owner, score = "" if name == "self" else f"{name}: ", trial.score
                figures = f"step {trial.step:>3}  {_figure(search, trial):>8}  loss {score.loss:.4f}"
                console.print(Text(f"{owner}{figures}  {_single_line(trial)}"), soft_wrap=True)
            printed[name] = len(search.better)
        if over:
            return
        over = next(looks, True) is True


def draw(watched: RunWatcher, console: Console) -> RenderableType:
    """Return a view of the current state of the run."""
    state = watched.state
    wide = console.encoding.lower().startswith("utf")
    now = status(state, held=watched.held, folder=watched.folder)
    head = Text.assemble((str(watched.folder), "bold"), f"  {now}, {watched.seconds:.1f} s")
    pending = state.pending[:1] if watched.held is not False else []
    parts: list[RenderableType] = [head, *(Text(str(request), style="yellow") for request in pending)]
    parts.append(Text(spending(state.usage)))
    for name, search in state.searches.items():
        parts += _drawn(name, search, state.settings.get("steps"), BARS if wide else ASCII_BARS)
    return Group(*parts)


def _drawn(name: str, search: SearchState, planned: object, bars: str) -> Iterator[RenderableType]:
    of = f" of {planned}" if isinstance(planned, int) else ""
    owner = "" if name == "self" else f"{name}: "
    tried = pluralize(len(search.history), "template")
    yield Text(f"\n{owner}step {search.steps}{of}, {tried} tried", style="bold")
    if search.descriptions:
        yield Text(f"{pluralize(len(search.descriptions), 'training image')} described for the proposer")
    if search.start and search.best:
        yield _best_and_start(search, search.start, search.best)
        yield from map(Text, outcome(search))
    if len(curve := search.curve) > 1:
        number = ObjectiveText.of(search.objective).number
        yield Text.assemble(f"{number(curve[0])} ", (sparkline(curve, bars), "green"), f" {number(curve[-1])}")
    if search.rejections:
        counts = Counter(rejection.reason for rejection in search.rejections).most_common()
        yield Text(f"rejected: {', '.join(f'{reason} {count}' for reason, count in counts)}")
    if search.errors:
        message = " ".join(search.errors[-1]["message"].split())
        yield Text(f"errors: {len(search.errors)}, the last: {message[:300]}", style="yellow")


def _best_and_start(search: SearchState, start: Trial, best: Trial) -> Table:
    """Return a table of the start template, the last improvements and the best template."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    goal = ObjectiveText.of(search.objective)
    for column in ("", "step", goal.label if goal.label != "loss" else "accuracy", "loss"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    table.add_column("template", overflow="fold")
    rows = [("start", start, "")]
    rows += [("", trial, "") for trial in search.better[1:][-SHOWN_BETTER:] if trial is not best]
    rows.append(("best" if search.selected is None else "chosen", best, "bold green"))
    for label, trial, style in rows:
        numbers = (str(trial.step), _figure(search, trial), f"{trial.score.loss:.4f}")
        table.add_row(Text(label), *map(Text, numbers), Text(_single_line(trial)), style=style)
    return table


def _figure(search: SearchState, trial: Trial) -> str:
    """Return the value of the objective, or the accuracy next to the loss."""
    goal = ObjectiveText.of(search.objective)
    return f"{trial.score.accuracy:.2f} %" if goal.label == "loss" else goal.number(trial.score.goal)


def sparkline(values: Sequence[float], bars: str = BARS, width: int = WIDEST_LINE) -> str:
    """Return values as one line of bars, including the first and the last value.

    >>> sparkline([20.0, 20.0, 55.0, 90.0], ASCII_BARS)
    '__=#'
    """
    last = len(values) - 1
    count = min(len(values), width)
    picked = [values[round(i * last / max(1, count - 1))] for i in range(count)]
    low, high = min(picked), max(picked)
    steps = (len(bars) - 1) / (high - low) if high > low else 0.0
    return "".join(bars[int((value - low) * steps + 0.5)] for value in picked)


def _single_line(trial: Trial) -> str:
    return str(trial.template).replace("\n", " | ")


def _no_journal(run: Path) -> str:
    with contextlib.suppress(OSError):
        runs = {path.parent.name: path.parent for path in run.parent.glob(f"*/{FILE_NAME}")}
        if near := difflib.get_close_matches(run.name, runs, n=1, cutoff=0.3):
            return f"no journal in {str(run)!r}; did you mean: ipo-dspy watch {shlex.quote(str(runs[near[0]]))}"
    return f"no journal in {str(run)!r}; pass the --log-dir folder of a run, e.g. 'runs/1'"

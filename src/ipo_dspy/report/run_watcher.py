"""Follow a run through its journal, which is only read, and say how the run is, for the terminal and for a page."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from ipo_dspy._internal.counts import pluralize
from ipo_dspy.report.journal_fields import printable_event
from ipo_dspy.run.budget import Usage
from ipo_dspy.run.journal import FILE_NAME, is_written, tail
from ipo_dspy.run.state import RunState

PAUSE = 0.5
"""Seconds between two reads of the journal."""
QUIET = 2.0
"""Seconds without new events before the lock is tested. The test holds it briefly, which could disturb a writer."""
REASONS = {
    "finished": "finished",
    "patience": "stopped: no improvement for --patience steps",
    "exhausted": "stopped: the proposer ran out of new templates",
    "errors": "stopped: too many consecutive errors",
    "interrupted": "stopped: interrupted by the user",
}
"""Text of each final status; other statuses are names of limits."""


class RunWatcher:
    """Polls the folder of a run and keeps its state.

    Attributes:
        folder: the folder of the run.
        state: the state of the run.
        held: a process holds the journal; None if that is unknown.
        changes: grows with each event.
    """

    def __init__(self, run: Path, *, quiet: float = QUIET) -> None:
        self.folder = run.parent if run.is_file() else run
        self.quiet = quiet
        self.state, self.held = RunState(), cast("bool | None", None)
        self.changes = 0
        self._events = tail(self.folder)
        self._tried: float | None = None
        self._since = time.monotonic()

    @property
    def seconds(self) -> float:
        """Duration of the run, up to now while it runs; before it begins, the waiting time."""
        if not self.state.begun:
            return time.monotonic() - self._since
        since = 0.0
        if self.held and self.state.finished is None:
            with contextlib.suppress(OSError):
                since = max(0.0, time.time() - (self.folder / FILE_NAME).stat().st_mtime)
        return self.state.seconds + since

    def look(self) -> bool:
        """Read new events; return True if the run is over."""
        events = next(self._events, None)
        if events is None:  # the journal was removed; another run may have begun
            self.state, self._events = RunState(), tail(self.folder)
            events = next(self._events)
            self.changes += 1
        for event in events:
            self.state.fold(printable_event(event))
        self.changes += len(events)
        now = time.monotonic()
        if self._tried is None or (not events and now - self._tried >= self.quiet):
            self.held, self._tried = is_written(self.folder), now
        elif events:
            self.held, self._tried = True, now
        return self.state.finished is not None and not self.held

    def looks(self, pause: float = PAUSE) -> Iterator[bool]:
        """Poll until the run is over."""
        while not self.look():
            yield False
            time.sleep(pause)


def status(state: RunState, *, held: bool | None, folder: Path | str) -> str:
    """Return the status of the run in a folder as text.

    >>> end = {"event": "run_finished", "status": "max_cost", "seconds": 3.0, "calls": 0, "tokens": 0}
    >>> status(RunState([end]), held=False, folder="runs/1")
    'stopped: --max-cost is reached'
    """
    if state.status is not None:
        return REASONS.get(state.status, f"stopped: --{state.status.replace('_', '-')} is reached")
    if not state.begun:
        return "waiting for its journal"
    if held is not False:
        return "running"
    return f"stopped: no process is writing to it; resume by re-running the command with --log-dir {folder}"


def spending(spent: Usage) -> str:
    """Return the usage of language models as text.

    >>> spending(Usage(calls=2, prompt_tokens=30, cost=0.25, unpriced=1))
    '2 LLM calls, 30 tokens, 0.2500 USD and 1 of unknown price'
    """
    if not spent.calls:
        return "no LLM calls so far"
    if spent.unpriced >= spent.calls:
        cost = "price unknown"
    else:
        cost = f"{spent.cost:.4f} USD" + (f" and {spent.unpriced} of unknown price" if spent.unpriced else "")
    estimated = " (estimated)" if spent.estimated else ""
    return f"{pluralize(spent.calls, 'LLM call')}, {pluralize(spent.tokens, 'token')}{estimated}, {cost}"

"""Show the progress of a sweep: one line per cell on stderr, and bars if it is a terminal."""

import logging
import statistics

from ipo_dspy._internal.counts import pluralize
from ipo_dspy.bench.cells import Cell
from ipo_dspy.bench.result_rows import Row
from ipo_dspy.cli.progress import LiveProgress
from ipo_dspy.run.events import Event

_draws = logging.getLogger("ipo_dspy.data")
"""Warns about classes with few images each time that images are drawn."""


class LiveSweep:
    """Observer of a sweep.

    Args:
        several: whether cells run in parallel; if so, the start of each is printed.
    """

    def __init__(self, *, several: bool = False) -> None:
        self._bars = LiveProgress()
        self._several = several
        self._running: set[str] = set()
        self._begun, self._total = 0, 0

    def __enter__(self) -> "LiveSweep":
        self._level = _draws.level
        _draws.setLevel(logging.ERROR)
        self._bars.__enter__()
        return self

    def __exit__(self, *details: object) -> None:
        self._bars.__exit__(*details)
        _draws.setLevel(self._level)

    def begins(self, cell: Cell, number: int, total: int) -> None:
        """Update the progress bars for the next cell."""
        if self._several:
            self._running.add(cell.key)
            self._begun, self._total = max(self._begun, number), total
            self.say(f"{cell}: begins")
            return
        self._bars.steps = cell.settings.steps
        self._bars.show("cells", number - 1, total)
        self._bars.show("steps", 0, cell.settings.steps)

    def ended(self, row: Row) -> None:
        """Print the result of a cell."""
        if self._several:
            self._running.discard(row.key)
            self._bars.show("cells", self._begun - len(self._running), self._total)
        cell = f"{row.method}, {row.dataset}, {row.shots}-shot, seed {row.seed}"
        if row.error is not None:
            self.say(f"{cell}: failed: {row.error}")
        else:
            self.say(f"{cell}: {_figures(row)} ({row.seconds:.1f} s)")

    def event(self, event: Event) -> None:
        """Show steps as a bar and errors as lines, but not improvements."""
        if event["event"] == "progress" and event["stage"] == "steps":
            self._bars.show("steps", event["done"], event["total"])
        elif event["event"] == "step":
            self._bars.show("steps", event["step"], self._bars.steps)
        elif event["event"] == "error":
            self.say(f"step {event['step']}: {event['message']}")

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self._bars.say(text)


def _figures(row: Row) -> str:
    if row.targets:
        average = statistics.fmean(row.targets.values())
        return f"source {row.source:.2f}, average of {pluralize(len(row.targets), 'target')} {average:.2f}"
    return f"base {row.base:.2f}, novel {row.novel:.2f}, H {row.h:.2f}"

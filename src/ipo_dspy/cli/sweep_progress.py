"""Show the progress of a sweep: one line per cell on stderr, and bars if it is a terminal."""

import statistics

from ipo_dspy._internal.counts import pluralize
from ipo_dspy.bench.cells import Cell
from ipo_dspy.bench.result_rows import Row
from ipo_dspy.bench.runner import SweepObserver
from ipo_dspy.cli.progress import LiveProgress
from ipo_dspy.run.events import Event


class LiveSweep(LiveProgress, SweepObserver):
    """Observer of a sweep.

    Args:
        several: whether cells run in parallel; if so, the start of each is printed.
    """

    loggers = (*LiveProgress.loggers, "ipo_dspy.data")  # warns of small classes each time that images are drawn

    def __init__(self, *, several: bool = False) -> None:
        super().__init__()
        self._several = several
        self._running: set[str] = set()
        self._begun, self._total = 0, 0

    def begins(self, cell: Cell, number: int, total: int) -> None:
        """Update the progress bars for the next cell."""
        if self._several:
            self._running.add(cell.key)
            self._begun, self._total = max(self._begun, number), total
            self.say(f"{cell}: begins")
            return
        self.steps = cell.settings.steps
        self.show("cells", number - 1, total)
        self.show("steps", 0, cell.settings.steps)

    def ended(self, row: Row) -> None:
        """Print the result of a cell."""
        if self._several:
            self._running.discard(row.key)
            self.show("cells", self._begun - len(self._running), self._total)
        if row.error is not None:
            result = f"failed: {row.error}"
        elif row.targets:
            average = statistics.fmean(row.targets.values())
            targets = pluralize(len(row.targets), "target")
            result = f"source {row.source:.2f}, average of {targets} {average:.2f} ({row.seconds:.1f} s)"
        elif row.source is not None:
            result = f"source {row.source:.2f}, cannot classify the targets ({row.seconds:.1f} s)"
        elif row.novel is None:
            result = f"base {row.base:.2f}, cannot classify novel classes ({row.seconds:.1f} s)"
        else:
            result = f"base {row.base:.2f}, novel {row.novel:.2f}, H {row.h:.2f} ({row.seconds:.1f} s)"
        self.say(f"{row.method}, {row.dataset}, {row.shots}-shot, seed {row.seed}: {result}")

    def event(self, event: Event) -> None:
        """Show steps as a bar and errors as lines, but not improvements."""
        if event["event"] == "progress" and event["stage"] == "steps":
            self.show("steps", event["done"], event["total"])
        elif event["event"] == "step":
            self.show("steps", event["step"], self.steps)
        elif event["event"] == "error":
            self.say(f"step {event['step']}: {event['message']}")

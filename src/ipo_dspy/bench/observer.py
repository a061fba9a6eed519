"""Observer of the progress of a sweep."""

from typing import Protocol

from ipo_dspy.bench.cells import Cell
from ipo_dspy.bench.result_rows import Row
from ipo_dspy.run.events import Event


class SweepObserver(Protocol):
    """Receives the progress of a sweep."""

    def begins(self, cell: Cell, number: int, total: int) -> None:
        """Receive the start of a cell."""

    def ended(self, row: Row) -> None:
        """Receive the row of a finished cell."""

    def event(self, event: Event) -> None:
        """Receive an event of a cell."""

    def say(self, text: str) -> None:
        """Receive a message for the user."""


class NullObserver:
    """An observer that ignores all calls."""

    def begins(self, cell: Cell, number: int, total: int) -> None:
        """Ignore the call."""

    def ended(self, row: Row) -> None:
        """Ignore the call."""

    def event(self, event: Event) -> None:
        """Ignore the call."""

    def say(self, text: str) -> None:
        """Ignore the call."""

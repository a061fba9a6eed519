"""Who is told how a sweep gets on."""

from typing import Protocol

from ipo_dspy.bench.cells import Cell
from ipo_dspy.bench.result_rows import Row
from ipo_dspy.run.events import Event


class SweepObserver(Protocol):
    """Who is told how a sweep gets on."""

    def begins(self, cell: Cell, number: int, total: int) -> None:
        """A cell begins."""

    def ended(self, row: Row) -> None:
        """A cell has become a row."""

    def event(self, event: Event) -> None:
        """Something happened within a cell."""

    def say(self, text: str) -> None:
        """A sentence for people."""


class NullObserver:
    """An audience that does not listen."""

    def begins(self, cell: Cell, number: int, total: int) -> None:
        """Nothing."""

    def ended(self, row: Row) -> None:
        """Nothing."""

    def event(self, event: Event) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

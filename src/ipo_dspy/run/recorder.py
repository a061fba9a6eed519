"""Record the events of a run: first in the journal, then in the run's state, then by the observers, in one order."""

import threading
from collections.abc import Iterable, Sequence

from ipo_dspy.run.events import Event, Observer, ProgressEvent
from ipo_dspy.run.journal import Journal
from ipo_dspy.run.state import RunState


class EventRecorder:
    """Records events; `state` is the state of the run after them. Safe to use from several threads.

    Args:
        journal: stores the events.
        observers: see `events.Observer`.
        past: the events of the run's earlier sessions.
    """

    def __init__(
        self, journal: Journal | None = None, observers: Iterable[Observer] = (), past: Sequence[Event] = ()
    ) -> None:
        self.journal, self.observers, self.state = journal, tuple(observers), RunState(past)
        self._lock = threading.RLock()
        for observer in self.observers:
            if past and callable(resume := getattr(observer, "resume", None)):
                resume(past)

    def record(self, *events: Event) -> None:
        """Write events to disk together, then pass them to the observers one by one."""
        with self._lock:
            if self.journal is not None:
                self.journal.append(*events)
            for event in events:
                self.state.fold(event)
                self.notify(event)

    def notify(self, event: Event) -> None:
        """Pass an event to the observers without recording it."""
        with self._lock:
            for observer in self.observers:
                observer(event)

    def progress(self, predictor: str, stage: str, done: int, total: int) -> None:
        """Report the progress of a stage."""
        self.notify(ProgressEvent(event="progress", predictor=predictor, stage=stage, done=done, total=total))

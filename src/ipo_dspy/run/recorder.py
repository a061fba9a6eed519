"""Records the events of a run: to the journal first, then into the run's state, then to the observers, in one order."""

import threading
from collections.abc import Iterable, Sequence

from ipo_dspy.run.events import Event, EventSink, Observer, ProgressEvent
from ipo_dspy.run.state import RunState


class NullJournal:
    """A journal that keeps nothing: that of a run without `log_dir`."""

    past: tuple[Event, ...] = ()

    def append(self, *events: Event) -> None:
        """Forget the events."""

    def __enter__(self) -> "NullJournal":
        return self

    def __exit__(self, *_: object) -> None:
        pass


class EventRecorder:
    """Records events, also from several threads at once.

    An observer with a method `resume(past)` is given the events of the run's earlier sessions before any other event.

    Args:
        journal: keeps the events.
        observers: called with each event, in the order of the journal, one after the other.
        past: the events of the run's earlier sessions.

    Attributes:
        state: what the events so far amount to.
    """

    def __init__(
        self, journal: EventSink | None = None, observers: Iterable[Observer] = (), past: Sequence[Event] = ()
    ) -> None:
        self.journal, self.observers = journal or NullJournal(), tuple(observers)
        self.state = RunState(past)
        self._lock = threading.RLock()
        for observer in self.observers:
            if past and callable(resume := getattr(observer, "resume", None)):
                resume(past)

    def record(self, *events: Event) -> None:
        """Write events to the disk together, then pass them on one by one."""
        with self._lock:
            self.journal.append(*events)
            for event in events:
                self.state.fold(event)
                self.notify(event)

    def notify(self, event: Event) -> None:
        """Pass on an event that need not be kept."""
        with self._lock:
            for observer in self.observers:
                observer(event)

    def progress(self, predictor: str, stage: str, done: int, total: int) -> None:
        """Report how far a stage is."""
        self.notify(ProgressEvent(event="progress", predictor=predictor, stage=stage, done=done, total=total))

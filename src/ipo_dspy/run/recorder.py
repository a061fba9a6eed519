"""Record the events of a run: first in the journal, then in the run's state, then by the observers, in one order."""

import threading
from collections.abc import Iterable, Sequence

from ipo_dspy.run.events import Event, EventSink, Observer, ProgressEvent
from ipo_dspy.run.state import RunState


class NullJournal:
    """A journal that discards everything, for runs without `log_dir`."""

    past: tuple[Event, ...] = ()

    def append(self, *events: Event) -> None:
        """Discard the events."""

    def __enter__(self) -> "NullJournal":
        return self

    def __exit__(self, *_: object) -> None:
        pass


class EventRecorder:
    """Records events. Safe to use from several threads.

    An observer with a method `resume(past)` receives the events of the run's earlier sessions before any other event.

    Args:
        journal: stores the events.
        observers: called with each event, in the order of the journal, one at a time.
        past: the events of the run's earlier sessions.

    Attributes:
        state: state of the run after the events so far.
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
        """Write events to disk together, then pass them to the observers one by one."""
        with self._lock:
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

"""One sitting of a run: its journal, its ledger, and whether it may go on where an earlier one stopped.

A run is its folder. The same folder goes on; what had been set otherwise then is listed and refused, unless the caller
allows it. Other images or another CLIP model are refused always: their scores cannot stand beside the earlier ones.
"""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ipo_dspy._internal.versions import package_versions
from ipo_dspy.errors import JournalError, StoppedError
from ipo_dspy.optimizer.search import Record
from ipo_dspy.run.events import Event, Observer
from ipo_dspy.run.journal import Journal, NoJournal
from ipo_dspy.run.ledger import Ledger, Limits

SCHEMA = 2
FREE = frozenset(
    {"steps", "patience", "max_errors", "max_lm_calls", "max_tokens", "max_cost", "max_seconds", "num_threads"}
)
"""Settings that say how far a run goes, not which way: they may change from one sitting to the next."""
_SAME = {
    "data": "images, labels or classes",
    "model": "CLIP model",
    "validation_images": "validation images",
    "validation_data": "validation images",
}
"""What a search is about, and must stay about when it goes on."""
VERSIONS = ("ipo_dspy", "dspy", "litellm", "open_clip_torch", "torch")


class Session:
    """Where the events and answers of one sitting go.

    Args:
        journal: of the run.
        limits: what the run may spend.
        observers: told of every event.
        stop: asked again and again; true ends the run.
    """

    def __init__(
        self,
        journal: Journal | NoJournal,
        limits: Limits,
        observers: Sequence[Observer],
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.journal, self.observers, self.past = journal, tuple(observers), journal.past
        self.stop = stop
        self._order = threading.RLock()  # answers come in several threads; observers hear one after the other
        self.ledger = Ledger(journal, limits, past=self.past, observers=self.observers, order=self._order)
        self._resume: dict[str, Any] | None = None

    def record(self, predictor: str) -> Record:
        """Takes the events of one classifier's search."""
        return Record(predictor, self.journal, self.observers, self._order)

    def check_stop(self) -> None:
        """Raise `StoppedError` if the end of the run was asked for."""
        if self.stop():
            raise StoppedError

    def begin(self, *, seed: int, settings: Mapping[str, Any], allow_changes: bool) -> None:
        """Write that a run begins, or see that an earlier one may go on.

        Raises:
            JournalError: it was set up otherwise before, and that is not allowed.
        """
        versions = package_versions(VERSIONS)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        last = next((event for event in reversed(self.past) if event["event"] == "run"), None)
        if last is None or not has_begun(self.past):
            fields = {"schema": SCHEMA, "started": now, "seed": seed, "settings": dict(settings), "versions": versions}
            self._keep("run", **fields)
            return
        if last["schema"] != SCHEMA:
            raise JournalError(
                f"{self._folder} holds a run of another version of ipo_dspy, which cannot be gone on with; name "
                f"another folder, e.g. '{getattr(self.journal, 'folder', 'runs/1')}-2'"
            )
        was = {**_settings_so_far(self.past), "seed": last["seed"]}
        changed = _changes(was, {**settings, "seed": seed})
        refused = {name: pair for name, pair in changed.items() if name not in FREE}
        if refused and not allow_changes:
            raise self._changed("; ".join(f"{name} was {a!r} and is {b!r}" for name, (a, b) in refused.items()))
        self._resume = {"started": now, "changed": changed, "versions": versions}

    def go_on(self) -> None:
        """Write that an earlier run goes on. Only now: it makes void how that had ended."""
        if self._resume is not None:
            self._keep("resume", **self._resume)

    def check_task(self, predictor: str, **task: Any) -> None:
        """Write what one search is about, or see that it still is about that.

        Raises:
            JournalError: the folder holds a search over other images or with another model.
        """
        events = (e for e in self.past if e["event"] == "search" and e["predictor"] == predictor)
        was = next(events, None)
        if was is None:
            self.record(predictor)("search", **task)
            return
        before = {"validation_data": task["validation_data"], **was}  # which an earlier version did not keep
        for name, told in _SAME.items():
            if before.get(name) != task[name]:
                raise JournalError(
                    f"{self._folder} holds a run with other {told}, whose scores cannot be compared; name another "
                    f"folder, e.g. '{getattr(self.journal, 'folder', 'runs/1')}-2'"
                )
        self.record(predictor).tell("search", **task)

    def end(self, status: str) -> None:
        """Write that the sitting is over and what the run has cost."""
        spent = self.ledger.spent
        self._keep(
            "end",
            status=status,
            seconds=round(spent.seconds, 3),
            calls=spent.calls,
            tokens=spent.tokens,
            cost=None if spent.unpriced else round(spent.cost, 6),
        )

    def _keep(self, kind: str, **fields: Any) -> None:
        with self._order:
            self.journal.append(kind, **fields)
            for observer in self.observers:
                observer({"event": kind, **fields})  # type: ignore[arg-type]  # built from its parts

    def _changed(self, told: str) -> JournalError:
        return JournalError(
            f"{self._folder} holds a run that was set up otherwise: {told}; set it as it was, name another folder, or "
            "write allow_changes=True (--allow-changes) to go on all the same"
        )

    @property
    def _folder(self) -> str:
        return f"log_dir {str(getattr(self.journal, 'folder', ''))!r}"


def has_begun(past: Sequence[Event]) -> bool:
    """Whether anything was found or paid for in a run but greetings; until then its settings bind nobody."""
    return any(
        event["event"] == "trial" or (event["event"] == "answer" and not event["question"].startswith("greet "))
        for event in past
    )


def open_session(
    log_dir: str | os.PathLike[str] | None,
    *,
    limits: Limits,
    observers: Sequence[Observer],
    stop: Callable[[], bool] = lambda: False,
) -> Session:
    """Open or take up the run of a folder; without one nothing is kept.

    Raises:
        JournalError: the folder cannot be written, is in use, or its journal is damaged.
    """
    return Session(NoJournal() if log_dir is None else Journal(log_dir), limits, observers, stop)


def _settings_so_far(past: Sequence[Event]) -> dict[str, Any]:
    """The settings of the run's last sitting."""
    settings: dict[str, Any] = {}
    for event in past:
        if event["event"] == "run":
            settings = dict(event["settings"])
        elif event["event"] == "resume":
            settings |= {name: was_is[-1] for name, was_is in event["changed"].items() if was_is}
    return settings


def _changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, list[Any]]:
    names = [*was, *(name for name in now if name not in was)]
    return {name: [was.get(name), now.get(name)] for name in names if was.get(name) != now.get(name)}

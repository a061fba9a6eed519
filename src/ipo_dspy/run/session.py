"""One session of a run: its journal, its ledger, and the checks before an earlier session is resumed.

A run is identified by its folder, and the same folder resumes it. Changed settings raise an error that lists them,
unless the caller allows them. Other images, another CLIP model or another objective always raise: their scores are not
comparable.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from ipo_dspy._internal.file_kinds import PROGRAM_FILE
from ipo_dspy._internal.renames import present_settings
from ipo_dspy._internal.versions import package_versions
from ipo_dspy.errors import Argument, Hint, JournalError, StoppedError
from ipo_dspy.run.events import Observer, RunFinishedEvent, RunResumedEvent, RunStartedEvent, SearchStartedEvent
from ipo_dspy.run.journal import Journal
from ipo_dspy.run.journal_schema import SCHEMA
from ipo_dspy.run.ledger import Budget, Ledger
from ipo_dspy.run.recorder import EventRecorder
from ipo_dspy.run.state import SearchState
from ipo_dspy.scoring.objectives import SETTINGS as OBJECTIVE_SETTINGS

logger = logging.getLogger(__name__)

CHOICE_SETTINGS = ("choose", "tolerance", "ensemble", "polish")
"""Settings of the choice at the end of a run."""
MUTABLE_SETTINGS = {
    "steps",
    *CHOICE_SETTINGS,
    "patience",
    "max_consecutive_errors",
    "num_threads",
    *asdict(Budget()),
}
"""Settings that affect only the length of a run or the choice at its end, and may change between sessions."""
VERSIONS = ("ipo_dspy", "dspy", "litellm", "open_clip_torch", "torch", "transformers")


class Session:
    """Records the events and responses of one session; see `open_session` for the arguments."""

    def __init__(
        self, journal: Journal | None, limits: Budget, observers: Sequence[Observer], stop: Callable[[], bool]
    ) -> None:
        self.stop, self.folder = stop, "" if journal is None else str(journal.folder)
        self.recorder = EventRecorder(journal, observers, past=() if journal is None else journal.past)
        self.state = self.recorder.state
        self.ledger = Ledger(self.recorder, limits)
        self._resumed: RunResumedEvent | None = None
        self._earlier: dict[str, tuple[str, int]] = {}
        """Template that the earlier session selected, and number of trials that it searched, by classifier."""
        self._reason = ""
        """Changes of the rule of the choice since the earlier session, as a text; empty if there are none."""

    def check_stop(self) -> None:
        """Raise `StoppedError` if the run was asked to stop."""
        if self.stop():
            raise StoppedError

    def start(
        self, *, seed: int, settings: Mapping[str, Any], machine: Mapping[str, Any], allow_config_changes: bool
    ) -> None:
        """Record that a run starts, or check that the earlier one may be resumed.

        Raises:
            JournalError: its settings have changed, which is not allowed.
        """
        versions = package_versions(VERSIONS)
        now, past = datetime.now(UTC).isoformat(timespec="seconds"), self.state.started
        if past is None or not self.state.has_progress:
            started = RunStartedEvent(
                event="run_started",
                schema=SCHEMA,
                started=now,
                seed=seed,
                settings=dict(settings),
                versions=versions,
                machine=dict(machine),
            )
            self.recorder.record(started)
            return
        if past["schema"] != SCHEMA:
            raise self._refusal("a run of another version of ipo_dspy, which cannot be resumed")
        before = present_settings(self.state.settings)
        changed = _changes(before, {**settings, "seed": seed})
        refused = {name: pair for name, pair in changed.items() if name not in MUTABLE_SETTINGS}
        is_comparable = not refused.keys() & OBJECTIVE_SETTINGS
        if refused and not (allow_config_changes and is_comparable):
            restored = [Argument(name, value) for name, (value, _) in refused.items()]
            allowed = "use another folder, or pass {allow_config_changes} to resume"
            others = allowed if is_comparable else "or use another folder"
            remedy = f"restore {', '.join(['{}'] * len(restored))}, {others}"
            hint = Hint(remedy, *restored, allow_config_changes=True)
            raise self._refusal(f"a run with other settings: {_listed(refused)}", hint)
        self._reason = _changes_of_rule(before, settings)
        self._resumed = RunResumedEvent(event="run_resumed", started=now, changed=changed, versions=versions)

    def start_searches(self, searches: Sequence[SearchStartedEvent]) -> None:
        """Record the setup of the searches, or check that a resumed run has the same setup.

        The resumption is recorded only after these checks, because it cancels the earlier outcome.

        Raises:
            JournalError: the folder holds a search over other images or with another model.
        """
        setups = [(self.state.search(search["predictor"]).setup, search) for search in searches]
        for known, search in setups:
            if known["model"] and (other := _difference(known, search)):
                raise self._refusal(f"a run with other {other}, whose scores cannot be compared")
        if self._resumed is not None:
            self._earlier = {
                name: (search.selected["template"], _searched(search))
                for name, search in self.state.searches.items()
                if search.selected
            }
            self.recorder.record(self._resumed)
        for known, search in setups:
            emit = self.recorder.notify if known["start"] == search["start"] else self.recorder.record
            emit(search)

    def finish(self, status: str) -> None:
        """Record the reason for the end and the cost of the run; log templates that another rule has replaced."""
        spent = self.ledger.spent
        seconds, cost = round(spent.seconds, 3), None if spent.unpriced else round(spent.cost, 6)
        finished = RunFinishedEvent(
            event="run_finished", status=status, seconds=seconds, calls=spent.calls, tokens=spent.tokens, cost=cost
        )
        self.recorder.record(finished)
        for predictor, (before, searched) in self._earlier.items():
            search = self.state.search(predictor)
            is_same_search = search.selected is not None and _searched(search) == searched
            if self._reason and is_same_search and search.best_text != before:
                owner = "" if predictor == "self" else f" of {predictor}"
                fact = "the template%s in %s was %r and is now %r: %s"
                logger.warning(fact, owner, PROGRAM_FILE, before, search.best_text, self._reason)

    def _refusal(self, reason: str, hint: Hint | None = None) -> JournalError:
        hint = hint or Hint("use another folder, e.g. {log_dir}", log_dir=f"{self.folder}-2")
        return JournalError(f"{self.folder!r} holds {reason}", argument="log_dir", hint=hint)


@contextmanager
def open_session(
    log_dir: str | os.PathLike[str] | None, *, limits: Budget, observers: Sequence[Observer], stop: Callable[[], bool]
) -> Iterator[Session]:
    """Open the run of a folder for one session; without a folder nothing is stored.

    Args:
        log_dir: folder of the run.
        limits: limits of the run.
        observers: called with every event.
        stop: called repeatedly; True ends the run.

    Raises:
        JournalError: the folder cannot be written, is in use, or its journal is corrupt.
    """
    with nullcontext() if log_dir is None else Journal(log_dir) as journal:
        yield Session(journal, limits, observers, stop)


def _difference(before: SearchStartedEvent, now: SearchStartedEvent) -> str | None:
    """Return the difference that makes the scores of two searches incomparable, or None."""
    if before.get("data_fingerprint") != now["data_fingerprint"]:
        return "images, labels or classes"
    if before.get("class_texts", {}) != now.get("class_texts", {}):
        return "class texts"
    if before["model"] != now["model"]:
        return "CLIP model"
    if [before.get(name) for name in ("also", "across")] != [now.get(name) for name in ("also", "across")]:
        return "CLIP models besides the classifier's"
    if before.get("objective_digest") != now.get("objective_digest"):  # earlier versions had the accuracy only
        return "objective, costs, floors or metric"
    # An earlier version did not record the fingerprint of the validation images.
    fingerprints = {search.get("validation_fingerprint", now["validation_fingerprint"]) for search in (before, now)}
    is_same = before["validation_images"] == now["validation_images"] and len(fingerprints) == 1
    return None if is_same else "validation images"


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, list[Any]]:
    pairs = {name: [before.get(name), now.get(name)] for name in (*before, *now)}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _searched(search: SearchState) -> int:
    """Return the number of trials that the search proposed, without those of the choice at its end."""
    return sum(trial.stage == "search" for trial in search.history)


def _rule(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that the choice at the end uses; version 0.1 had none and selected the most accurate."""
    rule = {"choose": settings.get("choose", "best"), "ensemble": settings.get("ensemble", 1)}
    is_plainest = rule["choose"] == "plainest"
    rule |= {"tolerance": settings.get("tolerance")} if is_plainest or rule["ensemble"] != 1 else {}
    return rule | ({"polish": settings.get("polish")} if is_plainest else {})


def _changes_of_rule(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return how settings that the choice used and uses have changed, or an empty text."""
    earlier, present = _rule(before), _rule(now)
    changed = {name: pair for name, pair in _changes(earlier, present).items() if name in earlier.keys() & present}
    if "choose" in changed and "choose" not in before:
        return "version 0.1 selected the most accurate template, as choose='best' does"
    return _listed(changed)


def _listed(changes: Mapping[str, list[Any]]) -> str:
    return "; ".join(f"{name} was {before!r} and is {now!r}" for name, (before, now) in changes.items())

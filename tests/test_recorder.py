"""The recorder: journal, state and observers in one order, and no more writes than needed."""

import os
from pathlib import Path
from typing import Any

import pytest

from ipo_dspy import IPO, demo
from ipo_dspy.errors import JournalError
from ipo_dspy.run.events import ErrorEvent, Event
from ipo_dspy.run.journal import Journal, replay
from ipo_dspy.run.recorder import EventRecorder
from ipo_dspy.run.state import RunState


def error(message: str) -> ErrorEvent:
    return ErrorEvent(event="error", predictor="self", step=1, message=message)


class Remembers:
    """An observer that is given the events of earlier sessions."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def resume(self, past: Any) -> None:
        self.calls.append(("resume", list(past)))

    def __call__(self, event: Event) -> None:
        self.calls.append(("event", event))


def test_an_event_is_on_disk_and_in_the_state_before_an_observer_is_called(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    with Journal(tmp_path) as journal:

        def observe(_event: Event) -> None:
            seen.append((len(replay(tmp_path)), len(recorder.state.search("self").errors)))

        recorder = EventRecorder(journal, [observe])
        recorder.record(error("one"), error("two"))
    assert seen == [(2, 1), (2, 2)]


def test_what_cannot_be_kept_is_neither_in_the_state_nor_passed_on(tmp_path: Path) -> None:
    observer = Remembers()
    (tmp_path / "run").mkdir()
    with Journal(tmp_path / "run") as journal:
        recorder = EventRecorder(journal, [observer])
        (tmp_path / "run" / "journal.jsonl").rename(tmp_path / "moved")
        (tmp_path / "run" / "journal.jsonl").write_text("another run\n" * 9)
        with pytest.raises(JournalError, match="replaced by another file"):
            recorder.record(error("one"))
    assert (observer.calls, recorder.state.searches) == ([], {})


def test_observers_that_resume_are_given_the_past_and_others_are_not(tmp_path: Path) -> None:
    fresh, resumed, received = Remembers(), Remembers(), list[Event]()
    with Journal(tmp_path) as journal:
        EventRecorder(journal, [fresh]).record(error("one"))
    assert fresh.calls == [("event", error("one"))]
    with Journal(tmp_path) as journal:
        EventRecorder(journal, [resumed, received.append], past=journal.past).record(error("two"))
    assert resumed.calls == [("resume", [error("one")]), ("event", error("two"))]
    assert received == [error("two")]


def test_the_state_of_a_live_run_is_that_of_its_journal(tmp_path: Path) -> None:
    task, state = demo.load("pixel-animals", shots=1), RunState()
    optimizer = IPO(proposer="evolution", steps=2, prompts_per_step=3, log_dir=tmp_path, observers=[state.fold])
    best = optimizer.compile(task.program, task.trainset, valset=task.valset)
    read = RunState(replay(tmp_path))
    for one in (state, read):
        search = one.searches["self"]
        assert tuple(search.history) == best.detailed_results.trials
        assert (one.status, search.best) == ("finished", best.detailed_results.best)
        assert search.evaluations.keys() == {(s, "all", r) for s in ("train", "validation") for r in ("start", "best")}
    assert vars(state)["settings"] == read.settings


def test_events_that_come_together_are_written_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, synced = demo.load("pixel-animals", shots=2), list[int]()
    real = os.fsync

    def sync(descriptor: int) -> None:
        synced.append(descriptor)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    IPO(proposer="evolution", steps=2, log_dir=tmp_path).compile(task.program, task.trainset)
    kinds = [event["event"] for event in replay(tmp_path)]
    together = [kind for kind in kinds if kind in ("description", "prediction_changed", "trial", "evaluation")]
    assert kinds.count("description") > 5
    assert kinds.count("prediction_changed") > 5
    assert len(synced) < len(kinds) - len(together) + 20


def test_a_run_that_is_resumed_in_python_has_no_command_line(tmp_path: Path) -> None:
    task = demo.load("pixel-animals", shots=1)
    fixed: dict[str, Any] = {"proposer": "evolution", "prompts_per_step": 3, "log_dir": tmp_path}
    IPO(steps=1, **fixed).compile(task.program, task.trainset)
    with Journal(tmp_path) as journal:
        journal.append({"event": "command", "data": "photos", "options": {"--seed": ["1"]}})
    state = RunState(replay(tmp_path))
    assert state.command is not None
    IPO(steps=2, **fixed, observers=[state.fold]).compile(task.program, task.trainset)
    assert state.command == RunState(replay(tmp_path)).command is None

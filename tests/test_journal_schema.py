"""Journals of the older schema are read as those of this one: by resume, report, watch and MLflow.

`journals/schema2.jsonl` was recorded by a version of schema 2 in three sessions: a limit, a stop, the end.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.openai_server import Writer
from ipo_dspy import IPO, LMProposer, PaperAdapter, demo
from ipo_dspy.cli import main
from ipo_dspy.report import render_report
from ipo_dspy.run.events import PERSISTED, Event
from ipo_dspy.run.journal import FILE_NAME, Journal, replay
from ipo_dspy.run.journal_schema import SCHEMA, upgrade
from ipo_dspy.run.state import RunState

RECORDED = Path(__file__).parent / "journals" / "schema2.jsonl"
LINES = RECORDED.read_text().splitlines(keepends=True)
SECOND_STOP = next(i for i, line in enumerate(LINES) if '"status": "stopped"' in line)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / FILE_NAME).write_text("".join(LINES))
    return tmp_path / "run"


def test_every_event_has_the_names_of_this_schema(run: Path) -> None:
    before = [json.loads(line) for line in LINES]
    with Journal(run) as journal:
        events: list[Any] = list(journal.past)
    assert {event["event"] for event in events} == set(PERSISTED) - {
        "class_texts",
        "command",
        "embedding_map",
        "imagenet_prompts",
        "mistake",
        "lm_request",
        "lm_failure",
    }  # which that version lacked
    assert [upgrade(event) for event in events] == events
    assert [len(event) for event in events] == [len(event) for event in before]
    assert events[0]["schema"] == SCHEMA
    ends = [event["status"] for event in events if event["event"] == "run_finished"]
    assert ends == ["max_lm_calls", "interrupted", "finished"]


def test_the_state_and_the_report_show_all_of_it(run: Path) -> None:
    state = RunState(replay(run))
    search = state.searches["self"]
    assert (state.status, state.usage.calls, len(search.history), search.steps) == ("finished", 8, 8, 5)
    assert (len(search.rejections), len(search.errors), len(search.descriptions)) == (1, 1, 2)
    assert search.selected is not None
    assert search.selected["selected_on"] == "validation"
    assert len(search.evaluations) == 4
    assert state.settings["max_lm_calls"] == 40
    page = render_report(run)
    for part in ("no class placeholder", "I cannot help with that.", "validation images", search.best_text[:9]):
        assert part in page


@pytest.mark.parametrize(
    ("lines", "status"), [(len(LINES), "finished"), (SECOND_STOP + 1, "stopped: interrupted by the user")]
)
def test_watch_shows_it(run: Path, lines: int, status: str, capsys: pytest.CaptureFixture[str]) -> None:
    (run / FILE_NAME).write_text("".join(LINES[:lines]))
    with pytest.raises(SystemExit) as exit:
        main(["watch", "--once", str(run)])
    shown = " ".join(capsys.readouterr().out.split())
    assert exit.value.code in (0, None)
    assert status in shown
    assert "rejected: no class placeholder 1" in shown


@pytest.mark.usefixtures("no_cache")
def test_a_run_of_it_is_resumed_without_asking_again(run: Path) -> None:
    """The recorded run's own images, settings and model; its second session ended after step 3 of 5."""
    (run / FILE_NAME).write_text("".join(LINES[: SECOND_STOP + 1]))
    task, events = demo.load("pixel-animals", shots=1), list[Event]()
    program = task.program.deepcopy()
    program.classes = task.classes[:4]
    train = [example for example in task.trainset if example.label in program.classes]
    validation = [example for example in task.testset if example.label in program.classes][::12]
    given: dict[str, Any] = {"steps": 5, "prompts_per_step": 2, "max_described_images": 2, "max_lm_calls": 40}
    given["choose"] = "best"  # as it was chosen then
    with Writer() as server:
        lm = server.lm(temperature=1.0, cache=False)
        proposer = LMProposer(lm, adapter=PaperAdapter(), num_threads=1)  # as was the default then
        models: dict[str, Any] = {"proposer": proposer, "description_model": lm, "num_threads": 1, "prefetch": False}
        optimizer = IPO(**models, **given, log_dir=run, observers=[events.append])
        best = optimizer.compile(program, train, valset=validation)
        assert server.asked == 2  # steps 4 and 5
        assert len(server.requests) == 3  # the described classes are spread now: the second image is another one
    # The toy server's answers depend on every word of a request, and requests have other words now.
    recorded = list(RunState(upgrade_all(LINES[: SECOND_STOP + 1])).searches["self"].history)
    trials = best.detailed_results.trials
    assert [str(trial.template) for trial in trials[: len(recorded)]] == [str(t.template) for t in recorded]
    assert len(trials) > len(recorded)
    (changed,) = (event["changed"] for event in events if event["event"] == "run_resumed")
    assert all(before is None for before, _ in changed.values())  # settings that it did not have


def upgrade_all(lines: list[str]) -> Any:
    return [upgrade(json.loads(line)) for line in lines]

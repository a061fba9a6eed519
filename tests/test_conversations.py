"""A whole conversation with a recorded language model, over HTTP, with the real CLIP."""

import json

import pytest

from helpers.conversations import FOLDER, STEPS, Recorded, key, search
from ipo_dspy import demo


@pytest.mark.end_to_end
@pytest.mark.parametrize("name", demo.names())
def test_a_recorded_conversation_is_replayed_to_its_end(name: str) -> None:
    with Recorded(name) as server:
        task, best = search(server, name)
    assert server.unseen == []
    results = best.detailed_results
    assert (results.status, results.spent.calls) == ("finished", len(server.requests))
    assert len(server.requests) == 1 + STEPS + 1  # the connectivity check, the steps, and the rewordings
    assert all(any(t.step == step and t.stage == "search" for t in results.trials) for step in range(1, STEPS + 1))
    assert results.best.score.accuracy > results.baseline.score.accuracy + 15
    assert task.program.template != best.template


@pytest.mark.end_to_end
def test_a_changed_request_fails_with_the_command_to_record_it_again() -> None:
    with Recorded("pixel-animals") as server:
        _, best = search(server, "pixel-animals", steps=1, task_description="Cats or dogs?")
    assert server.unseen
    assert "record_conversation.py pixel-animals" in str(best.detailed_results.searches[0].fault)


@pytest.mark.parametrize("name", demo.names())
def test_all_tasks_are_recorded_and_numbers_do_not_matter(name: str) -> None:
    recording = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    assert len({key(one["request"]) for one in recording["exchanges"]}) == len(recording["exchanges"]) == STEPS + 1
    assert key("loss 0.961, 3 of 4") == key("loss 1.2, 30 of 400") != key("loss of 4")

"""Events: the journal, the observers and the types agree."""

from pathlib import Path
from typing import Any, get_args

import pytest

from helpers.openai_server import Writer
from ipo_dspy import IPO, demo
from ipo_dspy.run.events import _KINDS, OUTCOME_KINDS, PERSISTED, TRANSIENT, Event
from ipo_dspy.run.journal import replay


def test_every_kind_is_kept_or_passes() -> None:
    assert len(_KINDS) == len(get_args(Event))
    assert set(_KINDS) == set(PERSISTED) | TRANSIENT
    assert set(PERSISTED) > OUTCOME_KINDS


@pytest.mark.usefixtures("no_cache")
def test_observers_see_what_the_journal_keeps_and_all_of_it_has_the_fields_of_its_type(tmp_path: Path) -> None:
    seen: list[Any] = []
    task = demo.load("pixel-animals", shots=1)
    with Writer() as server:
        lm = server.lm()
        given: dict[str, Any] = {"steps": 2, "prompts_per_step": 2, "max_described_images": 3, "max_lm_calls": 5}
        optimizer = IPO(prompt_model=lm, description_model=lm, log_dir=tmp_path, observers=[seen.append], **given)
        optimizer.compile(task.program, task.trainset, valset=task.valset)
    assert [event for event in seen if event["event"] not in TRANSIENT] == replay(tmp_path)
    kinds = {event["event"] for event in seen}
    absent = {"run_resumed", "rejection", "error", "lm_failure", "imagenet_prompts", "class_texts", "command"}
    assert kinds == {*PERSISTED, "progress"} - absent

    for event in seen:
        known = _KINDS[event["event"]]
        assert set(event) <= known.__required_keys__ | known.__optional_keys__, event
        assert set(event) >= known.__required_keys__, event

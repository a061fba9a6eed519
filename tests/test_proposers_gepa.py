"""DSPy's GEPA with `TemplateInstructionProposer`, against a scripted language model: what it evaluates and keeps."""

import itertools
import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.utils.callback import BaseCallback

from helpers.openai_server import KEY, OpenAIServer, Reply
from ipo_dspy import ClipClassifier, TemplateInstructionProposer, demo
from ipo_dspy.metrics import feedback

PAGE = (Path(__file__).parent.parent / "docs" / "composing.md").read_text()
(EXAMPLE,) = re.findall(r"## In GEPA.*?```python\n(.*?)```", PAGE, re.DOTALL)
START = "a photo of a <CLASS>."


class Script(OpenAIServer):
    """Gives these answers in turn, whatever is asked."""

    def __init__(self, answers: Sequence[str]) -> None:
        super().__init__({})
        self._answers = itertools.cycle(answers)

    def answer(self, body: dict[str, Any]) -> Reply:
        self.requests.append(body)
        return Reply(next(self._answers))


class Evaluated(BaseCallback):
    """Counts the calls of classifiers by their instructions."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        if isinstance(instance, ClipClassifier):
            self.calls[instance.signature.instructions] += 1


def run_gepa(
    server: OpenAIServer, student: dspy.Module, task: demo.DemoTask, **settings: Any
) -> tuple[Any, Counter[str]]:
    """Run GEPA; return the best program and the calls of classifiers."""
    evaluated = Evaluated()
    gepa = dspy.GEPA(
        metric=feedback,
        instruction_proposer=TemplateInstructionProposer(),
        reflection_lm=server.lm(cache=False),
        max_metric_calls=60,
        num_threads=1,
        **settings,
    )
    with server, dspy.context(callbacks=[evaluated]):
        best = gepa.compile(student, trainset=list(task.trainset), valset=list(task.valset))
    return best, evaluated.calls


@pytest.mark.end_to_end
def test_the_example_of_the_page_evaluates_only_templates(task: demo.DemoTask) -> None:
    answers = [
        "Look hard at the picture.",
        "[[ ## template ## ]]\npixel art of a <CLASS>.",
        "Sure! Here it is:\n1. **a bitmap of a {class}.**",
    ]
    evaluated, names = Evaluated(), {"dspy": dspy, "student": task.program.deepcopy()}
    with Script(answers) as server, dspy.context(callbacks=[evaluated]):
        names |= {"lm": server.lm(cache=False), "trainset": list(task.trainset), "valset": list(task.valset)}
        exec(EXAMPLE, names)
    assert set(evaluated.calls) == {START, "pixel art of a <CLASS>.", "a bitmap of a <CLASS>."}
    assert len(server.requests) > len(answers)
    assert str(names["best"].template) in evaluated.calls


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply("Look hard at the picture."), "nothing in the answer can be used: 'Look hard at the picture.'"),
        (Reply(f"<INS>{START}</INS>"), f"no new template in the answer '{START}'"),
        (Reply("pixel art of a <CLASS> in", finish_reason="length"), "no new template in the answer '<INS>pixel"),
        (Reply(""), "the answer is empty"),
        (Reply(f"the key {KEY} is wrong", status=401), "the key [hidden] is wrong"),
    ],
)
def test_an_answer_without_a_new_template_is_not_tried(
    task: demo.DemoTask, caplog: pytest.LogCaptureFixture, reply: Reply, reason: str
) -> None:
    server = OpenAIServer({"current_template": reply})
    with caplog.at_level(logging.WARNING, "ipo_dspy"):
        best, calls = run_gepa(server, task.program.deepcopy(), task, skip_perfect_score=False)
    assert (str(best.template), server.unseen) == (START, [])
    assert calls == {START: len(task.valset) + 3 * len(server.requests)}  # the minibatches that gave the feedback
    kept = [message for message in caplog.messages if message.startswith("GEPA keeps the template: ")]
    assert len(kept) == len(server.requests) > 1  # no request is repeated for the same feedback
    assert reason in kept[0]
    assert KEY not in caplog.text


class Captioned(dspy.Module):
    """A classifier next to a predictor that asks a language model."""

    def __init__(self, classifier: ClipClassifier) -> None:
        super().__init__()
        self.classify = classifier
        self.advise = dspy.Predict(dspy.Signature("question -> advice", "Advise."))

    def forward(self, image: Any) -> Any:
        self.advise(question="Which is it?")
        return self.classify(image=image)


def test_other_predictors_get_the_default_proposer(task: demo.DemoTask) -> None:
    server = OpenAIServer(
        {
            "current_template": "pixel art of a <CLASS>.",
            "new_instruction": '{"new_instruction": "Advise well."}',
            "Which is it?": "[[ ## advice ## ]]\nlook",
        }
    )
    with dspy.context(lm=server.lm()):
        best, calls = run_gepa(server, Captioned(task.program.deepcopy()), task, component_selector="all")
    assert server.unseen == []
    assert best.advise.signature.instructions == "Advise well."
    assert set(calls) == {START, "pixel art of a <CLASS>."}


def test_the_model_reads_the_template_and_the_feedback(task: demo.DemoTask) -> None:
    server = Script(["pixel art of a <CLASS>."])
    run_gepa(server, task.program.deepcopy(), task)
    asked = str(server.requests[0]["messages"])
    assert START in asked
    assert re.search(r"An image of [a-z ]+ was taken for [a-z ]+, 0\.\d\d against (at most )?0\.\d\d\.", asked)

"""DSPy's own optimizers work on a `ClipClassifier` as on any predictor, and ours composes with its language models."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.utils import DummyLM

from helpers.openai_server import OpenAIServer
from ipo_dspy import IPO, ClipClassifier, demo
from ipo_dspy.errors import LanguageModelError
from ipo_dspy.metrics import feedback

SHOTS = 2
"""Of the fixture `task`."""

EXAMPLES = Path(__file__).parent.parent / "examples"
PING_REPLY = {"Say: ready": "ready"}
"""The answer to the request by which IPO finds out whether a model is there."""


@pytest.fixture(scope="module")
def phrase_writer() -> Callable[[int], dspy.LM]:
    """The stand-in for a language model of `examples/better_together.py`."""
    built: Callable[[int], dspy.LM] = runpy.run_path(str(EXAMPLES / "better_together.py"))["phrase_writer"]
    return built


def accuracy(program: dspy.Module, examples: Any) -> float:
    """As DSPy evaluates it, in percent."""
    return float(dspy.Evaluate(devset=list(examples), metric=correct, num_threads=1)(program).score)


def correct(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    return bool(example.label == prediction.label)


def confident(example: Any, prediction: Any, trace: Any = None) -> float:
    return float(prediction.scores.get(example.label, 0.0))


def test_copro_runs_unchanged_and_keeps_the_better_template(task: demo.DemoTask) -> None:
    proposed = ["pixel art of a <CLASS>.", "Look hard at the picture.", "a pixelated picture of a <CLASS>."]
    answers = [{"proposed_instruction": text, "proposed_prefix_for_output_field": "Label:"} for text in proposed * 4]
    copro = dspy.COPRO(prompt_model=DummyLM(answers), metric=correct, breadth=4, depth=1)
    settings = {"num_threads": 1, "display_progress": False, "display_table": 0}
    best = copro.compile(task.program.deepcopy(), trainset=list(task.trainset), eval_kwargs=settings)
    evaluate = dspy.Evaluate(devset=list(task.trainset), metric=correct, num_threads=1)
    assert str(best.template) in {*proposed, "a photo of a <CLASS>."}
    assert evaluate(best).score >= evaluate(task.program).score


def test_gepa_runs_unchanged_and_reads_the_trace(task: demo.DemoTask) -> None:
    proposed = ["pixel art of a <CLASS>.", "Look hard at the picture.", "a bitmap of a <CLASS>."]
    answers = [{"new_instruction": text} for text in proposed * 10]
    reflection = DummyLM(answers, adapter=dspy.JSONAdapter())  # the form in which GEPA asks
    gepa = dspy.GEPA(metric=feedback, reflection_lm=reflection, max_metric_calls=250, num_threads=1, seed=0)
    best = gepa.compile(task.program.deepcopy(), trainset=list(task.trainset), valset=list(task.valset))
    assert str(best.template) in proposed


class Asked(dspy.Signature):
    """Write captions."""

    count: int = dspy.InputField()
    module_names: list[str] = dspy.InputField()
    caption: str = dspy.OutputField()
    captions: list[str] = dspy.OutputField()
    advice: dict[str, str] = dspy.OutputField()


@pytest.mark.parametrize("adapter", [dspy.ChatAdapter(), dspy.JSONAdapter()])
def test_the_stand_in_answers_in_the_form_that_is_asked(
    phrase_writer: Callable[[int], dspy.LM], adapter: dspy.Adapter
) -> None:
    with dspy.context(lm=phrase_writer(0), adapter=adapter):
        answer = dspy.Predict(Asked)(count=3, module_names=["first", "second.inner"])
    texts = [answer.caption, *answer.captions, *answer.advice.values()]
    assert (len(answer.captions), set(answer.advice)) == (3, {"first", "second.inner"})
    assert all("<CLASS>" in text for text in texts)
    assert len(set(texts)) == 6


def test_mipro_runs_unchanged_on_minibatches(task: demo.DemoTask, phrase_writer: Callable[[int], dspy.LM]) -> None:
    pytest.importorskip("optuna")
    lm = phrase_writer(1)
    demos = {"max_bootstrapped_demos": 0, "max_labeled_demos": 0}
    mipro = dspy.MIPROv2(metric=correct, prompt_model=lm, task_model=lm, auto=None, num_candidates=6, **demos)
    student = task.program.deepcopy()
    best = mipro.compile(student, trainset=list(task.trainset), valset=list(task.trainset), num_trials=10)
    assert str(student.template) == "a photo of a <CLASS>."
    assert str(best.template) != "a photo of a <CLASS>."
    assert best.demos == []
    assert accuracy(best, task.trainset) == best.score > accuracy(student, task.trainset)


@pytest.mark.parametrize(("metric", "learns"), [(correct, False), (confident, True)])
def test_simba_adds_lines_where_the_metric_is_graded(
    task: demo.DemoTask, phrase_writer: Callable[[int], dspy.LM], metric: Any, learns: bool
) -> None:
    # A classifier gives the same answer every time. On right or wrong SIMBA then finds no trajectory better than
    # another, and proposes nothing.
    settings = {"bsize": 16, "num_candidates": 3, "max_steps": 3, "max_demos": 0, "num_threads": 1}
    simba = dspy.SIMBA(metric=metric, prompt_model=phrase_writer(0), **settings)
    student = task.program.deepcopy()
    student.set_lm(phrase_writer(0))
    best = simba.compile(student, trainset=list(task.trainset), seed=0)
    first, *added = best.template.lines
    assert first == "a photo of a <CLASS>."
    assert bool(added) is learns


@pytest.mark.end_to_end
@pytest.mark.parametrize("strategy", ["ipo -> gepa", "gepa -> ipo", "ipo"])
def test_ipo_is_a_step_of_better_together(
    task: demo.DemoTask, phrase_writer: Callable[[int], dspy.LM], strategy: str, tmp_path: Path
) -> None:
    student = task.program.deepcopy()
    gepa = dspy.GEPA(metric=feedback, reflection_lm=phrase_writer(0), max_metric_calls=300, num_threads=1, seed=0)
    together = dspy.BetterTogether(metric=correct, ipo=IPO(proposer="evolution", steps=2), gepa=gepa)
    data = {"trainset": list(task.trainset), "valset": list(task.valset)}
    best = together.compile(student, **data, strategy=strategy, num_threads=1, seed=0)
    assert not best.flag_compilation_error_occurred
    tried = {row["strategy"]: row for row in best.candidate_programs}
    steps = strategy.split(" -> ")
    assert set(tried) == {" -> ".join(steps[:n]) for n in range(len(steps) + 1)}
    assert best.candidate_programs[0]["score"] == accuracy(best, task.valset) > tried[""]["score"]
    assert str(student.template) == "a photo of a <CLASS>."
    best.save(tmp_path / "best.json")
    assert ClipClassifier.from_file(tmp_path / "best.json").template == best.template


def test_better_together_without_validation_images_takes_the_last_program(
    task: demo.DemoTask, phrase_writer: Callable[[int], dspy.LM]
) -> None:
    student = task.program.deepcopy()
    student.set_lm(phrase_writer(0))
    together = dspy.BetterTogether(metric=correct, ipo=IPO(proposer="evolution", steps=1, prompts_per_step=4))
    data: dict[str, Any] = {"trainset": list(task.trainset), "valset_ratio": 0}
    best = together.compile(student, **data, strategy="ipo -> ipo", seed=0)
    assert not best.flag_compilation_error_occurred
    second = best.detailed_results  # the second run starts from what the first one found
    assert second.baseline.score.accuracy > accuracy(student, task.trainset)
    assert second.best.score.accuracy == accuracy(best, task.trainset)


def test_ipo_asks_a_model_over_http_in_the_form_of_the_paper(task: demo.DemoTask, tmp_path: Any) -> None:
    answer = "<INS>pixel art of a <CLASS>.</INS>\n<INS>a low resolution sprite of a <CLASS>.</INS>\n<INS>a dog</INS>"
    with OpenAIServer({"Tell apart images": answer, **PING_REPLY}) as server:
        given: dict[str, Any] = {"prompts_per_step": 3, "steps": 2, "choose": "best", "log_dir": tmp_path}
        optimizer = IPO(prompt_model=server.lm(cache=False), **given)
        best = optimizer.compile(task.program, task.trainset)
    assert server.unseen == []
    results = best.detailed_results
    assert [str(t.template) for t in results.trials] == [
        "a photo of a <CLASS>.",
        "pixel art of a <CLASS>.",
        "a low resolution sprite of a <CLASS>.",
    ]
    assert dict(results.rejections) == {"duplicate": 2, "no class placeholder": 2}
    assert (results.calls, results.tokens) == (3, server.tokens)  # the ping, and a request a step
    assert "sk-test" not in (tmp_path / "journal.jsonl").read_text() + (tmp_path / "best.json").read_text()


def test_the_configured_model_is_used_where_none_is_named(task: demo.DemoTask) -> None:
    with OpenAIServer({"Tell apart images": "<INS>pixel art of a <CLASS>.</INS>", **PING_REPLY}) as server:
        with dspy.context(lm=server.lm(cache=False)):
            best = IPO(prompts_per_step=1, steps=1, choose="best", describer=None).compile(task.program, task.trainset)
        assert len(server.requests) == 2
    assert len(best.detailed_results.trials) == 2


def test_a_model_that_never_answers_is_one_clear_error(task: demo.DemoTask) -> None:
    with OpenAIServer({}) as server:
        optimizer = IPO(prompt_model=server.lm(cache=False), steps=5, describer=None)
        with pytest.raises(LanguageModelError, match="check the model's name, key and address"):
            optimizer.compile(task.program, task.trainset)
        assert len(server.requests) == 1


def test_a_model_that_answers_the_ping_and_then_fails_returns_the_start_template(task: demo.DemoTask) -> None:
    with OpenAIServer(PING_REPLY) as server:
        optimizer = IPO(prompt_model=server.lm(cache=False), steps=5, describer=None)
        best = optimizer.compile(task.program, task.trainset)
        assert len(server.requests) == 4
    assert (best.detailed_results.status, best.template) == ("errors", task.program.template)

"""DSPy's own optimizers work on a `ClipClassifier` as on any predictor, and ours composes with its language models."""

from typing import Any

import dspy
import pytest
from dspy.utils import DummyLM

from ipo_dspy import IPO, demo
from ipo_dspy.errors import LanguageModelError
from openai_server import OpenAIServer


@pytest.fixture(scope="module")
def task() -> demo.DemoTask:
    return demo.load("pixel-animals", shots=2)


def correct(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    return bool(example.label == prediction.label)


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
    def told(example: Any, prediction: Any, trace: Any = None, pred_name: Any = None, pred_trace: Any = None) -> Any:
        return dspy.Prediction(score=float(example.label == prediction.label), feedback=f"it is a {example.label}")

    proposed = ["pixel art of a <CLASS>.", "Look hard at the picture.", "a bitmap of a <CLASS>."]
    answers = [{"new_instruction": text} for text in proposed * 10]
    reflection = DummyLM(answers, adapter=dspy.JSONAdapter())  # the form in which GEPA asks
    gepa = dspy.GEPA(metric=told, reflection_lm=reflection, max_metric_calls=250, num_threads=1, seed=0)
    best = gepa.compile(task.program.deepcopy(), trainset=list(task.trainset), valset=list(task.valset))
    assert str(best.template) in proposed


def test_ipo_asks_a_model_over_http_in_the_form_of_the_paper(task: demo.DemoTask, tmp_path: Any) -> None:
    answer = "<INS>pixel art of a <CLASS>.</INS>\n<INS>a low resolution sprite of a <CLASS>.</INS>\n<INS>a dog</INS>"
    with OpenAIServer({"Tell apart images": answer}) as server:
        optimizer = IPO(prompt_model=server.lm(cache=False), prompts_per_step=3, steps=2, log_dir=tmp_path)
        best = optimizer.compile(task.program, task.trainset)
    assert server.unseen == []
    results = best.detailed_results
    assert [str(t.template) for t in results.trials] == [
        "a photo of a <CLASS>.",
        "pixel art of a <CLASS>.",
        "a low resolution sprite of a <CLASS>.",
    ]
    assert dict(results.rejections) == {"duplicate": 2, "no class placeholder": 2}
    assert (results.calls, results.tokens) == (2, 30)
    assert "sk-test" not in (tmp_path / "journal.jsonl").read_text() + (tmp_path / "best.json").read_text()


def test_the_configured_model_is_used_where_none_is_named(task: demo.DemoTask) -> None:
    with OpenAIServer({"Tell apart images": "<INS>pixel art of a <CLASS>.</INS>"}) as server:
        with dspy.context(lm=server.lm(cache=False)):
            best = IPO(prompts_per_step=1, steps=1, describer=None).compile(task.program, task.trainset)
        assert len(server.requests) == 1
    assert len(best.detailed_results.trials) == 2


def test_a_model_that_never_answers_is_one_clear_error(task: demo.DemoTask) -> None:
    with OpenAIServer({}) as server:
        optimizer = IPO(prompt_model=server.lm(cache=False), steps=5, describer=None)
        with pytest.raises(LanguageModelError, match="check the model's name, key and address"):
            optimizer.compile(task.program, task.trainset)
        assert len(server.requests) == 3

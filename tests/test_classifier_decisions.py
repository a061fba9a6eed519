"""A `ClipClassifier` is a decision in DSPy's sense: criteria, weights, evidence, and calibration."""

import copy
import functools
import json
import pickle
import threading
from pathlib import Path
from typing import Any

import dspy
import pytest
import torch
from dspy.adapters.decision_state import DecisionState
from dspy.experimental import ReAnchor
from hypothesis import example as with_values
from hypothesis import given
from hypothesis import strategies as st

from helpers.cli_process import Processes
from ipo_dspy import demo
from ipo_dspy.classifier import ClipClassifier
from ipo_dspy.classifier.predictions import Question
from ipo_dspy.decisions import ClipDecider
from ipo_dspy.errors import DataError

SHOTS = 2
PETS = ["cat", "dog", "cow"]


def correct(example: Any, prediction: Any, trace: Any = None) -> float:
    return float(example.label == prediction.label)


def fresh(task: demo.DemoTask) -> ClipClassifier:
    return ClipClassifier(task.classes, template="pixel art of a <CLASS>.", model="demo")


def test_both_paths_give_the_same_probabilities(task: demo.DemoTask) -> None:
    program = fresh(task)
    texts = {label: [f"big {label}", f"small {label}"] for label in task.classes[:3]}
    program.set_criteria("label", {**dict.fromkeys(task.classes), **texts})
    for example in task.testset[:5]:
        with_evidence: list[Any] = []
        with dspy.context(_decision_evidence=(with_evidence, threading.Lock())):
            direct = program(image=example.image)
            by_dspy = dspy.Predict.forward(program, image=example.image)
        (own, name, evidence), (_, _, answer) = with_evidence
        assert (own, name) == (program, "label")
        assert evidence["probabilities"] == direct.probabilities == pytest.approx(answer["probabilities"], abs=1e-6)
        assert evidence["confidence"] == direct.confidence == pytest.approx(answer["confidence"], abs=1e-6)
        assert direct.label == by_dspy.label


def test_a_prediction_has_a_string_and_all_probabilities(task: demo.DemoTask) -> None:
    prediction = fresh(task)(image=task.testset[0].image)
    assert type(prediction.label) is str
    assert list(prediction.probabilities) == list(task.classes)
    assert sum(prediction.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert prediction.scores == {label: prediction.probabilities[label] for label in prediction.scores}
    copies = (prediction.copy(), copy.copy(prediction), copy.deepcopy(prediction), prediction.without("scores"))
    for copied in (*copies, pickle.loads(pickle.dumps(prediction.copy()))):
        assert copied.probabilities == prediction.probabilities
    assert list(prediction.keys()) == ["confidence", "scores", "label"]
    assert dspy.majority([prediction, prediction]).label == prediction.label
    assert copy.deepcopy(prediction).probabilities == prediction.probabilities


def test_criteria_are_the_texts_of_the_classes(task: demo.DemoTask) -> None:
    program = ClipClassifier(PETS, model="demo")
    assert program.get_criteria("label") == dict.fromkeys(PETS)
    program.set_criteria("label", {"cat": "house cat", "dog": ["puppy", "hound"], "cow": None})
    assert program.class_texts == {"cat": ("house cat",), "dog": ("puppy", "hound"), "cow": ("cow",)}
    assert program.get_criteria("label")["dog"] == ["puppy", "hound"]
    expected = ClipClassifier({"cat": "house cat", "dog": ["puppy", "hound"], "cow": "cow"}, model="demo")
    image = task.testset[0].image
    assert program(image=image).probabilities == expected(image=image).probabilities


@pytest.mark.parametrize(
    ("criteria", "message"),
    [
        ({"cat": "cow", "dog": None, "cow": None}, "text 'cow' of class 'cat' must not be"),
        ({"cat": {"looks": "furry"}, "dog": None, "cow": None}, "class 'cat' must have a text"),
        ({"cat": None, "dog": None}, "Invalid criteria for 'label'"),
        ({"cat": None, "dog": None, "cow": None, "emu": "bird"}, "got texts for 'emu'"),
        (["cat"], "Invalid criteria for 'label'"),
    ],
)
def test_criteria_that_are_no_texts_change_nothing(criteria: Any, message: str) -> None:
    program = ClipClassifier(PETS, model="demo")
    with pytest.raises(ValueError, match=message):
        program.set_criteria("label", criteria)
    assert program.get_criteria("label") == dict.fromkeys(PETS)


@given(
    st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.3, 1.0]), min_size=3, max_size=3).filter(any),
    st.dictionaries(st.sampled_from(PETS), st.sampled_from([0, 0.5, 1.0, 2, 3.0])),
)
@with_values([0.1, 0.2, 0.0], {"cat": 2})  # a tie, which the most probable class wins
def test_weights_decide_as_in_dspy(shares: list[float], weights: dict[str, float]) -> None:
    program = ClipClassifier(PETS, model="demo")
    program.fields["label"] = {"weights": weights}
    answer = {"label": {"probabilities": dict(zip(PETS, shares, strict=True)), "confidence": 1.0}}
    question, row = Question(None, tuple(PETS), program.template), torch.tensor(shares, dtype=torch.float64)
    decide = functools.partial(DecisionState, program.signature, program.fields)
    if any(share * weights.get(label, 1.0) > 0 for label, share in zip(PETS, shares, strict=True)):
        expected = decide()._decode(answer)["label"]
        prediction = program._finish({}, question, row)
        assert prediction.label == next(iter(prediction.scores)) == expected
        assert prediction.confidence == prediction.probabilities[expected] == max(prediction.probabilities.values())
        assert sum(prediction.probabilities.values()) == pytest.approx(1 if weights else sum(shares))
    else:
        with pytest.raises(ValueError, match="positive"):
            decide()._decode(answer)
        with pytest.raises(DataError, match="class weights must leave a class with a positive probability"):
            program._finish({}, question, row)


def test_weights_decide_among_the_classes_of_the_program_only(task: demo.DemoTask) -> None:
    program = ClipClassifier(PETS, model="demo", top_k=1)
    image = task.testset[0].image
    first = program(image=image)
    program.fields["label"] = {"weights": {first.label: 0.0}}
    second = program(image=image)
    rest = 1 - first.confidence
    weighted = {label: 0.0 if label == first.label else p / rest for label, p in first.probabilities.items()}
    assert second.probabilities == pytest.approx(weighted, rel=1e-4)
    assert second.label != first.label
    assert program(image=image, classes=list(reversed(PETS))).label == first.label
    program.fields["label"]["weights"] = dict.fromkeys(PETS, 0.0)
    with pytest.raises(DataError, match="raise a weight above 0"):
        program(image=image)


@pytest.mark.end_to_end
def test_reanchor_fits_weights_of_a_classifier_and_of_a_predictor(task: demo.DemoTask, tmp_path: Path) -> None:
    classes = task.classes[:4]
    trainset = [example for example in (*task.trainset, *task.testset) if example.label in classes][:32]
    classifier = ClipClassifier(classes, model="demo")
    predictor = dspy.Predict(classifier.signature.with_instructions("Name the animal."))
    predictor.lm = ClipDecider("demo")
    fitted = []
    for student in (classifier, predictor):
        optimizer = ReAnchor(correct, num_threads=1)
        best = optimizer.compile(student, trainset=trainset)
        assert optimizer.report["train_score"] > optimizer.report["train_score_before"]
        assert student.fields == {}
        fitted.append(best.fields["label"]["weights"])
    assert fitted[0] == pytest.approx(fitted[1], rel=1e-2)
    path = tmp_path / "best.json"
    best = copy.deepcopy(classifier)
    best.fields = {"label": {"weights": fitted[0]}}
    best.save(str(path))
    for loaded in (ClipClassifier.from_file(path), best.deepcopy(), copy.deepcopy(best)):
        assert loaded.fields == best.fields
        assert [loaded(image=e.image).label for e in trainset] == [best(image=e.image).label for e in trainset]


@pytest.mark.filterwarnings("ignore:.*pkl")
def test_a_whole_program_keeps_weights_and_texts(tmp_path: Path) -> None:
    program = ClipClassifier({"cat": "house cat", "dog": ["puppy", "hound"]}, model="demo")
    program.fields["label"]["weights"] = {"cat": 0.5}
    program.save(str(tmp_path / "whole"), save_program=True)
    loaded = dspy.load(str(tmp_path / "whole"), allow_pickle=True)
    assert (loaded.fields, loaded.classes, loaded.class_texts) == (program.fields, program.classes, program.class_texts)


def test_programs_of_version_0_1_load(tmp_path: Path, task: demo.DemoTask) -> None:
    path = tmp_path / "old.json"
    fresh(task).save(str(path))
    state = json.loads(path.read_text())
    assert "fields" not in state
    assert state["lm"] is None
    program = ClipClassifier.from_file(path)
    assert program.get_criteria("label") == dict.fromkeys(task.classes)


def test_an_lm_is_set_and_removed(task: demo.DemoTask) -> None:
    program, lm = fresh(task), dspy.LM("openai/none", api_key="none")
    own = program.lm
    assert isinstance(own, ClipDecider)
    assert own.backbone is program.backbone
    program.set_lm(lm)
    assert program.get_lm() is program.lm is lm
    assert type(program(image=task.testset[0].image).label) is str
    assert program.dump_state()["lm"] is None
    program.set_lm(None)
    assert isinstance(program.lm, ClipDecider)


def test_a_thousand_classes() -> None:
    labels = [f"class number {i}" for i in range(1000)]
    program = ClipClassifier(labels, model="demo")
    program.set_criteria("label", dict.fromkeys(labels, None))
    assert program.deepcopy().classes == tuple(labels)
    assert len(repr(type(program.signature.output_fields["label"].metadata[0]))) < 100


WITHOUT_DECISIONS = """
import importlib, sys
from ipo_dspy import ClipClassifier, decision_types, demo
sys.modules["dspy.experimental"] = None
assert importlib.reload(decision_types).Choice is None
task = demo.load("pixel-animals", shots=1)
program = ClipClassifier({name: ["big " + name, name] for name in task.classes}, model="demo")
program.save("p.json")
loaded = ClipClassifier.from_file("p.json")
print(loaded.deepcopy()(image=task.testset[0].image).label in task.classes, loaded.class_texts == program.class_texts)
"""


@pytest.mark.end_to_end
def test_everything_else_works_without_decisions_in_dspy(tmp_path: Path, forking_parent: Processes) -> None:
    done = Processes(tmp_path, {}, parent=forking_parent).python(WITHOUT_DECISIONS)
    assert done.out.split() == ["True", "True"], done.err

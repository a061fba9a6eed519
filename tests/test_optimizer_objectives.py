"""Runs with other objectives than the accuracy: result, journal, report, command line, metrics, and bad arguments."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pytest

from ipo_dspy import IPO, ClipClassifier, demo
from ipo_dspy.cli import main
from ipo_dspy.cli.objective_options import read_costs
from ipo_dspy.distributed import RayScorer
from ipo_dspy.errors import DataError, InputError, JournalError
from ipo_dspy.lms.adapters import PaperAdapter, ProposalAdapter
from ipo_dspy.lms.signatures import ProposePrompts
from ipo_dspy.metrics import feedback
from ipo_dspy.optimizer.evaluation import evaluate
from ipo_dspy.optimizer.search import SearchResult
from ipo_dspy.proposers.base import ProposalRequest
from ipo_dspy.proposers.search_summary import briefing, scored
from ipo_dspy.report import render_report
from ipo_dspy.run.choice_sentences import imbalance
from ipo_dspy.run.journal import FILE_NAME, replay
from ipo_dspy.run.state import RunState
from ipo_dspy.scoring.objectives import OBJECTIVES, Objective


def right(labels: Any, probabilities: Any) -> float:
    """Return the accuracy, 0 to 1, as a metric of all images."""
    return float((probabilities.argmax(axis=1) == labels).mean())


def confidence(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> float:
    """Return the probability of the label, if it is among the highest."""
    return float(prediction.scores.get(example.label, 0.0))


@pytest.fixture(scope="module")
def few() -> demo.DemoTask:
    return demo.load("pixel-animals", shots=3)


def run(task: demo.DemoTask, **options: Any) -> SearchResult:
    optimizer = IPO(**{"proposer": "evolution", "steps": 3, "progress": False, **options})
    best = optimizer.compile(task.program, task.trainset, valset=task.valset)
    result: SearchResult = best.detailed_results.searches[0]
    return result


@pytest.fixture(scope="module")
def by_accuracy(few: demo.DemoTask, tmp_path_factory: pytest.TempPathFactory) -> tuple[SearchResult, Path]:
    """The result of a run without an objective, and its folder."""
    folder = tmp_path_factory.mktemp("by-accuracy")
    return run(few, log_dir=folder), folder


GOALS: Mapping[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {"objective": name}) for name in OBJECTIVES},
    "costs": ("cost", {"costs": {("bear", "cat"): 5.0, ("cat", "dog"): 3.0}}),
    "min_recall": ("accuracy", {"min_recall": {"bear": 1.0}}),
    "metric of all": ("metric right", {"metric": right}),
    "metric of DSPy": ("metric confidence", {"metric": confidence, "min_recall": {"cat": 0.5}}),
}


@pytest.mark.end_to_end
@pytest.mark.parametrize("goal", GOALS)
def test_a_run_finds_what_is_better_by_its_objective(goal: str, few: demo.DemoTask, tmp_path: Path) -> None:
    name, options = GOALS[goal]
    result = run(few, **options, log_dir=tmp_path)
    chosen, start = result.finalists[0].deciding, result.finalists[-1].deciding
    assert chosen.rank <= start.rank
    assert chosen.goal > start.goal
    state = RunState(replay(tmp_path))
    search = state.searches["self"]
    assert search.objective == name
    assert [trial.score.rank for trial in search.history] == [trial.score.rank for trial in result.trials]
    assert result.choice.objective == name
    (evaluated,) = (event for key, event in search.evaluations.items() if key == ("validation", "all", "best"))
    assert evaluated.get("value", evaluated["accuracy"]) == pytest.approx(result.choice.accuracy, abs=1e-3)
    page = render_report(tmp_path)
    for text in ("Balanced accuracy", "Calibration error", "Most confused classes", result.choice.objective[:4]):
        assert text in page
    assert run(few, **options, log_dir=tmp_path).trials == result.trials  # resumed
    with pytest.raises(JournalError, match="a run with other settings"):
        run(few, log_dir=tmp_path, seed=0, **({"objective": "loss"} if goal != "loss" else {}))


@pytest.mark.end_to_end
def test_accuracy_by_a_metric_is_the_accuracy(few: demo.DemoTask, by_accuracy: tuple[SearchResult, Path]) -> None:
    """The search, the choice and its errors are the same, as far as they are not estimated otherwise."""
    default, by_metric, graded = by_accuracy[0], run(few, metric=right), run(few, metric=feedback)
    assert [t.template for t in default.trials[:20]] == [t.template for t in by_metric.trials[:20]]
    for other in (by_metric, graded):
        assert other.choice.accuracy * 100 == pytest.approx(default.choice.accuracy)
    assert graded.choice.gain_error * 100 == pytest.approx(default.choice.gain_error, rel=1e-6)
    assert 0.3 < by_metric.choice.gain_error * 100 / default.choice.gain_error < 3


def test_a_metric_sees_what_the_classifier_predicts(few: demo.DemoTask) -> None:
    seen: list[tuple[Any, Any]] = []

    def record(gold: dspy.Example, pred: dspy.Prediction) -> bool:
        seen.append((gold, pred))
        return bool(gold.label == pred.label)

    (result,) = evaluate(few.program, few.valset, metric=record)
    examples = [example for example, _ in seen[1:]]  # the first call is a check
    assert examples[: len(few.valset)] == list(few.valset)
    for example, prediction in seen[1:6]:
        called = few.program(image=example.image)
        assert prediction.label == called.label
        assert prediction.scores.keys() == called.scores.keys()
        assert prediction.probabilities == pytest.approx(called.probabilities, abs=1e-5)
        assert prediction.confidence == pytest.approx(called.confidence, abs=1e-5)
    assert result.score.value == pytest.approx(result.score.accuracy / 100)
    assert result.confusions == tuple(sorted(result.confusions, key=lambda row: -row[2]))
    assert sum(count for *_, count in result.confusions) == sum(n - right for right, n in result.per_class.values())


def keyword(example: Any, *, prediction: Any) -> float:
    return 0.0


BAD: Mapping[str, tuple[dict[str, Any], str]] = {
    "unknown": (
        {"objective": "f1"},
        "objective must be one of 'accuracy', 'balanced_accuracy', 'macro_f1', 'loss', 'top5', got",
    ),
    "two": ({"objective": "loss", "metric": right}, "metric must be None with objective='loss'"),
    "two more": ({"costs": {("bear", "cat"): 2.0}, "metric": right}, "metric must be None with costs"),
    "above 1": ({"min_recall": {"bear": 90}}, "min_recall must be a number from 0 to 1 for 'bear', got 90"),
    "no number": ({"min_recall": {"bear": "all"}}, "min_recall must be a number from 0 to 1"),
    "no mapping": ({"min_recall": 0.9}, "min_recall must be a mapping"),
    "no pairs": ({"costs": {"bear": 2.0}}, "costs must be a mapping from"),
    "the same": ({"costs": {("bear", "bear"): 2.0}}, "costs must be a mapping from"),
    "negative": ({"costs": {("bear", "cat"): -1.0}}, "costs must be a number of at least 0"),
    "one argument": ({"metric": lambda example: 1.0}, "metric must be metric\\(labels, probabilities\\) of all"),
    "keywords": ({"metric": keyword}, "metric must be metric\\(labels"),
    "not callable": ({"metric": "accuracy"}, "metric must be metric\\(labels"),
    "backend": ({"metric": right, "backend": RayScorer()}, "metric must be None with a backend"),
}
BAD_FOR_IMAGES: Mapping[str, tuple[dict[str, Any], str]] = {
    "cost": (
        {"costs": {("bear", "moose"): 2.0}},
        "costs must be given for names of classes, got 'moose'; use one of the 25",
    ),
    "floor": ({"min_recall": {"moose": 0.9}}, "min_recall must be given for names of classes, got 'moose'"),
    "raises": (
        {"metric": lambda example, prediction: example.weight},
        "metric <lambda> must take an example and a pred",
    ),
    "text": (
        {"metric": lambda labels, probabilities: "good"},
        "metric <lambda> must return a finite number, got 'good'",
    ),
    "nan": ({"metric": lambda labels, probabilities: np.nan}, "must return a finite number, got nan"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_objectives_are_refused_at_once(case: str) -> None:
    options, message = BAD[case]
    with pytest.raises(InputError, match=message):
        IPO(proposer="evolution", **options)


@pytest.mark.parametrize("case", BAD_FOR_IMAGES)
def test_objectives_that_do_not_fit_are_refused_before_the_model_is_loaded(case: str, tmp_path: Path) -> None:
    options, message = BAD_FOR_IMAGES[case]
    task = demo.load("pixel-animals", shots=1)
    with pytest.raises(InputError, match=message):
        run(task, **options, log_dir=tmp_path / "run")
    assert task.program._backbone is None
    assert not (tmp_path / "run").exists()


def test_floors_need_images_and_top5_needs_classes() -> None:
    task = demo.load("pixel-animals", shots=2)
    bears = [example for example in task.trainset if example.label == "bear"]
    others = [example for example in task.trainset if example.label != "bear"]
    optimizer = IPO(proposer="evolution", steps=1, min_recall={"bear": 0.5})
    with pytest.raises(
        InputError, match="min_recall must be given for classes with images in the trainset, got 'bear'"
    ):
        optimizer.compile(task.program, others)
    with pytest.raises(InputError, match="in the valset, got 'bear'"):
        optimizer.compile(task.program, bears + others, valset=others)
    small = task.program.deepcopy()
    small.classes = ("bear", "cat")
    few = [example for example in task.trainset if example.label in small.classes]
    with pytest.raises(InputError, match="objective must be another than 'top5' with 2 classes"):
        IPO(proposer="evolution", objective="top5").compile(small, few)


def test_a_request_says_what_is_optimized(few: demo.DemoTask) -> None:
    costs = {("bear", "cat"): 5.0}
    for options, name, text, legend in (
        ({"objective": "macro_f1"}, "macro_f1", r"macro F1 \d+\.\d\d %", "a lower loss and a higher macro F1"),
        ({"costs": costs}, "cost", r"mean cost 0\.\d{4}", "a lower loss and a lower mean cost"),
        ({"objective": "loss"}, "loss", r"\(loss \d\.\d{3}\)", "a lower loss"),
    ):
        trials = run(few, steps=1, **options).trials
        ask = ProposalRequest(step=1, count=3, shown=trials[:4], trials=trials, images=75, error=0.5, objective=name)
        inputs = briefing(ask, 3, [], "both")
        request = "\n".join(map(str, ProposalAdapter().paragraphs(_signature(inputs), inputs)))
        assert re.search(text, request), request
        assert re.search(r"best last \(by (macro F1, then loss|mean cost, then loss|loss)\)", request)
        history = [scored(trial, "both", name) for trial in trials[:4]]
        paper = {"task": "", "descriptions": [], "history": history, "rejected": [], "count": 2}
        asked = "\n".join(map(str, PaperAdapter().paragraphs(ProposePrompts, paper)))
        assert f"should have {legend}." in asked


def _signature(inputs: Mapping[str, Any]) -> Any:
    from ipo_dspy.lms.signatures import ProposeTemplates

    assert inputs.keys() <= ProposeTemplates.input_fields.keys()
    return ProposeTemplates


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("costs.csv", "true,predicted,cost\nbear,cat,5\ncat,dog,0.5\n"),
        ("costs.json", '{"bear": {"cat": 5}, "cat": {"dog": 0.5}}'),
    ],
)
def test_costs_are_read_from_files(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert read_costs(tmp_path / name) == {("bear", "cat"): 5.0, ("cat", "dog"): 0.5}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "true,predicted\nbear,cat\n", "it has no column 'cost'"),
        ("a.csv", f"{'x' * 200_000},predicted,cost\n", "field larger than field limit"),
        ("a.csv", f"true,predicted,cost\n{'x' * 200_000},cat,1\n", "field larger than field limit"),
        ("a.csv", "true,predicted,cost\nbear,cat,high\n", "could not convert"),
        ("a.json", '[["bear", "cat", 5]]', "does not map each true class"),
        ("a.json", "{}", "at least one pair"),
        ("b.json", None, "cannot be read"),
    ],
)
def test_other_files_of_costs_are_refused(name: str, text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_costs(tmp_path / name)


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


@pytest.mark.end_to_end
def test_the_command_line_optimizes_and_evaluates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "costs.json").write_text('{"bear": {"cat": 5}}')
    search = ["demo", "pixel-animals", "--steps", "1", "--shots", "2", "--log-dir", str(tmp_path / "run")]
    goal = ["--costs", str(tmp_path / "costs.json"), "--min-recall", "bear=0.5"]
    assert command(*search, *goal, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["choice"]["objective"] == "cost"
    assert found["scores"]["validation"]["best"]["value"] > found["scores"]["validation"]["start"]["value"]
    assert "mean cost" in found["findings"]["expected"]
    assert "bear: recall of at least 50 % asked for; start " in found["findings"]["floors"]
    assert found["findings"]["floors"] in render_report(tmp_path / "run")
    assert command(*search, *goal) == 0  # a finished run is printed again
    missed = [found["scores"][name]["start"].get("missed", 0.0) for name in found["scores"]]
    assert any(missed)
    row = next(line for line in capsys.readouterr().out.splitlines() if "below floors, start" in line)
    assert [float(cell) for cell in re.findall(r"\d+\.\d", row)] == pytest.approx(missed, abs=0.051)
    assert command("demo", "pixel-animals", "--export", str(tmp_path / "images")) == 0
    for folder in (tmp_path / "images").iterdir():
        for picture in sorted(folder.iterdir())[4:]:  # of 46
            picture.unlink()
    capsys.readouterr()
    program = [str(tmp_path / "run" / "best.json"), str(tmp_path / "images"), "--data-classes"]
    assert command("evaluate", *program, *goal, "--json") == 0
    scores = json.loads(capsys.readouterr().out)
    measures = {"accuracy", "top5", "balanced_accuracy", "macro_f1", "loss", "calibration_error"}
    assert measures <= scores.keys()
    assert scores["objective"] == "cost"
    assert scores["value"] < 0
    assert command("evaluate", *program) == 0
    shown = capsys.readouterr().out
    for text in ("top-5 accuracy", "balanced accuracy", "macro F1", "calibration error", "most confused"):
        assert text in shown
    (tmp_path / "texts.json").write_text('{"bear": "brown bear"}')
    assert command("evaluate", *program, "--min-recall", "bear=0", "--class-texts", str(tmp_path / "texts.json")) == 0
    out, err = capsys.readouterr()
    assert re.search(r"bear +│ +0 │ +\d+\.\d │ met", out)
    assert re.search(r"class texts  1 of \d+ classes \(bear: brown bear\)", err)
    assert command(*search, "--min-recall", "bear") == 2
    assert "--min-recall must be CLASS=RECALL, got 'bear'" in capsys.readouterr().err


@pytest.mark.end_to_end
def test_costs_and_floors_of_novel_classes_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    novel = demo.load("pixel-animals", shots=1, classes="novel").classes[0]
    (tmp_path / "costs.csv").write_text(f"true,predicted,cost\nbear,cat,5\nbear,{novel},2\n{novel},cat,3\n")
    search = ["demo", "pixel-animals", "--steps", "1", "--shots", "2"]
    goal = ["--costs", str(tmp_path / "costs.csv"), "--min-recall", f"{novel}=0.9"]
    assert command(*search, *goal, "--json", "--log-dir", str(tmp_path / "run")) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["choice"]["objective"] == "cost"
    for name in ("costs", "min_recall"):
        assert f"{name} for classes that are not searched are ignored" in shown.err
    started = next(event for event in replay(tmp_path / "run") if event["event"] == "run_started")
    assert started["settings"]["costs"] == {"bear": {"cat": 5.0}}
    assert "min_recall" not in started["settings"]
    assert command(*search, "--min-recall", "moose=0.9", "--log-dir", str(tmp_path / "other")) == 2
    assert "names of classes" in capsys.readouterr().err


class Two(dspy.Module):
    """Two classifiers of one image, with other classes."""

    def __init__(self, animals: ClipClassifier) -> None:
        super().__init__()
        self.animal, self.size = animals, ClipClassifier(["big", "small"], model=animals.backbone)

    def forward(self, image: Any) -> dspy.Prediction:
        return dspy.Prediction(animal=self.animal(image=image).label, size=self.size(image=image).label)


def test_each_of_two_classifiers_is_checked_by_its_own_classes() -> None:
    task = demo.load("pixel-animals", shots=1)
    examples = [e.copy(size="big" if e.label == "bear" else "small").with_inputs("image") for e in task.trainset]
    given: dict[str, Any] = {"label_field": {"animal": "label", "size": "size"}, "progress": False}
    with pytest.raises(InputError, match="objective must be another than 'top5' with 2 classes"):
        IPO(proposer="evolution", objective="top5", **given).compile(Two(task.program), examples)
    listed = [e.copy(classes=["bear", "cat", e.label]).with_inputs("image", "classes") for e in examples]
    listed = [e for e in listed if e.label not in ("bear", "cat")]
    with pytest.raises(InputError, match="objective must be another than 'top5' with 3 classes"):
        IPO(proposer="evolution", objective="top5", progress=False).compile(ClipClassifier(model="demo"), listed)
    given |= {"proposer": "evolution", "optimize": "class_texts"}
    texts = {"bear": ["brown bear"], "big": ["large animal"]}
    best = IPO(candidates=texts, **given).compile(Two(task.program), examples)
    assert all(search.class_texts.compared for search in best.detailed_results.searches)
    with pytest.raises(InputError, match="candidates must be given for names of classes, got 'moose'"):
        IPO(candidates={"moose": ["elk"]}, **given).compile(Two(task.program), examples)


@pytest.mark.end_to_end
def test_floors_that_cost_much_are_said_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    task = demo.load("pixel-animals", shots=4, model="demo-vit")
    task.program.template = "pixel art of a <CLASS>."
    result = run(task, min_recall={task.classes[0]: 0.99}, log_dir=tmp_path)
    assert result.finalists[0].deciding.missed < result.baseline.score.missed
    said = "clearly worse than the start template: "
    assert said in caplog.text
    assert "this is the price of the recall floors" in caplog.text
    assert said in render_report(tmp_path)


DIGEST = """
from functools import partial

import numpy as np

from ipo_dspy.scoring.objectives import METRIC, Objective

WEIGHT = 2

def beta(weight):
    def f(labels, probabilities, kinds=("a", 1.5)):
        return weight * float(np.mean(labels)) if kinds[0] in {"a", "b", "c", "d"} else (lambda: np.inf)()
    return f

class Beta:
    def __call__(self, labels, probabilities):
        return 1.0

metrics = [beta(1), beta(2), partial(beta, weight=1), Beta(), Beta().__call__, len, lambda labels, probabilities: 1.0,
           lambda labels, probabilities: 2.0, lambda labels, probabilities: labels.mean(),
           lambda labels, probabilities: labels.max()]
print(*(Objective(METRIC + "f", metric=metric).digest for metric in metrics))
"""


def test_metrics_have_digests_of_their_own_that_are_the_same_in_every_process() -> None:
    shown = {
        subprocess.run(
            [sys.executable, "-c", DIGEST],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(shown) == 1
    digests = shown.pop().split()
    assert len(digests) == len(set(digests)) == 10
    assert Objective().digest is None
    assert Objective("cost", {("a", "b"): 5}).digest == Objective("cost", {("a", "b"): 5.0}).digest


def wrong(labels: Any, probabilities: Any) -> float:
    return -right(labels, probabilities)


wrong.__name__ = "right"


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"metric": right}, {"metric": wrong}),
        ({"metric": right}, {}),
        ({"costs": {("bear", "cat"): 5.0}}, {"costs": {("bear", "cat"): 4.0}}),
        ({"min_recall": {"bear": 0.9}}, {"min_recall": {"bear": 0.8}}),
        ({}, {"objective": "loss"}),
    ],
)
def test_a_run_is_never_resumed_with_another_objective(
    before: dict[str, Any], now: dict[str, Any], few: demo.DemoTask, tmp_path: Path
) -> None:
    run(few, steps=1, **before, log_dir=tmp_path)
    journal = (tmp_path / FILE_NAME).read_bytes()
    for allowed in (False, True):
        with pytest.raises(JournalError, match=r"a run with other (settings|objective)") as raised:
            run(few, steps=1, **now, log_dir=tmp_path, allow_config_changes=allowed)
        assert "allow_config_changes" not in str(raised.value)
        assert (tmp_path / FILE_NAME).read_bytes() == journal


def test_a_journal_of_an_earlier_version_is_one_of_the_accuracy(
    few: demo.DemoTask, by_accuracy: tuple[SearchResult, Path]
) -> None:
    result, folder = by_accuracy
    assert "objective_digest" not in (folder / FILE_NAME).read_text()
    assert run(few, log_dir=folder).trials == result.trials


def test_imbalance_is_noticed() -> None:
    assert imbalance([4, 41, 0], "accuracy") is not None
    assert imbalance([4, 40], "accuracy") is None
    assert imbalance([4, 400], "macro_f1") is None


def use(function: Callable[..., Any]) -> None:
    """See that every DSPy optimizer's argument works."""
    assert IPO(proposer="evolution", metric=function).config.goal.metric is function


def test_metrics_of_any_form_are_taken() -> None:
    for function in (right, confidence, feedback, lambda gold, pred: 1, lambda gold, pred, trace, name, more: 1):
        use(function)

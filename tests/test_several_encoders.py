"""A search with several models: what decides, what is recorded and shown, and which runs can be resumed."""

import json
from pathlib import Path
from typing import Any, Literal

import dspy
import pytest

from ipo_dspy import IPO, ClipClassifier, ClipDecider, RayScorer, demo
from ipo_dspy.cli import main
from ipo_dspy.demo import DemoTask
from ipo_dspy.errors import InputError, JournalError, ModelError, TemplateError
from ipo_dspy.optimizer.evaluation import evaluate
from ipo_dspy.report import render_report
from ipo_dspy.run.journal import replay

SHOTS = 2


def search(task: DemoTask, folder: Path | None = None, **options: Any) -> Any:
    given: dict[str, Any] = {
        "proposer": "evolution",
        "steps": 3,
        "also": ["demo-vit"],
        "progress": False,
        "describer": None,
    }
    best = IPO(**given | options, log_dir=folder).compile(task.program, task.trainset, valset=task.valset)
    return best.detailed_results.searches[0]


@pytest.fixture(scope="module")
def by_mean(task: DemoTask, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The result of a search by the mean of both models, and its folder."""
    folder = tmp_path_factory.mktemp("by-mean")
    return search(task, folder), folder


@pytest.mark.parametrize("across", ["mean", "worst"])
def test_scores_are_those_of_both_models(across: str, task: DemoTask, by_mean: tuple[Any, Path]) -> None:
    result = by_mean[0] if across == "mean" else search(task, across=across)
    assert list(result.encoders) == ["demo", "demo-vit"]
    both = {model: ClipClassifier(task.classes, model=model) for model in result.encoders}
    for number, finalist in enumerate(result.finalists):
        scores = [
            evaluate(program, task.valset, templates=[finalist.trial.template])[0].score for program in both.values()
        ]
        listed = [each[number] for each in result.encoders.values()]
        assert [s.accuracy for s in listed] == pytest.approx([s.accuracy for s in scores])
        accuracies = [score.accuracy for score in scores]
        expected = sum(accuracies) / 2 if across == "mean" else min(accuracies)
        assert finalist.validation.accuracy == pytest.approx(expected)
    assert result.best.score.accuracy >= result.baseline.score.accuracy
    assert result.choice.accuracy == pytest.approx(result.finalists[0].validation.accuracy)


@pytest.mark.end_to_end
@pytest.mark.parametrize("across", ["mean", "worst"])
@pytest.mark.parametrize("goal", ["macro_f1", "costs", "min_recall"])
def test_other_objectives_decide_over_both_models(goal: str, across: str, task: DemoTask, tmp_path: Path) -> None:
    options: dict[str, dict[str, Any]] = {
        "macro_f1": {"objective": "macro_f1"},
        "costs": {"costs": {(task.classes[1], task.classes[0]): 5.0}},
        "min_recall": {"min_recall": {task.classes[1]: 0.9}},
    }
    result = search(task, tmp_path, across=across, **options[goal])
    for number, finalist in enumerate(result.finalists):
        listed = [each[number] for each in result.encoders.values()]
        worst = max(listed, key=lambda score: score.rank)
        for name in ("goal", "missed"):
            values = [getattr(score, name) for score in listed]
            expected = getattr(worst, name) if across == "worst" else sum(values) / 2
            assert getattr(finalist.validation, name) == pytest.approx(expected, abs=1e-6)
    assert result.choice.accuracy == pytest.approx(result.finalists[0].validation.goal)
    assert "Finalists under each model" in render_report(tmp_path)


def test_a_predictor_that_clip_answers(task: DemoTask) -> None:
    labels = Literal[tuple(task.classes)]  # type: ignore[valid-type]
    signature = {"image": (dspy.Image, dspy.InputField()), "label": (labels, dspy.OutputField(desc="the animal"))}
    program = dspy.Predict(dspy.Signature(signature, "Name the animal."))
    program.lm = ClipDecider("demo")
    best = IPO(proposer="evolution", steps=2, also=["demo-vit"]).compile(program, task.trainset)
    expected = IPO(proposer="evolution", steps=2, also=["demo-vit"]).compile(task.program.deepcopy(), task.trainset)
    assert best.signature.instructions == str(expected.template)
    assert list(best.detailed_results.searches[0].encoders) == ["demo", "demo-vit"]


def test_a_resumed_run_ends_as_if_it_had_not_been_interrupted(task: DemoTask, tmp_path: Path) -> None:
    whole = search(task, tmp_path / "whole", steps=4)
    search(task, tmp_path / "cut", steps=2)
    resumed = search(task, tmp_path / "cut", steps=4)
    assert [str(trial.template) for trial in resumed.trials] == [str(trial.template) for trial in whole.trials]
    assert resumed.best.score == whole.best.score
    assert resumed.encoders == whole.encoders


@pytest.mark.parametrize("changed", [{"also": []}, {"across": "worst"}])
def test_other_models_make_another_run(task: DemoTask, changed: dict[str, Any], by_mean: tuple[Any, Path]) -> None:
    folder = by_mean[1]
    with pytest.raises(JournalError, match=r"also was|across was"):
        search(task, folder, **changed)
    with pytest.raises(JournalError, match="a run with other CLIP models besides the classifier's"):
        search(task, folder, **changed, allow_config_changes=True)


@pytest.mark.end_to_end
def test_the_journal_and_the_report_have_the_matrix(task: DemoTask, tmp_path: Path, by_mean: tuple[Any, Path]) -> None:
    result, folder = by_mean
    events = {event["event"]: event for event in replay(folder)}
    started, selected = events["search_started"], events["selected"]
    assert [model["model"] for model in started["also"]] == ["demo-vit"]  # type: ignore[typeddict-item]
    assert started["across"] == "mean"  # type: ignore[typeddict-item]
    assert [each["model"] for each in selected["encoders"]] == ["demo", "demo-vit"]  # type: ignore[typeddict-item]
    page = render_report(folder)
    table = page[page.index("Finalists under each model") :].partition("</table>")[0]
    assert table.count("<tr") == 1 + len(result.finalists)
    for scores in result.encoders.values():
        for score in scores:
            assert f"{score.accuracy:.1f}\u00a0%" in table
    alone = search(task, tmp_path / "alone", also=[])
    assert alone.encoders == {}
    assert "Finalists under each model" not in render_report(tmp_path / "alone")


def test_a_loaded_model_and_class_texts(task: DemoTask) -> None:
    backbone = ClipClassifier(task.classes, model="demo-vit").backbone
    program = ClipClassifier({name: f"drawn {name}" for name in task.classes}, model="demo")
    student = program.deepcopy()
    best = IPO(proposer="evolution", steps=1, also=[backbone], progress=False).compile(student, task.trainset)
    result, other = best.detailed_results.searches[0], program.with_model(backbone)
    assert best.model_name == "demo"
    calibrated = program.calibrate(task.trainset)
    assert calibrated.with_model(backbone).class_texts == program.class_texts
    assert not calibrated.with_model(backbone).is_calibrated
    assert calibrated.is_calibrated
    assert other.class_texts == program.class_texts
    (expected,) = evaluate(other, task.trainset)
    at = next(i for i, finalist in enumerate(result.finalists) if finalist.trial == result.baseline)
    assert result.encoders["demo-vit"][at].loss == pytest.approx(expected.score.loss, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"also": "demo"}, InputError, r"also must be a list of models, got 'demo'; for example also=\['demo'\]"),
        ({"also": ["ViT-Z-99"]}, ModelError, "ViT-Z-99"),
        ({"also": [3]}, InputError, "also must be names of models or loaded models, got 3"),
        ({"also": ["demo"], "backend": RayScorer("local")}, InputError, "also must be empty with a backend"),
        ({"also": ["demo"], "metric": lambda example, prediction: 1.0}, InputError, "metric must be None with also"),
        (
            {"also": ["demo"], "optimize": ["template", "class_texts"], "candidates": {"bat": ["flying mammal"]}},
            InputError,
            "also must be empty if class texts are searched, .*in a separate run",
        ),
        (
            {"min_recall": {"bat": 0.5}, "optimize": "class_texts", "candidates": {"bat": ["flying mammal"]}},
            InputError,
            "min_recall must be None if class texts are searched, got {'bat': 0.5}; .*in a separate run",
        ),
        ({"across": "worst"}, InputError, "across must be 'mean' without other models, got 'worst'; pass also="),
        ({"also": ["demo"], "across": "best"}, InputError, "across must be one of 'mean', 'worst'"),
    ],
)
def test_unusable_arguments(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        IPO(proposer="evolution", **options)


def test_the_same_model_twice(task: DemoTask) -> None:
    with pytest.raises(InputError, match="also must hold other models than the classifier's, got 'demo' twice"):
        search(task, also=["demo"])


def test_an_initial_template_must_fit_all(task: DemoTask, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = ClipClassifier(task.classes, model="demo-vit").backbone
    monkeypatch.setattr(backbone, "context_length", 5)
    with pytest.raises(TemplateError, match="the model takes 5"):
        search(task, also=[backbone])


@pytest.mark.end_to_end
def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    table = str(demo.data_file("pixel-animals"))
    options = ["--model", "demo", "--also", "demo-vit", "--across", "worst", "--steps", "1", "--shots", "1"]
    with pytest.raises(SystemExit) as ended:
        main(["optimize", table, *options, "--val", "none", "--test", "0", "--json"])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["model"] for row in found["encoders"]} == {"demo", "demo-vit"}
    best = [row["accuracy"] for row in found["encoders"] if row["template"] == found["best"]]
    assert found["scores"]["train"]["best"]["accuracy"] == pytest.approx(min(best))
    assert "combined over 2 models" in found["findings"]["expected"]

"""`ClipClassifier.calibrate` on the bundled tasks: what it fits, where it holds, and how it is saved."""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pytest

from ipo_dspy import IPO, ClipClassifier, demo
from ipo_dspy.clip.bundled import DEMO_VIT
from ipo_dspy.clip.image_io import open_image
from ipo_dspy.demo import DemoTask
from ipo_dspy.errors import DataError, InputError, ProgramFileError
from ipo_dspy.metrics import feedback
from ipo_dspy.optimizer.evaluation import evaluate
from ipo_dspy.scoring.calibration import Calibration
from ipo_dspy.scoring.calibration_error import expected_calibration_error
from ipo_dspy.template import Template

TEMPLATE = "pixel art of a <CLASS>."


@pytest.fixture(scope="module")
def base() -> DemoTask:
    task = demo.load("pixel-animals", shots=8, model=DEMO_VIT)
    task.program.template = TEMPLATE
    return task


@pytest.fixture(scope="module")
def novel() -> DemoTask:
    return demo.load("pixel-animals", shots=8, classes="novel", model=DEMO_VIT)


@pytest.fixture(scope="module")
def calibrated(base: DemoTask, novel: DemoTask) -> ClipClassifier:
    return base.program.calibrate(base.trainset, unknown=novel.trainset)


def answers(classifier: ClipClassifier, examples: Any) -> list[Any]:
    return list(classifier.batch([e.with_inputs("image") for e in examples], num_threads=1, disable_progress_bar=True))


@pytest.mark.end_to_end
def test_copy_is_better_on_new_images_and_the_student_is_unchanged(base: DemoTask, calibrated: ClipClassifier) -> None:
    assert not base.program.is_calibrated
    figures = {}
    for name, classifier in (("before", base.program), ("after", base.program.calibrate(base.trainset))):
        predictions = answers(classifier, base.testset)
        correct = np.array([p.label == e.label for p, e in zip(predictions, base.testset, strict=True)])
        confidence = np.array([p.confidence for p in predictions])
        figures[name] = (100 * correct.mean(), expected_calibration_error(confidence, correct))
    assert figures["after"][0] > figures["before"][0] + 2
    assert figures["after"][1] < figures["before"][1] / 2
    report = calibrated.calibration_report
    assert len(repr(report)) < 1000
    assert report is not None
    assert report.after.accuracy == pytest.approx(figures["after"][0], abs=5)  # the folds promise what new images show


def test_order_is_temperature_weights_threshold(base: DemoTask) -> None:
    plain = base.program.deepcopy()
    plain.top_k = 100
    image = base.testset[0].image
    before = plain(image=image)
    shares = np.array(list(before.scores.values())) ** (1 / 2.0)
    weights = np.linspace(0.2, 3.0, len(shares))
    shares = shares * weights / (shares * weights).sum()
    expected = dict(zip(before.scores, shares.tolist(), strict=True))
    plain.fields["label"] = {"weights": dict(zip(before.scores, weights.tolist(), strict=True))}
    plain.calibration = Calibration(TEMPLATE, temperature=2.0, threshold=max(shares) - 1e-6)
    after = plain(image=image)
    assert after.scores == pytest.approx(expected, abs=1e-6)
    assert after.label == max(expected, key=expected.__getitem__) == next(iter(after.scores))
    assert after.confidence == after.scores[after.label]
    plain.calibration = Calibration(TEMPLATE, temperature=2.0, threshold=max(shares) + 1e-6, unknown_label="other")
    assert plain(image=image).label == "other"
    assert plain(image=image).scores == after.scores


def test_examples_and_images_may_be_iterated_once(base: DemoTask, novel: DemoTask, calibrated: ClipClassifier) -> None:
    once: Any = {"valset": iter(base.trainset), "unknown": (example.image for example in novel.trainset)}
    assert base.program.calibrate(**once).calibration == calibrated.calibration


def test_calls_batches_and_async_calls_agree(base: DemoTask, novel: DemoTask, calibrated: ClipClassifier) -> None:
    examples = [*base.testset[:4], *novel.testset[:4]]
    batch = answers(calibrated, examples)

    async def together() -> list[Any]:
        return await asyncio.gather(*(calibrated.acall(image=example.image) for example in examples))

    for one, other, example in zip(batch, asyncio.run(together()), examples, strict=True):
        single = calibrated(image=example.image)
        assert single.label == one.label == other.label
        assert single.confidence == pytest.approx(one.confidence, abs=1e-6)
        assert single.confidence == pytest.approx(other.confidence, abs=1e-6)


def test_unknown_images_get_no_label(base: DemoTask, novel: DemoTask, calibrated: ClipClassifier) -> None:
    report = calibrated.calibration_report
    assert report is not None
    assert report.unknown == len(novel.trainset)
    assert report.after.auroc is not None
    assert report.after.auroc > 0.6
    known, unknown = (
        np.mean([p.label is not None for p in answers(calibrated, task.testset[::4])]) for task in (base, novel)
    )
    assert known > unknown + 0.1
    named = base.program.calibrate(base.trainset, threshold=1.0, unknown_label="other")
    prediction = named(image=novel.testset[0].image)
    assert prediction.label == "other"
    assert prediction.scores


def test_images_of_another_kind_are_unknown_however_confident_the_classifier_is(base: DemoTask) -> None:
    food = demo.load("grey-food", shots=8, model=DEMO_VIT)
    by_score = base.program.calibrate(base.trainset, unknown=food.trainset, unknown_label="other")
    by_confidence = base.program.calibrate(base.trainset, unknown=food.trainset, threshold=0.5)
    reports = [program.calibration_report for program in (by_score, by_confidence)]
    assert [report and report.threshold_score for report in reports] == ["in_distribution", "confidence"]
    found, plain = (report.after.auroc for report in reports if report and report.after.auroc)
    assert found > 0.95 > plain + 0.1
    assert np.mean([p.label == "other" for p in answers(by_score, food.testset[::4])]) > 0.85
    assert np.mean([p.label == "other" for p in answers(by_score, base.testset[::4])]) < 0.15
    images = [example.image for example in (*food.testset[:20], *base.testset[:20])]
    assert list(by_score.predict(images)) == [by_score(image=image).label for image in images]


def test_class_weights_do_not_change_what_separates_unknown_images() -> None:
    task, places = demo.load("pixel-animals", shots=8), demo.load("faint-places", shots=4)  # the start template
    weighted = task.program.calibrate(task.trainset, unknown=places.trainset).calibration_report
    assert weighted is not None
    assert max(weighted.weights.values()) > 2
    assert weighted.after.auroc == weighted.before.auroc
    bare = task.program.calibrate(task.trainset, unknown=places.trainset, weights=False)
    assert bare.calibration is not None
    assert bare.calibration.threshold == weighted.threshold


def test_a_threshold_for_unknown_images_is_saved_and_old_programs_are_for_the_confidence(
    base: DemoTask, calibrated: ClipClassifier, tmp_path: Path
) -> None:
    calibrated.save(tmp_path / "program.json")
    loaded = ClipClassifier.from_file(tmp_path / "program.json")
    assert loaded.calibration == calibrated.calibration
    assert loaded.calibration is not None
    assert loaded.calibration.threshold_score == "in_distribution"
    images = [example.image for example in base.testset[:20]]
    assert list(loaded.predict(images)) == list(calibrated.predict(images))
    kept = loaded.calibrate(base.trainset, temperature=False, weights=False)
    assert kept.calibration == calibrated.calibration
    earlier = base.program.calibrate(base.trainset, coverage=0.5)
    earlier.save(tmp_path / "earlier.json")
    state = json.loads((tmp_path / "earlier.json").read_text())
    del state["clip"]["calibration"]["threshold_score"]
    (tmp_path / "earlier.json").write_text(json.dumps(state))
    assert ClipClassifier.from_file(tmp_path / "earlier.json").calibration == earlier.calibration


@pytest.mark.end_to_end
def test_weights_follow_costs_and_floors() -> None:
    task = demo.load("grey-food", shots=16, model=DEMO_VIT)
    task.program.template = "grey clip art of a slanted <CLASS>."
    labels, images = np.array(task.testset.labels()), [example.image for example in task.testset]

    def recall(program: ClipClassifier, name: str) -> float:
        return float((program.predict(images) == name)[labels == name].mean())

    plain = task.program.calibrate(task.trainset)
    weakest = min(task.classes, key=lambda name: recall(plain, name))
    costly = task.program.calibrate(task.trainset, costs={(weakest, b): 20.0 for b in task.classes if b != weakest})
    report = costly.calibration_report
    assert report is not None
    assert report.objective == "cost"
    assert report.mean_cost is not None
    assert report.mean_cost[1] < report.mean_cost[0]
    assert recall(costly, weakest) > recall(plain, weakest) + 0.2
    floored = task.program.calibrate(task.trainset, min_recall={weakest: 0.9}, objective="balanced_accuracy")
    assert floored.calibration_report is not None
    before, after = floored.calibration_report.recalls[weakest]
    assert after > before
    assert recall(floored, weakest) > 0.7
    assert set(floored.calibration_report.plain()["recalls"]) == {weakest}


@pytest.mark.parametrize(("rule", "wanted"), [("coverage", 0.7), ("precision", 0.97)])
def test_threshold_reaches_what_is_wanted(base: DemoTask, rule: str, wanted: float) -> None:
    rules: Any = {rule: wanted}
    classifier = base.program.calibrate(base.trainset, **rules)
    report = classifier.calibration_report
    assert report is not None
    reached = {"coverage": report.coverage, "precision": report.answered_accuracy}[rule]
    assert reached is not None
    assert 100 * wanted <= reached < 100 * wanted + 2
    predictions = answers(classifier, base.testset)
    answered = [(p.label, e.label) for p, e in zip(predictions, base.testset, strict=True) if p.label is not None]
    on_test = {"coverage": len(answered) / len(predictions), "precision": np.mean([a == b for a, b in answered])}[rule]
    assert on_test == pytest.approx(wanted, abs=0.08)


def test_each_part_can_be_left_out(base: DemoTask) -> None:
    nothing = base.program.calibrate(base.trainset, temperature=False, weights=False)
    assert nothing.calibration == Calibration(TEMPLATE)
    assert "label" not in nothing.fields
    assert nothing(image=base.testset[0].image).scores == pytest.approx(
        base.program(image=base.testset[0].image).scores
    )
    only_weights = base.program.calibrate(base.trainset, temperature=False)
    assert only_weights.calibration == Calibration(TEMPLATE)
    assert set(only_weights.fields["label"]["weights"]) == set(base.classes)


def test_what_is_left_out_stays_as_it_was(base: DemoTask) -> None:
    first = base.program.calibrate(base.trainset, coverage=0.8, unknown_label="other")
    assert first.calibration is not None
    weights = first.fields["label"]["weights"]
    again = first.calibrate(base.trainset, temperature=False, weights=False)
    assert (again.calibration, again.fields) == (first.calibration, first.fields)
    lower = first.calibrate(base.trainset, temperature=False, weights=False, threshold=0.1)
    assert lower.calibration == Calibration(TEMPLATE, first.calibration.temperature, 0.1)
    warmer = first.calibrate(base.trainset, weights=False)
    assert warmer.fields["label"]["weights"] == weights
    assert warmer.calibration is not None
    assert warmer.calibration.threshold == 0.0
    assert warmer.calibration.temperature == pytest.approx(first.calibration.temperature, rel=0.3)
    weighed = first.calibrate(base.trainset, temperature=False)
    assert weighed.calibration == Calibration(TEMPLATE, first.calibration.temperature)
    reanchored = base.program.deepcopy()
    reanchored.fields["label"] = {"weights": {**weights, base.classes[0]: 0.0}}
    kept = reanchored.calibrate(base.trainset, weights=False)
    assert kept.fields["label"]["weights"] == reanchored.fields["label"]["weights"]
    elsewhere = first.deepcopy()
    elsewhere.signature = elsewhere.signature.with_instructions("a photo of a <CLASS>.")
    plain = elsewhere.calibrate(base.trainset, temperature=False, weights=False)
    assert plain.calibration == Calibration("a photo of a <CLASS>.")
    assert "label" not in plain.fields


def test_weights_without_a_calibration_apply_to_any_instructions_as_in_dspy(base: DemoTask) -> None:
    program, image = base.program.deepcopy(), base.testset[0].image
    second = list(program(image=image, classes=base.classes).scores)[1]
    program.fields["label"] = {"weights": {label: float(label == second) for label in base.classes}}
    program.signature = program.signature.with_instructions("a photo of a <CLASS>.")
    assert program(image=image).label == second
    program.template = "art of a <CLASS>."
    assert not program.is_calibrated


def test_a_weight_of_zero_excludes_its_class(base: DemoTask) -> None:
    program, excluded = base.program.deepcopy(), base.classes[0]
    program.fields["label"] = {"weights": {label: float(label != excluded) for label in base.classes}}
    (result,) = evaluate(program, base.testset)
    assert excluded not in result.predicted
    assert list(result.predicted) == [prediction.label for prediction in answers(program, base.testset)]
    assert np.isfinite(result.score.loss)
    assert result.per_class[excluded][0] == 0


def test_images_that_are_arrays_can_be_calibrated_on(base: DemoTask, novel: DemoTask) -> None:
    def arrays(examples: Any) -> list[dspy.Example]:
        return [e.copy(image=np.asarray(open_image(e.image))) for e in examples]

    expected = base.program.calibrate(base.trainset, unknown=novel.trainset[:8])
    unknown = [e.image for e in arrays(novel.trainset[:8])]
    found = base.program.calibrate(arrays(base.trainset), unknown=unknown)
    assert found.calibration == expected.calibration
    base.program.encode(np.stack(unknown))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="valset must be a list of examples with an image"):
        base.program.calibrate([dspy.Example(label=base.classes[0])])


def test_another_model_drops_the_calibration_with_one_warning(calibrated: ClipClassifier, tmp_path: Path) -> None:
    path = tmp_path / "program.json"
    calibrated.save(path)
    with pytest.warns(UserWarning, match="the calibration was dropped, calibrate again") as caught:
        other = ClipClassifier.from_file(path, model="demo")
    assert len(caught) == 1
    assert not other.is_calibrated
    assert "weights" not in other.fields.get("label", {})
    assert ClipClassifier.from_file(path, model=DEMO_VIT).calibration == calibrated.calibration
    loaded = ClipClassifier(model="demo")
    loaded.load(path)
    with pytest.warns(UserWarning, match="the calibration was dropped"):
        loaded.warm_up()
    assert not loaded.is_calibrated


def test_calibration_holds_for_its_template_and_classes_only(base: DemoTask, calibrated: ClipClassifier) -> None:
    image = base.testset[0].image
    plain = base.program(image=image, classes=base.classes[:5])
    assert calibrated(image=image, classes=base.classes[:5]).scores == pytest.approx(plain.scores)
    other, rewritten = base.program.deepcopy(), calibrated.deepcopy()
    other.template = "a photo of a <CLASS>."
    rewritten.signature = rewritten.signature.with_instructions("a photo of a <CLASS>.")  # as GEPA does it
    assert rewritten(image=image).scores == pytest.approx(other(image=image).scores)
    rewritten.template = TEMPLATE
    assert not rewritten.is_calibrated
    assert calibrated.is_calibrated
    reworded = calibrated.deepcopy()
    reworded.set_criteria("label", dict.fromkeys(base.classes))
    assert reworded.is_calibrated
    reworded.set_criteria("label", {**dict.fromkeys(base.classes), base.classes[0]: "grizzly"})
    assert not reworded.is_calibrated
    assert reworded.class_texts[base.classes[0]] == ("grizzly",)
    renamed = calibrated.deepcopy()
    renamed.classes = base.classes[:5]
    assert not renamed.is_calibrated


def test_evaluate_scores_the_calibrated_probabilities(base: DemoTask, calibrated: ClipClassifier) -> None:
    unsure = base.program.calibrate(base.trainset)
    (result,) = evaluate(unsure, base.testset)
    predictions = answers(unsure, base.testset)
    assert list(result.predicted) == [prediction.label for prediction in predictions]
    (thresholded,) = evaluate(calibrated, base.testset)
    assert thresholded == result
    (plain,) = evaluate(calibrated, base.testset, templates=[calibrated.template])
    assert plain == evaluate(base.program, base.testset)[0]
    assert result.score.loss < plain.score.loss


def test_compile_drops_the_calibration_of_another_template(
    base: DemoTask, calibrated: ClipClassifier, caplog: pytest.LogCaptureFixture
) -> None:
    student = calibrated.deepcopy()
    with caplog.at_level(logging.WARNING):
        kept = IPO(proposer="evolution", steps=0).compile(student, base.trainset)
        assert kept.template == Template.parse(TEMPLATE)
        assert kept.calibration == calibrated.calibration
        assert "calibration" not in caplog.text
        best = IPO(proposer="evolution", steps=3, choose="best").compile(student, base.trainset)
    assert best.template != kept.template
    assert not best.is_calibrated
    assert "the calibration of 'self' was dropped, because its template or texts have changed" in caplog.text
    assert "templates were compared without calibration, so calibrate again" in caplog.text


def test_saved_program_answers_the_same(base: DemoTask, calibrated: ClipClassifier, tmp_path: Path) -> None:
    calibrated.save(tmp_path / "program.json")
    loaded = ClipClassifier.from_file(tmp_path / "program.json")
    assert loaded.calibration == calibrated.calibration
    assert loaded.fields == calibrated.fields
    assert loaded.calibration_report is None
    image = base.testset[0].image
    assert loaded(image=image).toDict() == calibrated(image=image).toDict()
    base.program.save(tmp_path / "plain.json")
    assert "calibration" not in json.loads((tmp_path / "plain.json").read_text())["clip"]  # as in older files
    loaded.load(tmp_path / "plain.json")
    assert not loaded.is_calibrated


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": float("nan")},
        {"temperature": 0.0},
        {"temperature": -1},
        {"temperature": True},
        {"temperature": 1e400},
        {"threshold": 7, "threshold_score": "confidence"},
        {"threshold": 1e400},
        {"threshold_score": "distance"},
        {"threshold": "0.5"},
        {"threshold": None},
        {"unknown_label": 3},
        {"unknown_label": ""},
        {"template": None},
        {"more": 1},
    ],
)
def test_malformed_calibration_is_refused(
    base: DemoTask, calibrated: ClipClassifier, change: dict[str, Any], tmp_path: Path
) -> None:
    state = calibrated.dump_state()
    state["clip"]["calibration"].update(change)
    refused(base, state, tmp_path)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), "2", None, True])
def test_malformed_weights_are_refused(base: DemoTask, calibrated: ClipClassifier, weight: Any, tmp_path: Path) -> None:
    state = calibrated.dump_state()
    state["fields"]["label"]["weights"][base.classes[0]] = weight
    refused(base, state, tmp_path)


@pytest.mark.parametrize("calibration", ["hot", ["a"], 3, [["template", "x"]]])
def test_calibration_of_another_type_is_refused(base: DemoTask, calibration: Any, tmp_path: Path) -> None:
    state = base.program.dump_state()
    state["clip"]["calibration"] = calibration
    refused(base, state, tmp_path)


def refused(base: DemoTask, state: dict[str, Any], folder: Path) -> None:
    (folder / "program.json").write_text(json.dumps(state))
    target = base.program.deepcopy()
    with pytest.raises(ProgramFileError, match="cannot be used"):
        target.load(folder / "program.json")
    assert not target.is_calibrated


def test_unusable_arguments_are_errors_before_images_are_encoded(base: DemoTask) -> None:
    program, examples = base.program, [dspy.Example(image="missing.png", label=base.classes[0])]
    cases: Any = (
        ({"objective": "auc"}, r"objective must be one of 'accuracy', .*, got 'auc'"),
        ({"costs": {("bat", "unicorn"): 2.0}}, "unicorn"),
        ({"costs": {("bat", "bear"): -2.0}}, r"costs must be a number of at least 0 for \('bat', 'bear'\), got -2\.0"),
        ({"costs": {("bat", "bear"): 2.0}, "objective": "loss"}, "costs must be None with objective='loss'"),
        ({"min_recall": {"bear": 0.9}}, "min_recall must be given for classes with images in the valset, got 'bear'"),
        ({"min_recall": {"bat": 0.9}, "weights": False}, "min_recall needs class weights, .*; remove weights=False"),
        ({"coverage": 90}, r"coverage must be a number from 0 to 1, got 90; for example coverage=0\.9"),
        (
            {"threshold": 0.5, "precision": 0.9},
            r"precision must be left out, got 0\.9; threshold=0\.5 already sets the threshold",
        ),
        ({"weights": "no"}, "weights must be True or False"),
        ({"unknown_label": base.classes[0]}, "unknown_label must not be one of the classes"),
        ({"unknown_label": 3}, "unknown_label must be a text or None, got 3"),
        ({"unknown": []}, "unknown must be a list of examples with an image"),
        ({"unknown": "missing.png"}, "unknown must be a list of images, got one"),
        ({"label_field": "class"}, r"valset\[0\] must have one of the 25 classes as its class, got None"),
    )
    for arguments, message in cases:
        with pytest.raises(InputError, match=message):
            program.calibrate(examples, **arguments)
    with pytest.raises(DataError, match="valset must be a list of examples with an image"):
        program.calibrate([])
    with pytest.raises(DataError, match="without class names cannot be calibrated"):
        ClipClassifier(model="demo").calibrate(examples)
    with pytest.raises(InputError, match=r"precision must be at most 0\.\d+, the highest on these images, got 1\.0"):
        program.calibrate(base.trainset[:8], precision=1.0, temperature=False, weights=False)


def test_feedback_says_that_an_image_is_below_the_threshold(base: DemoTask) -> None:
    unsure = base.program.calibrate(base.trainset, threshold=1.0)
    example = base.testset[0]
    verdict = feedback(example, unsure(image=example.image))
    assert verdict.score == 0.0
    assert "it is below the threshold" in verdict.feedback


def test_images_that_chose_the_template_are_noticed(
    base: DemoTask, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    optimizer = IPO(proposer="evolution", steps=1, progress=False)
    best = optimizer.compile(base.program, base.trainset, valset=base.valset)
    best.save(tmp_path / "best.json")
    assert (tmp_path / "best.json").stat().st_size < 20_000
    loaded = ClipClassifier.from_file(tmp_path / "best.json")

    def share(program: ClipClassifier, images: Any) -> float:
        report = program.calibrate(images).calibration_report
        assert report is not None
        return report.chose_template

    with caplog.at_level(logging.WARNING, logger="ipo_dspy"):
        assert share(loaded, base.testset) == 0
        evaluate(loaded, base.testset)
        evaluate(loaded, base.valset, templates=[TEMPLATE])
        assert not caplog.records
        evaluate(loaded, base.valset)
        assert (
            "100 % of the images were used to choose the template, so its accuracy on them is too high; evaluate"
            in caplog.text
        )
        caplog.clear()
        assert share(loaded, base.trainset) == share(loaded, base.valset) == 100
    assert "100 % of the images were used to choose the template" in caplog.text
    assert share(best, [*base.trainset, *base.testset[: len(base.trainset)]]) == pytest.approx(50, abs=20)
    loaded.template = "art of a <CLASS>."
    assert share(loaded, base.trainset) == 0
    state = json.loads((tmp_path / "best.json").read_text())
    state["clip"]["chosen_on"]["images"] = 5
    refused(base, state, tmp_path)


def test_a_share_of_images_below_one_percent_is_not_reported(base: DemoTask, caplog: pytest.LogCaptureFixture) -> None:
    program, keys = base.program.deepcopy(), [f"{number:x}" for number in range(1000)]
    program.note_choice(keys[:1])
    assert program.share_that_chose(keys[:101], "remedy") == 0.0
    assert caplog.messages == []
    assert program.share_that_chose(keys[:100], "remedy") == 1.0
    assert caplog.messages == [
        "about 1 % of the images were used to choose the template, so its accuracy on them is too high; remedy"
    ]

"""A check says that a program got worse if it did, and seldom if it did not."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ipo_dspy
from ipo_dspy import ClipClassifier, ImageDataset
from ipo_dspy.analysis.program_check import CheckResult, Outcomes, compare_outcomes
from ipo_dspy.cli import main
from ipo_dspy.demo import DemoTask
from ipo_dspy.errors import InputError, TemplateError
from ipo_dspy.optimizer.evaluation import evaluate

GOOD = "pixel art of a <CLASS>."


def outcomes(correct: NDArray[Any], first: int = 0) -> Outcomes:
    images = tuple((str(number), "cat") for number in range(first, first + len(correct)))
    return Outcomes("a <CLASS>", "demo", images, correct.astype(float), 2.0 - correct)


@pytest.fixture(scope="module")
def images(task: DemoTask) -> ImageDataset:
    return ImageDataset(task.testset[::6], classes=task.classes)


def test_it_is_paired_on_the_same_images(task: DemoTask, images: ImageDataset) -> None:
    better = ClipClassifier(task.classes, template=GOOD, model="demo")
    result = ipo_dspy.check(task.program, images, better)
    (compared,), (now, before) = result.comparisons, (evaluate(one, images)[0] for one in (task.program, better))
    assert result.is_worse
    assert (compared.accuracy, compared.reference_accuracy) == pytest.approx(
        (now.score.accuracy, before.score.accuracy)
    )
    assert compared.loss == pytest.approx(before.score.loss - now.score.loss, abs=1e-5)
    hits = [
        np.array([p == label for p, label in zip(one.predicted, images.labels(), strict=True)]) for one in (now, before)
    ]
    assert compared.broken == (hits[1] & ~hits[0]).sum()
    assert compared.fixed == (hits[0] & ~hits[1]).sum()
    assert not ipo_dspy.check(better, images).is_worse


def test_a_program_is_not_worse_than_itself(task: DemoTask, images: ImageDataset) -> None:
    once: Any = iter(images)
    (compared,) = ipo_dspy.check(task.program, once, task.program).comparisons
    assert (compared.p, compared.gain, compared.gain_error, compared.broken, compared.fixed) == (1, 0, 0, 0, 0)


def test_another_model_is_compared_with_the_first(task: DemoTask, images: ImageDataset) -> None:
    first, other = (ClipClassifier(task.classes, template=GOOD, model=model) for model in ("demo", "demo-vit"))
    result = ipo_dspy.check(other, images, first)
    assert (result.program.model.split()[0], result.reference.model.split()[0]) == ("demo-vit", "demo")
    assert result.comparisons[0].same_images


def test_a_calibrated_program_is_scored_as_it_answers(task: DemoTask, images: ImageDataset, tmp_path: Path) -> None:
    plain = ClipClassifier(task.classes, template=GOOD, model="demo")
    calibrated = plain.calibrate(task.trainset)
    calibrated.fields["label"] = {**calibrated.fields.get("label", {}), "weights": {task.classes[0]: 50.0}}
    (compared,) = ipo_dspy.check(calibrated, images, plain).comparisons
    answers = [calibrated(image=example.image).label for example in images]
    correct = [answer == label for answer, label in zip(answers, images.labels(), strict=True)]
    expected, before = (evaluate(one, images)[0].score for one in (calibrated, plain))
    assert compared.accuracy == pytest.approx(100 * np.mean(correct)) != compared.reference_accuracy
    assert compared.reference_accuracy == pytest.approx(before.accuracy)
    assert compared.loss == pytest.approx(before.loss - expected.loss, abs=1e-5)
    (against_template,) = ipo_dspy.check(calibrated, images, GOOD).comparisons
    assert against_template.fixed == against_template.broken == 0  # the same program
    calibrated.fields["label"]["weights"] = {task.classes[0]: 0.0}  # its images have an infinite loss
    never = ipo_dspy.check(calibrated, images, plain)
    assert np.isfinite(never.comparisons[0].loss)
    never.program.save(tmp_path / "outcomes.json")
    assert Outcomes.load(tmp_path / "outcomes.json").score == never.program.score


def test_saved_outcomes_are_those_of_an_image_wherever_it_is(
    tmp_path: Path, task: DemoTask, images: ImageDataset
) -> None:
    before = ipo_dspy.check(task.program, images[:20]).program
    before.save(tmp_path / "outcomes.json")
    loaded = Outcomes.load(tmp_path / "outcomes.json")
    assert (loaded.images, loaded.template, loaded.model) == (before.images, before.template, before.model)
    same, other = ipo_dspy.check(task.program, list(reversed(images[10:30])), loaded).comparisons
    assert (same.same_images, same.images) == (True, 10)
    assert (same.gain, same.loss) == pytest.approx((0, 0), abs=1e-6)
    assert (other.same_images, other.images, other.reference_images, other.broken) == (False, 10, 20, None)


def test_an_image_with_another_label_is_another_image(task: DemoTask, images: ImageDataset) -> None:
    before = ipo_dspy.check(task.program, images[:5]).program
    moved = [example.copy(label=task.classes[-1]) for example in images[:5]]
    (compared,) = ipo_dspy.check(task.program, moved, before).comparisons
    assert not compared.same_images
    result = ipo_dspy.check(task.program, [*images[:2], *moved[2:4]], before)
    assert (result.relabeled, result.missing) == (2, 1)
    assert [one["alpha"] for one in result.plain()["comparisons"]] == [0.025, 0.025]


@pytest.mark.parametrize("first", [0, 100, 200])  # all images shared, half of them, none
def test_false_alarms_are_as_rare_as_promised(first: int) -> None:
    rng = np.random.default_rng(first)
    alarms = []
    for _ in range(400):
        difficulty = rng.uniform(0, 1, 400)
        now, before = (rng.uniform(0, 1, 200) < difficulty[k : k + 200] for k in (first, 0))
        alarms.append(compare_outcomes(outcomes(now, first), outcomes(before)).is_worse)
    assert np.mean(alarms) <= 0.06


def test_ten_points_are_noticed() -> None:
    rng = np.random.default_rng(0)
    before = rng.uniform(0, 1, 500) < 0.8
    worse = before & (rng.uniform(0, 1, 500) < 0.9)
    assert compare_outcomes(outcomes(worse), outcomes(before)).is_worse
    assert compare_outcomes(outcomes(worse, 1000), outcomes(before)).is_worse


def test_two_comparisons_share_alpha() -> None:
    right, wrong = outcomes(np.ones(4)), outcomes(np.zeros(4))
    (alone,) = compare_outcomes(wrong, right, alpha=0.1).comparisons
    assert alone.p == 0.0625
    assert CheckResult(wrong, right, (alone,), 0.1).is_worse
    assert not CheckResult(wrong, right, (alone, alone), 0.1).is_worse


@pytest.mark.parametrize("alpha", [0.0, 1.0, True, "0.05"])
def test_alpha_is_a_probability(alpha: float, task: DemoTask) -> None:
    with pytest.raises(InputError, match="alpha must be a number between 0 and 1, got"):
        ipo_dspy.check(task.program, [], alpha=alpha)


def test_a_string_is_a_template(task: DemoTask, images: ImageDataset) -> None:
    with pytest.raises(TemplateError, match="<CLASS>"):
        ipo_dspy.check(task.program, images, "best.json")


@pytest.mark.parametrize("text", ['{"outcomes": []}', '{"outcomes": [["a", "b", 2, 0.5]]}', "[]", '{"outcomes": [["a"'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "o.json").write_text(text)
    with pytest.raises(InputError, match="pass a file that check saved"):
        Outcomes.load(tmp_path / "o.json")


def test_exit_codes_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], task: DemoTask
) -> None:
    monkeypatch.chdir(tmp_path)
    task.program.save("start.json")
    ClipClassifier(task.classes, template=GOOD, model="demo").save("good.json")
    for number, example in enumerate(task.testset[::20]):
        file = Path("photos", example.label, f"{number}.webp")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base64.b64decode(example.image.url.partition("base64,")[2]))

    def call(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(["check", *arguments])
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out + shown.err

    code, shown = call("good.json", "photos", "--save", "before.json")
    assert (code, "no evidence that the program got worse" in shown) == (0, True)
    assert "saved  before.json" in shown
    assert re.search(r"│\s+p │ alpha │", shown.replace("┃", "│"))
    for reference in ("before.json", "good.json", GOOD):
        code, shown = call("start.json", "photos", "--against", reference, "--json")
        value = json.loads(shown[shown.index("{") :])
        assert (code, value["is_worse"], value["reference"]["template"]) == (1, True, GOOD)
        file_shown = "" if reference == GOOD else reference
        shown = call("start.json", "photos", "--against", reference)[1]
        assert re.search(rf"│ program +│ start.json *│[^│]+│[^│]+│.*\n│ reference +│ {file_shown} *│", shown)
    code, shown = call("good.json", "photos", "--model", "demo-vit", "--json")
    value = json.loads(shown[shown.index("{") :])
    assert [value[side]["model"].split()[0] for side in ("program", "reference")] == ["demo-vit", "demo"]
    file.rename(Path("photos", next(label for label in task.classes if label != file.parent.name), "moved.webp"))
    next(Path("photos", task.classes[0]).iterdir()).unlink()
    shown = call("good.json", "photos", "--against", "before.json")[1]
    assert "images of the reference: 1 with another label now, 1 missing" in shown
    code, shown = call("good.json", "photos", "--against", "missing.json")
    assert (code, "--against must be a file that exists, got 'missing.json'" in shown) == (2, True)
    assert call("good.json", "photos", "--save", "nowhere/file.json")[0] == 2
    ClipClassifier(task.classes[1:], model="demo").save("fewer.json")
    for role, programs in (("program", ("fewer.json",)), ("reference", ("good.json", "--against", "fewer.json"))):
        code, shown = call(programs[0], "photos", *programs[1:])
        lack = (
            f"photos has images of 1 class that the {role} does not have ({task.classes[0]}); remove them, or correct"
        )
        assert (code, lack in shown) == (2, True), shown
    assert call("good.json", "photos", "--alpha", "0")[0] == 2

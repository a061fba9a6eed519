"""`predict` and `predict_proba`: many images at once, with the answers of single calls, in scikit-learn's words."""

import re
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from helpers.clip_toys import write_sigmoid_demo
from ipo_dspy import IPO, evaluate
from ipo_dspy.classifier import ClipClassifier
from ipo_dspy.clip.crops import crop
from ipo_dspy.demo import DemoTask
from ipo_dspy.errors import DataError, ImageError, InputError, TemplateError
from ipo_dspy.export.weights import ClassWeights

SHOTS = 4


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (5, 40, 48, 3), dtype=np.uint8)


def answers(program: ClipClassifier, images: Any) -> tuple[list[Any], list[list[float]]]:
    """Labels and probabilities of single calls."""
    predictions = [program(image=image) for image in images]
    return [one.label for one in predictions], [list(one.probabilities.values()) for one in predictions]


def check(program: ClipClassifier, images: Any, singles: Any = None) -> None:
    labels, rows = answers(program, images if singles is None else singles)
    assert program.predict(images).tolist() == labels
    assert program.predict_proba(images) == pytest.approx(np.array(rows), abs=1e-6)


def test_every_form_of_many_images_has_the_answers_of_single_calls(
    task: DemoTask, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    pictures = [Image.fromarray(image) for image in pixels]
    paths = [tmp_path / f"{i}.png" for i in range(len(pictures))]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    tensors = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    check(task.program, pictures)
    for form in (pixels, tensors, tensors / 255, paths, tuple(paths), np.array([str(path) for path in paths])):
        check(task.program, form, pictures)
    mixed = [str(paths[0]), paths[1].read_bytes(), dspy.Image(pictures[2]), pixels[3], tensors[4]]
    check(task.program, mixed, pictures)
    assert task.program.predict(iter(pictures)).tolist() == task.program.predict(pictures).tolist()


def test_the_arrays_are_as_scikit_learn_has_them(task: DemoTask, pixels: NDArray[np.uint8]) -> None:
    labels, rows = task.program.predict(pixels), task.program.predict_proba(pixels)
    assert (labels.shape, labels.dtype.kind) == ((5,), "U")
    assert (rows.shape, str(rows.dtype)) == ((5, len(task.classes)), "float64")
    assert rows.sum(axis=1) == pytest.approx(1)
    assert np.array(task.classes)[rows.argmax(axis=1)].tolist() == labels.tolist()
    assert task.program.predict([]).shape == (0,)
    assert task.program.predict_proba([]).shape == (0, len(task.classes))


@pytest.mark.parametrize("unknown_label", [None, "something else"])
def test_a_calibration_counts(task: DemoTask, unknown_label: str | None) -> None:
    program = task.program.calibrate(
        task.valset, objective="balanced_accuracy", coverage=0.5, unknown_label=unknown_label
    )
    images = [example.image for example in task.testset[:40]]
    check(program, images)
    assert 0 < (program.predict(images) == unknown_label).sum() < 40
    program.fields["label"]["weights"] = {task.classes[0]: 3.0, task.classes[1]: 0.0}  # as DSPy's ReAnchor sets them
    with np.errstate(divide="raise"):
        check(program, images)


def test_several_labels_are_an_indicator_matrix(task: DemoTask, tmp_path: Path) -> None:
    model = write_sigmoid_demo(tmp_path / "sigmoid", bias=-8.0)
    program = ClipClassifier(task.classes, model=f"local-dir:{model}", multi_label=True)
    images = [example.image for example in task.testset[:40]]
    rows, indicators = program.predict_proba(images), program.predict(images)
    assert (indicators.shape, indicators.dtype.kind) == ((40, len(task.classes)), "i")
    singles = [program(image=image) for image in images]
    assert rows == pytest.approx(np.array([list(one.probabilities.values()) for one in singles]), abs=1e-6)
    named = [{name for name, there in zip(task.classes, row, strict=True) if there} for row in indicators]
    assert named == [set(one.labels) for one in singles]
    assert 0 < indicators.sum() < indicators.size


def test_more_images_than_one_block_are_in_order(task: DemoTask, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [example.image for example in task.testset[:20]]
    whole = task.program.predict_proba(images)
    monkeypatch.setattr("ipo_dspy.classifier.portable_predictor._BLOCK", 7)
    assert task.program.predict_proba(images) == pytest.approx(whole, abs=1e-12)


def test_images_that_are_none_are_reported_at_once(task: DemoTask, pixels: NDArray[np.uint8]) -> None:
    one: Any
    for one in (
        pixels[0],
        "a.png",
        Path("a.png"),
        b"bytes",
        Image.fromarray(pixels[0]),
        dspy.Image(Image.fromarray(pixels[0])),
        3,
        None,
    ):
        with pytest.raises(ImageError, match=r"images must be a list of images, got one .*; pass \[image\]"):
            task.program.predict(one)
    with pytest.raises(ImageError, match=r"images must be a list of images, got one image 'a\.png'"):
        task.program.encode("a.png")
    with pytest.raises(ImageError, match=r"2 of 3 images cannot be read:\n.*a\.png.*\n.*b\.png.*\nleave out what can"):
        task.program.predict(["a.png", pixels[0], "b.png"])
    with pytest.raises(ImageError, match=r"image 1 of 2\); leave out what cannot be read$"):
        task.program.predict_proba(["a.png", pixels[0]])
    with pytest.raises(ImageError, match="must be a list of images, got a dict; pass its values"):
        task.program.predict({"image": [pixels[0]]})
    with pytest.raises(ImageError, match="must be a list of images, got one image given as Example"):
        task.program.predict(task.testset[0])
    with pytest.raises(ImageError, match="allow_url=True"):
        task.program.predict(["https://example.com/cat.jpg"])


def test_a_folder_is_reported_with_the_function_that_loads_it(task: DemoTask, tmp_path: Path) -> None:
    program = task.program
    given: Any
    examples = re.escape(f"must be a list of labeled examples, got the path {str(tmp_path)!r}; pass load_image_folder(")
    for given in (str(tmp_path), tmp_path):
        with pytest.raises(ImageError, match=r"images must be .* got the folder '.*'; pass .* load_image_folder\('"):
            program.predict(given)
        with pytest.raises(ImageError, match=r"unknown must be a list of images, got the folder"):
            program.calibrate(task.testset, unknown=given)
        with pytest.raises(DataError, match=f"valset {examples}"):
            program.calibrate(given)
        with pytest.raises(DataError, match=f"examples {examples}"):
            evaluate(program, given)
        with pytest.raises(DataError, match=f"trainset {examples}"):
            IPO(proposer="evolution").compile(program, given)


def test_a_classifier_without_columns_says_so(task: DemoTask, pixels: NDArray[np.uint8]) -> None:
    with pytest.raises(DataError, match=r"without class names has no columns; use ClipClassifier\(classes="):
        ClipClassifier(model="demo").predict(pixels)
    program = ClipClassifier(task.classes, model="demo")
    program.signature = program.signature.with_instructions("Look at the image.")
    with pytest.raises(TemplateError):
        program.predict(pixels)


def test_the_boxes_of_one_image_are_classified(task: DemoTask, pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    Image.fromarray(pixels[0]).save(tmp_path / "a.png")
    boxes = [(0, 0, 48, 40), (10, 5, 30, 20), (9.6, 4.8, 30.3, 20.4), (-0.7, 0, 48.9, 40.2)]
    parts = [Image.fromarray(pixels[0][y0:y1, x0:x1]) for x0, y0, x1, y1 in [boxes[0], boxes[1], boxes[1], boxes[0]]]
    labels, rows = answers(task.program, parts)
    for image in (pixels[0], tmp_path / "a.png", dspy.Image(Image.fromarray(pixels[0]))):
        for form in (boxes, np.array(boxes), torch.tensor(boxes), torch.tensor(boxes, requires_grad=True)):
            assert task.program.predict(image, crops=form).tolist() == labels
            assert task.program.predict_proba(image, crops=form) == pytest.approx(np.array(rows), abs=1e-6)
    whole = torch.tensor(boxes[:1], dtype=torch.bfloat16)
    assert task.program.predict(pixels[0], crops=whole).tolist() == labels[:1]
    nothing: Any
    for nothing in ([], np.empty((0, 4))):
        assert task.program.predict(pixels[0], crops=nothing).tolist() == []


def test_a_thin_box_is_named() -> None:
    with pytest.raises(InputError, match=r"crops\[1\] = \(0, 0, 1200, 1\) is too thin to be resized; pass a wider box"):
        crop(np.zeros((50, 1200, 3), np.uint8), [(0, 0, 40, 40), (0, 0, 1200, 1)])


def test_the_classes_are_encoded_once(task: DemoTask, pixels: NDArray[np.uint8]) -> None:
    class Counting(ClipClassifier):
        calls = 0

        def class_weights(self) -> ClassWeights:
            self.calls += 1
            return super().class_weights()

    program = Counting(task.classes, model="demo")
    program.predict(pixels)
    assert program.calls == 1


def test_a_turned_photograph_is_cut_as_it_is_shown(tmp_path: Path) -> None:
    picture = Image.new("RGB", (60, 40), "white")
    picture.paste("red", (0, 0, 10, 40))
    exif = Image.Exif()
    exif[0x112] = 6  # to be turned clockwise: the red side is at the top then
    picture.save(tmp_path / "a.png", exif=exif)
    (part,) = crop(tmp_path / "a.png", [(0, 0, 40, 10)])
    assert part.getcolors() == [(400, (255, 0, 0))]


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([(0, 0, 10, 10), (40, 0, 60, 10)], r"crops\[1\] = \(40, 0, 60, 10\) is outside .*, which is 48x40"),
        ([(-5, 0, 10, 10)], r"crops\[0\] = \(-5, 0, 10, 10\) is outside"),
        ([(30, 5, 10, 20)], r"crops\[0\] = \(30, 5, 10, 20\) is empty; pass x0 < x1 and y0 < y1"),
        ([(10, 5, 10.4, 20)], "is empty"),
        ([(0.1, 0.2, 0.5, 0.9)], "crops must be in pixels, not in shares of the image"),
        ([(0, 0, 10)], r"crops must be boxes \[B, 4\] of finite numbers"),
        ((0, 0, 10, 10), r"for example crops=\[\(10, 20, 110, 80\)\]"),
        ([(0, 0, float("nan"), 10)], "finite numbers"),
        ([("a", "b", "c", "d")], "finite numbers"),
        ("boxes", "finite numbers"),
        ([torch.zeros(4, requires_grad=True)], "finite numbers"),
    ],
)
def test_boxes_that_are_none_of_the_image_are_refused(
    task: DemoTask, pixels: NDArray[np.uint8], boxes: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        task.program.predict(pixels[0], crops=boxes)

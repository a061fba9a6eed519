"""`ClassWeights`: the labels and probabilities of a classifier from its image features and numpy alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers.clip_toys import write_model, write_sigmoid_demo
from ipo_dspy import ClipClassifier, demo
from ipo_dspy.clip.bundled import DEMO_VIT
from ipo_dspy.clip.image_features import encode_images
from ipo_dspy.clip.loading import load_backbone
from ipo_dspy.demo import DemoTask
from ipo_dspy.errors import DataError, InputError, TemplateError


@pytest.fixture(scope="module")
def task() -> DemoTask:
    return demo.load("pixel-animals", shots=8, model=DEMO_VIT)


def features_of(classifier: ClipClassifier, examples: Any) -> Any:
    return encode_images(classifier.backbone, [e.image for e in examples]).features.numpy()


def check_equal(classifier: ClipClassifier, examples: Any) -> None:
    """Compare with the classifier's own answers, image by image."""
    weights = classifier.class_weights()
    features = features_of(classifier, examples)
    probabilities = weights.probabilities(features)
    answers = [classifier(image=e.image) for e in examples]
    expected = np.array([list(answer.probabilities.values()) for answer in answers])
    assert np.abs(probabilities - expected).max() < 3e-6  # the classifier's own are in float32
    labels = [answer.labels if classifier.multi_label else answer.label for answer in answers]
    assert weights.labels_of(probabilities, weights.scores(features)) == labels


@pytest.mark.parametrize(
    "template", ["pixel art of a <CLASS>.", "a <CLASS>.\nan icon of a <CLASS>, pixel art.\nhere is a <CLASS>"]
)
def test_probabilities_are_those_of_the_classifier(task: DemoTask, template: str) -> None:
    classifier = task.program.deepcopy()
    classifier.template = template
    check_equal(classifier, task.testset[:40])
    classifier.classes = {label: [label, f"small {label}"] if "e" in label else label for label in task.classes}
    assert len(classifier.class_weights().prompts[task.classes.index("eagle")]) == 2 * len(template.splitlines())
    check_equal(classifier, task.testset[:40])


def test_calibration_is_applied_and_only_where_it_holds(task: DemoTask) -> None:
    calibrated = task.program.calibrate(
        task.trainset, objective="balanced_accuracy", coverage=0.6, unknown_label="other"
    )
    check_equal(calibrated, task.testset[:60])
    weights = calibrated.class_weights()
    assert "other" in weights.labels_of(weights.probabilities(features_of(calibrated, task.testset[:60])))
    separating = task.program.calibrate(task.trainset, unknown=task.testset[::10], coverage=0.6, unknown_label="other")
    check_equal(separating, task.testset[:60])
    assert "other" in separating.predict([example.image for example in task.testset[:60]])
    rows = separating.class_weights().probabilities(features_of(separating, task.testset[:2]))
    with pytest.raises(InputError, match="scores must be given for this threshold; pass weights"):
        separating.class_weights().labels_of(rows)
    # An optimizer writes instructions, which does not drop the calibration of the earlier template.
    calibrated.signature = calibrated.signature.with_instructions("an icon of a <CLASS>.")
    weights = calibrated.class_weights()
    assert (weights.temperature, weights.threshold, weights.unknown_label) == (1.0, 0.0, None)
    check_equal(calibrated, task.testset[:20])


def test_weights_of_other_optimizers_are_applied(task: DemoTask) -> None:
    classifier = task.program.deepcopy()
    classifier.fields = {"label": {"weights": {"eagle": 0.0, "dog": 3.5}}}
    check_equal(classifier, task.testset[:40])


def test_several_labels_have_sigmoids(tmp_path: Path, task: DemoTask) -> None:
    model = f"local-dir:{write_sigmoid_demo(tmp_path / 'sigmoid')}"
    classifier = ClipClassifier(task.classes, template="pixel art of a <CLASS>.", model=model, multi_label=True)
    check_equal(classifier, task.testset[:40])
    assert any(classifier(image=e.image).labels for e in task.testset[:40])
    single = ClipClassifier(["eagle"], template="pixel art of a <CLASS>.", model=model, multi_label=True)
    check_equal(single, task.testset[:40])


def test_features_need_not_be_normalized_nor_float32(task: DemoTask) -> None:
    weights, features = task.program.class_weights(), features_of(task.program, task.testset[:8])
    expected = weights.probabilities(features)
    assert np.allclose(weights.probabilities((7.5 * features).astype(np.float64).tolist()), expected, atol=1e-6)
    assert weights.probabilities(np.zeros((1, 128))).sum() == pytest.approx(1.0)
    assert weights.probabilities(features[:0]).shape == (0, 25)


@pytest.mark.parametrize(("features", "shape"), [(np.zeros(128), "128"), (np.zeros((2, 64)), "2x64"), (3, "a number")])
def test_features_of_another_shape_are_refused(task: DemoTask, features: Any, shape: str) -> None:
    with pytest.raises(InputError, match=rf"image_features must be \[N, 128\], got '{shape}'; pass one row"):
        task.program.class_weights().probabilities(features)


def test_what_cannot_be_exported_is_refused(task: DemoTask) -> None:
    with pytest.raises(DataError, match="without class names cannot be exported; use ClipClassifier"):
        ClipClassifier(model="demo").class_weights()
    classifier = task.program.deepcopy()
    classifier.signature = classifier.signature.with_instructions("Classify the picture.")
    with pytest.raises(TemplateError, match="has no <CLASS>"):
        classifier.class_weights()


def test_identity_and_repr(task: DemoTask) -> None:
    weights = task.program.class_weights()
    fingerprint = task.program.backbone.fingerprint
    assert weights.model == {"model": DEMO_VIT, "pretrained": "", "fingerprint": fingerprint, "dtype": "float32"}
    assert repr(weights) == "ClassWeights(25 classes, width 128, 'a photo of a <CLASS>.', 'demo-vit')"


def plain_transform(image: Image.Image, facts: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Apply `Backbone.preprocessing` with Pillow and numpy."""
    (height, width), (rows, columns) = facts["size"], facts["resize_size"]
    image = image.convert("RGB")
    factors = columns / image.width, rows / image.height
    if facts["resize_mode"] != "squash":
        factor = (max if facts["resize_mode"] == "shortest" else min)(factors)
        floor = int if facts["resize_mode"] == "shortest" else round  # the libraries differ in rounding
        columns, rows = floor(image.width * factor + 1e-9), floor(image.height * factor + 1e-9)
    image = image.resize((columns, rows), Image.Resampling[facts["interpolation"].upper()])
    left, top = round((columns - width) / 2), round((rows - height) / 2)
    canvas = Image.new("RGB", (width, height), (facts["fill_color"],) * 3)
    canvas.paste(image, (-left, -top))
    pixels = np.asarray(canvas, dtype=np.float32) / 255
    scaled: np.ndarray[Any, Any] = (pixels - np.array(facts["mean"])) / np.array(facts["std"])
    return scaled.transpose(2, 0, 1)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_preprocessing_is_all_that_happens_to_an_image(
    tmp_path: Path, task: DemoTask, mode: str, interpolation: str
) -> None:
    folder = write_model(tmp_path / "model")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["preprocess_cfg"] = {
        "resize_mode": mode,
        "interpolation": interpolation,
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.3, 0.4],
        "fill_color": 7,
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    backbone = load_backbone(f"local-dir:{folder}", device="cpu")
    facts = json.loads(json.dumps(backbone.preprocessing))
    noise = np.random.default_rng(0).integers(0, 255, (90, 61, 3)).astype("uint8")
    for image in (
        Image.fromarray(noise),
        Image.fromarray(noise).rotate(90, expand=True),
        Image.new("RGB", (32, 32), "red"),
    ):
        difference = plain_transform(image, facts) - backbone.preprocess(image).numpy()
        assert np.abs(difference).max() < 1e-6

"""`write_onnx`: the labels and probabilities of a classifier from onnxruntime, Pillow, and numpy alone."""

import base64
import io
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import transformers_toys
from helpers.clip_toys import shared_toy, write_model, write_sigmoid_demo
from ipo_dspy import ClipClassifier, demo
from ipo_dspy.cli import main
from ipo_dspy.clip.bundled import DEMO, DEMO_VIT
from ipo_dspy.clip.loading import load_backbone
from ipo_dspy.demo import DemoTask
from ipo_dspy.errors import InputError, ModelError, ProgramFileError
from ipo_dspy.export import FORMATS, onnx

onnxruntime = pytest.importorskip("onnxruntime")

ENSEMBLE = "pixel art of a <CLASS>.\nan icon of a <CLASS>"


@pytest.fixture(scope="module")
def task() -> DemoTask:
    return demo.load("pixel-animals", shots=8, model=DEMO_VIT)


@pytest.fixture(scope="module")
def pictures(task: DemoTask, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Image files as they come: WebP, and some that are wide, high, and gray."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for number, example in enumerate(task.testset[::8]):
        content = base64.b64decode(example.image.url.partition(",")[2])
        paths.append(folder / f"{number}.webp")
        paths[-1].write_bytes(content)
        if number % 5 == 0:
            picture = Image.open(io.BytesIO(content)).resize((211, 90) if number % 2 else (70, 130))
            paths.append(folder / f"{number}.png")
            (picture.convert("L") if number % 3 else picture).save(paths[-1])
    return paths


def read(path: Path, facts: dict[str, Any]) -> Any:
    """Pixels [3, H, W] of a file as the metadata of a square model says, for `resize_mode` shortest."""
    (height, width), (rows, columns) = facts["size"], facts["resize_size"]
    assert (facts["resize_mode"], facts["interpolation"], rows) == ("shortest", "bicubic", columns)
    image = Image.open(path).convert("RGB")
    short = min(image.size)
    image = image.resize((image.width * rows // short, image.height * rows // short), Image.Resampling.BICUBIC)
    assert facts["crop_rounding"] == "even"
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    pixels = np.asarray(image.crop((left, top, left + width, top + height)), dtype=np.float32) / 255
    return ((pixels - np.float32(facts["mean"])) / np.float32(facts["std"])).transpose(2, 0, 1)


def run(path: Path, pictures: Sequence[Path], batch: int) -> tuple[Any, Any, dict[str, Any]]:
    """Return the probabilities [N, C] of image files, the scores [N], and the metadata."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    meta = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    pixels = np.stack([read(picture, meta["preprocessing"]) for picture in pictures])
    parts = [pixels[first : first + batch] for first in range(0, len(pixels), batch)]
    outputs = [session.run(["probabilities", "image_features", "scores"], {"pixels": part}) for part in parts]
    features = np.concatenate([output[1] for output in outputs])
    assert np.abs(np.linalg.norm(features, axis=1) - 1).max() < 1e-5
    probabilities, scores = (np.concatenate([output[i] for output in outputs]) for i in (0, 2))
    return probabilities, scores, meta


def check_equal(classifier: ClipClassifier, path: Path, pictures: Sequence[Path], batch: int) -> None:
    """Compare a file with the classifier that it was written from, image by image."""
    probabilities, scores, meta = run(path, pictures, batch)
    answers = [classifier(image=picture) for picture in pictures]
    expected = np.array([list(answer.probabilities.values()) for answer in answers])
    assert np.abs(probabilities - expected).max() < 1e-4
    labels = [meta["labels"][row.argmax()] for row in probabilities]
    labels = [
        meta["unknown_label"] if score < meta["threshold"] else label
        for score, label in zip(scores, labels, strict=True)
    ]
    assert labels == [answer.label for answer in answers]
    assert meta["template"] == list(classifier.template.lines)
    assert meta["model"]["fingerprint"] == classifier.backbone.fingerprint


@pytest.mark.end_to_end
@pytest.mark.parametrize("model", [DEMO, DEMO_VIT])
def test_onnxruntime_gives_the_labels_of_the_classifier(
    tmp_path: Path, task: DemoTask, pictures: list[Path], model: str, capfd: pytest.CaptureFixture[str]
) -> None:
    classes = {label: ["dog", "puppy"] if label == "dog" else label for label in task.classes}
    classifier = ClipClassifier(classes, template=ENSEMBLE, model=model)
    (tmp_path / "best.onnx.data").write_bytes(b"of an earlier export of a larger model")
    classifier.export(tmp_path / "best.onnx", format="onnx")
    check_equal(classifier, tmp_path / "best.onnx", pictures, batch=5)
    check_equal(classifier, tmp_path / "best.onnx", pictures[:3], batch=1)
    assert list(tmp_path.iterdir()) == [tmp_path / "best.onnx"]
    assert capfd.readouterr() == ("", "")
    content = (tmp_path / "best.onnx").read_bytes()
    assert b"backbone.py" not in content
    assert str(Path(onnx.__file__).parent).encode() not in content


@pytest.mark.end_to_end
def test_calibration_and_a_large_model(
    tmp_path: Path, task: DemoTask, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx, "LARGEST", 1_000_000)
    calibrated = task.program.calibrate(
        task.trainset,
        objective="balanced_accuracy",
        coverage=0.6,
        unknown=task.testset[::20],
        unknown_label="other",
    )
    calibrated.fields["label"]["weights"] = {"eagle": 0.0, "dog": 3.5}
    (tmp_path / "best.onnx.data").write_bytes(b"of an earlier export")
    calibrated.export(tmp_path / "best.onnx", format="onnx", opset=20)
    assert {path.name for path in tmp_path.iterdir()} == {"best.onnx", "best.onnx.data"}
    assert (tmp_path / "best.onnx").stat().st_size < 1_000_000 < (tmp_path / "best.onnx.data").stat().st_size
    check_equal(calibrated, tmp_path / "best.onnx", pictures, batch=64)
    probabilities, _, meta = run(tmp_path / "best.onnx", pictures, batch=64)
    assert probabilities[:, task.classes.index("eagle")].max() == 0
    assert (meta["unknown_label"], meta["temperature"]) == ("other", calibrated.class_weights().temperature)


@pytest.mark.end_to_end
def test_several_labels_and_half_precision(tmp_path: Path, task: DemoTask, pictures: list[Path]) -> None:
    folder = write_sigmoid_demo(tmp_path / "sigmoid")
    model = load_backbone(f"local-dir:{folder}", device="cpu", dtype="bfloat16")
    classifier = ClipClassifier(task.classes, template="pixel art of a <CLASS>.", model=model, multi_label=True)
    classifier.export(tmp_path / "best.onnx", format="onnx")
    assert model.model.visual.conv1.weight.dtype == torch.bfloat16  # the model itself is left as it was
    precise = classifier.with_model(load_backbone(f"local-dir:{folder}", device="cpu"))
    probabilities, _, meta = run(tmp_path / "best.onnx", pictures, batch=64)
    expected = [list(precise(image=picture).probabilities.values()) for picture in pictures]
    assert meta["multi_label"]
    assert np.abs(probabilities - np.array(expected)).max() < 0.02  # the texts were encoded in bfloat16
    assert (probabilities >= 0.5).sum() > 10


@pytest.mark.end_to_end
@pytest.mark.parametrize("kind", ["siglip", "coca"])
def test_other_towers(tmp_path: Path, kind: str) -> None:
    classifier = ClipClassifier(["cat", "dog"], model=shared_toy(kind))
    classifier.export(tmp_path / "best.onnx", format="onnx")  # it compares the probabilities
    assert (tmp_path / "best.onnx").is_file()


@pytest.mark.end_to_end
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:transformers")
def test_towers_of_transformers(tmp_path: Path) -> None:
    model = f"transformers:{transformers_toys.align(tmp_path / 'align')}"
    ClipClassifier(["cat", "dog"], model=model).export(tmp_path / "best.onnx", format="onnx")
    assert (tmp_path / "best.onnx").is_file()
    packed = f"transformers:{transformers_toys.siglip2(tmp_path / 'packed')}"
    with pytest.raises(
        ModelError, match="are not resized and cropped to one shape in a known way, which an ONNX model"
    ):
        ClipClassifier(["cat", "dog"], model=packed).export(tmp_path / "packed.onnx", format="onnx")


def of_a_part(pixels: torch.Tensor, normalize: bool) -> torch.Tensor:
    """An image tower that is exported in a fifth of the time of a real one."""
    return pixels.flatten(1)[:, :128]


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("opset", "message"),
    [
        (5, "opset must be an integer of at least 18, got 5"),
        (17, "opset must be an integer of at least 18, got 17"),
        (True, "opset must be an integer of at least 18, got True"),
        (99, r"opset must be a version with all operations of the image tower VisionTransformer of 'demo-vit', got 99"),
    ],
)
def test_an_opset_that_lacks_an_operation(
    tmp_path: Path, task: DemoTask, opset: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task.program.backbone.model, "encode_image", of_a_part)
    program = task.program if opset == 99 else ClipClassifier(["cat", "dog"], model="local-dir:missing")
    with pytest.raises(InputError, match=message):
        program.export(tmp_path / "best.onnx", format="onnx", opset=opset)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.end_to_end
def test_the_command_line_takes_an_opset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = f"local-dir:{write_model(tmp_path / 'model')}"
    ClipClassifier(["cat", "dog"], model=model).save(tmp_path / "best.json")
    with pytest.raises(SystemExit, match="2"):
        main(["export", str(tmp_path / "best.json"), "--to", "onnx", "--opset", "17"])
    assert "--opset must be an integer of at least 18, got 17; for example --opset 18" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        main(["export", str(tmp_path / "best.json"), "--to", "onnx", "--opset", "19"])
    assert capsys.readouterr().out == f"{tmp_path / 'best.onnx'}\n"
    session = onnxruntime.InferenceSession(tmp_path / "best.onnx", providers=["CPUExecutionProvider"])
    assert [each.shape for each in session.get_inputs()] == [["N", 3, 32, 32]]


def test_other_formats_have_no_opset(tmp_path: Path, task: DemoTask) -> None:
    with pytest.raises(InputError, match="opset must be None for the format npz, got 20; omit it"):
        task.program.export(tmp_path / "best.npz", format="npz", opset=20)


def depends_on_values(pixels: torch.Tensor, normalize: bool) -> torch.Tensor:
    return of_a_part(pixels, normalize) * (2 if pixels.sum() > 0 else 1)


def lacks_translation(pixels: torch.Tensor, normalize: bool) -> torch.Tensor:
    values: torch.Tensor = torch.linalg.svdvals(pixels)
    return values.flatten(1)[:, :128]


@pytest.mark.end_to_end
@pytest.mark.parametrize("encode", [depends_on_values, lacks_translation])
def test_a_tower_that_onnx_cannot_take_is_named(
    tmp_path: Path, task: DemoTask, encode: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "best.onnx").write_bytes(b"of an earlier export")
    monkeypatch.setattr(task.program.backbone.model, "encode_image", encode)
    message = (
        r"the image tower VisionTransformer of 'demo-vit' cannot be written as ONNX \(.+\); use format 'open-clip'"
    )
    with pytest.raises(ModelError, match=message) as caught:
        task.program.export(tmp_path / "best.onnx", format="onnx")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "best.onnx").read_bytes() == b"of an earlier export"
    assert list(tmp_path.iterdir()) == [tmp_path / "best.onnx"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.end_to_end
def test_other_libraries_are_not_silenced(
    tmp_path: Path, task: DemoTask, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def talks(pixels: torch.Tensor, normalize: bool) -> Any:
        sys.stdout.write("printed\n")
        logging.getLogger("another.library").error("logged")
        return of_a_part(pixels, normalize)

    monkeypatch.setattr(task.program.backbone.model, "encode_image", talks)
    _ = task.program.class_weights()
    task.program.export(tmp_path / "best.onnx", format="onnx")
    tracing = capfd.readouterr().out.count("printed") - 1  # once to compare the probabilities
    assert tracing == caplog.messages.count("logged") - 1 > 0
    assert not logging.getLogger("torch").disabled


@pytest.mark.end_to_end
def test_the_folder_of_a_model_stays_here(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "customers" / "clip")
    classifier = ClipClassifier(["cat", "dog"], model=f"local-dir:{folder}")
    classifier.export(tmp_path / "best.onnx", format="onnx")
    assert b"customers" not in (tmp_path / "best.onnx").read_bytes()
    metadata = onnxruntime.InferenceSession(tmp_path / "best.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(metadata["model"])["model"] == "clip"
    classifier.export(tmp_path / "zoo", format="fiftyone")
    assert "customers" not in (tmp_path / "zoo" / "manifest.json").read_text()


@pytest.mark.end_to_end
def test_a_model_that_onnxruntime_gets_wrong_is_not_put_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "best.onnx").write_bytes(b"of an earlier export")
    monkeypatch.setattr(onnx, "TOLERANCE", 0.0)
    with pytest.raises(ModelError, match=r"differ from torch's by up to \d\.\de-\d\d; pass another opset=\.\.\."):
        ClipClassifier(["cat", "dog"], model=shared_toy()).export(tmp_path / "best.onnx", format="onnx")
    assert (tmp_path / "best.onnx").read_bytes() == b"of an earlier export"
    assert list(tmp_path.iterdir()) == [tmp_path / "best.onnx"]


@pytest.mark.parametrize("format", FORMATS)
def test_a_replaced_image_encoder_is_refused(tmp_path: Path, task: DemoTask, format: str) -> None:
    backbone = task.program.backbone
    learned = backbone.with_image_encoder(backbone.model.encode_image, "prompts")
    with pytest.raises(ModelError, match="with a replaced image encoder cannot be exported"):
        task.program.with_model(learned).export(tmp_path / "best", format=format)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_names_the_extra(tmp_path: Path, task: DemoTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"run pip install 'ipo_dspy\[onnx\]'"):
        ClipClassifier(["cat", "dog"], model="local-dir:missing").export(tmp_path / "best.onnx", format="onnx")


def test_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "best.onnx").mkdir()
    with pytest.raises(ProgramFileError, match=r"best\.onnx' cannot be written \(it is a folder\); use another path"):
        ClipClassifier(["cat", "dog"], model="local-dir:missing").export(tmp_path / "best.onnx", format="onnx")
    assert list(tmp_path.iterdir()) == [tmp_path / "best.onnx"]

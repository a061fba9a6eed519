"""The command line with images that have several labels or none, from a table and from folders."""

import json
from pathlib import Path

import pytest
from PIL import Image

from helpers.clip_toys import write_sigmoid_demo
from ipo_dspy import ClipClassifier, demo
from ipo_dspy.cli import main
from ipo_dspy.clip.image_io import open_image
from ipo_dspy.data import load_label_sets
from ipo_dspy.optimizer.evaluation import evaluate

CLASSES = ("bat", "bear", "cow", "dog")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a sigmoid head, `table.csv` with pictures of no, one, and two animals, and class folders."""
    place = tmp_path_factory.mktemp("several")
    write_sigmoid_demo(place / "model", bias=-12.0)
    images = demo.load("pixel-animals", shots=8).trainset
    shown = [example for example in images if example.label in CLASSES]
    rows = []
    for i, example in enumerate(images[::8]):
        (place / "photos" / example.label).mkdir(parents=True)
        open_image(example.image).save(place / "photos" / example.label / f"{i}.png")
        if example.label not in CLASSES:
            rows.append((f"photos/{example.label}/{i}.png", ""))
    for i, (left, right) in enumerate(zip(shown, shown[5:], strict=False)):
        picture = Image.new("RGB", (128, 64), "white")
        picture.paste(open_image(left.image), (0, 0))
        picture.paste(open_image(right.image), (64, 0))
        picture.save(place / f"{i}.png")
        rows.append((f"{i}.png", "|".join(dict.fromkeys([left.label, right.label]))))
    (place / "table.csv").write_text("image,labels\n" + "".join(f"{image},{labels}\n" for image, labels in rows))
    return place


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[object, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        main([*map(str, arguments)])
    return exit.value.code, *capsys.readouterr()


@pytest.mark.end_to_end
def test_a_table_is_searched_and_evaluated(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(
        capsys, "optimize", folder / "table.csv", "--multi-label", "--model", f"local-dir:{folder / 'model'}",
        "--objective", "loss", "--steps", 1, "--shots", 4, "--log-dir", tmp_path / "run", "--json",
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(out)
    best = ClipClassifier.from_file(tmp_path / "run" / "best.json")
    assert (best.multi_label, best.classes) == (True, CLASSES)
    assert found["scores"]["train"]["best"]["loss"] <= found["scores"]["train"]["start"]["loss"]
    code, out, err = call(capsys, "evaluate", tmp_path / "run" / "best.json", folder / "table.csv", "--json")
    assert code == 0, err
    (expected,) = evaluate(best, load_label_sets(folder / "table.csv"))
    result = json.loads(out)
    assert result["mean_average_precision"] == pytest.approx(expected.measures["mean_average_precision"])
    assert result["images"] == len((folder / "table.csv").read_text().splitlines()) - 1
    code, out, err = call(capsys, "explain", tmp_path / "run" / "best.json", folder / "table.csv", "--json")
    assert code == 0, err
    assert json.loads(out)["rows"][0]["scores"]["all"]["accuracy"] == pytest.approx(result["accuracy"])
    code, out, err = call(capsys, "calibrate", tmp_path / "run" / "best.json", folder / "table.csv")
    assert code == 2
    assert "multi_label must be False to calibrate" in err


def test_one_class_of_folders_is_there_or_not(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    model = f"local-dir:{folder / 'model'}"
    code, out, err = call(
        capsys, "optimize", folder / "photos", "--multi-label", "--classes", "dog", "--model", model, "--steps", 0,
        "--test", 0, "--shots", "all", "--log-dir", tmp_path / "run", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["images"]["train"] == 25
    assert "images of 24 folders count as images without a label" in caplog.text
    assert ClipClassifier.from_file(tmp_path / "run" / "best.json").classes == ("dog",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--base-novel"], "--multi-label cannot be used with --base-novel"),
        (["--min-images", "2"], "--min-images must be 1 with --multi-label, got 2; omit it"),
        (["--min-recall", "bat=0.5"], "--min-recall must be None for images with several labels"),
        (["--ray", "auto"], "--ray must be None for images with several labels"),
        (["--classes", "bat,bear"], "has the unknown label"),
    ],
)
def test_mistakes_are_reported(
    folder: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = f"local-dir:{folder / 'model'}"
    code, _, err = call(capsys, "optimize", folder / "table.csv", "--multi-label", "--model", model, *options)
    assert code == 2
    assert message in err


def test_a_softmax_model_is_refused_before_images_are_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "optimize", folder / "table.csv", "--multi-label", "--model", "demo", "--shots", 99)
    assert code == 2
    assert err.startswith("ipo-dspy: --model must be a model with a sigmoid head")
    assert err.count("\n") == 1

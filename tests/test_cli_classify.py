"""`ipo-dspy classify`: the same answers as a table with a summary, as JSON, and as CSV, on stdout or in a file."""

import csv
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from helpers.clip_toys import write_sigmoid_demo
from ipo_dspy.classifier import ClipClassifier
from ipo_dspy.cli import main
from ipo_dspy.cli.classify import MAX_COUNTED, _summary
from ipo_dspy.clip.image_features import open_image
from ipo_dspy.demo import DemoTask
from ipo_dspy.export.weights import ClassWeights

SHOTS = 2


@pytest.fixture(scope="module")
def folder(task: DemoTask, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program and images, one with a name that no terminal and no spreadsheet should see."""
    place = tmp_path_factory.mktemp("classify")
    task.program.save(place / "best.json")
    for i, example in enumerate(task.testset[:12]):
        open_image(example.image).save(place / f"{i:02}.png")
    open_image(task.testset[12].image).save(place / "=1+1\x1b[2J.png")
    return place


def call(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[object, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        main(["classify", *map(str, arguments)])
    return exit.value.code, *capsys.readouterr()


def test_the_formats_agree_with_the_program(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = ClipClassifier.from_file(folder / "best.json")
    code, out, _ = call(capsys, folder / "best.json", folder, "--json")
    assert code == 0
    results = json.loads(out)
    assert len(results) == 13
    for result in results:
        answer = program(image=result["image"])
        assert (result["label"], list(result["scores"])) == (answer.label, list(answer.scores))
        assert [result["confidence"], *result["scores"].values()] == pytest.approx(
            [answer.confidence, *answer.scores.values()], abs=1e-6
        )
    code, out, err = call(capsys, folder / "best.json", folder, "--csv")
    assert (code, err) == (0, "")
    lines = list(csv.DictReader(io.StringIO(out)))
    assert [line["label"] for line in lines] == [result["label"] for result in results]
    assert list(lines[0])[:5] == ["image", "label", "confidence", "class_1", "probability_1"]
    for line, result in zip(lines, results, strict=True):
        assert [line[f"class_{i}"] for i in range(1, 6)] == list(result["scores"])
        assert float(line["probability_5"]) == pytest.approx(list(result["scores"].values())[4], abs=1e-6)


def test_the_weights_are_computed_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    computed, compute = Counter[str](), ClipClassifier.class_weights

    def counted(self: ClipClassifier) -> ClassWeights:
        computed["times"] += 1
        return compute(self)

    monkeypatch.setattr(ClipClassifier, "class_weights", counted)
    code, _, _ = call(capsys, folder / "best.json", folder / "00.png")
    assert (code, computed["times"]) == (0, 1)


def test_the_summary_counts_the_labels(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = call(capsys, folder / "best.json", folder, "--json")
    counts = Counter(result["label"] for result in json.loads(out))
    _, out, _ = call(capsys, folder / "best.json", folder)
    *_, summary = out.splitlines()
    assert summary == "13 images: " + ", ".join(f"{label} {count}" for label, count in counts.most_common())
    many = [{"label": f"class {i}"} for i in range(MAX_COUNTED + 2)]
    assert _summary(many).endswith(", class 19 1, and 2 other labels")
    assert _summary([{"label": None}]) == "1 image: (unknown) 1"


@pytest.mark.parametrize(("options", "count"), [([], 5), (["--top-k", "2"], 2), (["--top-k", "99"], 25)])
def test_top_k_is_the_number_of_classes(
    folder: Path, options: list[str], count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = call(capsys, folder / "best.json", folder / "00.png", "--json", *options)
    assert len(json.loads(out)[0]["scores"]) == count
    _, out, _ = call(capsys, folder / "best.json", folder / "00.png", *options)
    others = next(line for line in out.splitlines() if "00.png" in line).split("  ")[-1]
    assert len(others.split(",")) == (3 if not options else count - 1)


def test_a_file_is_json_or_csv_by_its_name(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for suffix in ("json", "csv"):
        _, printed, _ = call(capsys, folder / "best.json", folder, f"--{suffix}")
        code, out, _ = call(capsys, folder / "best.json", folder, "--out", tmp_path / f"labels.{suffix.upper()}")
        assert code == 0
        assert out.startswith("13 images: ")
        assert len(out.splitlines()) == 1
        assert (tmp_path / f"labels.{suffix.upper()}").read_text() == printed


def test_names_are_escaped_for_terminals_and_spreadsheets(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    for options in ([], ["--csv"], ["--json"]):
        _, out, _ = call(capsys, "best.json", "=1+1\x1b[2J.png", *options)
        assert "\x1b" not in out
    _, out, _ = call(capsys, "best.json", "=1+1\x1b[2J.png", "--csv")
    assert out.splitlines()[1].startswith("'=1+1[U+001B][2J.png,")


def test_a_formula_after_white_space_is_not_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("\t=1+1.png").write_bytes((folder / "00.png").read_bytes())
    _, out, _ = call(capsys, folder / "best.json", "\t=1+1.png", "--csv")
    assert out.splitlines()[1].startswith("'\t=1+1.png,")


def test_unreadable_images_are_skipped_by_the_option(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, err = call(capsys, folder / "best.json", folder / "00.png", folder / "best.json")
    assert "pass --skip-unreadable to skip it" in " ".join(err.split())
    code, _, err = call(capsys, folder / "best.json", "a" * 300)
    assert (code, "cannot be read: File name too long" in " ".join(err.split())) == (2, True)


def test_several_labels_are_in_one_cell(task: DemoTask, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = f"local-dir:{write_sigmoid_demo(tmp_path / 'sigmoid', bias=-8.0)}"
    program = ClipClassifier(task.classes, model=model, multi_label=True)
    program.save(tmp_path / "several.json")
    open_image(task.testset[0].image).save(tmp_path / "a.png")
    Image.new("RGB", (40, 40)).save(tmp_path / "b.png")
    expected = [program(image=tmp_path / name).labels for name in ("a.png", "b.png")]
    assert any(len(labels) > 1 for labels in expected)
    _, out, _ = call(capsys, tmp_path / "several.json", tmp_path / "a.png", tmp_path / "b.png", "--csv")
    assert [line["label"] for line in csv.DictReader(io.StringIO(out))] == ["|".join(labels) for labels in expected]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--json", "--csv"], "--json and --csv exclude each other; pass one of them"),
        (["--out", "labels.txt"], "--out must end in .json or .csv, got 'labels.txt'; for example --out labels.csv"),
        (["--out", "nowhere/labels.csv"], "--out must be in an existing folder, got 'nowhere/labels.csv'; create"),
        (["--top-k", "0"], "--top-k"),
    ],
)
def test_wrong_options_are_reported_before_the_model_is_loaded(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(capsys, "nowhere.json", "nowhere.png", *options)
    assert code == 2
    assert message in err


def test_a_file_that_cannot_be_written_is_reported(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.csv").mkdir()
    code, _, err = call(capsys, folder / "best.json", folder / "00.png", "--out", tmp_path / "labels.csv")
    assert code == 2
    assert "labels.csv' cannot be written" in err

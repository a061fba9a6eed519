"""`ipo-dspy calibrate`: from a saved program and folders to a calibrated program and its report."""

import json
import re
import shutil
from pathlib import Path

import pytest

from ipo_dspy import ClipClassifier, demo
from ipo_dspy.cli import main
from ipo_dspy.clip.bundled import DEMO_VIT
from ipo_dspy.clip.image_features import encode_images
from ipo_dspy.data import load_image_folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images of each of six base classes in `known`, of three novel ones in `other`, and `program.json`."""
    folder = tmp_path_factory.mktemp("calibrate")
    demo.export("pixel-animals", folder / "all")
    base, novel = (demo.load("pixel-animals", shots=1, classes=half).classes for half in ("base", "novel"))
    for name, classes in (("known", base[:6]), ("other", novel[:3])):
        for label in classes:
            (folder / name / label).mkdir(parents=True)
            for file in sorted((folder / "all" / label).iterdir())[:10]:
                shutil.copy(file, folder / name / label / file.name)
    ClipClassifier(base[:6], model=DEMO_VIT, template="pixel art of a <CLASS>.").save(folder / "program.json")
    return folder


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        main(list(arguments))
    return exit.value.code, *capsys.readouterr()


def test_program_and_report_are_written(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(
        capsys, "calibrate", str(folders / "program.json"), str(folders / "known"), "--unknown", str(folders / "other"),
        "--unknown-label", "other", "--report", str(tmp_path / "report"),
    )  # fmt: skip
    assert code == 0
    for name in (
        "accuracy %",
        "calibration error",
        "calibration error by chance",
        "unknown answered % if 95 % of the others are",
        "before and after, on images that the fit did not see",
        "AUROC of unknown",
        "temperature",
        "answers 'other' if the in-distribution score is below",
    ):
        assert name in out
    assert f"program  {folders / 'calibrated.json'}" in err
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 2
    assert "Calibration error by chance" in page
    assert "default-src 'none'" in page
    assert "http" not in page.replace("http-equiv", "")
    image = next((folders / "other").rglob("*.webp"))
    calibrated = str(folders / "calibrated.json")
    assert "a threshold is not applied" in call(capsys, "evaluate", calibrated, str(folders / "known"))[2]
    assert (
        "class weights and threshold are not applied" in call(capsys, "explain", calibrated, str(folders / "known"))[2]
    )
    code, out, _ = call(capsys, "classify", calibrated, str(folders / "other"), "--json")
    labels = [row["label"] for row in json.loads(out)]
    assert labels.count("other") > len(labels) / 2
    assert ClipClassifier.from_file(folders / "calibrated.json")(image=str(image)).scores


def test_images_that_chose_the_template_are_shown(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    program, images = ClipClassifier.from_file(folders / "program.json"), load_image_folder(folders / "known")
    program.note_choice(encode_images(program.backbone, [example.image for example in images]).keys)
    program.save(tmp_path / "best.json")
    best, known, page = str(tmp_path / "best.json"), str(folders / "known"), tmp_path / "page.html"
    code, out, _ = call(capsys, "calibrate", best, known, "--report", str(page))
    assert code == 0
    assert re.search(r"images used to choose the template\W+100 %", out)
    assert "of the images were used to choose the template" in page.read_text()
    assert json.loads(call(capsys, "calibrate", best, known, "--json")[1])["chose_template"] == 100
    caplog.clear()
    assert call(capsys, "evaluate", best, known)[0] == 0
    assert "100 % of the images were used to choose the template" in caplog.text


def test_a_loss_that_rises_on_few_images_without_an_error_is_explained(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program, known, page = str(folders / "program.json"), folders / "known", tmp_path / "page.html"
    rows = json.loads(call(capsys, "classify", program, str(known), "--json")[1])
    right = [row for row in rows if Path(row["image"]).parent.name == row["label"]]
    surest = {row["label"]: row for row in sorted(right, key=lambda row: row["confidence"])}
    few = [f"{row['image']},{label}" for label, row in surest.items()]
    (tmp_path / "few.csv").write_text("\n".join(["image,label", *few]))
    out_file = ["--out", str(tmp_path / "out.json"), "--report", str(page)]
    code, _, err = call(capsys, "calibrate", program, str(tmp_path / "few.csv"), *out_file)
    assert code == 0, err
    assert f"all {len(few)} images are recognized, which does not prove that others will be" in err
    assert f"All {len(few)} images are recognized, which does not prove" in page.read_text()
    assert "are recognized" not in call(capsys, "calibrate", program, str(known), *out_file)[2]
    assert "are recognized" not in page.read_text()


def test_unknown_images_that_cannot_be_separated_are_reported(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program, known = str(folders / "program.json"), str(folders / "known")
    arguments = ["calibrate", program, known, "--unknown", known]
    arguments += ["--out", str(tmp_path / "out.json"), "--report", str(tmp_path / "page.html")]
    message = "the unknown images cannot be separated well"
    for options, is_shown in (([], True), (["--coverage", "0.4"], False)):
        code, _, err = call(capsys, *arguments, *options)
        assert (code, message in err) == (0, is_shown)
        assert (message[4:] in (tmp_path / "page.html").read_text()) == is_shown


def test_json_has_all_figures(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program, out_file = str(folders / "program.json"), tmp_path / "new" / "out.json"
    out_file.parent.mkdir()
    code, out, _ = call(
        capsys, "calibrate", program, str(folders / "known"), "--no-weights", "--coverage", "0.8", "--json",
        "--out", str(out_file),
    )  # fmt: skip
    found = json.loads(out)
    assert code == 0
    assert (found["images"], found["unknown"], found["weights"]) == (60, 0, {})
    assert found["coverage"] == pytest.approx(80)
    assert found["before"]["auroc"] is None
    assert sum(each["images"] for each in found["after"]["bins"]) == 60
    saved = json.loads(out_file.read_text())["clip"]["calibration"]
    assert saved["temperature"] == found["temperature"]


def test_unknown_images_below_the_threshold_are_shown(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program, target = str(folders / "program.json"), tmp_path / "all.json"
    code, out, _ = call(capsys, "calibrate", program, str(folders / "known"), "--threshold", "1", "--out", str(target))
    assert (code, "gives no label if the confidence is below" in out) == (0, True)
    code, out, _ = call(capsys, "classify", str(target), str(folders / "other"))
    assert code == 0
    assert out.count("(unknown)") == 31
    assert len(re.findall(r"\(unknown\)[ │|]+[a-z -]+ [01]\.\d{3}, ", out)) == 30  # no confidence of its own
    assert out.endswith("\n30 images: (unknown) 30\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--coverage", "0.9", "--precision", "0.9"],
            r"--precision must be left out, got 0\.9; --coverage 0\.9 already sets the threshold",
        ),
        (["--unknown-label", "bear"], "--unknown-label must not be one of the classes, got 'bear'"),
        (["--unknown", "nowhere"], "--unknown must be an existing folder, got 'nowhere'; pass a folder of images"),
        (["--no-weights", "--min-recall", "bat=0.5"], "--min-recall needs class weights, .*; remove --no-weights\n"),
        (["--out", "result.txt"], r"must end in \.json, got 'result\.txt'"),
    ],
)
def test_unusable_options(options: list[str], message: str, folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "calibrate", str(folders / "program.json"), str(folders / "known"), *options)
    assert code == 2
    assert re.search(message, err)


def test_images_of_other_classes_are_named(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "calibrate", str(folders / "program.json"), str(folders / "all"))
    assert code == 2
    assert "all has images of 44 classes that the program does not have" in err
    assert "pass it as --unknown" in err


def test_names_are_escaped_in_the_report(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "<script>alert(1)</script>"
    classes = sorted(folder.name for folder in (folders / "known").iterdir())
    data = tmp_path / "data.csv"
    rows = [f"{file},{file.parent.name}" for file in sorted((folders / "known").rglob("*.webp"))]
    data.write_text("\n".join(["image,label", *rows]).replace(f",{classes[0]}", f",{name}"))
    labels = {name: classes[0], **{label: label for label in classes[1:]}}
    ClipClassifier(labels, model=DEMO_VIT, template="<b>x</b> of a <CLASS>.").save(tmp_path / "program.json")
    code, _, err = call(
        capsys, "calibrate", str(tmp_path / "program.json"), str(data), "--report", str(tmp_path / "page.html"),
        "--threshold", "0.1", "--unknown-label", "<i>o</i>",
    )  # fmt: skip
    assert code == 0, err
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert "<b>x" not in page
    assert "<i>o" not in page
    assert "&lt;i&gt;o" in page


def test_costs_and_floors_are_options(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program, known = str(folders / "program.json"), str(folders / "known")
    first, second = ClipClassifier.from_file(program).classes[:2]  # type: ignore[index]
    (tmp_path / "costs.csv").write_text(f"true,predicted,cost\n{first},{second},5\n")
    code, out, _ = call(
        capsys, "calibrate", program, known, "--costs", str(tmp_path / "costs.csv"), "--min-recall", f"{second}=0.5",
        "--out", str(tmp_path / "c.json"), "--report", str(tmp_path / "c.html"),
    )  # fmt: skip
    assert code == 0
    assert "mean cost" in out
    assert f"recall of {second} %" in out
    page = (tmp_path / "c.html").read_text()
    assert "Mean cost" in page
    assert f"Recall of {second}" in page
    code, _, err = call(capsys, "calibrate", program, known, "--min-recall", "unicorn=0.5")
    assert code == 2
    assert "--min-recall" in err
    assert "unicorn" in err

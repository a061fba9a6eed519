"""Suspicious labels of a bundled task: from Python, on the command line, and as a page."""

import json
import re
from pathlib import Path

import pytest

from ipo_dspy import ClipClassifier, demo
from ipo_dspy.analysis.label_check import check_labels
from ipo_dspy.cli import main
from ipo_dspy.report import write_label_report

GOOD = "pixel art of a <CLASS>."


def test_planted_labels_come_first() -> None:
    task = demo.load("pixel-animals", shots=16)
    program = ClipClassifier(task.classes, template=GOOD, model="demo-vit")
    wrong = dict(zip(range(3, len(task.trainset), 20), reversed(task.classes), strict=False))
    examples = [one.copy(label=wrong.get(i, one.label)) for i, one in enumerate(task.trainset)]
    found = check_labels(program, examples)
    changed = {i for i, label in wrong.items() if label != task.trainset[i].label}
    listed = [one.index for one in found.suspicious]
    assert found.images == len(task.trainset)
    assert len(changed & set(listed)) >= 0.6 * len(changed)
    assert len(changed & set(listed[: len(changed)])) >= 0.6 * len(changed)
    for one in found.suspicious:
        prediction = program(image=examples[one.index].image)
        assert one.label == examples[one.index].label != prediction.label
        assert one.source.endswith(f"#{examples[one.index].source.rpartition('#')[2]}")
        assert one.probability <= prediction.confidence + 1e-6


def test_the_temperature_applies_and_the_class_weights_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    task = demo.load("pixel-animals", classes="all", model="demo-vit")
    task.program.template = GOOD
    calibrated = task.program.calibrate(task.trainset, weights=False)
    assert calibrated.calibration is not None
    found = check_labels(calibrated, task.trainset)
    assert calibrated.calibration.temperature != 1
    for one in found.suspicious[:10]:
        scores = calibrated(image=task.trainset[one.index].image).probabilities
        assert (one.probability, one.suggested_probability) == pytest.approx(
            (scores[one.label], scores[one.suggested]), abs=1e-5
        )
    assert found != check_labels(task.program, task.trainset)
    calibrated.fields["label"] = {"weights": {task.classes[0]: 50.0}}
    assert check_labels(calibrated, task.trainset) == found
    calibrated.save("calibrated.json")
    with pytest.raises(SystemExit) as ended:
        main(["explain", "calibrated.json", "pixel-animals", "--labels", "--json"])
    assert ended.value.code == 0
    out, err = capsys.readouterr()
    listed = json.loads(out)["suspicious"]
    assert "its class weights and threshold are not applied here" in err
    assert [one["probability"] for one in listed] == pytest.approx([one.probability for one in found.suspicious])


@pytest.mark.end_to_end
def test_the_command_lists_them_with_thumbnails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    template = ["explain", "pixel-animals", "--template", GOOD, "--model", "demo", "--labels"]
    with pytest.raises(SystemExit) as ended:
        main([*template, "--json", "--report", "pages/labels"])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["template"], found["images"]) == (GOOD, 800)
    with pytest.raises(SystemExit):
        main(template)
    shown = capsys.readouterr().out
    assert len(re.findall(r"0\.\d{3} .* 0\.\d{3}", shown)) == 20 < len(found["suspicious"])
    assert f"{len(found['suspicious'])} of 800 labels suspicious; 20 are shown" in shown
    assert "many are the program's own mistakes" in shown
    assert re.search(r"of label .* of that", shown)
    page = Path("pages/labels.html").read_text()
    assert page.count("<img ") == page.count("data:image") == len(found["suspicious"]) > 10
    assert "://" not in page
    for option in (["--base-novel"], ["--plot", "plot"]):
        with pytest.raises(SystemExit) as ended:
            main([*template, *option])
        assert ended.value.code == 2
        assert f"{option[0]} must be left out with --labels" in capsys.readouterr().err


def test_the_page_takes_names_as_text(tmp_path: Path) -> None:
    one = {"source": "/nowhere/<b>x</b>.jpg", "label": "<i>", "suggested": "<script>alert(1)</script>"}
    values = {"index": 0, "probability": 0.1, "suggested_probability": 0.8}
    checked = {"template": "a <CLASS>.", "images": 3, "suspicious": [{**one, **values}]}
    page = write_label_report(checked, tmp_path / "labels.html").read_text()
    assert "<script" not in page
    assert "<i>" not in page
    assert "<b>x" not in page
    assert "image not available" in page
    empty = write_label_report({**checked, "suspicious": []}, tmp_path / "empty.html").read_text()
    assert "None." in empty

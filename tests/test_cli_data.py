"""`ipo-dspy data`: the known sets, and the check of copies that are whole, broken or missing."""

import json
from pathlib import Path

import pytest

from helpers.data_trees import plant, plant_dtd
from ipo_dspy.cli import main
from ipo_dspy.data import BENCHMARKS


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["data", *arguments])
    out, err = capsys.readouterr()
    assert ended.value.code == code, err
    return err if code == 2 else out


def test_list(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = said(capsys, "list")
    assert all(name in shown and one.title in shown for name, one in BENCHMARKS.items())
    report = json.loads(said(capsys, "list", "--json"))
    assert [one["name"] for one in report] == list(BENCHMARKS)
    assert report[8]["lists"] == ["split_zhou_DescribableTextures.json"]
    assert all(one["image_origin"] for one in report)


def test_check_of_a_complete_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant_dtd(tmp_path, {f"texture_{at}": 2 for at in range(47)})
    shown = said(capsys, "check", "DTD", str(tmp_path)).splitlines()
    assert shown[0] == f"DTD in {tmp_path}/dtd"
    assert "  ok  classes: 47, as published" in shown
    assert "  ok  images: 94 train, 47 val, 141 test" in shown
    assert shown[-1] == "complete"


def test_check_of_a_set_that_lacks_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant_dtd(tmp_path, {f"texture_{at}": 2 for at in range(47)}, missing=["texture_3/0000.jpg"])
    shown = said(capsys, "check", "dtd", str(tmp_path), code=1)
    assert f"1 missing or empty in {tmp_path}/dtd/images: texture_3/0000.jpg; from www.robots" in shown
    assert shown.endswith("incomplete: 1 check failed\n")
    report = json.loads(said(capsys, "check", "dtd", str(tmp_path), "--json", code=1))
    assert (report["ok"], report["name"], report["folder"]) == (False, "dtd", str(tmp_path / "dtd"))
    assert [one["ok"] for one in report["findings"]] == [True, True, True, False]


def test_check_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = said(capsys, "check", "oxford_pets", str(tmp_path), code=1)
    assert f"--  {tmp_path}/oxford_pets/split_zhou_OxfordPets.json: missing; from DATASETS.md of github.com" in shown
    assert f"--  {tmp_path}/oxford_pets/images: missing; from www.robots.ox.ac.uk" in shown


def test_input_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = said(capsys, "check", "food", str(tmp_path), code=2)
    assert report.startswith("ipo-dspy: unknown data set 'food'; pass 'food101' or another of imagenet, ")
    plant(tmp_path, "file")
    report = said(capsys, "check", "dtd", str(tmp_path / "file"), code=2)
    assert report.startswith(f"ipo-dspy: folder {tmp_path}/file does not exist ")

"""`ipo-dspy cache`: it lists the cached features and removes only those that it is asked to."""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ipo_dspy.cli import main
from ipo_dspy.clip import feature_store as module
from ipo_dspy.clip.feature_store import FeatureStore
from ipo_dspy.clip.lmdb_segments import CacheNamespace, data_file

SMALL = CacheNamespace("1111", "float32, cpu", "reading 1", "ViT-B-32 openai")
LARGE = CacheNamespace("2222", "float16, cuda", "reading 1", "local-dir:/models/large")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A store with 3 images of one model and 200 of another, which no process has open."""
    monkeypatch.setenv("IPO_DSPY_CACHE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "140")
    store = FeatureStore(tmp_path / "image-features", 1 << 30)
    store.put(SMALL, {f"{i:064x}": np.ones(512, np.float32) for i in range(3)})
    store.put(LARGE, {f"{i:064x}": np.ones(768, np.float32) for i in range(200)})
    store._close()
    yield store.folder
    for one in module._STORES:
        one._close()


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    """Return the output of a command, from stderr if it fails."""
    for one in module._STORES:
        one._close()  # as a process of its own would begin
    with pytest.raises(SystemExit) as ended:
        main(["cache", *arguments])
    assert ended.value.code == code
    out, err = capsys.readouterr()
    return err if code else out


def images(capsys: pytest.CaptureFixture[str]) -> dict[str, int]:
    return {model["name"]: model["images"] for model in json.loads(said(capsys, "info", "--json"))["models"]}


def test_info(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    shown = said(capsys, "info")
    assert f"{folder}: " in shown
    assert "of at most 10 GB" in shown
    assert any("ViT-B-32 openai" in line and "1111" in line and " 3 " in line for line in shown.splitlines())
    report = json.loads(said(capsys, "info", "--json"))
    assert (report["folder"], report["limit"]) == (str(folder), 10_000_000_000)
    assert 200 * 768 * 4 < report["bytes"] < 2_000_000
    assert report["models"][0].keys() >= {"name", "fingerprint", "arithmetic", "software", "images", "bytes", "used"}
    monkeypatch.setenv("IPO_DSPY_CACHE", str(folder.parent / "new"))
    assert said(capsys, "info").endswith("0 B of at most 10 GB; no image has been encoded yet\n")
    assert not (folder.parent / "new").exists()


def test_clear_of_one_model_by_name_or_fingerprint(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"removed 200 images of 2222 from {folder}: " in said(capsys, "clear", "--model", "2222", "--yes")
    assert images(capsys) == {SMALL.name: 3}
    assert "removed 3 images" in said(capsys, "clear", "--model", SMALL.name, "--yes")
    assert images(capsys) == {}
    report = said(capsys, "clear", "--model", "else", "--yes", code=2)
    assert report == "ipo-dspy: no cached features for model 'else'; cached models: none\n"


def test_clear_of_everything_also_where_it_is_damaged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data_file(folder).write_bytes(b"x" * 10_000)
    assert "is damaged or not a cache" in said(capsys, "info", code=1)
    assert f"removed everything in {folder}: " in said(capsys, "clear", "--yes")
    assert not folder.exists()
    assert images(capsys) == {}


def test_nothing_is_removed_unasked(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert said(capsys, "clear", code=2) == f"ipo-dspy: this would remove everything in {folder}; add --yes\n"
    assert images(capsys) == {SMALL.name: 3, LARGE.name: 200}


def test_while_it_is_off(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPO_DSPY_CACHE", "off")
    assert said(capsys, "info") == "the image-feature cache is off: IPO_DSPY_CACHE is off\n"
    assert images(capsys) == {}
    assert "the image-feature cache is off; set IPO_DSPY_CACHE=" in said(capsys, "clear", "--yes", code=2)

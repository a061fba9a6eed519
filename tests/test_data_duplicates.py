"""Copies of a picture under other names: found by content, and only files of equal size are read."""

import base64
from pathlib import Path
from typing import Any

import dspy
import pytest

from ipo_dspy.data import duplicates as copies
from ipo_dspy.data.dataset import example
from ipo_dspy.data.duplicates import Copy, find_copies


def planted(folder: Path, **contents: bytes) -> list[dspy.Example]:
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [example(str(folder / name), "cat") for name in contents]


def test_equal_bytes_are_copies_whatever_their_names(tmp_path: Path) -> None:
    train = planted(tmp_path, a=b"one picture", b=b"another one", c=b"a third picture")
    test = planted(tmp_path, d=b"another one", e=b"other bytes", f=b"", g=b"one picture")
    d, a, b = (str(tmp_path / name) for name in "dab")
    assert find_copies(test, train) == [Copy(d, b), Copy(str(tmp_path / "g"), a)]
    assert find_copies(planted(tmp_path, f=b""), planted(tmp_path, h=b"")) == []


def test_only_files_of_equal_size_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = planted(tmp_path, a=b"1", b=b"22", c=b"333")
    test = planted(tmp_path, d=b"4444", e=b"55", f=b"66666")
    read: list[str] = []

    def identify(image: Any) -> Any:
        read.append(Path(image).name)
        return (Path(image).read_text(),)

    monkeypatch.setattr(copies, "identify", identify)
    assert find_copies(test, train) == []
    assert sorted(read) == ["b", "e"]


@pytest.mark.parametrize("content", [b"abc", b"abcd", b"abcde"])
def test_pictures_in_tables_and_in_files_are_compared(tmp_path: Path, content: bytes) -> None:
    uri = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    held = [example(dspy.Image(uri), "cat", "t.parquet#0")]
    assert find_copies(held, planted(tmp_path, a=content)) == [Copy("t.parquet#0", str(tmp_path / "a"))]


def test_an_unreadable_file_is_not_a_copy(tmp_path: Path) -> None:
    gone = [example(str(tmp_path / "gone"), "cat"), example("\0", "cat")]
    assert find_copies(gone, gone) == []

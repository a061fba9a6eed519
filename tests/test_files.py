"""A file is written whole or not at all."""

from pathlib import Path

import pytest

from ipo_dspy.files import write_whole
from ipo_dspy.threads import in_threads


def test_the_new_content_replaces_the_old(tmp_path: Path) -> None:
    for content in (b"old and longer", b"new"):
        write_whole(tmp_path / "a.json", content)
        assert (tmp_path / "a.json").read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_threads_may_write_one_file_at_a_time(tmp_path: Path) -> None:
    contents = [bytes([i]) * 1000 for i in range(40)]
    in_threads(lambda content: write_whole(tmp_path / "a.json", content), contents, num_threads=8)
    assert (tmp_path / "a.json").read_bytes() in contents
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_where_it_cannot_be_written_the_old_stays_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()  # a file cannot take the place of a folder
    (tmp_path / "a.json" / "old").touch()
    with pytest.raises(OSError, match=r"a\.json"):
        write_whole(tmp_path / "a.json", b"new")
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json" / "old").exists()

"""A file is written whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from ipo_dspy._internal.file_io import atomic_write, open_regular, read_regular
from ipo_dspy._internal.threads import in_threads


def test_the_new_content_replaces_the_old(tmp_path: Path) -> None:
    for content in (b"old and longer", b"new"):
        atomic_write(tmp_path / "a.json", content)
        assert (tmp_path / "a.json").read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_threads_may_write_one_file_at_a_time(tmp_path: Path) -> None:
    contents = [bytes([i]) * 1000 for i in range(40)]
    in_threads(lambda content: atomic_write(tmp_path / "a.json", content), contents, num_threads=8)
    assert (tmp_path / "a.json").read_bytes() in contents
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_where_it_cannot_be_written_the_old_stays_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()  # a file cannot take the place of a folder
    (tmp_path / "a.json" / "old").touch()
    with pytest.raises(OSError, match=r"a\.json"):
        atomic_write(tmp_path / "a.json", b"new")
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json" / "old").exists()


def test_ctrl_c_leaves_nothing_behind_and_names_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bool] = []

    def note(descriptor: int) -> None:
        synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))

    def interrupt(_descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "a.json", b"new")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("os.fsync", note)
    atomic_write(tmp_path / "a.json", b"new")
    assert synced == [False, True]  # the file, then its folder


def test_a_regular_file_is_read_within_its_limit(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"12345")
    (tmp_path / "link").symlink_to(file)
    assert read_regular(tmp_path / "link", limit=5) == b"12345"
    with pytest.raises(OSError, match="it has 5 bytes, more than the 4 that are read"):
        read_regular(file, limit=4)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_anything_but_a_regular_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    place = Path("/dev/zero") if kind == "device" else tmp_path / "x"
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(place)


def test_a_sparse_file_of_any_size_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(40 << 30)
    with pytest.raises(OSError, match="more than the 1,024 that are read"):
        read_regular(tmp_path / "sparse", limit=1024)

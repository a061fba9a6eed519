"""A file that one process at a time appends to: nothing that was appended is lost, whatever happens to its name."""

import os
import shutil
from pathlib import Path

import pytest

from ipo_dspy._internal.append_only import AppendOnlyFile, FileInUseError, FileReplacedError, is_locked


def opened(path: Path) -> AppendOnlyFile:
    return AppendOnlyFile(path, limit=1000)


def test_what_was_there_is_kept_and_added_to(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for line in (b"one\n", b"two\n"):
        file = opened(path)
        file.append(line)
        file.close()
    assert path.read_bytes() == b"one\ntwo\n"


@pytest.mark.parametrize("last", ["append", "close"])
@pytest.mark.parametrize("damage", ["removed", "emptied", "shortened", "folder removed"])
def test_a_file_that_is_removed_is_written_again(tmp_path: Path, damage: str, last: str) -> None:
    path = tmp_path / "run" / "a"
    path.parent.mkdir()
    file = opened(path)
    file.append(b"one\n")
    if damage == "removed":
        path.unlink()
    elif damage == "folder removed":
        shutil.rmtree(path.parent)
    else:
        os.truncate(path, 0 if damage == "emptied" else 2)
    if last == "append":
        file.append(b"two\n")
        assert is_locked(path)
    file.close()
    assert path.read_bytes() == b"one\n" + (b"two\n" if last == "append" else b"")


def test_two_never_write_one_file_and_what_the_first_has_is_saved(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    first = opened(path)
    first.append(b"one\n")
    assert is_locked(path)
    with pytest.raises(FileInUseError):
        opened(path)
    path.unlink()
    second = opened(path)
    second.append(b"other\n")
    for line in (b"two\n", b"three\n"):
        with pytest.raises(FileReplacedError, match=r"replaced by another file; what it held is in 'a-\w{8}.jsonl'"):
            first.append(line)
    first.close()
    second.close()
    assert path.read_bytes() == b"other\n"
    (rescued,) = (one for one in tmp_path.iterdir() if one != path)
    assert rescued.read_bytes() == b"one\ntwo\nthree\n"
    assert not is_locked(path)


def test_half_a_line_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_descriptor: int) -> None:
        raise KeyboardInterrupt

    file = opened(tmp_path / "a")
    file.append(b"one\n")
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            file.append(b"half")
    file.append(b"two\n")
    file.close()
    assert (tmp_path / "a").read_bytes() == b"one\ntwo\n"


def test_it_is_a_regular_file_of_a_moderate_size(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="it is a named pipe, not a regular file"):
        opened(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(bytes(1001))
    with pytest.raises(OSError, match="more than the 1,000 that are read"):
        opened(tmp_path / "large")
    (tmp_path / "empty").touch()
    opened(tmp_path / "empty").close(remove_empty=True)
    assert not (tmp_path / "empty").exists()

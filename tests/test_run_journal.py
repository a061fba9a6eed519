"""The journal: whatever happens to the process or the disk, what was appended can be read again."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipo_dspy.errors import JournalError
from ipo_dspy.run.journal import FILE_NAME, Journal, replay, tail

text = st.text(max_size=20)


def fault(message: str, step: int = 1) -> dict[str, Any]:
    return {"event": "error", "predictor": "self", "step": step, "message": message}


def write(folder: Path, messages: list[str]) -> bytes:
    with Journal(folder) as journal:
        for message in messages:
            journal.append(fault(message))
    return (folder / FILE_NAME).read_bytes()


def test_events_come_back_whatever_their_text(tmp_path: Path) -> None:
    messages = ["caf\u00e9 \u4e2d \U0001f600", 'quotes " and \\ and \n and \r \u2028', "half a pair \ud83d!", ""]
    write(tmp_path, messages)
    assert replay(tmp_path) == replay(tmp_path / FILE_NAME) == [fault(message) for message in messages]


def test_cut_at_any_byte_replays_a_prefix(tmp_path: Path) -> None:
    messages = ["", "\u00f6\n\U0001f600"]
    whole = write(tmp_path, messages)
    events = [fault(message) for message in messages]
    for cut in range(len(whole) + 1):
        (tmp_path / FILE_NAME).write_bytes(whole[:cut])
        assert replay(tmp_path) == events[: whole[:cut].count(b"\n")]


def test_a_journal_cut_at_any_byte_is_continued_cleanly(tmp_path: Path) -> None:
    whole = write(tmp_path, ["", "2"])
    for cut in range(len(whole) + 1):
        (tmp_path / FILE_NAME).write_bytes(whole[:cut])
        with Journal(tmp_path) as journal:
            journal.append(fault("three"))
        assert replay(tmp_path) == [*map(fault, ["", "2"][: whole[:cut].count(b"\n")]), fault("three")]


@given(st.binary(max_size=30))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, damage: bytes) -> None:
    folder = tmp_path_factory.mktemp("run")
    (folder / FILE_NAME).write_bytes(damage)
    if b"\n" in damage:
        with pytest.raises(JournalError, match="line 1"):
            replay(folder)
    else:
        assert replay(folder) == []


@pytest.mark.parametrize("middle", [b'{"event": "err', b"[]", b'{"event": 5}', b"\xff\xfe", b""])
def test_damage_in_the_middle_names_the_line(tmp_path: Path, middle: bytes) -> None:
    first, second = write(tmp_path, ["one", "two"]).splitlines(keepends=True)
    (tmp_path / FILE_NAME).write_bytes(first + middle + b"\n" + second)
    with pytest.raises(JournalError, match=r"journal.jsonl' is damaged in line 2; restore it from a backup or start"):
        replay(tmp_path)


def test_a_missing_field_names_line_and_field(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text('{"event": "error", "predictor": "self", "step": 1}\n')
    with pytest.raises(JournalError, match=r"line 1: event 'error' lacks \['message'\]"):
        replay(tmp_path)
    with Journal(tmp_path / "new") as journal, pytest.raises(TypeError, match=r"event 'error' lacks \['message'\]"):
        journal.append({"event": "error", "predictor": "self", "step": 1})


def test_what_is_there_is_read_and_added_to(tmp_path: Path) -> None:
    write(tmp_path, ["one"])
    with Journal(tmp_path) as journal:
        assert journal.past == [fault("one")]
        journal.append(*map(fault, ("two", "three")))
    assert replay(tmp_path) == [*map(fault, ["one", "two", "three"])]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with Journal(tmp_path / "run"):
        code = "import sys; from ipo_dspy.run.journal import Journal; Journal(sys.argv[1])"
        done = subprocess.run([sys.executable, "-c", code, tmp_path / "run"], capture_output=True, text=True)
        assert done.returncode == 1
        assert "is being written by another process; wait until it is done, or use another folder" in done.stderr
    with Journal(tmp_path / "run"):
        pass


def test_a_process_that_is_killed_frees_the_folder(tmp_path: Path) -> None:
    code = "import os, sys; from ipo_dspy.run.journal import Journal; Journal(sys.argv[1]); os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "run"])
    assert done.returncode == -9
    with Journal(tmp_path / "run") as journal:
        assert journal.past == []


def test_a_resumed_run_has_not_ended(tmp_path: Path) -> None:
    end = {"status": "interrupted", "seconds": 1.0, "calls": 1, "tokens": 1}
    with Journal(tmp_path) as journal:
        journal.append(fault("one"))
        journal.append({"event": "run_finished", **end})
        journal.append({"event": "run_resumed", "started": "now", "changed": {}, "versions": {}})
        journal.append({"event": "run_finished", **{**end, "status": "finished"}})
    assert [e.get("status") for e in replay(tmp_path)] == [None, None, "finished"]


def test_damage_is_reported_when_a_run_is_resumed_and_the_folder_is_free_again(tmp_path: Path) -> None:
    write(tmp_path, ["one"])
    (tmp_path / FILE_NAME).write_bytes(b"[]\n" + (tmp_path / FILE_NAME).read_bytes())
    for _ in range(2):
        with pytest.raises(JournalError, match="damaged in line 1"):
            Journal(tmp_path)


@pytest.mark.parametrize("use", [Journal, replay, lambda folder: next(tail(folder))])
def test_anything_but_a_regular_file_is_refused_at_once(tmp_path: Path, use: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / FILE_NAME)
    with pytest.raises(JournalError, match="it is a named pipe, not a regular file"):
        use(tmp_path)


TRIAL = {
    "event": "trial",
    "predictor": "self",
    "index": 0,
    "step": 0,
    "template": "a <CLASS>.",
    "tokens": 5,
    "key": "k",
}


@pytest.mark.parametrize("use", [Journal, replay, lambda folder: next(tail(folder))])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (json.dumps({**TRIAL, "accuracy": "high", "loss": 1.0}), "has 'high' as 'accuracy', not a finite number"),
        (json.dumps({**TRIAL, "accuracy": 1.0, "loss": None}), "has None as 'loss', not a finite number"),
        (json.dumps({**TRIAL, "accuracy": 1.0, "loss": float("nan")}), "has nan as 'loss', not a finite number"),
        (json.dumps({**TRIAL, "accuracy": 1.0, "loss": 1.0, "key": ["k"]}), r"has \['k'\] as 'key', not a text"),
        (json.dumps({**TRIAL, "event": ["trial"]}), "is damaged in line 1"),
        ("[" * 100_000, "is damaged in line 1"),
        ('{"event": "error", "more": ' + "[" * 900 + "]" * 900 + "}", "is damaged in line 1"),
    ],
)
def test_fields_of_other_types_are_one_line(
    tmp_path: Path, line: str, message: str, use: Callable[[Path], object]
) -> None:
    (tmp_path / FILE_NAME).write_text(line + "\n")
    with pytest.raises(JournalError, match=message):
        use(tmp_path)


def test_another_encoding_is_damage(tmp_path: Path) -> None:
    content = write(tmp_path, ["one"])
    (tmp_path / FILE_NAME).write_bytes(content.decode().encode("utf-16"))
    with pytest.raises(JournalError, match="is damaged in line 1"):
        replay(tmp_path)


@pytest.mark.parametrize("damage", ["removed", "emptied"])
def test_a_file_that_is_removed_is_written_again(tmp_path: Path, damage: str) -> None:
    with Journal(tmp_path) as journal:
        journal.append(fault("one"))
        if damage == "removed":
            journal.path.unlink()
        else:
            os.truncate(journal.path, 0)
        journal.append(fault("two"))
    assert replay(tmp_path) == [fault("one"), fault("two")]


def test_a_journal_that_another_run_has_replaced_is_saved_next_to_it(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    first.append(fault("paid for"))
    first.path.unlink()
    write(tmp_path, ["other"])
    with pytest.raises(
        JournalError, match=r"replaced by another file; what it held is in 'journal-\w+.jsonl'; to resume"
    ):
        first.append(fault("paid for, too"))
    first.close()
    assert replay(tmp_path) == [fault("other")]
    (rescued,) = (path for path in tmp_path.iterdir() if path.name != FILE_NAME)
    assert replay(rescued) == [fault("paid for"), fault("paid for, too")]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(JournalError, match=r"file/run' cannot be written \(.*\); free space or use a writable folder"):
        Journal(tmp_path / "file" / "run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(JournalError, match=r"cannot be written \(Permission denied\)"):
        Journal(tmp_path / "run")


def test_no_journal_there(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=r"no journal at .*; pass the folder of the run"):
        replay(tmp_path)


def test_a_journal_to_which_nothing_was_added_leaves_nothing(tmp_path: Path) -> None:
    Journal(tmp_path / "run").close()
    assert list(tmp_path.iterdir()) == []


FULL = """
import resource, signal, sys
from ipo_dspy.errors import JournalError
from ipo_dspy.run.journal import Journal

def fault(message):
    return {"event": "error", "predictor": "self", "step": 1, "message": message}

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Journal(sys.argv[1]) as journal:
    journal.append(fault("small"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY))
    try:
        journal.append(fault("x" * 1000))
    except JournalError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    journal.append(fault("after"))
"""


def test_a_full_disk_loses_only_the_line_being_written(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, check=True)
    assert "cannot be written (File too large); the journal is intact, and the run can be resumed" in done.stdout
    assert replay(tmp_path) == [fault("small"), fault("after")]


def test_an_event_of_a_newer_version_is_not_called_damage(tmp_path: Path) -> None:
    write(tmp_path, ["one"])
    with (tmp_path / FILE_NAME).open("ab") as file:
        file.write(b'{"event": "merge", "predictor": "self"}\n')
    with pytest.raises(
        JournalError, match=r"line 2: event 'merge' was written by a newer version of ipo_dspy; upgrade"
    ):
        replay(tmp_path)


def test_threads_write_whole_lines(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: journal.append(fault("x" * i, i)), range(200)))
    assert sorted(event["step"] for event in replay(tmp_path) if event["event"] == "error") == list(range(200))


def test_a_beginning_that_came_to_nothing_is_left_out(tmp_path: Path) -> None:
    begun = {"schema": 2, "started": "now", "settings": {}, "versions": {}}
    with Journal(tmp_path) as journal:
        journal.append({"event": "run_started", "seed": 1, **begun})
        journal.append({"event": "run_started", "seed": 2, **begun})
    assert [event["seed"] for event in replay(tmp_path) if event["event"] == "run_started"] == [2]


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("best.json", b'{"signature": {}, "clip": {}}', "a saved program"),
        ("report.html", b"<!doctype html>", "an HTML page"),
        ("cat.png", b"\x89PNG\r\n\x1a\n", "an image"),
        ("data.csv", b"image,label\n", "a table"),
        ("bench.json", b'{"settings": 1}', "a file of another kind"),
        ("rows.jsonl", b'{"method": "ipo"}\n', "a file of another kind"),
    ],
)
def test_a_file_of_another_kind_says_which_and_names_the_run(
    tmp_path: Path, name: str, content: bytes, kind: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(JournalError, match=rf"{name}' is {kind}, not a run; pass the folder of the run"):
        replay(tmp_path / name)
    with Journal(tmp_path) as journal:
        journal.append(fault("x"))
    with pytest.raises(JournalError, match=rf"is {kind}, not a run; pass the run's folder: '{tmp_path}'"):
        replay(tmp_path / name)
    copy = (tmp_path / "journal.jsonl").rename(tmp_path / "copy.txt")
    assert len(replay(copy)) == 1

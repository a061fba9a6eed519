"""The journal of a run: one JSON object per line, each on disk before the run continues.

A run folder holds `journal.jsonl`. Every computed or billed result is a line in it, so a crash, a kill or a full disk
loses at most the line that is being written. `events` defines the kinds of lines and their fields. One process at a
time writes it, holding a lock on the file itself, which the operating system releases when the process dies.
"""

import contextlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

from ipo_dspy._internal.append_only import AppendOnlyFile, FileInUseError, FileReplacedError, complete_lines, is_locked
from ipo_dspy._internal.file_io import open_regular, read_regular
from ipo_dspy._internal.file_kinds import JOURNAL, JOURNAL_FILE, described
from ipo_dspy._internal.json_input import parse_json
from ipo_dspy.errors import JournalError, PathError
from ipo_dspy.run.events import OUTCOME_KINDS, PERSISTED, Event, misfits
from ipo_dspy.run.journal_schema import upgrade

FILE_NAME = JOURNAL_FILE
MAX_BYTES = 1 << 30
"""Maximum size of a journal that is read; a run of thousands of steps writes a few megabytes."""
PATIENCE = 1.0
"""Seconds to wait for the lock: `ipo-dspy watch` holds it briefly to check whether the run is alive."""


class Journal:
    """Appends events to `folder/journal.jsonl`, each flushed and synced before `append` returns.

    An existing journal is continued: a partial last line is truncated, so that new events start on a new line,
    and its events are in `past`. A journal that is emptied or removed while it is open is written again.

    Attributes:
        past: events of the folder at the time of opening.

    Raises:
        JournalError: the folder cannot be created or written, another process writes it, or its journal is corrupt.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.path = self.folder / FILE_NAME
        self._writing = threading.Lock()
        with contextlib.ExitStack() as undo:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._file = AppendOnlyFile(self.path, limit=MAX_BYTES, patience=PATIENCE)
                undo.callback(self._leave)
                self._file.drop_torn_line()
                content = self._file.content
            except FileInUseError as error:
                raise JournalError(
                    f"log_dir {str(self.folder)!r} is being written by another process; wait until it is done, or use "
                    f"another folder, e.g. '{self.folder}-2'"
                ) from error
            except OSError as error:
                raise self._unwritable(error) from error
            self.past = _read(self.path, content)
            undo.pop_all()

    def append(self, *events: Mapping[str, object]) -> None:
        """Write events with one sync; they are on disk when this returns. A killed process leaves a prefix of them.

        Raises:
            JournalError: the disk is full or gone; earlier events stay readable.
        """
        lines = [_line(event) for event in events]
        if not lines:
            return
        with self._writing:
            try:
                self._file.append(b"".join(lines))
            except OSError as error:
                raise self._unwritable(error, "; the journal is intact, and the run can be resumed from it") from error

    def close(self) -> None:
        """Close the file; appending afterwards is an error. An empty journal and its empty folder are removed.

        Raises:
            JournalError: the file was removed, and cannot be written again.
        """
        with self._writing:
            try:
                self._leave()
            except OSError as error:
                raise self._unwritable(error) from error

    def _leave(self) -> None:
        self._file.close(remove_empty=True)
        if not self.path.exists():
            with contextlib.suppress(OSError):
                self.folder.rmdir()  # fails if the folder has other files, as intended

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _unwritable(self, error: OSError, kept: str = "") -> JournalError:
        why = error.strerror or str(error) or type(error).__name__
        if isinstance(error, FileReplacedError):
            return JournalError(
                f"{str(self.path)!r} cannot be resumed: {why}; to resume, move that file as {FILE_NAME!r} to "
                "a separate folder"
            )
        return JournalError(
            f"log_dir {str(self.folder)!r} cannot be written ({why}){kept}; free space or use a writable folder, "
            "e.g. 'runs/1'"
        )


def replay(folder: str | os.PathLike[str]) -> list[Event]:
    """Return all events of a run folder (or of a journal file) in order, without a partial last line.

    Earlier outcomes of a resumed run are omitted.

    Raises:
        PathError: no journal exists, or the path is a file of another kind.
        JournalError: a line before the last is corrupt, or it is of a newer version (the message has the line number).
    """
    path = Path(folder)
    path = path / FILE_NAME if path.is_dir() else path
    _check_kind(path)
    try:
        content = read_regular(path, limit=MAX_BYTES)
    except OSError as error:
        raise PathError(
            f"no journal at {str(path)!r} ({error.strerror}); pass the folder of the run, e.g. 'runs/1'"
        ) from error
    return _current(_read(path, content))


def _check_kind(path: Path) -> None:
    """Reject files of other kinds; a corrupt journal is recognized by its name."""
    if path.name == FILE_NAME or not path.is_file() or (kind := described(path)) == JOURNAL:
        return
    run = path.parent if (path.parent / FILE_NAME).is_file() else None
    remedy = "pass the folder of the run, e.g. 'runs/1'" if run is None else f"pass the run's folder: {str(run)!r}"
    raise PathError(f"{str(path)!r} is {kind or 'a file of another kind'}, not a run; {remedy}")


def is_written(folder: str | os.PathLike[str]) -> bool | None:
    """Return True if a process is writing the journal of a folder; None if that is unknown."""
    try:
        return is_locked(Path(folder) / FILE_NAME)
    except OSError:
        return None


def _current(events: list[Event]) -> list[Event]:
    """Return the events without outcomes and refinements of earlier sessions, and without superseded starts."""
    last = {event["event"]: i for i, event in enumerate(events)}
    resumed, begun = last.get("run_resumed", -1), last.get("run_started", -1)
    return [
        event
        for i, event in enumerate(events)
        if (i > resumed or not _is_outcome(event)) and (i >= begun or event["event"] != "run_started")
    ]


def _is_outcome(event: Event) -> bool:
    is_refinement = event["event"] in ("trial", "rejection") and event.get("stage") == "refine"
    return event["event"] in OUTCOME_KINDS or is_refinement


def _parse_line(line: bytes, path: Path, number: int) -> Event:
    """Return the event in a line of a journal, upgraded from older schemas."""
    try:
        event = parse_json(line.decode())  # always UTF-8, the encoding of `_line`
        if not isinstance(event["event"], str):
            raise TypeError("the kind of an event must be a string")
        event = upgrade(event)
        kind = event["event"]
    except (ValueError, KeyError, TypeError) as error:
        raise JournalError(
            f"{str(path)!r} is damaged in line {number}; restore it from a backup or start a run in another folder"
        ) from error
    if kind not in PERSISTED:
        raise JournalError(
            f"{str(path)!r} line {number}: event {kind[:80]!r} was written by a newer version of "
            "ipo_dspy; upgrade ipo_dspy to read it"
        )
    if missing := PERSISTED[kind] - set(event):
        raise JournalError(f"{str(path)!r} line {number}: event {kind!r} lacks {sorted(missing)}")
    for name, expected in misfits(event):
        raise JournalError(
            f"{str(path)!r} line {number}: event {kind!r} has {repr(event[name])[:80]} as {name!r}, not {expected}; "
            "restore it from a backup or start a run in another folder"
        )
    return cast(Event, event)


def _read(path: Path, content: bytes) -> list[Event]:
    return [_parse_line(line, path, number) for number, line in enumerate(complete_lines(content), start=1)]


def _line(event: Mapping[str, object]) -> bytes:
    kind = str(event["event"])
    if missing := PERSISTED[kind] - set(event):
        raise TypeError(f"event {kind!r} lacks {sorted(missing)}")
    # A language model can send a lone surrogate, which has no UTF-8 form; its backslash form is JSON's own escape.
    line = json.dumps(event, ensure_ascii=False, allow_nan=False)
    return line.encode("utf-8", errors="backslashreplace") + b"\n"


def tail(run: str | os.PathLike[str]) -> Iterator[list[Event]]:
    """Yield the events appended since the previous iteration; empty until the journal exists.

    A partial last line is left until it is complete. The iteration ends when the file is shorter than the part that was
    read, since it is then the journal of another run. Nothing is locked or written.

    Raises:
        PathError, JournalError: as `replay`, except that a missing journal is waited for.
    """
    path = Path(run)
    path = path if path.is_file() else path / FILE_NAME
    offset = number = 0
    while True:
        try:
            with open_regular(path, limit=MAX_BYTES) as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(offset)
                content = file.read()
        except FileNotFoundError:
            size, content = 0, b""
        except OSError as error:
            raise PathError(
                f"{str(path)!r} cannot be read ({error.strerror}); pass the folder of the run, e.g. 'runs/1'"
            ) from error
        if size < offset:
            return
        lines = complete_lines(content)
        yield [_parse_line(line, path, number + i) for i, line in enumerate(lines, start=1)]
        offset, number = offset + sum(len(line) + 1 for line in lines), number + len(lines)

"""The journal of a run: one JSON object a line, each on disk before the run goes on.

A run folder holds `journal.jsonl`. Whatever was computed or paid for is a line in it, so a crash, a kill
or a full disk loses at most the line being written. Readers (the report, a resumed run) see events as
plain dicts with the key `event`; the kinds and their fields stand in `EVENTS`. Pictures, keys, headers and
request settings of a language model never enter it; images are named by where they can be found again.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ipo_dspy.errors import JournalError

FILE_NAME = "journal.jsonl"

EVENTS: Mapping[str, tuple[str, ...]] = {
    "run": ("schema", "started", "seed", "settings", "versions"),
    "search": ("predictor", "classes", "model", "images", "validation_images", "start"),
    "description": ("predictor", "source", "text"),
    "trial": ("predictor", "index", "step", "template", "accuracy", "loss", "tokens", "key"),
    "rejection": ("predictor", "step", "text", "reason", "message"),
    "fault": ("predictor", "step", "message"),
    "step": ("predictor", "step", "proposed", "accepted", "calls", "tokens", "seconds"),
    "chosen": ("predictor", "index", "template", "decided_by", "finalists"),
    "evaluation": (
        "predictor",
        "split",
        "part",
        "role",
        "template",
        "accuracy",
        "loss",
        "images",
        "per_class",
    ),
    "changed": ("predictor", "split", "part", "source", "label", "before", "after"),
    "end": ("status", "seconds", "calls", "tokens"),
}
"""Fields of each kind of event; a journal may hold more of them, never fewer."""

Event = dict[str, Any]


class Journal:
    """Appends events to `folder/journal.jsonl`, each flushed and synced before `append` returns.

    Raises:
        JournalError: the folder cannot be made or written, or it holds another run already.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.path = self.folder / FILE_NAME
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise self._unwritable(error) from error
        if self._file.tell():  # an empty one was left behind by a run that was refused before it began
            self._file.close()
            raise JournalError(
                f"log_dir {str(self.folder)!r} holds a run already; name another folder, e.g. '{self.folder}-2'"
            )

    @classmethod
    def reopen(cls, folder: str | os.PathLike[str]) -> "Journal":
        """The journal of a finished run, to add to it, e.g. an evaluation on test images.

        A torn last line is cut off, so that what is added starts on a line of its own.

        Raises:
            JournalError: there is none, or it cannot be written.
        """
        journal = cls.__new__(cls)
        journal.folder, journal.path = Path(folder), Path(folder) / FILE_NAME
        try:
            journal._file = journal.path.open("r+b", buffering=0)
            journal._file.truncate(journal.path.read_bytes().rfind(b"\n") + 1)
            journal._file.seek(0, os.SEEK_END)
        except OSError as error:
            raise journal._unwritable(error) from error
        return journal

    def append(self, kind: str, **fields: Any) -> None:
        """Write one event; it is on disk when this returns.

        Raises:
            JournalError: the disk is full or gone; what was written before stays readable.
        """
        missing = set(EVENTS[kind]) - set(fields)
        if missing:
            raise TypeError(f"event {kind!r} lacks {sorted(missing)}")
        line = json.dumps({"event": kind, **fields}, ensure_ascii=False, allow_nan=False)
        # A lone surrogate, which a language model can send, has no UTF-8; its backslash form is JSON's own escape.
        self._write(line.encode("utf-8", errors="backslashreplace") + b"\n")

    def _write(self, line: bytes) -> None:
        """Write and sync all of a line or none of it: after half a line the next one could not be read."""
        begin = self._file.tell()
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.seek(begin)
                self._file.truncate()
            raise self._unwritable(error) from error

    def close(self) -> None:
        """Close the file; appending afterwards is an error. A run that was refused before it began leaves nothing."""
        self._file.close()
        with contextlib.suppress(OSError):
            if not self.path.stat().st_size:
                self.path.unlink()
                self.folder.rmdir()  # fails, as it should, where something else lies in it

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _unwritable(self, error: OSError) -> JournalError:
        return JournalError(
            f"log_dir {str(self.folder)!r} cannot be written ({error.strerror}); name a writable folder, e.g. 'runs/1'"
        )


class NoJournal:
    """Keeps nothing: the journal of a run without `log_dir`."""

    def append(self, kind: str, **fields: Any) -> None:
        """Forget the event."""

    def close(self) -> None:
        """Nothing to close."""


def replay(folder: str | os.PathLike[str]) -> list[Event]:
    """All events of a run folder (or of a journal file) in order; a torn last line is left out.

    Raises:
        JournalError: no journal there, a line in its middle is damaged, or it is of a newer version (the line is
            named).
    """
    path = Path(folder)
    path = path / FILE_NAME if path.is_dir() else path
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise JournalError(
            f"no journal at {str(path)!r} ({error.strerror}); give the folder that --log-dir named, e.g. 'runs/1'"
        ) from error
    return list(_events(path, lines))


def _events(path: Path, lines: list[bytes]) -> Iterator[Event]:
    *whole, _torn = lines  # what follows the last newline was never finished
    for number, line in enumerate(whole, start=1):
        try:
            event = json.loads(line)
            known = EVENTS.get(event["event"])
            if not isinstance(event["event"], str):
                raise TypeError("the kind of an event is a text")
        except (ValueError, KeyError, TypeError) as error:
            raise JournalError(
                f"{str(path)!r} is damaged in line {number}; restore it from a backup or start a run in another folder"
            ) from error
        if known is None:
            raise JournalError(
                f"{str(path)!r} line {number}: event {event['event'][:80]!r} was written by a newer version of "
                "ipo_dspy; upgrade ipo_dspy to read it"
            )
        if not set(known) <= set(event):
            raise JournalError(
                f"{str(path)!r} line {number}: event {event['event']!r} lacks {sorted(set(known) - set(event))}"
            )
        yield event

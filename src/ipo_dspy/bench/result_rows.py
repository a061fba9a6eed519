"""Store one row per cell in `rows.jsonl` in the folder of the sweep, on disk before the next cell begins.

A kill, a crash, or a full disk loses at most the line being written; an incomplete last line is dropped. `bench.json`
in the same folder stores the settings of the sweep, so that results with other settings are not mixed in unnoticed.
Only one process may write at a time.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_type_hints

from ipo_dspy._internal.append_only import AppendOnlyFile, FileInUseError, complete_lines
from ipo_dspy._internal.file_io import atomic_write, read_regular
from ipo_dspy._internal.json_input import has_type, parse_json, type_in_words
from ipo_dspy._internal.renames import present_bench_settings
from ipo_dspy.bench.settings import digest
from ipo_dspy.errors import Hint, JournalError, PathError

ROWS, SETTINGS = "rows.jsonl", "bench.json"
MAX_BYTES = 1 << 30
"""Maximum size of a file that is read."""


@dataclass(frozen=True, slots=True)
class Row:
    """Result of a cell.

    Attributes:
        key, suite, dataset, method, shots, seed: of the cell.
        decisive: every input that determined the result.
        base, novel: accuracy in percent on the test images of each half, with its class names; `None` on failure, and
            `novel` also if the method classifies only the classes that it was fitted to.
        h: their harmonic mean; `None` without both.
        source, targets: for transfer, accuracy in percent on all test images of the source, and by name of the targets
            that the method can classify; they replace base and novel.
        base_loss, novel_loss: mean cross-entropy in nats.
        template: the selected template, if the method searches for one.
        train_images: number of training images.
        trials: number of templates that the method scored, if any.
        evaluations: number of single images that it classified, if it scores templates.
        seconds: for loading, training, and testing; the search time of IPO covers all sessions of the cell.
        calls, tokens, cost: of language models; the cost is in USD, `None` if a price is unknown.
        error: type and message of the error; `None` on success.
        started: start time in UTC.
        commit: of the code, with `+changes` if files were modified; `None` outside a repository.
        machine, versions: machine and package versions of the measurement.
    """

    key: str
    suite: str
    dataset: str
    method: str
    shots: int
    seed: int
    decisive: Mapping[str, Any] = field(repr=False)
    base: float | None = None
    novel: float | None = None
    h: float | None = None
    source: float | None = None
    targets: Mapping[str, float] = field(default_factory=dict)
    base_loss: float | None = None
    novel_loss: float | None = None
    template: str | None = None
    train_images: int = 0
    trials: int | None = None
    evaluations: int | None = None
    seconds: float = 0.0
    calls: int = 0
    tokens: int = 0
    cost: float | None = 0.0
    error: str | None = None
    started: str = ""
    commit: str | None = None
    machine: Mapping[str, Any] = field(default_factory=dict, repr=False)
    versions: Mapping[str, str] = field(default_factory=dict, repr=False)


class ResultLog:
    """Rows in the folder of a sweep; an appended row is written to disk at once.

    Attributes:
        latest: the last row of each cell, by key.

    Raises:
        JournalError: the folder cannot be written, another process writes to it, or a row in the middle is damaged.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        path = self.folder / ROWS
        with contextlib.ExitStack() as undo, unwritable_as_journal_error(self.folder):
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._file = AppendOnlyFile(path, limit=MAX_BYTES)
            except FileInUseError as error:
                raise JournalError(
                    f"{str(self.folder)!r} is being written by another sweep; wait until it ends, or use another "
                    f"folder, e.g. '{self.folder}-2'"
                ) from error
            undo.callback(self._file.close)
            self._file.drop_torn_line()
            self.latest = _parsed(self._file.content, path)
            undo.pop_all()

    def agree(self, settings: Mapping[str, Any], *, allow_config_changes: bool = False) -> None:
        """Store the settings of a new sweep, or check that a resumed sweep has the same settings.

        Raises:
            JournalError: settings have changed; the message lists them.
        """
        now = json.loads(json.dumps(settings, default=dict))
        path = self.folder / SETTINGS
        if path.exists() and self.latest and not allow_config_changes:
            before = present_bench_settings(_read_settings(path))
            changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
            if changed:
                changes = "; ".join(f"{name} was {before.get(name)!r} and is {now.get(name)!r}" for name in changed)
                raise JournalError(
                    f"{str(self.folder)!r} contains a sweep with other settings: {changes}",
                    hint=Hint(
                        "restore the settings, use another folder, or pass {allow_config_changes}; "
                        "changed cells are then measured again",
                        allow_config_changes=True,
                    ),
                )
        with unwritable_as_journal_error(self.folder):
            atomic_write(path, json.dumps(now, indent=2, ensure_ascii=False).encode())

    def append(self, row: Row) -> None:
        """Append a row; it is on disk when this method returns.

        Raises:
            JournalError: the row cannot be written, e.g. because the disk is full.
        """
        line = json.dumps(asdict(row), ensure_ascii=False, default=dict).encode("utf-8", errors="backslashreplace")
        with unwritable_as_journal_error(self.folder):
            self._file.append(line + b"\n")
        self.latest[row.key] = row

    def __enter__(self) -> "ResultLog":
        return self

    def __exit__(self, *_: object) -> None:
        with unwritable_as_journal_error(self.folder):
            self._file.close()


@contextlib.contextmanager
def unwritable_as_journal_error(path: Path) -> Iterator[None]:
    """Raise an `OSError` of the block as a `JournalError` that names a file or folder that cannot be written."""
    try:
        yield
    except OSError as error:
        raise JournalError(
            f"{str(path)!r} cannot be written ({error.strerror}); free space or name another folder"
        ) from error


def read_rows(folder: str | os.PathLike[str]) -> dict[str, Row]:
    """Return the last row of each cell by key, without locking the folder.

    Raises:
        PathError: there are no rows.
        JournalError: a row in the middle is damaged.
    """
    path = Path(folder) / ROWS
    try:
        content = read_regular(path, limit=MAX_BYTES)
    except OSError as error:
        raise PathError(
            f"no rows at {str(path)!r} ({error.strerror}); pass the folder of the sweep, e.g. 'runs/bench'"
        ) from error
    return _parsed(content, path)


def _parsed(content: bytes, path: Path) -> dict[str, Row]:
    """Return the last row of each cell by the key that the cell has under the current names of settings."""
    types, latest = get_type_hints(Row), dict[str, Row]()
    for number, line in enumerate(complete_lines(content), start=1):
        try:
            values = {name: value for name, value in parse_json(line.decode()).items() if name in types}
            if wrong := [name for name, value in values.items() if not has_type(value, types[name])]:
                raise TypeError(f"{wrong[0]!r} is not {type_in_words(types[wrong[0]])}")
            row = Row(**values)
            decisive = present_bench_settings(row.decisive)
            if decisive != row.decisive:
                row = replace(row, decisive=decisive, key=digest(decisive))
            latest[row.key] = row
        except (ValueError, TypeError, AttributeError) as error:
            raise JournalError(
                f"{str(path)!r} is damaged in line {number}; restore it from a backup, or remove that line to measure "
                "its cell again"
            ) from error
    return latest


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        return dict(parse_json(read_regular(path, limit=MAX_BYTES)))
    except (OSError, ValueError, TypeError) as error:
        raise JournalError(f"{str(path)!r} cannot be read ({error}); name another folder") from error

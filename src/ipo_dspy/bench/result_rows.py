"""One line a cell, on disk before the next cell begins: `rows.jsonl` in the folder of the sweep.

A kill, a crash or a full disk loses at most the line being written, and a torn last line is dropped. Beside it,
`bench.json` holds the settings of the sweep, so that no figures of other settings are added unnoticed. One process at a
time writes.
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
from ipo_dspy.errors import Hint, JournalError

ROWS, SETTINGS = "rows.jsonl", "bench.json"
MAX_BYTES = 1 << 30
"""Of a file that is read."""


@dataclass(frozen=True, slots=True)
class Row:
    """What became of a cell.

    Attributes:
        key, suite, dataset, method, shots, seed: of the cell.
        decisive: everything that decided the result.
        base, novel: accuracy in percent on the test images of either half, against its own names; `None` if it failed.
        h: their harmonic mean.
        source, targets: accuracy in percent on all test images of the data set that was learned on, and of others by
            name, instead of these, where what was learned is tested on other data sets.
        base_loss, novel_loss: mean cross-entropy in nats.
        template: the one that was found, where the method finds one.
        train_images: what was learned from.
        trials: templates scored by the method, where it scores templates.
        evaluations: single images classified by it, likewise.
        seconds: of reading, learning and testing; of IPO's search over all sittings of the cell.
        calls, tokens, cost: of language models; the cost in USD, `None` where a price is unknown.
        error: what failed; `None` if nothing did.
        started: in UTC.
        commit: of the code, with `+changes` where files differed from it; `None` outside of a repository.
        machine, versions: where and with what it was measured.
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
    """The rows of a sweep's folder; appending puts them on disk.

    Attributes:
        latest: by key, the last row of each cell.

    Raises:
        JournalError: the folder cannot be written, another process writes it, or a row in the middle is damaged.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.path = self.folder / ROWS
        with contextlib.ExitStack() as undo:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._file = AppendOnlyFile(self.path, limit=MAX_BYTES)
                undo.callback(self._file.close)
                self._file.drop_torn_line()
                content = self._file.content
            except FileInUseError as error:
                raise JournalError(
                    f"{str(self.folder)!r} is being written by another sweep; wait until it is done, or name another "
                    f"folder, e.g. '{self.folder}-2'"
                ) from error
            except OSError as error:
                raise self._unwritable(error) from error
            self.latest = {row.key: row for row in _parsed(content, self.path)}
            undo.pop_all()

    def agree(self, settings: Mapping[str, Any], *, allow_config_changes: bool = False) -> None:
        """Keep the settings of a new sweep, or see that they are those of the one that goes on.

        Raises:
            JournalError: they have changed; they are listed.
        """
        now = json.loads(json.dumps(settings, default=dict))
        path = self.folder / SETTINGS
        if path.exists() and self.latest and not allow_config_changes:
            was = present_bench_settings(_read_settings(path))
            changed = [name for name in {**was, **now} if was.get(name) != now.get(name)]
            if changed:
                told = "; ".join(f"{name} was {was.get(name)!r} and is {now.get(name)!r}" for name in changed)
                raise JournalError(
                    f"{str(self.folder)!r} holds a sweep with other settings: {told}",
                    hint=Hint(
                        "restore them, use another folder, or pass {allow_config_changes} to measure changed cells again",
                        allow_config_changes=True,
                    ),
                )
        try:
            atomic_write(path, json.dumps(now, indent=2, ensure_ascii=False).encode())
        except OSError as error:
            raise self._unwritable(error) from error

    def append(self, row: Row) -> None:
        """Write a row; it is on disk when this returns.

        Raises:
            JournalError: the disk is full or gone.
        """
        line = json.dumps(asdict(row), ensure_ascii=False, default=dict).encode("utf-8", errors="backslashreplace")
        try:
            self._file.append(line + b"\n")
        except OSError as error:
            raise self._unwritable(error) from error
        self.latest[row.key] = row

    def close(self) -> None:
        """Leave the folder to others.

        Raises:
            JournalError: the file was removed, and cannot be written anew.
        """
        try:
            self._file.close()
        except OSError as error:
            raise self._unwritable(error) from error

    def __enter__(self) -> "ResultLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _unwritable(self, error: OSError) -> JournalError:
        return JournalError(
            f"{str(self.folder)!r} cannot be written ({error.strerror}); free space or name another folder"
        )


def read_rows(folder: str | os.PathLike[str]) -> dict[str, Row]:
    """The last row of each cell by key, without locking the folder.

    Raises:
        JournalError: there are none, or a row in the middle is damaged.
    """
    path = Path(folder) / ROWS
    try:
        content = read_regular(path, limit=MAX_BYTES)
    except OSError as error:
        raise JournalError(
            f"no rows at {str(path)!r} ({error.strerror}); pass the folder of the sweep, e.g. 'runs/bench'"
        ) from error
    return {row.key: row for row in _parsed(content, path)}


def _parsed(content: bytes, path: Path) -> Iterator[Row]:
    types = get_type_hints(Row)
    for number, line in enumerate(complete_lines(content), start=1):
        try:
            values = {name: value for name, value in parse_json(line.decode()).items() if name in types}
            if wrong := [name for name, value in values.items() if not has_type(value, types[name])]:
                raise TypeError(f"{wrong[0]!r} is not {type_in_words(types[wrong[0]])}")
            yield _present(Row(**values))
        except (ValueError, TypeError, AttributeError) as error:
            raise JournalError(
                f"{str(path)!r} is damaged in line {number}; restore it from a backup, or remove that line: its cell "
                "is then measured again"
            ) from error


def _present(row: Row) -> Row:
    """Return a row under the key that its cell has with the present names of its settings."""
    decisive = present_bench_settings(row.decisive)
    return row if decisive == row.decisive else replace(row, decisive=decisive, key=digest(decisive))


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        return dict(parse_json(read_regular(path, limit=MAX_BYTES)))
    except (OSError, ValueError, TypeError) as error:
        raise JournalError(f"{str(path)!r} cannot be read ({error}); name another folder") from error

"""Read the split files of the CoOp line of work, and FGVC-Aircraft's own lists, as lists of paths and labels.

Split files are third-party downloads that are sometimes HTML error pages, so every inconsistency is an error that names
the row. Items are plain tuples, since ImageNet has 1.3 million images, of which only a few shots are needed.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ipo_dspy._internal.counts import first_few
from ipo_dspy._internal.file_io import read_regular
from ipo_dspy.data.benchmarks import Benchmark
from ipo_dspy.data.dataset import class_name, shorten, unknown_class
from ipo_dspy.errors import DataError

MAX_BYTES = 64 * 1024 * 1024
"""Maximum size of a list, far above that of any published one."""
_LABEL = re.compile(r"[0-9]{1,9}")


class LabeledPath(NamedTuple):
    """An image: its path relative to the image folder, and its label index."""

    path: str
    label: int


@dataclass(frozen=True, slots=True)
class BenchmarkSplits:
    """The splits of a data set.

    Attributes:
        where: file that lists the splits, for messages.
        base: folder that the paths are relative to.
        train, val, test: images in the order of the files.
        names: published name of each label; several labels may share a name.
        ids: unique id of each label, for labels with the same name: ImageNet's folder names.
    """

    where: Path
    base: Path
    train: Sequence[LabeledPath] = field(repr=False)
    val: Sequence[LabeledPath] = field(repr=False)
    test: Sequence[LabeledPath] = field(repr=False)
    names: Mapping[int, str] = field(repr=False)
    ids: Mapping[int, str] = field(repr=False, default_factory=dict)


def read_json_split(benchmark: Benchmark, folder: Path) -> BenchmarkSplits:
    """Read `split_zhou_*.json`: an object of train, val and test, each a list of [path, label, class name]."""
    path = folder / benchmark.lists[0]
    content = _json(path, benchmark)
    names: dict[int, str] = {}
    splits: dict[str, list[LabeledPath]] = {}
    for part in ("train", "val", "test"):
        rows = content.get(part) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not rows:
            raise DataError(f"{path} has no list {part!r}; {_refetch_hint(benchmark)}")
        splits[part] = [_item(row, f"{part}[{at}] of {path}", names, benchmark) for at, row in enumerate(rows)]
    base = folder / benchmark.images[0]
    return check_labels(BenchmarkSplits(path, base, splits["train"], splits["val"], splits["test"], names))


def read_aircraft(benchmark: Benchmark, folder: Path) -> BenchmarkSplits:
    """Read FGVC-Aircraft's lists: one class name per line, and `IMAGE CLASS NAME` lines for each part."""
    where, *parts = (folder / name for name in benchmark.lists)
    names = [class_name(line) for _, line in _lines(where)]
    labels = {name: label for label, name in enumerate(names)}
    if len(labels) < len(names):
        raise DataError(f"{where} repeats a class; {_refetch_hint(benchmark)}")
    train, val, test = ([_plane(line, at, path, labels) for at, line in _lines(path)] for path in parts)
    return check_labels(BenchmarkSplits(where, folder / benchmark.images[0], train, val, test, dict(enumerate(names))))


def read_text(path: Path) -> str:
    """Return the text of a small file."""
    try:
        return read_regular(path, limit=MAX_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason}); download it again") from error


def check_labels(lists: BenchmarkSplits) -> BenchmarkSplits:
    """Return the splits after checking that each label of `val` and `test` has a training image."""
    known = {item.label for item in lists.train}
    for part, items in (("val", lists.val), ("test", lists.test)):
        for item in items:
            if item.label not in known:
                fact = f"{lists.where}: label {item.label} ({lists.names[item.label]!r}) of {part}"
                raise DataError(f"{fact} does not occur in train; download the published file again")
    return lists


def format_paths(paths: Sequence[str]) -> str:
    """Return the first paths as text for a message.

    >>> format_paths(["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    'a.jpg, b.jpg, c.jpg, ...'
    """
    return first_few([shorten(path).strip("'") for path in paths[:4]], 3)


def _json(path: Path, benchmark: Benchmark) -> Any:
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        reason = f"{error.msg} in line {error.lineno}" if isinstance(error, json.JSONDecodeError) else str(error)
        fact = f"{path} is not JSON ({reason}; an HTML page or a truncated download?)"
        raise DataError(f"{fact}; {_refetch_hint(benchmark)}") from error


def _item(row: Any, place: str, names: dict[int, str], benchmark: Benchmark) -> LabeledPath:
    """Parse one row, and store its class name in `names`."""
    path, number, text = row if isinstance(row, list) and len(row) == 3 else (None, None, None)
    if not isinstance(path, str) or not isinstance(text, str) or not _LABEL.fullmatch(str(number)):
        raise DataError(f"{place} is {shorten(row)}; expected [path, label, class name], e.g. ['cat/1.jpg', 0, 'cat']")
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise DataError(f"{place} points outside the image folder ({shorten(path)}); {_refetch_hint(benchmark)}")
    name, label = class_name(benchmark.renamed.get(text, text)), int(str(number))
    if names.setdefault(label, name) != name:
        fact = f"{place} calls label {label} {shorten(name)}, earlier rows call it {names[label]!r}"
        raise DataError(f"{fact}; {_refetch_hint(benchmark)}")
    return LabeledPath(path, label)


def _plane(line: str, at: int, path: Path, labels: dict[str, int]) -> LabeledPath:
    image, _, rest = line.partition(" ")
    name = class_name(rest)
    if name not in labels and name:
        raise DataError(f"line {at} of {path} has {unknown_class(name, tuple(labels))}")
    if not name or not image.isalnum():
        fact = "has no class name" if not name else f"begins with {shorten(image)}, which is not an image number"
        raise DataError(f"line {at} of {path} {fact}; expected e.g. '0034309 Boeing 717'")
    return LabeledPath(f"{image}.jpg", labels[name])


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the non-blank lines with their numbers; a file without any is an error."""
    lines = [(at, line.strip()) for at, line in enumerate(read_text(path).splitlines(), start=1) if line.strip()]
    if not lines:
        raise DataError(f"{path} is empty; download it again")
    yield from lines


def _refetch_hint(benchmark: Benchmark) -> str:
    return f"download it again from {benchmark.list_origin}"

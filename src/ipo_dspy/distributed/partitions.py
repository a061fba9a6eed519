"""Partitions of a data set, each read and encoded by one worker at a time.

A partition stores where its images are, not the images, unless they exist in memory only. It can be read again at any
time and gives the same images, so a partition that was lost with a node is simply encoded again.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from ipo_dspy.clip.image_io import identify, is_remote
from ipo_dspy.data.table_reader import parquet_errors
from ipo_dspy.data.tar_samples import read_picture, read_samples
from ipo_dspy.errors import DataError, ImageError

STEP = 64
"""Batch size of the image tower, see `encode_images`; partitions are multiples of it, so that batches are full."""

CHUNK = 16 * STEP
"""Maximum number of images in a partition of a list."""


@dataclass(frozen=True, slots=True)
class Listed:
    """Images listed one by one: paths, URLs, data URIs, bytes or PIL images."""

    first: int  # position of the first in the whole list
    total: int  # length of that list
    images: tuple[Any, ...] = field(repr=False)
    labels: tuple[str, ...] = field(repr=False)
    choices: tuple[tuple[str, ...], ...] | None = field(repr=False, default=None)  # of each image, if they differ

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.images)

    def place(self, index: int) -> str:
        """Return the position of an image in the list, for messages."""
        return f"image {self.first + index + 1} of {self.total}"

    def read(self) -> tuple[Sequence[Any], Sequence[str | int]]:
        """Return the images as they are, and their labels; the decoder opens the files."""
        return self.images, self.labels

    def stamp(self) -> str | None:
        """Return a digest: of files by path, size and time, of images in memory by content; None if there are URLs."""
        return None if any(map(is_remote, self.images)) else _digest([*map(_mark, self.images), *self.labels])


@dataclass(frozen=True, slots=True)
class Rows:
    """Row groups of a parquet file with an image and a label column."""

    path: str
    groups: tuple[int, ...]
    first: int
    count: int
    image: str
    label: str
    names: tuple[str, ...] | None = field(repr=False, default=None)

    def place(self, index: int) -> str:
        """Return the row of an image, counted from 0, for messages."""
        return f"row {self.first + index} of {self.path}"

    def read(self) -> tuple[Sequence[Any], Sequence[str | int]]:
        """Read labels, which may be numbers, and images: bytes in a cell, or paths relative to the file."""
        labels = [_named(label, self.names, self.path) for label in self._column(self.label)]
        return _Stream(self.count, lambda: map(self._image, self._column(self.image))), labels

    def _column(self, name: str) -> Iterator[Any]:
        import pyarrow.parquet as pq

        with parquet_errors(self.path):
            file = pq.ParquetFile(self.path)
            for batch in file.iter_batches(STEP, row_groups=list(self.groups), columns=[name]):
                yield from batch.column(0).to_pylist()

    def stamp(self) -> str | None:
        """Return a digest of the file and the rows; None if images are separate files, which may change alone."""
        if not self._holds_pictures():
            return None
        return _digest([_mark(self.path), str(self.groups), self.image, self.label, *(self.names or ())])

    def _holds_pictures(self) -> bool:
        import pyarrow as pa
        import pyarrow.parquet as pq

        file = pq.ParquetFile(self.path)
        kind, footer = file.schema_arrow.field(self.image).type, file.metadata
        name = self.image if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) else f"{self.image}.bytes"
        columns = [footer.row_group(group).column(i) for group in self.groups for i in range(footer.num_columns)]
        statistics = [column.statistics for column in columns if column.path_in_schema == name]
        return bool(statistics) and all(chunk is not None and chunk.null_count == 0 for chunk in statistics)

    def _image(self, cell: Any) -> Any:
        data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, cell)
        if isinstance(data, bytes):
            return data
        return str(Path(self.path).parent / path) if isinstance(path, str) else b""  # reported as not an image


@dataclass(frozen=True, slots=True)
class Tar:
    """A webdataset shard: `key.jpg` next to `key.cls`, `key.txt` or `key.json` with a `label`."""

    path: str
    names: tuple[str, ...] | None = field(repr=False, default=None)
    count: None = None

    def place(self, index: int) -> str:
        """Return the position of an image in the file, for messages."""
        return f"image {index + 1} of {self.path}"

    def read(self) -> tuple[Sequence[Any], Sequence[str | int]]:
        """Read names and labels; images are read lazily."""
        samples = list(read_samples(Path(self.path)))
        labels = [_named(sample.label, self.names, self.path) for sample in samples]
        return _Stream(len(samples), lambda: map(read_picture, samples)), labels

    def stamp(self) -> str:
        """Return a digest of the file."""
        return _digest([_mark(self.path), *(self.names or ())])


Partition: TypeAlias = Listed | Rows | Tar
"""A partition. Its `stamp` is a digest that changes when the images do; files count by path, size and time."""


class _Stream(Sequence[Any]):
    """Images that are read in order during iteration."""

    def __init__(self, count: int, read: Callable[[], Iterator[Any]]) -> None:
        self._count, self._read = count, read

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        return self._read()

    def __getitem__(self, index: Any) -> Any:
        return list(self._read())[index]


def in_memory_partitions(
    images: Sequence[Any], labels: Sequence[str], choices: Sequence[tuple[str, ...]] | None, *, size: int
) -> list[Listed]:
    """Split images into partitions of `size`; the last has the rest."""
    plain, parts = tuple(_plain(image) for image in images), []
    for first in range(0, len(plain), size):
        rows = slice(first, first + size)
        candidates = None if choices is None else tuple(choices[rows])
        parts.append(Listed(first, len(plain), plain[rows], tuple(labels[rows]), candidates))
    return parts


def part_size(count: int, workers: int) -> int:
    """Return the size of a partition: four partitions per worker, at most `CHUNK` images, a multiple of `STEP`.

    >>> part_size(400, 2), part_size(1_000_000, 16)
    (64, 1024)
    """
    return min(CHUNK, STEP * max(1, -(-count // (4 * workers * STEP))))


def _named(label: Any, names: Sequence[str] | None, path: str) -> Any:
    """Return the class name of a numeric label if the source has names for numbers."""
    if names is None or label in names or not str(label).isdecimal():
        return label
    if int(label) >= len(names):
        raise DataError(f"{path} has the label {label} but class names only for 0 to {len(names) - 1}; add the others")
    return names[int(label)]


def _plain(image: Any) -> Any:
    """Return an image in a form that another machine can open: unwrapped from DSPy, and with an absolute path."""
    source = getattr(image, "url", image)
    is_path = isinstance(source, str | os.PathLike) and not is_remote(source) and not _is_data(source)
    return os.path.abspath(source) if is_path else source  # noqa: PTH100 - Path.resolve would follow links


def _mark(image: Any) -> str:
    """Return a string that changes when an image does."""
    if _is_data(image):
        return hashlib.sha256(image.encode()).hexdigest()
    try:
        if not isinstance(image, str):
            return identify(image)[0]
        stat = Path(image).stat()
        return f"{image} {stat.st_size} {stat.st_mtime_ns}"
    except ImageError as error:  # reported when it is encoded
        return str(error)
    except (OSError, ValueError):
        return f"{image} absent"


def _is_data(image: Any) -> bool:
    return isinstance(image, str) and image.startswith("data:")


def _digest(marks: Iterable[str]) -> str:
    text = "".join(f"{mark}\n" for mark in marks)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]

"""Parts of a data set, each read and encoded by one worker at a time; neither torch nor Ray is in it.

A part says where its images are and holds none of them, unless they exist in memory only. It is read as often as need
be: a part whose features were lost with a node is read again, and gives the same images.
"""

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ipo_dspy.clip.image_io import identify
from ipo_dspy.data.tar_samples import read_picture, read_samples
from ipo_dspy.errors import DataError, ImageError

STEP = 64
"""Images in one pass of a tower, see `encode_images`; parts are multiples of it, so that passes are full."""

CHUNK = 16 * STEP
"""Images of a part that a worker holds at a time."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some images of a part, read.

    Attributes:
        images: whatever `encode_images` takes.
        labels: class names, or numbers where the source has those.
    """

    images: Sequence[Any]
    labels: Sequence[str | int]


class Part(Protocol):
    """Where some images are."""

    @property
    def count(self) -> int | None:
        """How many; None where that shows only on reading."""

    def place(self, index: int) -> str:
        """Where one of the images is, for messages."""

    def read(self) -> Iterator[Chunk]:
        """The images in order, `CHUNK` at a time.

        Raises:
            DataError: a file that is not there or not what it says, or an image without a label.
        """

    def stamp(self) -> str | None:
        """A digest that changes with the images, of files by place, size and time; None where an URL may change."""


@dataclass(frozen=True, slots=True)
class Listed:
    """Images that are known one by one.

    Attributes:
        first: place of the first in the whole list.
        total: length of that list.
        images: paths, URLs, data URIs, bytes or PIL images.
        labels: class names.
        choices: for each image its own class names, or None where all share them.
    """

    first: int
    total: int
    images: tuple[Any, ...] = field(repr=False)
    labels: tuple[str, ...] = field(repr=False)
    choices: tuple[tuple[str, ...], ...] | None = field(repr=False, default=None)

    @property
    def count(self) -> int:
        """How many."""
        return len(self.images)

    def place(self, index: int) -> str:
        """Its number."""
        return f"image {self.first + index + 1} of {self.total}"

    def read(self) -> Iterator[Chunk]:
        """In order; files are opened by whoever decodes them."""
        for start in range(0, len(self.images), CHUNK):
            piece = slice(start, start + CHUNK)
            yield Chunk(self.images[piece], self.labels[piece])

    def stamp(self) -> str | None:
        """Of files without opening them, of what is in memory by content."""
        return None if any(map(_is_url, self.images)) else _digest([*map(_mark, self.images), *self.labels])


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
        """Its row, counted from 0."""
        return f"row {self.first + index} of {self.path}"

    def read(self) -> Iterator[Chunk]:
        """In order; images are bytes in a cell, or paths from the file's folder."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            file = pq.ParquetFile(self.path)
            batches = file.iter_batches(
                batch_size=CHUNK, row_groups=list(self.groups), columns=[self.image, self.label]
            )
            for batch in batches:
                images = [self._image(cell) for cell in batch.column(self.image).to_pylist()]
                labels = [_named(cell, self.names, self.path) for cell in batch.column(self.label).to_pylist()]
                yield Chunk(images, labels)
        except (pa.ArrowException, OSError) as error:
            fact = next(iter(str(error).splitlines()), type(error).__name__)
            raise DataError(f"{self.path} cannot be read as parquet ({fact}); fetch or write the file again") from error

    def stamp(self) -> str | None:
        """Of the file, and which rows; None where pictures stand beside it, which may change alone."""
        if not self._holds_pictures():
            return None
        return _digest([_mark(self.path), str(self.groups), self.image, self.label, *(self.names or ())])

    def _holds_pictures(self) -> bool:
        import pyarrow.parquet as pq

        footer = pq.ParquetFile(self.path).metadata
        columns = [footer.row_group(group).column(i) for group in self.groups for i in range(footer.num_columns)]
        bytes_of = [one for one in columns if one.path_in_schema in (self.image, f"{self.image}.bytes")]
        return bool(bytes_of) and all(
            one.physical_type == "BYTE_ARRAY"
            and footer.schema.column(_index(footer, one.path_in_schema)).logical_type.type == "NONE"
            and one.statistics is not None
            and one.statistics.null_count == 0
            for one in bytes_of
        )

    def _image(self, cell: Any) -> Any:
        data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, cell)
        if isinstance(data, bytes):
            return data
        return str(Path(self.path).parent / path) if isinstance(path, str) else b""  # empty: told as no image


@dataclass(frozen=True, slots=True)
class Tar:
    """A shard in the layout of webdataset: `key.jpg` beside `key.cls`, `key.txt` or `key.json` with a `label`."""

    path: str
    names: tuple[str, ...] | None = field(repr=False, default=None)

    @property
    def count(self) -> None:
        """Shows on reading."""

    def place(self, index: int) -> str:
        """Its number among the images of the file."""
        return f"image {index + 1} of {self.path}"

    def read(self) -> Iterator[Chunk]:
        """In the order of the file."""
        samples = iter(read_samples(Path(self.path)))
        while rows := list(itertools.islice(samples, CHUNK)):
            yield Chunk([read_picture(row) for row in rows], [_named(row.label, self.names, self.path) for row in rows])

    def stamp(self) -> str:
        """Of the file."""
        return _digest([_mark(self.path), *(self.names or ())])


def listed(
    images: Sequence[Any], labels: Sequence[str], choices: Sequence[tuple[str, ...]] | None, *, size: int
) -> list[Listed]:
    """Split images into parts of `size`; the last has what is left.

    >>> [part.count for part in listed(["x.jpg"] * 200, ["cat"] * 200, None, size=64)]
    [64, 64, 64, 8]
    """
    count, plain = len(images), [_plain(image) for image in images]
    return [
        Listed(
            first,
            count,
            tuple(plain[first:last]),
            tuple(labels[first:last]),
            None if choices is None else tuple(choices[first:last]),
        )
        for first, last in itertools.pairwise([*range(0, count, size), count])
    ]


def part_size(count: int, workers: int) -> int:
    """Images in a part: four parts a worker where there are few, at most `CHUNK`; a multiple of `STEP`.

    >>> part_size(400, 2), part_size(1_000_000, 16)
    (64, 1024)
    """
    return min(CHUNK, STEP * max(1, -(-count // (4 * workers * STEP))))


def _named(label: Any, names: Sequence[str] | None, place: str) -> Any:
    """The name of a label that is a number, where the source has names for numbers.

    >>> [_named(label, ("cat", "dog"), "1.tar") for label in (1, "1", "dog")], _named(1, None, "1.tar")
    (['dog', 'dog', 'dog'], 1)

    Raises:
        DataError: there are names, and none for this number.
    """
    if names is None or label in names or not str(label).isdecimal():
        return label
    if int(label) >= len(names):
        raise DataError(f"{place} has the label {label}, and names for 0 to {len(names) - 1} only; add the others")
    return names[int(label)]


def _index(footer: Any, path: str) -> int:
    return next(i for i in range(footer.num_columns) if footer.schema.column(i).path == path)


def _plain(image: Any) -> Any:
    """An image as another machine can open it: without DSPy around it, and a path from the root."""
    place = getattr(image, "url", image)
    is_path = isinstance(place, os.PathLike) or (isinstance(place, str) and not _is_url(place) and not _is_data(place))
    return os.path.abspath(place) if is_path else place  # noqa: PTH100 - Path.resolve would follow links


def _mark(image: Any) -> str:
    """What changes when an image does."""
    if isinstance(image, str) and not _is_data(image):
        try:
            stat = Path(image).stat()
        except (OSError, ValueError):
            return f"{image} absent"
        return f"{image} {stat.st_size} {stat.st_mtime_ns}"
    if isinstance(image, str | bytes):
        return hashlib.sha256(image if isinstance(image, bytes) else image.encode()).hexdigest()
    try:
        return identify(image)[0]
    except ImageError as error:  # whoever encodes it says so
        return str(error)


def _is_data(image: str) -> bool:
    return image.startswith("data:")


def _is_url(image: Any) -> bool:
    return isinstance(image, str) and not _is_data(image) and "://" in image


def _digest(marks: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for mark in marks:
        digest.update(mark.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()[:32]

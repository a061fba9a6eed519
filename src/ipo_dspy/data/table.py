"""Read a table of images and labels: CSV, TSV, or parquet, which may hold the image bytes themselves.

Tables are how labels come out of spreadsheets and how the Hugging Face hub ships image sets, so both are
read without further ado: columns are found by their usual names, number labels get their names from
wherever the file keeps them. Unlike a folder, a table is a promise: a row whose file is missing is an
error and not something to pass over.
"""

import base64
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, overload

import dspy

from ipo_dspy.data.dataset import ImageDataset, Loaded, closest, example, shorten
from ipo_dspy.data.fewshot import select
from ipo_dspy.data.labels import named_labels
from ipo_dspy.data.labels import stored_classes as stored_classes
from ipo_dspy.data.tablefile import Cells, Table, open_table
from ipo_dspy.errors import DataError

IMAGE_COLUMNS = (
    "image",
    "img",
    "image_path",
    "path",
    "file_name",
    "filename",
    "file_path",
    "filepath",
    "file",
)
LABEL_COLUMNS = ("label", "class", "class_name", "label_name", "labels", "category", "target")
SPLIT_COLUMN = "split"

_MAGIC = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG": "image/png",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
    b"II*\x00": "image/tiff",
    b"MM\x00*": "image/tiff",
    b"BM": "image/bmp",
}


@overload
def load_image_table(
    path: str | PathLike[str],
    *,
    image: str = "auto",
    label: str = "auto",
    classes: Sequence[str] | None = None,
    base: str | PathLike[str] | None = None,
    split: str | None = None,
    shots: int | None = None,
    test: None = None,
    seed: int = 0,
) -> ImageDataset: ...
@overload
def load_image_table(
    path: str | PathLike[str],
    *,
    image: str = "auto",
    label: str = "auto",
    classes: Sequence[str] | None = None,
    base: str | PathLike[str] | None = None,
    split: str | None = None,
    shots: int | None = None,
    test: float,
    seed: int = 0,
) -> tuple[ImageDataset, ImageDataset]: ...
@overload
def load_image_table(
    path: str | PathLike[str],
    *,
    image: str = "auto",
    label: str = "auto",
    classes: Sequence[str] | None = None,
    base: str | PathLike[str] | None = None,
    split: str | None = None,
    shots: int | None = None,
    test: float | None,
    seed: int = 0,
) -> Loaded: ...
def load_image_table(
    path: str | PathLike[str],
    *,
    image: str = "auto",
    label: str = "auto",
    classes: Sequence[str] | None = None,
    base: str | PathLike[str] | None = None,
    split: str | None = None,
    shots: int | None = None,
    test: float | None = None,
    seed: int = 0,
) -> Loaded:
    """Read a table with an image and a label in each row.

    Image cells are paths, bytes, or the hub's ``{bytes, path}``. Labels are class names or numbers from 0;
    the names of numbers are `classes`, else those in the parquet file (``ipo_dspy`` or Hugging Face
    metadata), else a ``class_name`` column. Class order is that of those names; text labels without such
    names are sorted. All splits of one file have the same classes.

    Args:
        path: a .csv, .tsv or .parquet file with a header.
        image: column of images; "auto" finds image, path, file_name, ...
        label: column of labels; "auto" finds label, class, class_name, ...
        classes: class names in label index order.
        base: folder where relative image paths start; the table's own by default.
        split: keep rows with this value in the ``split`` column; "all" keeps all of them.
        shots: training images a class, drawn by `few_shot`; None takes all.
        test: share of each class to hold out, between 0 and 1; None makes no test set.
        seed: seed of the split and of the draw.

    Returns:
        One data set, or ``(train, test)`` where `test` is given.

    Raises:
        DataError: an unreadable file, a missing column or image, a label outside the classes, ...
    """
    table = open_table(Path(path).expanduser())
    columns = find_column(table, "image", image, IMAGE_COLUMNS), find_column(table, "label", label, LABEL_COLUMNS)
    rows, folder = _rows(table, split), _base_folder(table, base)
    return from_table(table, *columns, rows, folder, classes=classes, shots=shots, test=test, seed=seed)


def from_table(
    table: Table,
    image: str,
    label: str,
    rows: Sequence[int],
    folder: Path,
    *,
    classes: Sequence[str] | None,
    shots: int | None,
    test: float | None,
    seed: int,
) -> Loaded:
    """The images of some rows of anything that is laid out as a table; see `load_image_table`.

    Args:
        table: what holds them.
        image: its column of images.
        label: its column of labels.
        rows: which of its rows.
        folder: where relative image paths start.
        classes: in label index order.
        shots: images a class.
        test: share to hold out.
        seed: of the draws.
    """
    cells = table.column(image)
    labels, names = named_labels(table, label, rows, classes)
    _check_paths(table, cells, rows, folder)
    chosen = select(labels, shots=shots, test=test, seed=seed)

    def build(drawn: Sequence[int]) -> ImageDataset:
        in_order = sorted(drawn, key=lambda at: rows[at])  # a table gives rows quickest so
        items = {at: _example(table, rows[at], cells(rows[at]), labels[at], folder) for at in in_order}
        return ImageDataset((items[at] for at in drawn), classes=names)

    return build(chosen.train) if chosen.test is None else (build(chosen.train), build(chosen.test))


def find_column(table: Table, what: str, asked: str, usual: Sequence[str]) -> str:
    """The column's name: the one asked for, or the first of the usual ones that the table has."""
    if asked in table.columns:
        return asked
    columns = {name.casefold(): name for name in table.columns}
    found = next((columns[name] for name in usual if name in columns), None)
    if asked == "auto" and found is not None:
        return found
    missing = f"{what} column" if asked == "auto" else f"column {asked!r}"
    near = closest(what if asked == "auto" else asked, table.columns) or table.columns[0]
    raise DataError(
        f"{table.path} has no {missing}, only {', '.join(map(shorten, table.columns))}; "
        f"write e.g. {what}={near!r}, or add a header line 'image,label' where there is none"
    )


def _rows(table: Table, split: str | None) -> list[int]:
    """The rows of a split; splits are mixed only when told to, or training would see test images."""
    if SPLIT_COLUMN not in table.columns:
        if split not in (None, "all"):
            raise DataError(f"{table.path} has no column {SPLIT_COLUMN!r}; leave split={split!r} out")
        return list(range(table.rows))
    parts = [str(part) for part in map(table.column(SPLIT_COLUMN), range(table.rows))]
    values = sorted(set(parts))
    known = ", ".join(map(shorten, values[:8]))
    if split is None and len(values) > 1:
        choice = f"load_image_table(..., split={values[0]!r})"
        raise DataError(f"{table.path} holds the splits {known}; choose one: {choice}, or split='all'")
    rows = [row for row, part in enumerate(parts) if split in (None, "all", part)]
    if not rows:
        raise DataError(f"{table.path} has no rows of split {split!r}; write one of {known}")
    return rows


def _base_folder(table: Table, base: str | PathLike[str] | None) -> Path:
    folder = table.path.parent if base is None else Path(base).expanduser()
    if not folder.is_dir():
        raise DataError(f"base={str(base)!r} is not a folder; pass the one where the image paths start")
    return folder


def _check_paths(table: Table, cells: Cells, rows: Sequence[int], folder: Path) -> None:
    """Look for the files of all rows, drawn or not, so that no error comes and goes with the seed."""
    if isinstance(cells(rows[0]), str):
        for row in rows:
            _image_path(table, row, cells(row), folder)


def _image_path(table: Table, row: int, text: Any, folder: Path) -> str:
    if not isinstance(text, str) or not text:
        raise DataError(f"{table.place(row)} names no image ({shorten(text)}); write a path, e.g. 'cat/1.jpg'")
    path = folder / text
    try:
        size = path.stat().st_size if path.is_file() else None
    except (OSError, ValueError):  # too long for a file name, or a NUL in it
        size = None
    if size:
        return str(path)
    fact = f"there is no file {shorten(str(path))}" if size is None else "that file is empty"
    raise DataError(
        f"{table.place(row)} names the image {shorten(text)}, but {fact}; "
        "correct the row, or pass base='FOLDER' where the paths start"
    )


def _example(table: Table, row: int, cell: Any, label: str, folder: Path) -> dspy.Example:
    data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, cell)
    if isinstance(data, bytes) and data:
        return example(dspy.Image(_data_uri(data)), label, table.source(row))
    return example(_image_path(table, row, path, folder), label)


def _data_uri(data: bytes) -> str:
    """The bytes as they are; `dspy.Image(bytes)` would save a JPEG anew and lose a little of it."""
    kinds = (kind for magic, kind in _MAGIC.items() if data.startswith(magic))
    encoded = base64.b64encode(data).decode("ascii")
    return f"data:{next(kinds, 'application/octet-stream')};base64,{encoded}"

"""Read a table of images and labels: CSV, TSV, or parquet, which may hold the image bytes themselves.

Spreadsheets and the Hugging Face hub both produce tables: columns are found by their usual names, and number labels get
their names from wherever the file keeps them. A row whose image is missing is an error.
"""

import base64
import logging
from collections.abc import Collection, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import dspy

from ipo_dspy._internal.counts import pluralize
from ipo_dspy.clip.image_formats import file_suffix, image_suffixes
from ipo_dspy.data.catalog import Catalog, accept_test_argument
from ipo_dspy.data.dataset import ImageDataset, closest, example, shorten
from ipo_dspy.data.image_tree import file_size
from ipo_dspy.data.labels import named_labels
from ipo_dspy.data.labels import stored_classes as stored_classes
from ipo_dspy.data.split_column import rows_of_split, split_column
from ipo_dspy.data.split_folders import parts_by_name
from ipo_dspy.data.table_reader import TABLE_SUFFIXES, Cells, ImageTable, open_table
from ipo_dspy.errors import DataError, Hint

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
LONGEST_PATH = 4096
"""Characters that Linux takes."""

_MAGIC = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG": "image/png",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
    b"II*\x00": "image/tiff",
    b"MM\x00*": "image/tiff",
    b"BM": "image/bmp",
}


logger = logging.getLogger(__name__)


@accept_test_argument
def load_image_table(
    path: str | PathLike[str],
    *,
    image: str = "auto",
    label: str = "auto",
    classes: Sequence[str] | None = None,
    base: str | PathLike[str] | None = None,
    split: str | None = None,
    shots: int | None = None,
    seed: int = 0,
) -> ImageDataset:
    """Read a table with an image and a label in each row.

    Image cells are paths, bytes, or the hub's ``{bytes, path}``. Labels are class names or numbers from 0;
    the names of numbers are `classes`, else those that the parquet file keeps for the label column (``ipo_dspy`` or
    Hugging Face metadata), else a column of names beside it (``class_name``, ``class``, ...). Class order is that of
    those names; text labels without such names are sorted. All splits of one file have the same classes.

    Args:
        path: a .csv, .tsv or .parquet file with a header.
        image: column of images; "auto" finds image, path, file_name, ...
        label: column of labels; "auto" finds label, class, class_name, ...
        classes: class names in label index order.
        base: folder where relative image paths start; the table's own by default.
        split: keep rows with this value in the column that tells training from test rows (``split``, ``subset``,
            ... in any case, or any whose values are train, val, or test); "all" keeps all of them.
        shots: images per class, drawn by `few_shot`; None takes all.
        seed: seed of the draw.

    Raises:
        DataError: an unreadable file, a missing column or image, a label outside the classes, ...
    """
    catalog = table_catalog(path, image=image, label=label, classes=classes, base=base, split=split)
    return catalog.load(shots=shots, seed=seed)


def table_catalog(
    path: str | PathLike[str],
    *,
    image: str = "auto",
    label: str = "auto",
    classes: Sequence[str] | None = None,
    base: str | PathLike[str] | None = None,
    split: str | None = None,
) -> Catalog:
    """Return the catalog of a table; see `load_image_table`."""
    table = open_table(Path(path).expanduser())
    columns = find_columns(table, image, label)
    rows, folder = rows_of_split(table, columns, split), _base_folder(table, base)
    return catalog_of(table, *columns, rows, folder, classes=classes)


def catalog_of(
    table: ImageTable, image: str, label: str, rows: Sequence[int], folder: Path, *, classes: Sequence[str] | None
) -> Catalog:
    """Return the catalog of some rows; `image` and `label` are columns, relative image paths start in `folder`."""
    cells = table.columns[image]
    labels, names = named_labels(table, label, rows, classes)
    kept = list(rows)
    if isinstance(cells(rows[0]), str):
        for row in rows:  # drawn or not, so that no error comes and goes with the seed
            _image_path(table, row, cells(row), folder)
        kept, labels = _each_image_once(table, cells, rows, labels)

    def build(drawn: Sequence[int]) -> ImageDataset:
        in_order = sorted(drawn, key=lambda at: kept[at])  # rows are read fastest in order
        items = {at: _example(table, kept[at], cells(kept[at]), labels[at], folder) for at in in_order}
        return ImageDataset((items[at] for at in drawn), classes=names)

    return Catalog(names, labels, build)


def find_columns(table: ImageTable, image: str, label: str) -> tuple[str, str]:
    """Return the names of the image and label columns: those requested, or for "auto" the first with a usual name.

    Raises:
        DataError: one or both of them do not exist.
    """
    pictures = _column(table, image, IMAGE_COLUMNS, {label})
    usual = {name for name in table.columns if name.casefold() in LABEL_COLUMNS}
    part = split_column(table, {label, *usual} if pictures is None else {pictures, label, *usual})
    taken = {name for name in (pictures, part) if name is not None}
    labels = _column(table, label, LABEL_COLUMNS, taken)
    if pictures is not None and labels is not None:
        return pictures, labels
    found = {"image": (image, pictures), "label": (label, labels)}
    raise _no_column(table, {what: asked for what, (asked, name) in found.items() if name is None}, taken | {labels})


def _column(table: ImageTable, asked: str, usual: Sequence[str], taken: Collection[str]) -> str | None:
    if asked in table.columns:
        return asked
    columns = {name.casefold(): name for name in table.columns if name not in taken}
    found = next((columns[name] for name in usual if name in columns), None)
    return found if asked == "auto" else None


def _no_column(table: ImageTable, missing: Mapping[str, str], taken: Collection[str | None]) -> DataError:
    """Return the error that names all missing columns, with the likeliest of the others for each."""
    facts = [f"no {what} column" if asked == "auto" else f"no column {asked!r}" for what, asked in missing.items()]
    fact = f"{table.path} has {' and '.join(facts)}, only {', '.join(map(shorten, table.columns))}"
    if any(file_suffix(name) in image_suffixes() for name in table.columns):
        return DataError(f"{fact}; its first line names an image, so add a header line 'image,label' above it")
    remedies: dict[str, object] = {}
    free = [name for name in table.columns if name not in taken] or list(table.columns)
    for what, asked in missing.items():
        near = closest(what if asked == "auto" else asked, free) or free[0]
        remedies[what] = near
        free = [name for name in free if name != near] or free
    named = " and ".join(f"{{{what}}}" for what in remedies)
    return DataError(fact, hint=Hint(f"name {'it' if len(missing) == 1 else 'both'}, e.g. {named}", **remedies))


def _base_folder(table: ImageTable, base: str | PathLike[str] | None) -> Path:
    folder = table.path.parent if base is None else Path(base).expanduser()
    if not folder.is_dir():
        hint = "pass the folder that image paths are relative to"
        raise DataError("must be a folder", argument="base", value=str(base), hint=hint)
    return folder


def _each_image_once(
    table: ImageTable, cells: Cells, rows: Sequence[int], labels: Sequence[str]
) -> tuple[list[int], list[str]]:
    """Leave out rows that repeat an image path: the image would be trained on and tested on."""
    first: dict[str, int] = {}
    kept: list[int] = []
    for at, row in enumerate(rows):
        cell = cells(row)
        before = first.setdefault(cell, at)
        if before == at:
            kept.append(at)
        elif labels[before] != labels[at]:
            fact = f"{table.place(row)} labels {shorten(cell)} {labels[at]!r}, {table.place(rows[before])} labels it"
            raise DataError(f"{fact} {labels[before]!r}; remove one of the two rows")
    if len(kept) < len(rows):
        again = pluralize(len(rows) - len(kept), "image")
        logger.warning("%s names %s more than once; each is used once", table.path, again)
    return [rows[at] for at in kept], [labels[at] for at in kept]


def _image_path(table: ImageTable, row: int, text: Any, folder: Path) -> str:
    if not isinstance(text, str) or not text:
        raise DataError(f"{table.place(row)} names no image ({shorten(text)}); write a path, e.g. 'cat/1.jpg'")
    path = folder / text
    size = file_size(path)
    if size is None and "\\" in text:  # written on Windows
        path = folder / text.replace("\\", "/")
        size = file_size(path)
    if size:
        return str(path)
    missing = "which does not exist" if str(path) == text else f"but there is no file {_whole(str(path))}"
    fact = missing if size is None else "but that file is empty"
    raise DataError(
        f"{table.place(row)} names the image {_whole(text)}, {fact}",
        hint=Hint("correct the row, or pass {base}, which the paths are relative to", base="FOLDER"),
    )


def _whole(path: str) -> str:
    """Return a path for a message: complete, since its end names the file, unless it is too long for a path."""
    return shorten(path) if len(path) > LONGEST_PATH else repr(path)


def _example(table: ImageTable, row: int, cell: Any, label: str, folder: Path) -> dspy.Example:
    data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, cell)
    if isinstance(data, bytes) and data:
        return example(dspy.Image(_data_uri(data)), label, table.source(row))
    return example(_image_path(table, row, path, folder), label)


def _data_uri(data: bytes) -> str:
    """Return the bytes unchanged; `dspy.Image(bytes)` would encode a JPEG again, with a loss."""
    kinds = (kind for magic, kind in _MAGIC.items() if data.startswith(magic))
    encoded = base64.b64encode(data).decode("ascii")
    return f"data:{next(kinds, 'application/octet-stream')};base64,{encoded}"


def parts_of_table(path: Path, image: str, label: str) -> dict[str, str] | None:
    """Return the values of a table's split column by role; None if `path` is not such a table."""
    if path.suffix.lower() not in TABLE_SUFFIXES or not path.is_file():
        return None
    table = open_table(path)
    column = split_column(table, find_columns(table, image, label))
    if column is None:
        return None
    return parts_by_name({str(cell) for cell in map(table.columns[column], range(table.rows))})

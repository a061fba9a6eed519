"""Read a table of images and labels from a CSV, TSV, or parquet file; parquet may store the image bytes.

Tables come from spreadsheets and from the Hugging Face Hub. Columns are found by their usual names, and the names of
numeric labels are read from the file. A row whose image is missing is an error.
"""

import base64
import logging
from collections.abc import Collection, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Unpack

import dspy

from ipo_dspy._internal.counts import pluralize
from ipo_dspy.clip.image_formats import file_suffix, image_suffixes
from ipo_dspy.data.dataset import Catalog, DataOptions, ImageDataset, accept_test_argument, closest, example, shorten
from ipo_dspy.data.image_tree import file_size
from ipo_dspy.data.labels import named_labels
from ipo_dspy.data.labels import stored_classes as stored_classes
from ipo_dspy.data.split_folders import PART_WORDS, TRAINING, parts_by_name
from ipo_dspy.data.table_reader import TABLE_SUFFIXES, Cells, ImageTable, open_table
from ipo_dspy.errors import Argument, DataError, Hint

IMAGE_COLUMNS = ("image", "img", "image_path", "path", "file_name", "filename", "file_path", "filepath", "file")
LABEL_COLUMNS = ("label", "class", "class_name", "label_name", "labels", "category", "target")
SPLIT_COLUMNS = ("split", "subset", "partition", "is_training_image", "is_train", "is_test")
"""Names that identify a split column, in lower case."""
LONGEST_PATH = 4096
"""Maximum length of a path on Linux, in characters."""

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
    the names of numbers are `classes`, else those in the metadata of the parquet file (``ipo_dspy`` or Hugging Face),
    else another column of names (``class_name``, ``class``, ...). Classes have the order of those names; text labels
    without such names are sorted. All splits of a file have the same classes.

    Args:
        path: a .csv, .tsv or .parquet file with a header.
        image: column of images; "auto" finds image, path, file_name, ...
        label: column of labels; "auto" finds label, class, class_name, ...
        classes: class names in label index order.
        base: folder that relative image paths start from; by default the folder of the table.
        split: keep rows with this value in the split column (``split``, ``subset``, ... in any case, or any column
            whose values are train, val, or test); "all" keeps all rows.
        shots: images per class, drawn by `few_shot`; None takes all.
        seed: seed of the draw.

    Raises:
        DataError: the file is unreadable, a column or an image is missing, a label is not a class, ...
    """
    catalog = table_catalog(path, image=image, label=label, classes=classes, base=base, split=split)
    return catalog.load(shots=shots, seed=seed)


def table_catalog(path: str | PathLike[str], **options: Unpack[DataOptions]) -> Catalog:
    """Return the catalog of a table; see `load_image_table`."""
    table = open_table(Path(path).expanduser())
    columns = find_columns(table, options.get("image", "auto"), options.get("label", "auto"))
    rows, folder = rows_of_split(table, columns, options.get("split")), base_folder(table, options.get("base"))
    return catalog_of(table, *columns, rows, folder, classes=options.get("classes"))


def catalog_of(
    table: ImageTable, image: str, label: str, rows: Sequence[int], folder: Path, *, classes: Sequence[str] | None
) -> Catalog:
    """Return the catalog of `rows`; `image` and `label` are columns, and image paths are relative to `folder`."""
    cells = table.columns[image]
    labels, names = named_labels(table, label, rows, classes)
    positions = list(rows)
    if isinstance(cells(rows[0]), str):
        for row in rows:  # check all rows, so that errors do not depend on the seed
            _image_path(table, row, cells(row), folder)
        positions, labels = _each_image_once(table, cells, rows, labels)

    def build(drawn: Sequence[int]) -> ImageDataset:
        in_order = sorted(drawn, key=lambda at: positions[at])  # rows are read fastest in order
        items = {at: table_example(table, positions[at], cells(positions[at]), labels[at], folder) for at in in_order}
        return ImageDataset((items[at] for at in drawn), classes=names)

    return Catalog(names, labels, build)


def find_columns(table: ImageTable, image: str, label: str) -> tuple[str, str]:
    """Return the names of the image and label columns: those requested, or for "auto" the first with a usual name."""
    pictures = _column(table, image, IMAGE_COLUMNS, {label})
    usual = {name for name in table.columns if name.casefold() in LABEL_COLUMNS}
    part = split_column(table, {label, *usual} if pictures is None else {pictures, label, *usual})
    taken = {name for name in (pictures, part) if name is not None}
    labels = _column(table, label, LABEL_COLUMNS, taken)
    if pictures is not None and labels is not None:
        return pictures, labels
    columns = {"image": (image, pictures), "label": (label, labels)}
    raise _no_column(table, {what: asked for what, (asked, name) in columns.items() if name is None}, taken | {labels})


def _column(table: ImageTable, asked: str, usual: Sequence[str], taken: Collection[str]) -> str | None:
    if asked in table.columns:
        return asked
    columns = {name.casefold(): name for name in table.columns if name not in taken}
    usual_column = next((columns[name] for name in usual if name in columns), None)
    return usual_column if asked == "auto" else None


def _no_column(table: ImageTable, missing: Mapping[str, str], taken: Collection[str | None]) -> DataError:
    """Return the error for all missing columns, with the most similar existing column for each."""
    facts = [f"no {what} column" if asked == "auto" else f"no column {asked!r}" for what, asked in missing.items()]
    fact = f"{table.path} has {' and '.join(facts)}, only {', '.join(map(shorten, table.columns))}"
    if any(file_suffix(name) in image_suffixes() for name in table.columns):
        return DataError(f"{fact}; its first line contains an image path, so add a header line 'image,label' above it")
    remedies: dict[str, object] = {}
    free = [name for name in table.columns if name not in taken] or list(table.columns)
    for what, asked in missing.items():
        near = closest(what if asked == "auto" else asked, free) or free[0]
        remedies[what] = near
        free = [name for name in free if name != near] or free
    named = " and ".join(f"{{{what}}}" for what in remedies)
    return DataError(fact, hint=Hint(f"pass {'it' if len(missing) == 1 else 'both'}, e.g. {named}", **remedies))


def base_folder(table: ImageTable, base: str | PathLike[str] | None) -> Path:
    """Return the folder that image paths of a table are relative to."""
    folder = table.path.parent if base is None else Path(base).expanduser()
    if not folder.is_dir():
        hint = "pass the folder that image paths are relative to"
        raise DataError("must be a folder", argument="base", value=str(base), hint=hint)
    return folder


def split_column(table: ImageTable, others: Collection[str]) -> str | None:
    """Return the name of the split column, or None; the columns `others` are not considered."""
    columns = {name.casefold(): name for name in table.columns if name not in others}
    named = next((columns[name] for name in SPLIT_COLUMNS if name in columns), None)
    return named or next((name for name in columns.values() if _holds_parts(table, name)), None)


def rows_of_split(table: ImageTable, columns: Collection[str], split: str | None) -> list[int]:
    """Return the rows with the value `split` in the split column, or all rows for "all".

    None selects the only split. `columns` are the image and label columns.
    """
    column = split_column(table, columns)
    if column is None:
        if split not in (None, "all"):
            raise DataError(f"{table.path} has no column 'split'", hint=Hint("remove {split}", split=split))
        return list(range(table.rows))
    parts = [str(part) for part in map(table.columns[column], range(table.rows))]
    values = sorted(set(parts))
    known = ", ".join(map(shorten, values[:8]))
    if split is None and len(values) > 1:
        training = next((value for value in values if PART_WORDS.get(value.casefold()) == TRAINING), values[0])
        hint = Hint("pass one, e.g. {split}, or {all} for all rows", split=training, all=Argument("split", "all"))
        raise DataError(f"{table.path} holds the splits {known} in its column {column!r}", hint=hint)
    folded = None if split in (None, "all") else str(split).casefold()
    rows = [row for row, part in enumerate(parts) if folded in (None, part.casefold())]
    if not rows:
        raise DataError(f"{table.path} has no rows of split {split!r}; choose one of {known}")
    return rows


def _holds_parts(table: ImageTable, column: str) -> bool:
    """Return True if the cells name parts, at least two different ones; the first cell rules out most columns."""
    cells = table.columns[column]
    first = cells(0)
    if not isinstance(first, str) or first.casefold() not in PART_WORDS:
        return False
    values = {cells(row) for row in range(table.rows)}
    return len(values) > 1 and all(isinstance(value, str) and value.casefold() in PART_WORDS for value in values)


def _each_image_once(
    table: ImageTable, cells: Cells, rows: Sequence[int], labels: Sequence[str]
) -> tuple[list[int], list[str]]:
    """Drop rows that repeat an image path, which could put one image into the training and the test part."""
    first: dict[str, int] = {}
    unique: list[int] = []
    for at, row in enumerate(rows):
        cell = cells(row)
        before = first.setdefault(cell, at)
        if before == at:
            unique.append(at)
        elif labels[before] != labels[at]:
            fact = f"{table.place(row)} labels {shorten(cell)} {labels[at]!r}, {table.place(rows[before])} labels it"
            raise DataError(f"{fact} {labels[before]!r}; remove one of the two rows")
    if len(unique) < len(rows):
        again = pluralize(len(rows) - len(unique), "image")
        logger.warning("%s lists %s more than once; each is used once", table.path, again)
    return [rows[at] for at in unique], [labels[at] for at in unique]


def _image_path(table: ImageTable, row: int, text: Any, folder: Path) -> str:
    if not isinstance(text, str) or not text:
        raise DataError(f"{table.place(row)} has no image path ({shorten(text)}); add one, e.g. 'cat/1.jpg'")
    path = folder / text
    size = file_size(path)
    if size is None and "\\" in text:  # a Windows path
        path = folder / text.replace("\\", "/")
        size = file_size(path)
    if size:
        return str(path)
    missing = "which does not exist" if str(path) == text else f"but the file {_whole(str(path))} does not exist"
    fact = missing if size is None else "but that file is empty"
    hint = Hint("correct the row, or pass {base}, which the paths are relative to", base="FOLDER")
    raise DataError(f"{table.place(row)} names the image {_whole(text)}, {fact}", hint=hint)


def _whole(path: str) -> str:
    """Return the `repr` of a path, complete since it ends in the file name; shortened if it is too long for a path."""
    return shorten(path) if len(path) > LONGEST_PATH else repr(path)


def table_example(table: ImageTable, row: int, cell: Any, label: str | list[str], folder: Path) -> dspy.Example:
    """Return the example of a row with the image `cell`, whose path is relative to `folder`."""
    data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, cell)
    if isinstance(data, bytes) and data:
        return example(dspy.Image(_data_uri(data)), label, table.source(row))
    return example(_image_path(table, row, path, folder), label)


def _data_uri(data: bytes) -> str:
    """Return a data URI of the unchanged bytes; `dspy.Image(bytes)` would re-encode a JPEG with a loss."""
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

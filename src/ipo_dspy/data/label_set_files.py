"""Read images with several labels or none, from a table or a folder of class folders.

A table has all labels of an image in one cell, or a row for each of them. Images are drawn by their rarest label, so
that a few images of each class are among those for training.
"""

import logging
import math
import re
from collections import Counter
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Unpack

from ipo_dspy._internal.counts import first_few, pluralize
from ipo_dspy.data.dataset import (
    Catalog,
    DataOptions,
    ImageDataset,
    check_options,
    class_name,
    example,
    shorten,
    unknown_class,
)
from ipo_dspy.data.folder import load_image_folder
from ipo_dspy.data.image_tree import check_access
from ipo_dspy.data.labels import MAX_LABEL
from ipo_dspy.data.sampling import NO_CLASS
from ipo_dspy.data.table import base_folder, find_columns, rows_of_split, table_example
from ipo_dspy.data.table_reader import TABLE_SUFFIXES, ImageTable, open_table
from ipo_dspy.errors import DataError, InputError
from ipo_dspy.template import check_classes, same_class

logger = logging.getLogger(__name__)
_SEPARATOR = re.compile("[|;]")
_NONE = "(none)"
"""Text for no label, as in reports."""


def load_label_sets(path: str | PathLike[str], **options: Unpack[DataOptions]) -> ImageDataset:
    r"""Load images whose `label` is a list, for a classifier with `multi_label=True`.

    In a table, labels are separated by `|` or `;`, or are in several rows of the same image; an empty cell and `(none)`
    stand for no label, and parquet may have lists of texts. In a folder, an image has the label of its class folder.

    Args:
        path: a .csv, .tsv or .parquet table, or a folder of class folders.
        options: `image`, `label`, `base` and `split` as for `load_image_table`, for a folder only `split`. `classes`
            are the classes, in this order (sorted by default); images of other folders then have no label.

    Raises:
        DataError: the path is of another kind, or cannot be read, or a label is not one of `classes`.

    >>> from pathlib import Path
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in "ab":
    ...         _ = Path(folder, f"{name}.jpg").write_bytes(b"...")
    ...     _ = Path(folder, "t.csv").write_text("image,labels\na.jpg,dog|ball\nb.jpg,\n")
    ...     [item.label for item in load_label_sets(f"{folder}/t.csv")]
    [['dog', 'ball'], []]
    """
    return label_sets_catalog(path, **options).load(shots=None, seed=0)


def label_sets_catalog(path: str | PathLike[str], **options: Unpack[DataOptions]) -> Catalog:
    """Return the catalog of images with several labels, whose `labels` are the rarest ones; see `load_label_sets`."""
    place = Path(path).expanduser()
    if check_access(place).is_dir():
        return _folder_catalog(place, options)
    if place.suffix.lower() not in TABLE_SUFFIXES:
        suffixes = ", ".join(sorted(TABLE_SUFFIXES))
        raise DataError(f"{place} is not a table, which several labels need; pass a file in {suffixes}, or a folder")
    table = open_table(place)
    columns = find_columns(table, options.get("image", "auto"), options.get("label", "auto"))
    pictures, cells = (table.columns[column] for column in columns)
    rows, folder = rows_of_split(table, columns, options.get("split")), base_folder(table, options.get("base"))
    first: dict[Any, int] = {}
    found: dict[int, list[str]] = {}
    for row in rows:
        picture = pictures(row)
        key = first.setdefault(picture if isinstance(picture, str) else row, row)
        found.setdefault(key, []).extend(_labels(table, row, cells(row), options.get("classes")))
    sets = {row: list(dict.fromkeys(labels)) for row, labels in found.items()}

    def item(row: int) -> Any:
        return table_example(table, row, pictures(row), sets[row], folder)

    return _catalog(place, sets, options.get("classes"), item)


def _folder_catalog(place: Path, options: DataOptions) -> Catalog:
    check_options(options, place, "a folder of class folders", ["split", "classes"])
    images, classes = load_image_folder(place, split=options.get("split")), options.get("classes")
    known = {name: name if classes is None else same_class(name, classes) for name in images.classes}
    if not any(known.values()):
        raise DataError(f"{place} has {unknown_class(images.classes[0], classes or ())}")
    if others := [name for name, label in known.items() if label is None]:
        fact = f"images of {pluralize(len(others), 'folder')} count as images without a label: {first_few(others, 5)}"
        logger.warning("%s: %s", place, fact)
    sets = {row: [label for label in [known[item.label]] if label] for row, item in enumerate(images)}
    return _catalog(place, sets, classes, lambda row: example(images[row].image, sets[row], images[row].source))


def _catalog(place: Path, sets: dict[int, list[str]], classes: Sequence[str] | None, item: Any) -> Catalog:
    counts = Counter(label for labels in sets.values() for label in labels)
    try:
        names = check_classes(sorted(counts) if classes is None else classes, least=1)
    except InputError as error:
        raise DataError(f"{place}: {error}") from error
    rows = list(sets)
    rarest = [min(sets[row], key=lambda label: (counts[label], label), default=NO_CLASS) for row in rows]
    return Catalog(names, rarest, lambda drawn: ImageDataset((item(rows[at]) for at in drawn), classes=names))


def _labels(table: ImageTable, row: int, cell: Any, classes: Sequence[str] | None) -> list[str]:
    """Return the labels in a cell, spelled as in the classes."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return []
    texts = _SEPARATOR.split(cell) if isinstance(cell, str) else cell
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        fact = f"{table.place(row)} has the labels {shorten(cell)}"
        raise DataError(f"{fact}; expected class names, separated by '|' or ';'")
    names = [name for name in map(class_name, texts) if name not in ("", _NONE)]
    for name in names:
        if len(name) > MAX_LABEL:
            raise DataError(f"{table.place(row)} has a label of {len(name)} characters, {shorten(name)}; shorten it")
    if classes is None:
        return names
    for name in names:
        if same_class(name, classes) is None:
            raise DataError(f"{table.place(row)} has {unknown_class(name, classes)}")
    return [same_class(name, classes) or name for name in names]

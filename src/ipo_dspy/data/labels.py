"""Map the label cells of a table to class names: text is kept, numbers are looked up in the names of the file."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ipo_dspy.data.dataset import class_name, shorten, unknown_class, usable_classes
from ipo_dspy.data.table_reader import ImageTable
from ipo_dspy.errors import DataError, Hint

NAME_COLUMNS = ("class_name", "label_name", "category_name", "class", "category", "label_text", "name", "label")
"""Columns that may hold the names of the numbers in the label column."""
MAX_LABEL = 200
"""Maximum length of a class name; a longer cell is a caption or damaged, and CLIP reads 77 tokens."""

_INTEGER = re.compile(r"(-?[0-9]{1,9})(?:[.,]0*)?")
"""Also matches `1.0`, from pandas columns with missing values, and `1,0`, from German spreadsheets."""


def named_labels(
    table: ImageTable, column: str, rows: Sequence[int], classes: Sequence[str] | None
) -> tuple[list[str], tuple[str, ...]]:
    """Return the class name of each row in `rows`, and all class names of the table in label index order."""
    values = _as_integers([_tidy(value) for value in map(table.columns[column], range(table.rows))])
    _check_values(table, rows, values)
    present = {value for value in values if value is not None}
    declared = usable_classes(classes, "classes") if classes is not None else stored_classes(table.metadata, column)
    if all(map(_is_number, present)) and not present <= set(declared or ()):
        numbered = dict(enumerate(declared)) if declared else _read_names_file(table, column, values)
        names = {key: name for number, name in numbered.items() for key in (number, str(number))}
        ordered = tuple(numbered.values())
    else:
        ordered = declared or tuple(sorted(map(str, present)))
        names = {name: name for name in ordered}
    checked = usable_classes(ordered, table.path)
    return [_named(table, row, values[row], names, checked) for row in rows], checked


def _tidy(value: Any) -> Any:
    """Return a cell without surrounding spaces; empty text and NaN become None, and integral floats integers."""
    if isinstance(value, float):
        return None if math.isnan(value) else int(value) if value.is_integer() else value
    return (class_name(value) or None) if isinstance(value, str) else value


def _as_integers(values: list[Any]) -> list[Any]:
    """Write text without decimals, if all of it is integers.

    >>> _as_integers(["0.0", "2", 3]), _as_integers(["1.0", "1.5"])
    (['0', '2', 3], ['1.0', '1.5'])
    """
    texts = [value for value in values if isinstance(value, str)]
    if not all(map(_is_number, texts)):
        return values
    return [_INTEGER.sub(r"\1", value) if isinstance(value, str) else value for value in values]


def _is_number(value: Any) -> bool:
    """Return True for an integer, or for its text in a CSV file."""
    return isinstance(value, int) or (isinstance(value, str) and _INTEGER.fullmatch(value) is not None)


def _check_values(table: ImageTable, rows: Sequence[int], values: Sequence[Any]) -> None:
    for row in rows:
        value = values[row]
        if isinstance(value, bool) or not isinstance(value, int | str):
            fact = "no label" if value is None else f"the label {shorten(value)}"
            raise DataError(f"{table.place(row)} has {fact}; expected a class name or an integer of at least 0")
        if isinstance(value, str) and len(value) > MAX_LABEL:
            fact = f"{table.place(row)} has a label of {len(value)} characters, {shorten(value)}"
            raise DataError(fact, hint=Hint("pass the column of class names as {label}", label=...))


def stored_classes(metadata: Mapping[str, dict[str, Any]], column: str) -> tuple[str, ...] | None:
    """Return the class names in the metadata of a file: those of this package, or of the Hugging Face `ClassLabel`."""
    package_names = metadata.get("ipo_dspy", {}).get("classes")
    info = metadata.get("huggingface", {}).get("info")
    features = info.get("features") if isinstance(info, dict) else None
    feature = features.get(column) if isinstance(features, dict) else None
    hub_names = feature.get("names") if isinstance(feature, dict) else None
    return next((tuple(map(str, names)) for names in (package_names, hub_names) if isinstance(names, list)), None)


def _read_names_file(table: ImageTable, column: str, values: Sequence[Any]) -> dict[int, str]:
    """Return class names by number from a column of names, in the order of the numbers."""
    columns = {name.casefold(): name for name in table.columns if name != column}
    usual = (columns[name] for name in NAME_COLUMNS if name in columns)
    name_column = next((name for name in usual if _is_text(table, name)), None)
    if name_column is None:
        fact = f"{table.path}: column {column!r} holds numbers and the file has no names for them"
        remedy = f"pass classes=['cat', 'dog', ...] in the order of the numbers, or add a column {NAME_COLUMNS[0]!r}"
        raise DataError(f"{fact}; {remedy} (for tar files, a classnames.txt with one name per line)")
    cells = table.columns[name_column]
    names: dict[int, str] = {}
    for row, value in enumerate(values):
        name = _tidy(cells(row))
        if value is None or not isinstance(name, str):
            continue
        if names.setdefault(int(value), name) != name:
            fact = f"{table.place(row)} calls label {value} {shorten(name)}, earlier rows call it {names[int(value)]!r}"
            raise DataError(f"{fact}; give each number one name")
    return dict(sorted(names.items()))


def _is_text(table: ImageTable, column: str) -> bool:
    """Return True if all cells of a column are strings and at least one is not a number."""
    cells = [cell for cell in map(table.columns[column], range(table.rows)) if cell is not None]
    return all(isinstance(cell, str) for cell in cells) and not all(map(_is_number, cells))


def _named(table: ImageTable, row: int, value: Any, names: dict[Any, str], classes: Sequence[str]) -> str:
    if value in names:
        return names[value]
    if _is_number(value):
        fact = f"the label {value}, outside 0..{len(classes) - 1}; correct it, or pass all class names"
    else:
        fact = unknown_class(value, classes)
    raise DataError(f"{table.place(row)} has {fact}")

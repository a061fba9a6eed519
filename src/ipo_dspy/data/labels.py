"""From the label cells of a table to class names: text as it is, numbers by whatever the file has for their names."""

import re
from collections.abc import Sequence
from typing import Any

from ipo_dspy.data.dataset import class_name, shorten, unknown_class, usable_classes
from ipo_dspy.data.tablefile import Table
from ipo_dspy.errors import DataError

NAME_COLUMN = "class_name"
MAX_LABEL = 200
"""Characters in a class name; a longer cell is a caption or a damaged file, and CLIP reads 77 tokens."""

_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,9}")


def named_labels(
    table: Table, column: str, rows: Sequence[int], classes: Sequence[str] | None
) -> tuple[list[str], tuple[str, ...]]:
    """The class name of each kept row, and all class names of the table in label index order."""
    values = [_tidy(value) for value in map(table.column(column), range(table.rows))]
    _check_values(table, rows, values)
    present = {value for value in values if value is not None}
    given = usable_classes(classes, "classes") if classes is not None else stored_classes(table.metadata)
    if all(map(_is_number, present)) and not present <= set(given or ()):
        numbered = dict(enumerate(given)) if given else _names_beside(table, column, values)
        names = {key: name for number, name in numbered.items() for key in (number, str(number))}
        ordered = tuple(numbered.values())
    else:
        ordered = given or tuple(sorted(map(str, present)))
        names = {name: name for name in ordered}
    checked = usable_classes(ordered, table.path)
    return [_named(table, row, values[row], names, checked) for row in rows], checked


def _tidy(value: Any) -> Any:
    return (class_name(value) or None) if isinstance(value, str) else value


def _is_number(value: Any) -> bool:
    """A whole number, or the text of one as CSV has it."""
    return isinstance(value, int) or (isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value) is not None)


def _check_values(table: Table, rows: Sequence[int], values: Sequence[Any]) -> None:
    for row in rows:
        value = values[row]
        if isinstance(value, bool) or not isinstance(value, int | str):
            fact = "no label" if value is None else f"the label {shorten(value)}"
            raise DataError(f"{table.place(row)} has {fact}; write a class name or a whole number from 0")
        if isinstance(value, str) and len(value) > MAX_LABEL:
            fact = f"{table.place(row)} has a label of {len(value)} characters, {shorten(value)}"
            raise DataError(f"{fact}; name the column of class names with label='...'")


def stored_classes(metadata: dict[str, dict[str, Any]]) -> tuple[str, ...] | None:
    """Class names from our own metadata, or from the first ClassLabel in that of Hugging Face."""
    own = metadata.get("ipo_dspy", {}).get("classes")
    info = metadata.get("huggingface", {}).get("info")
    features = info.get("features") if isinstance(info, dict) else None
    theirs = features.values() if isinstance(features, dict) else ()
    found = [own, *(feature.get("names") for feature in theirs if isinstance(feature, dict))]
    return next((tuple(map(str, names)) for names in found if isinstance(names, list)), None)


def _names_beside(table: Table, column: str, values: Sequence[Any]) -> dict[int, str]:
    """Number -> name from the class_name column, in the order of the numbers."""
    if NAME_COLUMN not in table.columns or column == NAME_COLUMN:
        raise DataError(
            f"{table.path}: column {column!r} holds numbers and the file has no names for them; "
            "pass classes=['cat', 'dog', ...] in the order of the numbers"
        )
    beside = table.column(NAME_COLUMN)
    names: dict[int, str] = {}
    for row, value in enumerate(values):
        name = _tidy(beside(row))
        if value is None or not isinstance(name, str):
            continue
        if names.setdefault(int(value), name) != name:
            fact = f"{table.place(row)} calls label {value} {shorten(name)}, rows before {names[int(value)]!r}"
            raise DataError(f"{fact}; give each number one name")
    return dict(sorted(names.items()))


def _named(table: Table, row: int, value: Any, names: dict[Any, str], classes: Sequence[str]) -> str:
    if value in names:
        return names[value]
    if _is_number(value):
        fact = f"the label {value}, outside 0..{len(classes) - 1}; write a number in that range"
    else:
        fact = unknown_class(value, classes)
    raise DataError(f"{table.place(row)} has {fact}")

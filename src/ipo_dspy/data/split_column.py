"""Find the split column of a table, which separates training from test rows, and select the rows of a split."""

from collections.abc import Collection

from ipo_dspy.data.dataset import shorten
from ipo_dspy.data.split_folders import PART_WORDS, TRAINING
from ipo_dspy.data.table_reader import ImageTable
from ipo_dspy.errors import Argument, DataError, Hint

SPLIT_COLUMNS = ("split", "subset", "partition", "is_training_image", "is_train", "is_test")
"""Names that identify a split column, in lower case."""


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
        fact = f"{table.path} holds the splits {known} in its column {column!r}"
        hint = Hint(
            "pass one, e.g. {split}, or {all} for all rows", split=_training(values), all=Argument("split", "all")
        )
        raise DataError(fact, hint=hint)
    folded = None if split in (None, "all") else str(split).casefold()
    rows = [row for row, part in enumerate(parts) if folded in (None, part.casefold())]
    if not rows:
        raise DataError(f"{table.path} has no rows of split {split!r}; choose one of {known}")
    return rows


def _training(values: list[str]) -> str:
    return next((value for value in values if PART_WORDS.get(value.casefold()) == TRAINING), values[0])


def _holds_parts(table: ImageTable, column: str) -> bool:
    """Return True if the cells name parts, at least two different ones; the first cell rules out most columns."""
    cells = table.columns[column]
    first = cells(0)
    if not isinstance(first, str) or first.casefold() not in PART_WORDS:
        return False
    values = {cells(row) for row in range(table.rows)}
    return len(values) > 1 and all(isinstance(value, str) and value.casefold() in PART_WORDS for value in values)

"""Open a CSV, TSV or parquet file as named columns of cells, with row locations for error messages.

Only this module imports pyarrow. Parquet columns are read on demand, one row group at a time, and cells are converted
to Python values one by one: a column of image bytes is large, and often only a few shots are needed.
"""

import bisect
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from ipo_dspy._internal.json_input import parse_json
from ipo_dspy.data.csv_reader import read_csv
from ipo_dspy.errors import DataError

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".parquet"})

Cells: TypeAlias = Callable[[int], Any]
"""Row -> cell."""


@dataclass(frozen=True, slots=True)
class ImageTable:
    """An opened table file.

    Attributes:
        path: the file.
        columns: column name -> row -> cell; an empty CSV cell is an empty string, a parquet null is None.
        rows: number of rows, at least 1.
        place: row -> its location, e.g. 'line 3 of cars.csv'.
        source: row -> the `source` of an image that is stored in the table itself.
        metadata: JSON objects in the metadata of the file, by key.
    """

    path: Path
    columns: Mapping[str, Cells]
    rows: int
    place: Callable[[int], str]
    source: Callable[[int], str]
    metadata: Mapping[str, dict[str, Any]] = field(default_factory=dict)


def open_table(path: Path) -> ImageTable:
    """Open a table by its suffix."""
    if not path.is_file():
        absent = f"does not exist (working directory: {Path.cwd()})"
        fact = "is a folder, which load_image_folder reads" if path.is_dir() else absent
        raise DataError(f"table {path} {fact}; pass a file such as 'photos.csv'")
    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise DataError(f"{path} is not a supported table; supported: {', '.join(sorted(TABLE_SUFFIXES))}")
    table = _open_parquet(path) if suffix == ".parquet" else _open_csv(path)
    if not table.rows:
        raise DataError(f"{path} has a header but no rows; add one for each image, e.g. 'cat/1.jpg,cat'")
    return table


def own_metadata(classes: Sequence[str] | None) -> dict[str, dict[str, Any]]:
    """Return the metadata that stores class names in label index order."""
    return {"ipo_dspy": {"classes": list(classes)}} if classes else {}


def _check_names(path: Path, names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise DataError(f"{path} has duplicate column names ({', '.join(names)}); rename one")


def _open_csv(path: Path) -> ImageTable:
    header, rows, lines = read_csv(path)
    _check_names(path, header)
    columns = {name: [row[at] for row in rows].__getitem__ for at, name in enumerate(header)}
    return ImageTable(path, columns, len(rows), lambda row: f"line {lines[row]} of {path}", lambda row: f"{path}#{row}")


def _open_parquet(path: Path) -> ImageTable:
    import pyarrow.parquet as pq  # imported here because it is slow and CSV does not need it

    file = _guarded(path, lambda: pq.ParquetFile(path))
    groups = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
    ends = list(itertools.accumulate(groups))
    names = file.schema_arrow.names
    _check_names(path, names)

    def column(name: str) -> Cells:
        # A column of images may not fit in memory, so only one row group is cached; callers read rows in order.
        @functools.lru_cache(maxsize=1)
        def group(number: int) -> Any:
            return _guarded(path, lambda: file.read_row_group(number, columns=[name])).column(name)

        def cell(row: int) -> Any:
            number = bisect.bisect_right(ends, row)
            return _guarded(path, group(number)[row - ends[number] + groups[number]].as_py)

        return cell

    return ImageTable(
        path,
        columns={name: column(name) for name in names},
        rows=file.metadata.num_rows,
        place=lambda row: f"row {row} of {path}",
        source=lambda row: f"{path}#{row}",
        metadata=_json_objects(file.schema_arrow.metadata or {}),
    )


def _guarded(path: Path, read: Callable[[], Any]) -> Any:
    import pyarrow as pa

    try:
        return read()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} holds text that is not UTF-8 ({error.reason}); save the file again") from error
    except (pa.ArrowException, OSError) as error:
        fact = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"{path} cannot be read as parquet ({fact}); download or save the file again") from error


def _json_objects(metadata: dict[bytes, bytes]) -> dict[str, dict[str, Any]]:
    """Return the values that are JSON objects; other tools store other formats there."""
    objects: dict[str, dict[str, Any]] = {}
    for key, value in metadata.items():
        try:
            content = parse_json(value)
        except ValueError:
            continue
        if isinstance(content, dict):
            objects[key.decode("utf-8", "replace")] = content
    return objects

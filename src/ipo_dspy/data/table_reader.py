"""Open a CSV, TSV or parquet file as named columns of cells, with row locations for error messages.

Python's `csv` splits the lines of text tables, because it reports which line is wrong; before, the encoding, Excel's
`sep=;` line, lines above the header and the separator are detected. Only this module imports pyarrow. Parquet columns
are read on demand, one row group at a time, and cells are converted to Python values one by one: a column of image
bytes is large, and often only a few shots are needed.
"""

import bisect
import codecs
import csv
import functools
import io
import itertools
import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from ipo_dspy._internal.counts import pluralize
from ipo_dspy._internal.file_io import read_regular
from ipo_dspy._internal.json_input import parse_json
from ipo_dspy.errors import DataError

logger = logging.getLogger(__name__)

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".parquet"})
MAX_BYTES = 1 << 30
"""Maximum size of a text table, which is kept in memory completely."""

_SEPARATORS = ",;\t|"
_EXCEL_SEPARATOR = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
_csv_limit = threading.Lock()

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
    header, rows, lines = _read_csv(path)
    _check_names(path, header)
    columns = {name: [row[at] for row in rows].__getitem__ for at, name in enumerate(header)}
    return ImageTable(path, columns, len(rows), lambda row: f"line {lines[row]} of {path}", lambda row: f"{path}#{row}")


def _open_parquet(path: Path) -> ImageTable:
    import pyarrow.parquet as pq  # imported here because it is slow and CSV does not need it

    with parquet_errors(path):
        file = pq.ParquetFile(path)
    groups = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
    ends = list(itertools.accumulate(groups))
    names = file.schema_arrow.names
    _check_names(path, names)

    def column(name: str) -> Cells:
        # A column of images may not fit in memory, so only one row group is cached; callers read rows in order.
        @functools.lru_cache(maxsize=1)
        def group(number: int) -> Any:
            return file.read_row_group(number, columns=[name]).column(name)

        def cell(row: int) -> Any:
            number = bisect.bisect_right(ends, row)
            with parquet_errors(path):
                return group(number)[row - ends[number] + groups[number]].as_py()

        return cell

    return ImageTable(
        path,
        columns={name: column(name) for name in names},
        rows=file.metadata.num_rows,
        place=lambda row: f"row {row} of {path}",
        source=lambda row: f"{path}#{row}",
        metadata=_json_objects(file.schema_arrow.metadata or {}),
    )


def _read_csv(path: Path) -> tuple[tuple[str, ...], list[list[str]], list[int]]:
    """Return the header, the rows below it, and the line on which each row ends; whitespace around cells is removed."""
    text = _decoded(path)
    skipped, separator = _before_header(text)
    body = "".join(text.splitlines(keepends=True)[skipped:])
    if separator is None:
        is_tsv = path.suffix.lower() == ".tsv"
        separator = "\t" if is_tsv else max(_SEPARATORS, key=body.partition("\n")[0].count)
    rows: list[list[str]] = []
    lines: list[int] = []
    header: tuple[str, ...] = ()
    try:
        with _cells_of_any_length():
            # Skip a space before a quote: `1.jpg, "cat"`.
            reader = csv.reader(io.StringIO(body, newline=""), delimiter=separator, strict=True, skipinitialspace=True)
            header = tuple(name.strip() for name in next(reader, []))
            for row in filter(None, reader):
                _check_width(row, header, f"line {reader.line_num + skipped} of {path}")
                rows.append([cell.strip() for cell in row])
                lines.append(reader.line_num + skipped)
    except csv.Error as error:
        last = lines[-1] if lines else skipped + 1
        raise DataError(f"{path}: {error}, after line {last}; check the quotes and save it again") from error
    if not header:
        raise DataError(f"{path} is empty; add a header line 'image,label' and a line for each image")
    return header, rows, lines


def _decoded(path: Path) -> str:
    """Decode a file as UTF-8, UTF-16, or else Windows-1252, in which Excel saves CSV in many locales."""
    try:
        data = read_regular(path, limit=MAX_BYTES)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); check the file") from error
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        encodings = ["utf-16"]
    elif b"\0" in data[:4]:  # UTF-16 without a byte-order mark: every second byte of ASCII text is zero
        encodings = ["utf-16-be" if data[:1] == b"\0" else "utf-16-le"]
    else:
        encodings = ["utf-8-sig", "cp1252"]
    for encoding in encodings:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError as error:
            reason = error.reason
            continue
        if encoding == "cp1252":
            fact = "is not UTF-8 and was read as Windows-1252"
            logger.warning("%s %s; if names look wrong, save it as 'CSV UTF-8'", path, fact)
        return text
    fact = "is neither UTF-8 nor Windows-1252" if len(encodings) > 1 else "is not text"
    raise DataError(f"{path} {fact} ({reason}); save it as 'CSV UTF-8'")


def _before_header(text: str) -> tuple[int, str | None]:
    """Return the number of lines above the header, and the separator that a `sep=` line declares."""
    lines = text.splitlines()
    declared = _EXCEL_SEPARATOR.fullmatch(lines[0]) if lines else None
    blank = itertools.takewhile(lambda line: not line.strip(" \t,;") or line.startswith("#"), lines[bool(declared) :])
    return bool(declared) + len(list(blank)), declared[1] if declared else None


def _check_width(row: Sequence[str], header: Sequence[str], place: str) -> None:
    if len(row) != len(header):
        fact = f"{place} has {pluralize(len(row), 'cell')}, the header {len(header)}"
        raise DataError(f'{fact}; put quotes around a cell that holds a comma: 1.jpg,"cat, black"')


@contextmanager
def _cells_of_any_length() -> Iterator[None]:
    """Raise the process-wide limit of `csv` on the size of a cell, and restore it."""
    with _csv_limit:
        before = csv.field_size_limit(MAX_BYTES)
        try:
            yield
        finally:
            csv.field_size_limit(before)


@contextmanager
def parquet_errors(path: str | Path) -> Iterator[None]:
    """Raise the errors of pyarrow while it reads a file as a `DataError`."""
    import pyarrow as pa

    try:
        yield
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

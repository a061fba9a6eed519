"""Read CSV and TSV files from spreadsheets, pandas, and text editors.

Python's `csv` splits the lines, because it reports which line is wrong. This module first detects the encoding, Excel's
`sep=;` line, blank and comment lines above the header, and the separator.
"""

import codecs
import csv
import io
import logging
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ipo_dspy._internal.counts import pluralize
from ipo_dspy._internal.file_io import read_regular
from ipo_dspy.errors import DataError

MAX_BYTES = 1 << 30
"""Maximum size of a text table, which is kept in memory completely."""

_SEPARATORS = ",;\t|"
_EXCEL_SEPARATOR = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_csv_limit = threading.Lock()

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CsvRows:
    """The header, the rows below it, and the line number on which each row ends."""

    header: tuple[str, ...]
    rows: list[list[str]]
    lines: list[int]


def read_csv(path: Path) -> CsvRows:
    """Read a CSV or TSV file; whitespace around cells is removed."""
    text = _decoded(path)
    skipped, separator = _before_header(text)
    if path.suffix.lower() == ".tsv":
        separator = separator or "\t"
    body = "".join(text.splitlines(keepends=True)[skipped:])
    separator = separator or max(_SEPARATORS, key=body.partition("\n")[0].count)
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
    return CsvRows(header, rows, lines)


def _decoded(path: Path) -> str:
    """Decode a file as UTF-8, UTF-16, or else Windows-1252, in which Excel saves CSV in many locales."""
    try:
        data = read_regular(path, limit=MAX_BYTES)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); check the file") from error
    try:
        if data[:2] in _UTF_16:
            return data.decode("utf-16")
        if b"\0" in data[:4]:  # UTF-16 without a byte-order mark: every second byte of ASCII text is zero
            return data.decode("utf-16-be" if data[:1] == b"\0" else "utf-16-le")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if b"\0" in data[:4] or data[:2] in _UTF_16:
            raise DataError(f"{path} is not text ({error.reason}); save it as 'CSV UTF-8'") from error
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is neither UTF-8 nor Windows-1252 ({error.reason}); save it as 'CSV UTF-8'") from error
    logger.warning("%s is not UTF-8 and was read as Windows-1252; if names look wrong, save it as 'CSV UTF-8'", path)
    return text


def _before_header(text: str) -> tuple[int, str | None]:
    """Return the number of lines above the header, and the separator that a `sep=` line declares."""
    separator = None
    count = 0
    for line in text.splitlines():
        stated = _EXCEL_SEPARATOR.fullmatch(line)
        if stated is not None and count == 0:
            separator = stated[1]
        elif line.strip(" \t,;") and not line.startswith("#"):
            return count, separator
        count += 1
    return count, separator


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

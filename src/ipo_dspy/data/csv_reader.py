"""Read CSV and TSV files from spreadsheets, pandas, and text editors.

Python's `csv` splits the lines, because it reports which line is wrong. This module first detects the encoding, Excel's
`sep=;` line, blank and comment lines above the header, and the separator.
"""

import codecs
import csv
import io
import itertools
import logging
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ipo_dspy._internal.counts import pluralize
from ipo_dspy._internal.file_io import read_regular
from ipo_dspy.errors import DataError

MAX_BYTES = 1 << 30
"""Maximum size of a text table, which is kept in memory completely."""

_SEPARATORS = ",;\t|"
_EXCEL_SEPARATOR = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
_csv_limit = threading.Lock()

logger = logging.getLogger(__name__)


def read_csv(path: Path) -> tuple[tuple[str, ...], list[list[str]], list[int]]:
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

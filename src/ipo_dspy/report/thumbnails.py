"""Encode thumbnails of the images of a journal as `data:` URLs; None if an image is not available.

A journal names image files and does not contain their pixels, so the files are read when the page is written. They are
untrusted: `clip.image_io` opens them, and the page contains only newly encoded thumbnails, never metadata or the
original bytes.
"""

import base64
import io
import logging
import tarfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipo_dspy._internal.file_io import open_regular
from ipo_dspy.errors import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 96
MAX_FILE_BYTES = 2**29
MAX_TABLE_BYTES = 2**29
"""Row groups of a parquet file are decoded whole; larger ones are skipped."""

_UNREADABLE = (
    *(ImageError, OSError, ValueError, LookupError, TypeError, ArithmeticError, NotImplementedError, ImportError),
    tarfile.TarError,
)
"""Errors of images and rows that are missing, and of pyarrow and tarfile on broken files."""

_log = logging.getLogger(__name__)


def thumbnail(source: str) -> str | None:
    """Return the image that `source` names as a `data:` URL of at most 96 x 96 pixels.

    Args:
        source: an absolute path, `FILE.parquet#ROW` with a column of `{bytes, path}`, or `FILE.tar#MEMBER`.
    """
    from ipo_dspy.clip.image_io import open_image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = open_image(_content(source), least_side=8 * SIDE)
            image.thumbnail((SIDE, SIDE))
            return _encode(image)
        except _UNREADABLE as error:
            _log.info("no thumbnail of %r: %s", source, error)
            return None


def _content(source: str) -> bytes | Path:
    if ".parquet#" in source.lower():
        return _table_image(source)
    at = source.lower().find(".tar#")
    return _local(source) if at < 0 else _tar_image(source[: at + 4], source[at + 5 :])


def _local(source: str) -> Path:
    path = Path(source)
    if not path.is_absolute() or source.startswith(("//", "\\\\")):  # a network share: reports open no connection
        raise ValueError("not an absolute local path")
    return path


def _table_image(source: str) -> bytes | Path:
    name, _, row = source.rpartition("#")
    path = _local(name)
    if not path.is_file():
        raise ValueError("no such table")
    cell = _table_cell(path, int(row))
    data, place = cell.get("bytes"), cell.get("path")
    return data if isinstance(data, bytes) else _local(place if isinstance(place, str) else "")


def _tar_image(archive: str, name: str) -> bytes:
    with open_regular(_local(archive)) as raw, tarfile.open(fileobj=raw, mode="r:", ignore_zeros=True) as file:
        for member in file:
            if member.name == name and member.isreg():
                content = file.extractfile(member)
                if content is not None and member.size <= MAX_FILE_BYTES:
                    return content.read()
    raise ValueError("no such member")


def _table_cell(path: Path, row: int) -> Mapping[str, Any]:
    """Return a row's cell of `image`, or of the only column of file bytes; only its row group is read."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as table:
        schema = table.schema_arrow
        files = [f.name for f in schema if str(f.type).startswith("struct<") and "bytes: " in str(f.type)]
        if "image" not in schema.names and len(files) != 1:
            raise ValueError("no unique image column")
        column = "image" if "image" in schema.names else files[0]
        for group in range(table.num_row_groups):
            meta = table.metadata.row_group(group)
            if 0 <= row < meta.num_rows:
                if meta.total_byte_size > MAX_TABLE_BYTES:
                    raise ValueError("row group too large")
                cell = table.read_row_group(group, columns=[column]).column(column)[row].as_py()
                return cell if isinstance(cell, dict) else {}
            row -= meta.num_rows
    raise ValueError("no such row")


def _encode(image: "Image") -> str:
    from PIL import features

    kind = "webp" if features.check("webp") else "png"
    buffer = io.BytesIO()
    image.save(buffer, format=kind, quality=82)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"

"""Thumbnails of images that a journal names, as `data:` addresses; None where the picture is not at hand.

A journal names files and never holds pictures, so they are looked up when the page is written. Files may
be anything: only plain files of common picture formats are read, within limits on bytes and pixels, and
what goes into the page is freshly encoded, so no metadata and no file of a stranger gets there.
"""

import base64
import io
import logging
import struct
import warnings
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 96
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 64_000_000
"""More than most cameras write; a picture above it is not decoded."""
MAX_TABLE_BYTES = 2**29
"""Row groups of a parquet file are decoded whole; larger ones are left alone."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""Formats that Pillow decodes by itself; EPS, for one, would start another program."""

_UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    NotImplementedError,
    struct.error,
    zlib.error,
    ImportError,
    Warning,
)
"""What Pillow and pyarrow raise for broken files; Pillow documents no closed list."""

_log = logging.getLogger(__name__)


def thumbnail(source: str) -> str | None:
    """The image that `source` names as a `data:` address of at most 96 x 96 pixels.

    Args:
        source: an absolute path, or `FILE.parquet#ROW` with a column `image` of `{bytes, path}`.
    """
    return _guarded(lambda: _encode(_shrink(_open(source))), source)


def _guarded(work: Callable[[], str], source: str) -> str | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message=".*decompression bomb.*")
        try:
            return work()
        except _UNREADABLE as error:
            _log.info("no thumbnail of %r: %s", source, error)
            return None


def _open(source: str) -> "Image":
    from PIL import Image

    file = _table_image(source) if ".parquet#" in source.lower() else _plain_file(source)
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels")
    return image


def _plain_file(source: str, limit: int = MAX_BYTES) -> Path:
    path = Path(source)
    if not path.is_absolute() or source.startswith(("//", "\\\\")):  # a network share: reports open no connection
        raise ValueError("not an absolute local path")
    if not path.is_file() or path.stat().st_size > limit:
        raise ValueError("no plain file, or too large")
    return path


def _table_image(source: str) -> "io.BytesIO | Path":
    name, _, row = source.rpartition("#")
    cell = _table_cell(_plain_file(name, limit=64 * MAX_TABLE_BYTES), int(row))
    data, path = cell.get("bytes"), cell.get("path")
    if isinstance(data, bytes) and len(data) <= MAX_BYTES:
        return io.BytesIO(data)
    return _plain_file(path if isinstance(path, str) else "")


def _table_cell(path: Path, row: int) -> Mapping[str, Any]:
    """The `image` cell of one row; only the row group that holds it is read."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as table:
        for group in range(table.num_row_groups):
            meta = table.metadata.row_group(group)
            if 0 <= row < meta.num_rows:
                if meta.total_byte_size > MAX_TABLE_BYTES:
                    raise ValueError("row group too large")
                cell = table.read_row_group(group, columns=["image"]).column("image")[row].as_py()
                return cell if isinstance(cell, dict) else MappingProxyType({})
            row -= meta.num_rows
    raise ValueError("no such row")


def _shrink(image: "Image") -> "Image":
    from PIL import Image, ImageOps

    image.thumbnail((8 * SIDE, 8 * SIDE))  # first in its own mode: JPEG decodes at a fraction of its size
    rgba = ImageOps.exif_transpose(image).convert("RGBA")
    rgba.thumbnail((SIDE, SIDE))
    flat = Image.new("RGB", rgba.size, "white")
    flat.paste(rgba, mask=rgba.getchannel("A"))
    return flat


def _encode(image: "Image") -> str:
    from PIL import features

    kind = "webp" if features.check("webp") else "png"
    buffer = io.BytesIO()
    image.save(buffer, format=kind, quality=82)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"

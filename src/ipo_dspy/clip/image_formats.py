"""List the supported image formats and their file suffixes, and detect images by content.

These are the formats of `FORMATS` that the installed Pillow decodes, and HEIC if `pillow-heif` is installed.
"""

import contextlib
import functools
import os
import re
import struct
from pathlib import PurePath

from PIL import Image, UnidentifiedImageError, features

from ipo_dspy._internal.file_io import open_regular

FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "HEIF", "JPEG2000"),
    *("DIB", "ICO", "ICNS", "PCX", "QOI", "SGI", "TGA"),
)
"""Formats that decode in this process; Pillow would start Ghostscript for EPS, also for one inside an IPTC file."""

_LIBRARIES = {"JPEG": "jpg", "WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}
"""Libraries that a Pillow may be built without; it then knows the format but cannot decode it."""
_OTHER_NAMES = {"MPO": "JPEG"}
"""Pillow opens several JPEG images in one file through the JPEG plugin."""
_WITHOUT_SIGNATURE = {"TGA"}
_PLAIN_SUFFIX = re.compile(r"\.[a-z0-9]*[a-z][a-z0-9]*")
_HEIF_BRANDS = re.compile(rb"....ftyp(heic|heix|heim|heis|hevc|hevx|mif1|msf1)", re.DOTALL)

HEIF_REMEDY = "pip install 'ipo_dspy[heif]', or convert to JPEG"
_PICTURE_REMEDIES = {
    **dict.fromkeys((".heic", ".heics", ".heif", ".heifs", ".hif"), HEIF_REMEDY),
    **dict.fromkeys((".avif", ".webp"), "install a newer Pillow, or convert to JPEG"),
    **dict.fromkeys(
        (".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".rw2", ".srw"), "develop to JPEG"
    ),
}
"""Remedies for images that this Pillow may not read, by suffix."""
_REMEDIES = {
    **_PICTURE_REMEDIES,
    **dict.fromkeys((".zip", ".gz", ".tgz", ".7z", ".rar", ".xz", ".bz2"), "unpack"),
    ".tar": "unpack, or pass the tar files themselves",
    **dict.fromkeys((".part", ".crdownload", ".partial", ".download"), "finish the download"),
}


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """Return those of `FORMATS` that this Pillow decodes; `Image.open` fails on names that it does not know."""
    with contextlib.suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    Image.init()
    return tuple(
        name for name in FORMATS if name in Image.OPEN and (name not in _LIBRARIES or features.check(_LIBRARIES[name]))
    )


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes of files that are read as images, in lower case with their dot.

    >>> {".jpg", ".jfif", ".png", ".tif"} <= image_suffixes(), ".eps" in image_suffixes()
    (True, False)
    """
    formats = readable_formats()
    known = Image.registered_extensions().items()
    return frozenset(suffix for suffix, name in known if _OTHER_NAMES.get(name, name) in formats)


def file_suffix(name: str) -> str:
    """Return a file's suffix in lower case, or nothing where the name does not end in one.

    >>> file_suffix("a/B.JPG"), file_suffix("x.jpg?w=300"), file_suffix("x.jpg!large"), file_suffix("day.1")
    ('.jpg', '', '', '')
    """
    suffix = PurePath(name).suffix.lower()
    return suffix if "?" not in name and _PLAIN_SUFFIX.fullmatch(suffix) else ""


def is_image_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is an image, by its suffix, or by its content if the suffix is missing or a URL query."""
    suffix = file_suffix(os.fspath(path))
    return suffix in image_suffixes() if suffix else _has_image_content(path)


def is_picture(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is an image, including unsupported formats such as HEIC or camera raw."""
    return file_suffix(os.fspath(path)) in _PICTURE_REMEDIES or is_image_file(path)


def has_signature(data: bytes) -> bool:
    """Return whether the first bytes are the signature of a supported format."""
    return any(_accepts(name, data[:16]) for name in readable_formats() if name not in _WITHOUT_SIGNATURE)


def is_heif(data: bytes) -> bool:
    """Return whether the first bytes are those of a HEIC or HEIF image."""
    return _HEIF_BRANDS.match(data) is not None


def remedy(suffix: str) -> str:
    """Return advice that makes files of a suffix readable."""
    return _REMEDIES.get(suffix, "convert to JPEG or PNG if it is an image")


def _accepts(name: str, prefix: bytes) -> bool:
    accept = Image.OPEN[name][1]
    try:
        return accept is not None and accept(prefix) is True
    except (IndexError, struct.error):  # too short for it
        return False


def _has_image_content(path: str | os.PathLike[str]) -> bool:
    formats = [name for name in readable_formats() if name not in _WITHOUT_SIGNATURE]
    try:
        with open_regular(path) as file, Image.open(file, formats=formats):
            return True
    except (UnidentifiedImageError, OSError):
        return False
    except Exception:  # noqa: BLE001 - a decoder that knows the format and fails on the rest, in whatever way
        return True

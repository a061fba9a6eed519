"""Read one image from a path, bytes, a data URI, a URL, a `dspy.Image`, a PIL image, an array, or a tensor.

The only place where images are decoded. Every error of a decoder becomes an `ImageError` that names the image.
"""

import base64
import errno
import hashlib
import http.client
import io
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, Union

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ipo_dspy._internal.file_io import read_regular
from ipo_dspy._internal.untrusted import one_line_error
from ipo_dspy.clip.image_formats import HEIF_REMEDY, has_signature, is_heif, readable_formats
from ipo_dspy.clip.image_pixels import decoded, from_array, from_tensor
from ipo_dspy.errors import ImageError

if TYPE_CHECKING:
    import dspy
    from torch import Tensor

ImageSource: TypeAlias = Union[
    "dspy.Image", Image.Image, NDArray[Any], "Tensor", str, os.PathLike[str], bytes, bytearray, io.BytesIO
]
"""An image: a `dspy.Image`, a PIL image, a NumPy array [H, W] or [H, W, 3], a PyTorch tensor [H, W] or [3, H, W] of
uint8 or of floats in 0..1, a path, a data URI, the bytes of a file as `bytes` or `io.BytesIO`, or, where allowed, an
http(s) URL."""

READING = 2
"""Version of image decoding. Increase it with every change to the decoded pixels, so that old features are not used."""
MAX_FILE_BYTES = 512 * 1024 * 1024
"""Bytes of one image file; images within Pillow's limit on pixels fit, also without compression."""
MAX_DOWNLOAD = 64 * 1024 * 1024
"""Bytes of one image behind a URL."""
MAX_ASPECT = 1000
"""Resizing the short side to 224 makes 50 million pixels of an image of this shape, however small its file."""
_TIMEOUT = 30.0
_BOMB_ERRORS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_FILE_REMEDIES = {
    errno.EACCES: "check its permissions",
    errno.EPERM: "check its permissions",
    errno.EFBIG: "pass a smaller copy",
    errno.EINVAL: "pass an image file",
}


def open_image(source: ImageSource, *, allow_url: bool = False, least_side: int | None = None) -> Image.Image:
    """Read one image: decoded whole, upright, RGB.

    Args:
        source: see `ImageSource`.
        allow_url: fetch http and https URLs.
        least_side: JPEG files may come out smaller, with no side below this many pixels; that is much faster.

    Raises:
        ImageError: the image is missing, no regular file, larger than `MAX_FILE_BYTES` or Pillow's limit on pixels, not
            an image, truncated, or a URL while `allow_url` is off. The message never shows its data.
    """
    return identify(source, allow_url=allow_url, least_side=least_side)[1]()


def identify(
    source: ImageSource, *, allow_url: bool = False, least_side: int | None = None
) -> tuple[str, Callable[[], Image.Image]]:
    """Return a hash of an image's bytes if it is a file, else of its pixels; and a function that decodes it.

    Raises:
        ImageError: see `open_image`; errors in the pixels of files are raised by the function that decodes.
    """
    name = name_image(source)
    if isinstance(source, Image.Image):
        image = _decode(lambda: source, name)
    elif isinstance(source, np.ndarray):
        image = _decode(lambda: _converted(source, from_array), name)
    elif is_tensor(source):
        image = _decode(lambda: _converted(source, from_tensor), name)
    else:
        data = _read(source, allow_url=allow_url)
        return hashlib.sha256(data).hexdigest(), lambda: _decode_bytes(data, name, least_side)
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest(), lambda: image


def is_tensor(source: object) -> TypeGuard["Tensor"]:
    """Return whether this is a PyTorch tensor. Does not import torch: if it is not imported, no tensor exists."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(source, torch.Tensor)


def is_remote(source: ImageSource) -> bool:
    """Return whether an image has to be fetched over the network.

    >>> is_remote("https://example.com/cat.jpg"), is_remote("photos/cat.jpg")
    (True, False)
    """
    address = getattr(source, "url", source)
    return isinstance(address, str) and is_url(address)


def name_image(source: object) -> str:
    """Return the name of a source for messages: its path or address, never its data."""
    url = getattr(source, "url", source)
    if isinstance(url, Image.Image):
        return f"PIL image ({url.mode}, {url.width}x{url.height})"
    if isinstance(url, np.ndarray):
        return f"image array {list(url.shape)} of {url.dtype}"
    if is_tensor(url):
        return f"image tensor {list(url.shape)} of {str(url.dtype).removeprefix('torch.')}"
    if isinstance(url, list | tuple):
        return f"list of {len(url)}"
    if isinstance(url, io.BytesIO | bytes | bytearray):
        size = url.getbuffer().nbytes if isinstance(url, io.BytesIO) else len(url)
        return f"image of {_size(size)} in memory"
    if isinstance(url, str) and url.startswith("data:"):
        return f"data URI image ({_size(len(url))})"
    if isinstance(url, str) and is_url(url):
        return f"image {_plain_url(url)[:300]!r}"
    if isinstance(url, str | os.PathLike):
        return f"image {str(url)[:300]!r}"
    return f"image given as {type(source).__name__}"


def is_url(text: str) -> bool:
    """Return whether a text is a URL rather than a path.

    >>> is_url("https://example.com/cat.jpg"), is_url("photos/cat.jpg")
    (True, False)
    """
    return text[:8].lower().startswith(("http://", "https://", "gs://", "s3://", "ftp://"))


def _read(source: ImageSource, *, allow_url: bool) -> bytes:
    """Return the bytes of the file behind a source."""
    place = getattr(source, "url", source)
    if isinstance(place, bytes | bytearray):
        return bytes(place)
    if isinstance(place, io.BytesIO):
        return place.getvalue()
    if isinstance(place, str) and place.startswith("data:"):
        return _data_uri(place)
    if isinstance(place, str) and is_url(place):
        return _download(place, allow_url=allow_url)
    if isinstance(place, str | os.PathLike):
        return _file(Path(place))
    if isinstance(place, list | tuple):
        hint = "for several, use classifier.batch(images)"
        raise ImageError(f"image must be one image, got a {name_image(place)}; {hint}")
    forms = "a dspy.Image, a PIL image, a NumPy array, a PyTorch tensor, a path, or bytes"
    raise ImageError(f"{name_image(source)} is not an image; pass {forms}")


def _file(path: Path) -> bytes:
    try:
        return read_regular(path, limit=MAX_FILE_BYTES)
    except FileNotFoundError as error:
        raise ImageError(f"{name_image(path)} does not exist; check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = getattr(error, "strerror", None) or str(error)
        remedy = _FILE_REMEDIES.get(getattr(error, "errno", None) or 0, "check the path")
        raise ImageError(f"{name_image(path)} cannot be read: {reason}; {remedy}") from error


def _converted(pixels: Any, convert: Callable[[Any], Image.Image]) -> Image.Image:
    try:
        return convert(pixels)
    except ValueError as error:
        raise ImageError(f"{name_image(pixels)} is not an image: {error}") from error


def _data_uri(uri: str) -> bytes:
    head, comma, body = uri.partition(",")
    try:
        if not comma:
            raise ValueError("it has no comma")
        return base64.b64decode(body) if head.endswith(";base64") else urllib.parse.unquote_to_bytes(body)
    except ValueError as error:
        raise ImageError(f"{name_image(uri)} cannot be read: {error}; build it with dspy.Image.from_path") from error


def _download(url: str, *, allow_url: bool) -> bytes:
    if not allow_url:
        raise ImageError(
            f"{name_image(url)} is on the network, and addresses are not fetched by default; pass allow_url=True to "
            "ClipClassifier, or set it: classifier.allow_url = True"
        )
    is_http, has_user = url.lower().startswith(("http://", "https://")), "@" in _authority(url)
    if has_user or not is_http:
        reason = "has a user name in its address, which urllib does not send" if is_http else "is not http or https"
        raise ImageError(f"{name_image(url)} {reason}; download it and pass dspy.Image.from_path('x.jpg')")
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
            data: bytes = answer.read(MAX_DOWNLOAD + 1)
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it holds the connection
        why = error if isinstance(error, OSError) else type(error).__name__  # the others quote the address whole
        raise ImageError(f"{name_image(url)} cannot be fetched: {why}; check the address and the network") from error
    if len(data) > MAX_DOWNLOAD:
        raise ImageError(f"{name_image(url)} has more than {_size(MAX_DOWNLOAD)}; pass a smaller copy")
    return data


def _decode_bytes(data: bytes, name: str, least_side: int | None) -> Image.Image:
    def open_bytes() -> Image.Image:
        image = Image.open(io.BytesIO(data), formats=readable_formats())
        if least_side is not None:
            image.draft("RGB", (least_side, least_side))
        return image

    return _decode(open_bytes, name, head=data[:64])


def _decode(opener: Callable[[], Image.Image], name: str, *, head: bytes = b"") -> Image.Image:
    """Open and decode an image, upright and RGB."""
    try:
        image = opener()
        _check_size(image, name)
        return decoded(image)
    except ImageError:
        raise
    except _BOMB_ERRORS as error:
        raise _decompression_bomb_error(name) from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} {_unidentified(head)}") from error
    except MemoryError as error:
        raise ImageError(f"{name} needs more memory than is available; pass a smaller copy") from error
    except Exception as error:  # decoders have no closed list: libavif's errors come as RuntimeError, for one
        raise ImageError(f"{name} is damaged ({one_line_error(error)}); fetch it again or leave it out") from error


def _unidentified(head: bytes) -> str:
    if is_heif(head) and "HEIF" not in readable_formats():
        return f"is a HEIC image, which Pillow alone cannot read; {HEIF_REMEDY}"
    if has_signature(head):
        return "is damaged (its header cannot be read); fetch it again or leave it out"
    return "cannot be read as an image; save it as JPEG or PNG"


def _check_size(image: Image.Image, name: str) -> None:
    """Raise where Pillow only warns: between its limit and twice that."""
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise ImageError(f"{name} is {image.width}x{image.height}, too thin to be resized; crop it or leave it out")
    if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise _decompression_bomb_error(name, f"{image.width}x{image.height}, ")


def _decompression_bomb_error(name: str, size: str = "") -> ImageError:
    limit = Image.MAX_IMAGE_PIXELS
    return ImageError(
        f"{name} is too large ({size}more than {limit} pixels), perhaps a decompression bomb; pass a smaller "
        "copy, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
    )


def _authority(url: str) -> str:
    return re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)[0]


def _plain_url(url: str) -> str:
    """Return scheme, host and path, without user names, passwords, and signatures in the query."""
    authority = _authority(url)
    return re.split(r"[?#]", url.replace(authority, authority.rpartition("@")[2], 1), maxsplit=1)[0]


def _size(count: int) -> str:
    return f"{count} bytes" if count < 1000 else f"{count / 1000:.0f} kB" if count < 1e6 else f"{count / 1e6:.1f} MB"

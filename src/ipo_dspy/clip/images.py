"""Images to CLIP features: read whatever DSPy calls an image, decode beside encoding, remember by content.

The evaluation transform of the model is applied, no random crops. Reading and decoding run in a few threads ahead of
the tower with a bounded look-ahead, so memory holds two batches of pixels and not the data set. An image whose content
this model has seen before, in whatever wrapping, in this process or another, is read and hashed but neither decoded
nor encoded (`clip.cache`). Each encoded batch is kept before the next is begun.

Unlike open_clip's own transform, images are turned upright by their EXIF tag and made RGB before they are
resized, and 16-bit grey is scaled to 8 bits where Pillow would clip it to white. For upright RGB and grey
images the pixels are the same; transparency is dropped as open_clip drops it.

Letters: N images, D width of the features.
"""

import base64
import functools
import hashlib
import http.client
import io
import os
import re
import struct
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar, Union

from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.cache import KnownFeatures, alone
from ipo_dspy.clip.rest import Resting
from ipo_dspy.errors import DataError, ImageError

if TYPE_CHECKING:
    import dspy

ImageSource: TypeAlias = Union["dspy.Image", Image.Image, str, os.PathLike[str], bytes]
"""A `dspy.Image`, a PIL image, a path, a data URI, the bytes of a file or, where allowed, an http(s) URL."""

FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "HEIF", "JPEG2000"),
    *("DIB", "ICO", "ICNS", "PCX", "QOI", "SGI", "TGA"),
)
"""Formats that decode in this process; Pillow would start Ghostscript for EPS, also for one inside an IPTC file."""

READING = 1
"""To be raised with every change to the pixels that an image gives: features of other readings are then left alone."""

MAX_DOWNLOAD = 64 * 1024 * 1024
"""Bytes of one image behind a URL."""

MAX_ASPECT = 1000
"""Resizing the short side to 224 makes 50 million pixels of an image of this shape, however small its file."""

_TIMEOUT = 30.0
_BOMB_ERRORS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
# What Pillow's plugins raise for broken files; UnidentifiedImageError is an OSError.
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, LookupError, TypeError, EOFError, OverflowError)
_READ_ERRORS = (*_DECODE_ERRORS, NotImplementedError, struct.error, zlib.error)


@dataclass(frozen=True)
class EncodedImages:
    """Features of the images that could be read.

    Attributes:
        features: [N, D], float32 or, of very many images, float16 (`clip.rest`), normalised, on the CPU.
        kept: for each row of `features`, the index of its source.
        keys: for each row, a hash of the image's content.
        skipped: index and message of each source that could not be read.
    """

    features: Tensor
    kept: tuple[int, ...]
    keys: tuple[str, ...]
    skipped: tuple[tuple[int, str], ...]

    def __repr__(self) -> str:
        return f"EncodedImages({len(self.kept)} of width {self.features.shape[-1]}, {len(self.skipped)} skipped)"


@dataclass(frozen=True)
class _Ready:
    """One source on its way: its content key and its features or, until encoded, its pixels."""

    key: str
    features: Tensor | None
    pixels: Tensor | None


_Outcome: TypeAlias = _Ready | ImageError
_Result = TypeVar("_Result")


def open_image(source: ImageSource, *, allow_url: bool = False) -> Image.Image:
    """Read one image: decoded whole, upright, RGB.

    Raises:
        ImageError: missing, not an image, cut off, larger than Pillow's limit against decompression bombs,
            or a URL while `allow_url` is off. The message names the source and never shows its data.
    """
    if isinstance(source, Image.Image):
        return _decode(lambda: source, name_image(source))
    data = _read(source, allow_url=allow_url)
    return _decode_later(data, name_image(source))()


def encode_images(
    backbone: Backbone,
    sources: Sequence[ImageSource],
    *,
    batch_size: int = 64,
    num_threads: int | None = None,
    skip_bad: bool = False,
    allow_url: bool = False,
    checked: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> EncodedImages:
    """Encode images in order, each distinct content once.

    Args:
        backbone: the model.
        sources: the images; see `ImageSource`.
        batch_size: images in one pass of the tower.
        num_threads: threads that decode; by default one a core, at most 16.
        skip_bad: go on past images that cannot be read and name them in `skipped`.
        allow_url: fetch http and https URLs.
        checked: `check_images` has seen them, so they need not be decoded once more.
        progress: called with the number of images done and the number of all, now and then and at the end.

    Raises:
        ImageError: an image that cannot be read, unless `skip_bad`; on the CPU, where the tower is the slow part,
            before the first is encoded.
        DataError: no images, or none that can be read.
        InputError: `IPO_DSPY_CACHE_LIMIT` is no size.
    """
    if not sources:
        raise DataError("no images to encode; pass at least one")
    rows, kept, keys = Resting(len(sources)), list[int](), list[str]()
    skipped: list[tuple[int, str]] = []
    waiting: list[tuple[int, _Ready]] = []
    threads = num_threads or _threads()
    if not (skip_bad or checked) and len(sources) > batch_size and backbone.device.type == "cpu":
        check_images(sources, backbone=backbone, num_threads=threads)
    known = KnownFeatures(backbone, READING)
    several = len(sources) > 1
    prepare = functools.partial(_prepare, backbone, known, several=several, allow_url=allow_url)
    for index, outcome in enumerate(_in_order(prepare, sources, batch_size + threads, threads)):
        if isinstance(outcome, ImageError):
            if not skip_bad:
                raise ImageError(_with_place(outcome, index, len(sources))) from outcome
            skipped.append((index, str(outcome)))
        else:
            waiting.append((index, outcome))
            kept.append(index)
            keys.append(outcome.key)
        if len(waiting) == batch_size or index == len(sources) - 1:
            rows.add(list(_encode(backbone, known, waiting, several=several).values()))
            waiting.clear()
            if progress is not None:
                progress(index + 1, len(sources))
    known.settle()
    if not kept:
        raise DataError(f"none of {len(sources)} images can be read; the first: {skipped[0][1]}")
    return EncodedImages(rows.features, tuple(kept), tuple(keys), tuple(skipped))


def check_images(
    sources: Sequence[ImageSource],
    *,
    backbone: Backbone | None = None,
    num_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Decode all images once, to refuse a bad one before slow work; URLs are left for later, to be fetched once.

    With a backbone, those that it has encoded before are not decoded again. `progress` is called after each image with
    the number of images done and the number of all.

    Raises:
        ImageError: an image that cannot be read; the first in order.
    """
    threads = num_threads or _threads()
    known = None if backbone is None else KnownFeatures(backbone, READING)
    unreadable = functools.partial(_unreadable, known)
    for index, error in enumerate(_in_order(unreadable, sources, 2 * threads, threads)):
        if error is not None:
            raise ImageError(_with_place(error, index, len(sources))) from error
        if progress is not None:
            progress(index + 1, len(sources))


def name_image(source: object) -> str:
    """What to call a source in a message: its path or address, never its data."""
    url = getattr(source, "url", source)
    if isinstance(url, Image.Image):
        return f"PIL image ({url.mode}, {url.width}x{url.height})"
    if isinstance(url, bytes):
        return f"image of {_size(len(url))} in memory"
    if isinstance(url, str) and url.startswith("data:"):
        return f"data URI image ({_size(len(url))})"
    if isinstance(url, str) and _is_url(url):
        return f"image {_plain_url(url)[:300]!r}"
    if isinstance(url, str | os.PathLike):
        return f"image {str(url)[:300]!r}"
    return f"image given as {type(source).__name__}"


def _threads() -> int:
    return min(16, os.cpu_count() or 1)


def _unreadable(known: KnownFeatures | None, source: ImageSource) -> ImageError | None:
    """What is wrong with an image."""
    address = getattr(source, "url", source)
    if isinstance(address, str) and _is_url(address):
        return None
    try:
        key, image = _identify(source)
        if known is None or known.get(key) is None:
            image()
    except ImageError as error:
        return error
    return None


def _in_order(
    function: Callable[[ImageSource], _Result], sources: Sequence[ImageSource], ahead: int, threads: int
) -> Iterator[_Result]:
    """The function of every source, in order, computed in threads, at most `ahead` results waiting."""
    pool = ThreadPoolExecutor(min(threads, len(sources)), thread_name_prefix="ipo-decode")
    futures: deque[Future[_Result]] = deque()
    try:
        for source in sources:
            futures.append(pool.submit(function, source))
            if len(futures) > ahead:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare(
    backbone: Backbone, known: KnownFeatures, source: ImageSource, *, several: bool, allow_url: bool
) -> _Outcome:
    try:
        key, image = _identify(source, allow_url=allow_url)
        features = known.get(key) if several else known.get_alone(key)
        return _Ready(key, features, None if features is not None else backbone.preprocess(image()))
    except ImageError as error:
        return error


def _identify(source: ImageSource, *, allow_url: bool = False) -> tuple[str, Callable[[], Image.Image]]:
    """A hash of an image's content, and what decodes it: of a file its bytes count, of a PIL image its pixels."""
    if isinstance(source, Image.Image):
        image = open_image(source)
        return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest(), lambda: image
    data = _read(source, allow_url=allow_url)
    return hashlib.sha256(data).hexdigest(), _decode_later(data, name_image(source))


def _encode(
    backbone: Backbone, known: KnownFeatures, waiting: Sequence[tuple[int, _Ready]], *, several: bool
) -> dict[int, Tensor]:
    """Features [D] by index; contents that are not known yet go through the tower together."""
    found = {ready.key: ready.features for _, ready in waiting if ready.features is not None}
    fresh = {ready.key: ready.pixels for _, ready in waiting if ready.pixels is not None and ready.key not in found}
    encoded: dict[str, Tensor] = {}
    with backbone.lock:
        for key in list(fresh):
            # Another thread or process may have been quicker.
            features = known.get(key) if several else known.get_alone(key)
            if features is not None:
                found[key] = features
                del fresh[key]
        if fresh:
            pixels = list(fresh.values())
            # One that is new among several goes twice: see `encode_pixels` on one image alone.
            pixels += pixels if len(pixels) == 1 and several else []
            rows = backbone.encode_pixels(backbone.batch(pixels)).cpu()[: len(fresh)]  # [N, D]
            # Rows of their own: a view would keep the whole batch alive.
            encoded = {key: row.clone() for key, row in zip(fresh, rows, strict=True)}
            found.update(encoded)
            if not several:
                encoded = {alone(key): row for key, row in encoded.items()}
            known.remember(encoded)
    known.keep(encoded)  # not under the lock: the disk takes its time
    return {index: found[ready.key] for index, ready in waiting}


def _read(source: ImageSource, *, allow_url: bool) -> bytes:
    """The bytes of the file behind a source."""
    place = getattr(source, "url", source)
    if isinstance(place, bytes):
        return place
    if isinstance(place, str) and place.startswith("data:"):
        return _data_uri(place)
    if isinstance(place, str) and _is_url(place):
        return _download(place, allow_url=allow_url)
    if isinstance(place, str | os.PathLike):
        return _file(Path(place))
    raise ImageError(f"{name_image(source)} is not an image; pass a dspy.Image, a PIL image, a path or bytes")


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ImageError(f"{name_image(path)} does not exist; check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        why = getattr(error, "strerror", None) or str(error)
        raise ImageError(f"{name_image(path)} cannot be read: {why}; check the path and its permissions") from error


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
            f"{name_image(url)} is on the network, which is not asked unless you say so; pass allow_url=True, "
            "or a downloaded copy: dspy.Image.from_path('x.jpg')"
        )
    if not url.lower().startswith(("http://", "https://")):
        raise ImageError(f"{name_image(url)} is not http or https; download it and pass dspy.Image.from_path('x.jpg')")
    if "@" in _authority(url):
        raise ImageError(
            f"{name_image(url)} has a user name in its address, which urllib does not send; download it and pass "
            "dspy.Image.from_path('x.jpg')"
        )
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


def _decode_later(data: bytes, name: str) -> Callable[[], Image.Image]:
    return lambda: _decode(lambda: Image.open(io.BytesIO(data), formats=_known_formats()), name)


@functools.cache
def _known_formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow has; `Image.open` fails on others."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _decode(opener: Callable[[], Image.Image], name: str) -> Image.Image:
    """Decode, turn upright and make RGB; whatever Pillow says becomes an ImageError."""
    try:
        image = opener()
        _check_size(image, name)
        return _as_rgb(ImageOps.exif_transpose(image))
    except ImageError:
        raise
    except _BOMB_ERRORS as error:
        raise _bomb(name) from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} is not an image that Pillow knows; save it as JPEG or PNG") from error
    except _READ_ERRORS as error:
        raise ImageError(f"{name} is damaged ({str(error)[:200]}); fetch it again or leave it out") from error


def _check_size(image: Image.Image, name: str) -> None:
    """Pillow only warns between its limit and twice that; here the limit is a limit."""
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise ImageError(f"{name} is {image.width}x{image.height}, too thin to be resized; crop it or leave it out")
    if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise _bomb(name, f"{image.width}x{image.height}, ")


def _bomb(name: str, size: str = "") -> ImageError:
    limit = Image.MAX_IMAGE_PIXELS
    return ImageError(
        f"{name} is too large ({size}more than {limit} pixels), perhaps a decompression bomb; pass a smaller "
        "copy, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
    )


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey; plain convert() clips at 255
        image = image.convert("I")
        high = image.getextrema()[1]
        if isinstance(high, int | float) and high > 255:
            image = image.point(lambda value: value * (1 / 256))
        image = image.convert("L")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours, without Pillow's warning
    return image.convert("RGB")


def _with_place(error: ImageError, index: int, total: int) -> str:
    if total == 1:
        return str(error)
    return f"{error} (image {index + 1} of {total}; skip_bad=True, or --skip-bad, goes on without it)"


def _is_url(text: str) -> bool:
    return text[:8].lower().startswith(("http://", "https://", "gs://", "s3://", "ftp://"))


def _authority(url: str) -> str:
    return re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)[0]


def _plain_url(url: str) -> str:
    """Scheme, host and path: user names, passwords and signatures in the query are nobody's business."""
    authority = _authority(url)
    return re.split(r"[?#]", url.replace(authority, authority.rpartition("@")[2], 1), maxsplit=1)[0]


def _size(count: int) -> str:
    return f"{count} bytes" if count < 1000 else f"{count / 1000:.0f} kB" if count < 1e6 else f"{count / 1e6:.1f} MB"

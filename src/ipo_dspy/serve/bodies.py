"""Read the body of a request within its limits, and the images in it.

Nothing of a body touches the disk: forms are parsed in memory, unlike Starlette's own, which has a temporary file for
each file of more than a megabyte.
"""

import asyncio
import base64
import binascii
import contextlib
import importlib
import logging
import re
from collections.abc import AsyncIterator
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from ipo_dspy._internal.json_input import parse_json
from ipo_dspy.clip.image_io import is_url
from ipo_dspy.serve.errors import RequestError, busy
from ipo_dspy.serve.limits import Limits

logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of each form that is refused here
_MAX_DEPTH = 16
_MAX_FIELDS = 16
_BOUNDARY = re.compile(r"[\w'()+,./:=? -]{0,69}[\w'()+,./:=?-]", re.ASCII)  # RFC 2046, section 5.1.1


class BodyReader:
    """Reads bodies, and counts the bytes of all that are in memory."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._held = limits, 0

    @contextlib.asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Read the body of a request; it counts as in memory until the end of the block.

        Raises:
            RequestError: the body is too large, too slow, compressed in a way that is not known, or too much with the
                bodies of other requests.
        """
        body, plain = bytearray(), b""
        try:
            await self._receive(request, body)
            if _encoding(request):
                plain = await asyncio.to_thread(self._plain, request, body)
                self._held += len(plain)
                if self._held > self._limits.waiting_bytes:
                    raise self._busy()
            yield plain if _encoding(request) else bytes(body)
        finally:
            self._held -= len(body) + len(plain)

    async def _receive(self, request: Request, body: bytearray) -> None:
        limits = self._limits
        declared = request.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > limits.body_bytes:
            raise self._too_large()
        try:
            async with asyncio.timeout(limits.body_seconds):
                async for chunk in request.stream():
                    if len(body) + len(chunk) > limits.body_bytes:
                        raise self._too_large()
                    if self._held + len(chunk) > limits.waiting_bytes:
                        raise self._busy()
                    body += chunk
                    self._held += len(chunk)
        except TimeoutError:
            message = f"the body must arrive within {limits.body_seconds:g} seconds; send a smaller one"
            raise RequestError(408, message, {"Connection": "close"}) from None
        except ClientDisconnect:
            raise RequestError(400, "the connection was closed before the end of the body") from None

    def _too_large(self) -> RequestError:
        return RequestError(
            413, f"a request must have at most {self._limits.body_bytes:,} bytes; send fewer or smaller images"
        )

    def _busy(self) -> RequestError:
        return busy("too many images are being sent to this server")

    def _plain(self, request: Request, body: bytearray) -> bytes:
        """Decompress a body, as TypeSafe sends it from Python 3.14 on."""
        zstd = next(filter(None, map(_module, ("compression.zstd", "backports.zstd"))), None)
        if _encoding(request) != "zstd" or zstd is None:
            raise RequestError(415, "the body must not be compressed; send it without Content-Encoding")
        try:
            decompressor = zstd.ZstdDecompressor()
            plain: bytes = decompressor.decompress(bytes(body), max_length=self._limits.body_bytes)
        except zstd.ZstdError:
            raise RequestError(400, "the body is not compressed as its Content-Encoding says") from None
        if not decompressor.eof:
            raise self._too_large()
        return plain


def _encoding(request: Request) -> str:
    return request.headers.get("content-encoding", "").strip().lower().replace("identity", "")


def _module(name: str) -> Any:
    with contextlib.suppress(ImportError):
        return importlib.import_module(name)
    return None


def read_json(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a body.

    Raises:
        RequestError: it is not one.
    """
    try:
        value = parse_json(body, max_depth=_MAX_DEPTH)
    except ValueError as error:
        raise RequestError(400, f"the body must be JSON; {error}") from None
    if not isinstance(value, dict):
        raise RequestError(400, "the body must be a JSON object")
    return value


async def read_images(request: Request, body: bytes, limits: Limits) -> list[bytes]:
    """Return the images of a form, or of `{"images": [...]}`.

    Raises:
        RequestError: another type of content, no image, too many, or texts that are not base64.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        images = await _form_images(request, body, limits)
    elif kind == "application/json":
        images = await asyncio.to_thread(_json_images, body, limits)
    else:
        raise RequestError(415, "the content type must be multipart/form-data with files, or application/json")
    if not images:
        raise RequestError(
            400, "the request must have at least one image, got none; for example curl -F files=@cat.jpg"
        )
    return images


async def _form_images(request: Request, body: bytes, limits: Limits) -> list[bytes]:
    async def chunks() -> AsyncIterator[bytes]:
        yield body

    boundary = parse_options_header(request.headers["content-type"])[1].get(b"boundary", b"").decode("latin-1")
    if not _BOUNDARY.fullmatch(boundary):
        raise RequestError(400, "the form cannot be read: its boundary is missing or violates RFC 2046")
    # Not the client's own header: with the charset punycode, Starlette would decode a text for minutes.
    headers = Headers({"content-type": f'multipart/form-data; boundary="{boundary}"'})
    parser = MultiPartParser(headers, chunks(), max_files=limits.images, max_fields=_MAX_FIELDS)  # type: ignore[arg-type]
    parser.spool_max_size = len(body) + 1  # never a file
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise RequestError(400, f"the form cannot be read: {error.message}") from None
    async with contextlib.AsyncExitStack() as files:
        files.push_async_callback(form.close)
        images = []
        for name, value in form.multi_items():
            if not isinstance(value, UploadFile):
                raise RequestError(400, f"{name!r:.60} must be a file, got text; for example curl -F files=@cat.jpg")
            images.append(await value.read())
        return images


def _json_images(body: bytes, limits: Limits) -> list[bytes]:
    images = read_json(body).get("images")
    if not isinstance(images, list):
        raise RequestError(400, 'the JSON must be {"images": [...]}, with base64 texts or data URIs')
    if len(images) > limits.images:
        raise RequestError(413, f"a request must have at most {limits.images} images, got {len(images)}")
    return [decode_image(image, f"images[{i}]") for i, image in enumerate(images)]


def decode_image(image: object, name: str) -> bytes:
    """Return the bytes of an image that was sent as a data URI or as base64.

    Raises:
        RequestError: another text, such as a URL, or no text.
    """
    if isinstance(image, str) and is_url(image):
        raise RequestError(400, f"{name} must be the image itself, because URLs are not fetched; send it as base64")
    if isinstance(image, str):
        head, _, rest = image.partition(",")
        encoded = rest if head.startswith("data:") and head.endswith(";base64") else image
        with contextlib.suppress(binascii.Error, ValueError):  # ValueError: not ASCII
            return base64.b64decode(encoded, validate=True)
    raise RequestError(400, f"{name} must be an image as base64, or as a data URI with base64")

"""Decode images in threads, and encode those that wait as one batch.

While the tower encodes a batch, the images of the next one are read and decoded. Unlike `ClipClassifier.acall`, which
does both in one thread, this keeps the tower busy, and no features of an image outlive its request.

Letters: D width of the features.
"""

import asyncio
import io
import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ipo_dspy.clip.batching import BATCH_SIZE
from ipo_dspy.clip.cpu_threads import usable_cpus
from ipo_dspy.clip.image_formats import readable_formats
from ipo_dspy.clip.image_io import open_image
from ipo_dspy.errors import ImageError
from ipo_dspy.serve.faults import busy
from ipo_dspy.serve.limits import Limits

if TYPE_CHECKING:
    from torch import Tensor

    from ipo_dspy.clip.backbone import Backbone

Features = NDArray[np.float32]
"""Features [D] of an image."""
_DECODED = 4 * BATCH_SIZE
"""Largest number of images that are decoded before the tower needs them; the others wait as files."""


class _Waiting(NamedTuple):
    """A decoded image [3, H, W] and its future features."""

    pixels: "Tensor"
    features: "asyncio.Future[Features]"


class ImageEncoder:
    """Encodes the images of all requests of an event loop.

    Args:
        backbone: the model.
        limits: limits of images.
        note_batch: called with the size of each batch.
    """

    def __init__(self, backbone: "Backbone", limits: Limits, note_batch: Callable[[int], None]) -> None:
        self._backbone, self._limits, self._note_batch = backbone, limits, note_batch
        self._decoders = ThreadPoolExecutor(usable_cpus(), thread_name_prefix="ipo-decode")
        self._tower = ThreadPoolExecutor(1, thread_name_prefix="ipo-encode")
        self._room = asyncio.Semaphore(_DECODED)
        self._decoded: deque[_Waiting] = deque()
        self._task: asyncio.Task[None] | None = None
        self._count = 0

    async def encode(self, images: list[bytes]) -> list[Features | ImageError]:
        """Return the features of each image, or why it cannot be read.

        Raises:
            RequestError: too many images wait.
        """
        if self._count + len(images) > self._limits.waiting_images:
            raise busy(f"{self._count} images wait for this server")
        self._count += len(images)
        try:
            async with asyncio.TaskGroup() as group:  # cancels all tasks if this one is canceled
                tasks = [group.create_task(self._encode_image(image)) for image in images]
        finally:
            self._count -= len(images)
        return [task.result() for task in tasks]

    async def _encode_image(self, image: bytes) -> Features | ImageError:
        loop = asyncio.get_running_loop()
        async with self._room:
            try:
                pixels = await loop.run_in_executor(self._decoders, self._decode, image)
            except ImageError as error:
                return error
            features: asyncio.Future[Features] = loop.create_future()
            self._decoded.append(_Waiting(pixels, features))
            if self._task is None:
                self._task = loop.create_task(self._encode_decoded())
            return await features

    def _decode(self, image: bytes) -> "Tensor":
        """Read an image whose header says that it is not too large: [3, H, W]."""
        pixels: float = 0
        try:
            with Image.open(io.BytesIO(image), formats=readable_formats()) as opened:
                pixels = opened.width * opened.height
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            pixels = math.inf
        except Exception:  # noqa: BLE001 - `open_image` says what is wrong with it
            pass
        if pixels > self._limits.image_pixels:
            raise ImageError(f"the image must have at most {self._limits.image_pixels:,} pixels; send a smaller copy")
        return self._backbone.preprocess(open_image(image))

    async def _encode_decoded(self) -> None:
        """Encode batches until no decoded image waits."""
        loop = asyncio.get_running_loop()
        while self._decoded:
            popped = [self._decoded.popleft() for _ in range(min(BATCH_SIZE, len(self._decoded)))]
            batch = [each for each in popped if not each.features.done()]  # others were canceled
            if not batch:
                continue
            self._note_batch(len(batch))
            try:
                rows = await loop.run_in_executor(self._tower, self._encode, [each.pixels for each in batch])
            except Exception as error:  # noqa: BLE001 - raised where the features are awaited
                for each in batch:
                    if not each.features.done():
                        each.features.set_exception(error)
            else:
                for each, row in zip(batch, rows, strict=True):
                    if not each.features.done():
                        each.features.set_result(row)
        self._task = None

    def _encode(self, pixels: "list[Tensor]") -> Features:
        """Encode images [3, H, W] to features [N, D]."""
        features: Features = self._backbone.encode_pixels(self._backbone.batch(pixels)).cpu().numpy()
        return features

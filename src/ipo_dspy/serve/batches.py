"""Decode images in threads, and encode those that wait as one batch.

While the tower encodes a batch, the images of the next one are decoded. `ClipClassifier.acall` does both in one thread,
and one hand-over between threads for each image would take as long as decoding a small one; here the event loop is
called once a batch. No features of an image outlive its request.

Letters: D width of the features.
"""

import asyncio
import io
import math
import queue
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ipo_dspy.clip.batching import BATCH_SIZE
from ipo_dspy.clip.cpu_threads import usable_cpus
from ipo_dspy.clip.image_formats import readable_formats
from ipo_dspy.clip.image_io import name_image, open_image
from ipo_dspy.errors import ImageError
from ipo_dspy.serve.errors import busy
from ipo_dspy.serve.limits import Limits

if TYPE_CHECKING:
    from torch import Tensor

    from ipo_dspy.clip.backbone import Backbone

Features = NDArray[np.float32]
"""Features [D] of an image."""
_Outcome: TypeAlias = "asyncio.Future[Features | ImageError]"
_SMALL_BATCH = 8
"""Number of images that are one batch, even if no others wait."""
_NEW_SHARE = 0.2
"""Share of the last pass in the seconds of an image; small, because the first pass is slow."""
_DECODED = 4 * BATCH_SIZE
"""Largest number of images that are decoded before the tower needs them; the others wait as files."""


class ImageEncoder:
    """Encodes the images of all requests; a context manager, inside an event loop, that owns the threads.

    Args:
        backbone: the model.
        limits: limits of images.
        note_batch: called in a thread with the size of each batch.
    """

    def __init__(self, backbone: "Backbone", limits: Limits, note_batch: Callable[[int], None]) -> None:
        self._backbone, self._limits, self._note_batch = backbone, limits, note_batch
        self._files: queue.SimpleQueue[tuple[bytes, _Outcome] | None] = queue.SimpleQueue()
        self._decoded: queue.Queue[tuple[Tensor, _Outcome] | None] = queue.Queue(_DECODED)
        self._decoders = [threading.Thread(target=self._decode_files, daemon=True) for _ in range(usable_cpus())]
        self._tower = threading.Thread(target=self._encode_decoded, daemon=True)
        self._waiting, self._image_seconds = 0, 0.0

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        for thread in (*self._decoders, self._tower):
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for _decoder in self._decoders:
            self._files.put(None)
        for decoder in self._decoders:
            decoder.join()
        self._decoded.put(None)
        self._tower.join()

    async def encode(self, images: list[bytes]) -> list[Features | ImageError]:
        """Return the features of each image, or why it cannot be read.

        Raises:
            RequestError: too many images wait.
        """
        waiting = self._waiting + len(images)
        # A quarter of the time remains for the pass that an image is in, which has later ones too.
        is_late = waiting * self._image_seconds > 0.75 * self._limits.request_seconds
        if waiting > self._limits.waiting_images or (self._waiting and is_late):
            raise busy(f"{self._waiting} images wait for this server")
        outcomes: list[_Outcome] = [self._loop.create_future() for _ in images]
        for image, outcome in zip(images, outcomes, strict=True):
            self._files.put((image, outcome))
        self._waiting += len(images)
        for outcome in outcomes:
            outcome.add_done_callback(self._note_done)
        return await asyncio.gather(*outcomes)  # cancels all of them if it is canceled

    def _note_done(self, _outcome: _Outcome) -> None:
        self._waiting -= 1

    def _decode_files(self) -> None:
        while (file := self._files.get()) is not None:
            content, outcome = file
            if outcome.done():
                continue
            try:
                self._decoded.put((self._decode(content), outcome))
            except Exception as error:  # noqa: BLE001 - reported where the features are awaited
                self._deliver([(outcome, error)])

    def _decode(self, content: bytes) -> "Tensor":
        """Read an image whose header says that it is not too large: [3, H, W]."""
        pixels: float = 0
        try:
            with Image.open(io.BytesIO(content), formats=readable_formats()) as opened:
                pixels = opened.width * opened.height
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            pixels = math.inf
        except Exception:  # noqa: BLE001 - `open_image` says what is wrong with it
            pass
        if pixels > self._limits.image_pixels:
            raise ImageError(f"the image must have at most {self._limits.image_pixels:,} pixels; send a smaller copy")
        try:
            return self._backbone.preprocess(open_image(content))
        except ImageError as error:
            raise ImageError(error.fact.replace(name_image(content), "the image")) from error

    def _encode_decoded(self) -> None:
        while (first := self._decoded.get()) is not None:
            batch = [first]
            # If all that wait were one batch, the tower would be idle from its answers until the next requests.
            in_time = self._limits.request_seconds / 4 / self._image_seconds if self._image_seconds else BATCH_SIZE
            most = min(BATCH_SIZE, max(_SMALL_BATCH, self._waiting // 2), in_time)
            while len(batch) < most:
                try:
                    following = self._decoded.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    self._decoded.put(None)  # for the outer loop
                    break
                batch.append(following)
            batch = [each for each in batch if not each[1].done()]
            if batch:
                self._note_batch(len(batch))
                began = time.perf_counter()
                answers = self._encode(batch)
                self._image_seconds += _NEW_SHARE * ((time.perf_counter() - began) / len(batch) - self._image_seconds)
                self._deliver(zip((outcome for _, outcome in batch), answers, strict=True))

    def _encode(self, batch: "list[tuple[Tensor, _Outcome]]") -> Iterable[Features | Exception]:
        """Return the features of each image, or an error for each."""
        try:
            pixels = self._backbone.batch([pixels for pixels, _ in batch])
            return list(self._backbone.encode_pixels(pixels).cpu().numpy())
        except Exception as error:  # noqa: BLE001 - reported where the features are awaited
            return [error] * len(batch)

    def _deliver(self, outcomes: Iterable[tuple[_Outcome, Any]]) -> None:
        self._loop.call_soon_threadsafe(_resolve, list(outcomes))


def _resolve(outcomes: list[tuple[_Outcome, Any]]) -> None:
    for outcome, value in outcomes:
        if outcome.done():  # canceled
            continue
        if isinstance(value, Exception) and not isinstance(value, ImageError):
            outcome.set_exception(value)
        else:
            outcome.set_result(value)

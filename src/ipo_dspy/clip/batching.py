"""Encode images of concurrent calls together, in one thread for each model.

64 concurrent requests of a service cost one pass of the image tower, not 64. The thread starts with the first request
and ends when none is left. As for other single calls, nothing of the images is kept on disk.

Letters: D width of the features.
"""

import asyncio
import threading
import weakref
from collections import deque
from concurrent.futures import Future
from typing import NamedTuple

from torch import Tensor

from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.image_features import encode_images
from ipo_dspy.clip.image_io import ImageSource, is_remote, open_image
from ipo_dspy.errors import ImageError

BATCH_SIZE = 64
"""Largest number of images in one pass; the answers of a batch come when all of it is done."""


class _Request(NamedTuple):
    """An image and its future features [1, D]."""

    source: ImageSource
    features: "Future[Tensor]"


class _Batcher:
    """The requests that wait for one model, and the thread that encodes them."""

    def __init__(self) -> None:
        self._waiting: deque[_Request] = deque()
        self._lock = threading.Lock()
        self._worker: threading.Thread | None = None

    def add(self, source: ImageSource) -> "Future[Tensor]":
        """Queue an image and return the future of its features; `start` begins the work."""
        request = _Request(source, Future())
        with self._lock:
            self._waiting.append(request)
        return request.features

    def start(self, backbone: Backbone) -> None:
        """Start a thread that encodes the queue, unless one is running."""
        with self._lock:
            if self._waiting and not (self._worker and self._worker.is_alive()):  # a fork leaves a dead one
                self._worker = threading.Thread(target=self._run, args=(backbone,), name="ipo-encode")
                self._worker.start()

    def _run(self, backbone: Backbone) -> None:
        while True:
            with self._lock:
                requests = [self._waiting.popleft() for _ in range(min(BATCH_SIZE, len(self._waiting)))]
                if not requests:
                    self._worker = None
                    return
            # Requests that were canceled are dropped here; those canceled later are encoded in vain.
            _encode(backbone, [request for request in requests if request.features.set_running_or_notify_cancel()])


_batchers: "weakref.WeakKeyDictionary[Backbone, _Batcher]" = weakref.WeakKeyDictionary()
_batchers_lock = threading.Lock()


async def encode_together(backbone: Backbone, source: ImageSource, *, allow_url: bool = False) -> Tensor:
    """Encode one image in a batch with the other images that are awaited at this time: features [1, D].

    May be awaited in several event loops at once.

    Raises:
        ImageError: the image cannot be read; other calls of the batch do not see it.
    """
    if is_remote(source):  # a slow server must not hold up the others
        source = await asyncio.to_thread(open_image, source, allow_url=allow_url)
    with _batchers_lock:
        batcher = _batchers.setdefault(backbone, _Batcher())
    features = batcher.add(source)
    # The callback runs after all tasks that are ready now, so that calls made together are in one batch.
    asyncio.get_running_loop().call_soon(batcher.start, backbone)
    return await asyncio.wrap_future(features)


def _encode(backbone: Backbone, requests: list[_Request]) -> None:
    """Encode requests together; if that fails, one by one, so that each gets its own error."""
    if not requests:
        return
    try:
        sources = [request.source for request in requests]
        encoded = encode_images(backbone, sources, skip_unreadable=len(requests) > 1, on_disk=False)
    except BaseException as error:  # noqa: BLE001 - raised again where the features are awaited
        if len(requests) == 1:
            requests[0].features.set_exception(error)
            return
        for request in requests:
            _encode(backbone, [request])
        return
    for row, index in enumerate(encoded.kept):
        requests[index].features.set_result(encoded.features[row : row + 1])
    for index, message in encoded.skipped:
        requests[index].features.set_exception(ImageError(message))

"""Images of all requests that wait are encoded together, and none holds up another."""

import asyncio
import queue
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from torch import Tensor

from helpers.serving import files, png, samples, serving
from ipo_dspy.demo import DemoTask
from ipo_dspy.errors import ImageError
from ipo_dspy.serve.batches import Features, ImageEncoder
from ipo_dspy.serve.errors import RequestError
from ipo_dspy.serve.limits import Limits


def bomb(side: int) -> bytes:
    """A small PNG file of many black pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def test_requests_that_wait_share_a_batch(client: httpx.Client, task: DemoTask) -> None:
    images = [png(task, i) for i in range(48)]
    before = samples(client)
    with ThreadPoolExecutor(24) as threads:
        responses = list(threads.map(lambda image: client.post("/classify", files=files(image)), images))
    after = samples(client)

    def more(*name: str) -> float:
        return after[name] - before.get(name, 0)

    assert {response.status_code for response in responses} == {200}
    assert more("ipo_dspy_images_total", "encoded") == more("ipo_dspy_batch_size_sum") == 48
    assert more("ipo_dspy_batch_size_count") < 48
    assert more("ipo_dspy_requests_total", "/classify", "200") == 48
    assert more("ipo_dspy_request_seconds_count", "/classify") == 48
    labels = [response.json()["results"][0]["label"] for response in responses]
    assert labels == [task.program(image=image).label for image in images]


def test_what_cannot_be_read_takes_nothing_with_it(client: httpx.Client, task: DemoTask) -> None:
    good = png(task, 0)
    bad = [b"", b"words", good[:200], bomb(30_000), bomb(9_000)]
    with ThreadPoolExecutor(20) as threads:
        alone = list(threads.map(lambda image: client.post("/classify", files=files(image)), [good, *bad] * 3))
    assert [response.status_code for response in alone] == [200, 422, 422, 422, 422, 422] * 3
    assert all(set(response.json()) == {"error"} for response in alone if response.status_code == 422)
    together = client.post("/classify", files=files(*bad, good, b"more words"))
    assert together.status_code == 200
    results = together.json()["results"]
    assert ["error" in result for result in results] == [True] * 5 + [False, True]
    assert results[5]["label"] == task.program(image=good).label
    assert results[1]["error"] == "the image cannot be read as an image; save it as JPEG or PNG"
    assert results[2]["error"].startswith("the image is damaged (")
    assert "must have at most 50,000,000 pixels" in results[3]["error"]
    assert "must have at most 50,000,000 pixels" in results[4]["error"]
    assert samples(client)["ipo_dspy_images_total", "unreadable"] >= 21


def test_images_that_nobody_waits_for_hold_up_nobody(task: DemoTask) -> None:
    images = [png(task, i) for i in range(40)]
    with serving(task.program, request_seconds=0.001) as client:
        responses = [client.post("/classify", files=files(*images)) for _ in range(3)]
        assert {response.status_code for response in responses} == {503}
        assert responses[0].json() == {"error": "no answer within 0.001 seconds; send the request again later"}
        assert responses[0].headers["retry-after"] == "1"
        assert client.get("/healthz").status_code == 200


def test_a_request_that_is_given_up_takes_nothing_with_it(task: DemoTask, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, began, go = task.program.backbone, queue.SimpleQueue[int](), threading.Semaphore(0)
    encode = backbone.encode_pixels

    def held(pixels: Tensor) -> Tensor:
        began.put(len(pixels))
        assert go.acquire(timeout=60)
        return encode(pixels)

    async def cancel_in_a_pass() -> list[Features | ImageError]:
        with ImageEncoder(backbone, Limits(waiting_images=4), lambda size: None) as encoder:
            first = asyncio.create_task(encoder.encode([png(task, 0)]))
            assert await asyncio.to_thread(began.get) == 1
            dropped = asyncio.create_task(encoder.encode([png(task, 1)]))
            other = asyncio.create_task(encoder.encode([png(task, 2), b"words"]))
            await asyncio.sleep(0.3)  # they are decoded
            go.release()
            assert await asyncio.to_thread(began.get) == 2
            dropped.cancel()
            go.release(9)  # images that are decoded late are a pass of their own
            results = [*await first, *await other]
            return results + await encoder.encode([png(task, 2)] * 4)  # nothing waits any more

    monkeypatch.setattr(backbone, "encode_pixels", held)
    _first, row, unreadable, *again = asyncio.run(asyncio.wait_for(cancel_in_a_pass(), 60))
    assert isinstance(unreadable, ImageError)
    assert isinstance(row, np.ndarray)
    assert [isinstance(each, np.ndarray) and np.allclose(each, row, atol=1e-5) for each in again] == [True] * 4


@pytest.mark.end_to_end
def test_a_slow_model_answers_some_of_too_many(task: DemoTask, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, image, answered, end = task.program.backbone, png(task, 0), 0, time.monotonic() + 5
    encode = backbone.encode_pixels

    def slowly(pixels: Tensor) -> Tensor:
        time.sleep(0.05 * len(pixels))
        return encode(pixels)

    async def ask_again_and_again(encoder: ImageEncoder) -> None:
        nonlocal answered
        while time.monotonic() < end:
            try:
                async with asyncio.timeout(1):
                    await encoder.encode([image])
                answered += 1
            except (TimeoutError, RequestError):
                await asyncio.sleep(0.1)

    async def overload() -> None:
        with ImageEncoder(backbone, Limits(request_seconds=1), lambda size: None) as encoder:
            await asyncio.gather(*(ask_again_and_again(encoder) for _ in range(60)))

    monkeypatch.setattr(backbone, "encode_pixels", slowly)
    asyncio.run(overload())
    assert answered > 30  # of at most 100

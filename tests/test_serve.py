"""A real server on a port of this machine, asked by clients that are not ours."""

import asyncio
import base64
import contextlib
import functools
import importlib.util
import io
import json
import os
import queue
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import dspy
import httpx
import numpy as np
import pytest
from dspy.experimental import Choice, Noul
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from torch import Tensor

from helpers.cli_calls import call
from helpers.cli_process import Processes
from ipo_dspy import ClipClassifier, ClipDecider, demo
from ipo_dspy.clip.image_features import open_image
from ipo_dspy.demo import DemoTask
from ipo_dspy.errors import DataError, ImageError, InputError
from ipo_dspy.serve import server
from ipo_dspy.serve.app import create_app
from ipo_dspy.serve.batches import Features, ImageEncoder
from ipo_dspy.serve.errors import RequestError
from ipo_dspy.serve.limits import Limits

CLOSED = "the connection was closed"
PAGE, STATED = Path(__file__).parent.parent / "docs" / "deploy" / "server.md", "http://127.0.0.1:8000"


def png(task: DemoTask, index: int) -> bytes:
    """An image of a task as a file."""
    file = io.BytesIO()
    open_image(task.testset[index].image).save(file, "PNG")
    return file.getvalue()


def files(*images: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("files", ("image.png", image)) for image in images]


def form_text(charset: str, size: int) -> dict[str, Any]:
    """A form with one text of a charset."""
    body = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n' + b"9" * size + b"\r\n--b--\r\n"
    return {"content": body, "headers": {"content-type": f"multipart/form-data; boundary=b; charset={charset}"}}


def bomb(side: int) -> bytes:
    """A small PNG file of many black pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@contextlib.contextmanager
def serving(classifier: ClipClassifier, *, token: str | None = None, **limits: Any) -> Iterator[httpx.Client]:
    """Serve in a thread."""
    bounds = Limits(**limits)
    with server.listen("127.0.0.1", 0, token=token) as listener:
        running = server.Server(server.config(create_app(classifier, limits=bounds, token=token), bounds))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=60) as client:
                yield client
        finally:
            running.should_exit = True
            thread.join(60)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def client(task: DemoTask) -> Iterator[httpx.Client]:
    with serving(task.program) as client:
        yield client


def samples(client: httpx.Client) -> dict[tuple[str, ...], float]:
    """Values of the metrics by name and labels."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def talk(client: httpx.Client, *parts: bytes, pause: float = 0.0) -> str:
    """Send raw bytes, part by part, and return what comes back until the server closes."""
    host, port = client.base_url.host, client.base_url.port
    assert port is not None
    with socket.create_connection((host, port), timeout=30) as connection:
        with contextlib.suppress(ConnectionError):
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
        received = b""
        with contextlib.suppress(ConnectionError):
            while data := connection.recv(65536):
                received += data
    return received.decode() or CLOSED


def post(length: int) -> bytes:
    """The header of a request with a JSON body."""
    lines = (
        "POST /classify HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {length}",
        "",
        "",
    )
    return "\r\n".join(lines).encode()


# --- Answers


@pytest.mark.parametrize("form", ["form", "base64", "data URI"])
def test_images_get_the_answers_of_the_classifier(client: httpx.Client, task: DemoTask, form: str) -> None:
    images = [png(task, i) for i in range(3)]
    texts = [base64.b64encode(image).decode() for image in images]
    if form == "form":
        response = client.post("/classify", files=files(*images))
    else:
        prefix = "data:image/png;base64," if form == "data URI" else ""
        response = client.post("/classify", json={"images": [prefix + text for text in texts]})
    assert response.status_code == 200
    results = response.json()["results"]
    for image, result in zip(images, results, strict=True):
        expected = task.program(image=image)
        assert result["label"] == expected.label
        assert result["confidence"] == pytest.approx(expected.confidence, abs=1e-5)
        assert list(result["scores"]) == list(expected.scores)
        assert result["scores"] == pytest.approx(expected.scores, abs=1e-5)


@pytest.mark.parametrize("has_unknown", [False, True])
def test_a_threshold_and_class_weights_are_applied(task: DemoTask, has_unknown: bool) -> None:
    rule: Any = {"unknown": task.testset[::50], "coverage": 0.5} if has_unknown else {"threshold": 0.5}
    calibrated = task.program.calibrate(task.testset[::20], **rule, unknown_label="other")
    images = [png(task, i) for i in range(0, 600, 40)]
    with serving(calibrated) as client:
        results = client.post("/classify", files=files(*images)).json()["results"]
        program = client.get("/program").json()
    assert program["threshold"] == calibrated.class_weights().threshold
    assert program["threshold_score"] == ("in_distribution" if has_unknown else "confidence")
    expected = [calibrated(image=image) for image in images]
    assert [result["label"] for result in results] == [each.label for each in expected]
    assert "other" in [each.label for each in expected]
    assert [r["confidence"] for r in results] == pytest.approx([e.confidence for e in expected], abs=1e-5)


def test_the_program_and_its_page_are_shown(client: httpx.Client, task: DemoTask) -> None:
    program = client.get("/program").json()
    identity = task.program.class_weights().model
    assert program == {
        "template": str(task.program.template),
        "classes": list(task.classes),
        "model": "demo",
        "pretrained": identity["pretrained"],
        "fingerprint": identity["fingerprint"],
        "threshold": 0.0,
        "threshold_score": "confidence",
    }
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert client.get("/page.js").headers["content-type"].startswith("text/javascript")
    assert client.get("/healthz").json() == {"status": "ready"}


def test_no_endpoint_shows_where_the_model_lies(task: DemoTask, tmp_path: Path) -> None:
    shutil.copytree(demo.model_path(), tmp_path / "secret-folder" / "my-clip")
    program = ClipClassifier(task.classes, model=f"local-dir:{tmp_path}/secret-folder/my-clip")
    with serving(program) as client:
        answers = [client.get(path) for path in ("/program", "/healthz", "/metrics", "/docs", "/openapi.json", "/")]
        answers.append(client.post("/v1/systemone", json=ask()))
    assert [answer.status_code for answer in answers] == [200] * len(answers)
    assert [answers[i].json()["model"] for i in (0, -1)] == ["my-clip", "my-clip"]
    assert not [answer.url for answer in answers if "secret-folder" in answer.text + str(answer.headers)]


def test_the_interface_is_described(client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()
    assert {"/classify", "/v1/systemone", "/program", "/healthz", "/metrics"} == set(described["paths"])
    assert set(described["paths"]["/classify"]["post"]["requestBody"]["content"]) == {
        "multipart/form-data",
        "application/json",
    }


# --- Batches


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


# --- Refusals


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        ({"content": b"{}", "headers": {"content-type": "text/plain"}}, 415, "the content type must be multipart/form"),
        ({"content": b"{}"}, 415, "the content type must be multipart/form"),
        ({"json": {}}, 400, 'the JSON must be {"images": [...]}'),
        ({"json": {"images": "x"}}, 400, 'the JSON must be {"images": [...]}'),
        ({"json": []}, 400, "the body must be a JSON object"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "the body must be JSON; Expecting"),
        ({"json": {"images": []}}, 400, "at least one image, got none; for example curl -F files=@cat.jpg"),
        ({"json": {"images": ["https://example.com/cat.jpg"]}}, 400, "because URLs are not fetched; send it as base64"),
        ({"json": {"images": ["/etc/passwd"]}}, 400, "images[0] must be an image as base64"),
        ({"json": {"images": ["/etc/hosts/+"]}}, 422, "cannot be read as an image"),
        ({"json": {"images": ["cat.png"]}}, 400, "images[0] must be an image as base64"),
        ({"json": {"images": ["é"]}}, 400, "images[0] must be an image as base64"),
        ({"json": {"images": [7]}}, 400, "images[0] must be an image as base64"),
        ({"json": {"images": ["AA=="] * 65}}, 413, "at most 64 images, got 65"),
        ({"content": b"[" * 100_000, "headers": {"content-type": "application/json"}}, 400, "nested deeper"),
        ({"data": {"files": "cat.png"}, "files": {"x": b""}}, 400, "'files' must be a file, got text"),
        ({"content": b"--x", "headers": {"content-type": "multipart/form-data"}}, 400, "the form cannot be read"),
        ({"files": files(*[b"x"] * 65)}, 400, "the form cannot be read: Too many files"),
        (form_text("punycode", 500_000), 400, "'x' must be a file, got text"),
        (form_text("x", 5) | {"headers": {"content-type": 'multipart/form-data; boundary="a\\"b"'}}, 400, "RFC 2046"),
        ({"json": {}, "headers": {"content-encoding": "gzip"}}, 415, "must not be compressed"),
    ],
)
def test_wrong_requests_are_refused_in_one_sentence(
    client: httpx.Client, request_: dict[str, Any], status: int, message: str
) -> None:
    response = client.post("/classify", **request_)
    assert response.status_code == status
    assert set(response.json()) == {"error"}
    assert message in response.json()["error"]


def test_unknown_endpoints_and_methods_are_refused(client: httpx.Client) -> None:
    assert client.get("/nothing").status_code == 404
    assert client.get("/nothing").json()["error"] == "no such endpoint; /openapi.json lists the endpoints"
    wrong = client.get("/classify")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert wrong.json()["error"].startswith("no GET here")
    assert samples(client)["ipo_dspy_requests_total", "other", "404"] >= 2


def test_large_bodies_are_refused(task: DemoTask) -> None:
    image = png(task, 0)
    with serving(task.program, body_bytes=5000) as client:
        assert client.post("/classify", files=files(image)).status_code == 200
        declared = client.post("/classify", files=files(bytes(6000)))
        assert (declared.status_code, "at most 5,000 bytes" in declared.json()["error"]) == (413, True)
        chunks = client.post("/classify", content=iter([bytes(1000)] * 9), headers={"content-type": "application/json"})
        assert chunks.status_code == 413
        huge = client.post("/classify", content=bytes(20_000_000), headers={"content-type": "application/json"})
        assert huge.status_code == 413
        assert client.post("/classify", files=files(image)).status_code == 200


def test_a_busy_server_asks_to_try_again(task: DemoTask) -> None:
    image = png(task, 0)
    with serving(task.program, waiting_images=2, waiting_bytes=10_000) as client:
        assert client.post("/classify", files=files(image, image)).status_code == 200
        response = client.post("/classify", files=files(image, image, image))
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert response.json()["error"].startswith("0 images wait for this server; send the request again")
        assert client.post("/classify", files=files(bytes(11_000))).status_code == 503
        assert [client.post("/classify", files=files(image)).status_code for _ in range(12)] == [200] * 12


@pytest.mark.end_to_end
def test_lies_about_the_length_and_slow_clients(task: DemoTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_HEADER_SECONDS", 0.3)
    monkeypatch.setattr(server, "_IDLE_SECONDS", 0.5)
    body = json.dumps({"images": [base64.b64encode(png(task, 0)).decode()]}).encode()
    with serving(task.program, body_seconds=0.5) as client:
        assert '"label"' in talk(client, post(len(body)).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), body)
        more = talk(client, post(len(body) + 9), body)
        assert more.startswith("HTTP/1.1 408 ")
        assert "the body must arrive within 0.5 seconds" in more
        less = talk(client, post(100), body)
        assert less.startswith("HTTP/1.1 400 ")
        slow = talk(client, post(len(body)), *(bytes([byte]) for byte in body[:20]), pause=0.05)
        assert slow.startswith("HTTP/1.1 408 ")
        assert talk(client, b"POST /classify HTTP/1.1\r\nHost: localhost\r\n") == CLOSED
        assert talk(client) == CLOSED
        assert talk(client, b"\x16\x03\x01 no HTTP\r\n\r\n").startswith("HTTP/1.1 400 ")
        assert client.post("/classify", files=files(png(task, 0))).status_code == 200


@pytest.mark.end_to_end
def test_a_response_that_nobody_reads_ends_its_connection(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_UNREAD_SECONDS", 0.3)
    size, count = len(client.get("/swagger-ui-bundle.js").content), 20
    host, port, received = client.base_url.host, client.base_url.port, 0
    assert port is not None
    with socket.create_connection((host, port), timeout=30) as connection:
        connection.sendall(b"GET /swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * count)
        time.sleep(2)
        connection.settimeout(3)  # it is kept alive, if it was not ended
        with contextlib.suppress(ConnectionError, TimeoutError):
            while data := connection.recv(1_000_000):
                received += len(data)
    assert received < count * size


@pytest.mark.parametrize(
    "headers", [{"Host": "rebound.example:8000"}, {"Sec-Fetch-Site": "cross-site"}, {"Host": "[x"}]
)
def test_without_a_token_pages_of_other_sites_are_refused(client: httpx.Client, headers: dict[str, str]) -> None:
    answer = client.get("/program", headers=headers)
    assert answer.status_code == 403
    assert "set a token" in answer.json()["error"]


def test_a_link_of_another_site_may_be_followed(client: httpx.Client) -> None:
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client.get("/", headers=followed).status_code == 200
    assert client.post("/classify", headers=followed).status_code == 403


def test_the_page_of_the_endpoints_loads_nothing_from_elsewhere(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    linked = re.findall(r'(?:href|src)="(?!data:)(.*?)"', page.text)
    assert sorted(linked) == ["api.js", "swagger-ui-bundle.js", "swagger-ui.css"]
    types = {name: client.get(f"/{name}").headers["content-type"].partition(";")[0] for name in linked}
    assert types == {name: "text/css" if name.endswith(".css") else "text/javascript" for name in linked}


def test_a_token_protects_all_but_the_page_and_the_health(task: DemoTask) -> None:
    token = "dog-or-cat-1234"
    with serving(task.program, token=token) as client:
        assert [client.get(path).status_code for path in ("/healthz", "/", "/style.css", "/openapi.json")] == [200] * 4
        for wrong in (
            {},
            {"authorization": "Bearer x"},
            {"authorization": token},
            httpx.Headers({"authorization": "Bearer \xe9"}, encoding="latin-1"),
        ):
            refused = client.post("/classify", files=files(png(task, 0)), headers=wrong)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
            assert refused.json()["error"].endswith("send the header Authorization: Bearer TOKEN")
            assert token not in refused.text
        assert [client.get(path).status_code for path in ("/metrics", "/program", "/other")] == [401] * 3
        client.headers["authorization"] = f"Bearer {token}"
        assert client.post("/classify", files=files(png(task, 0))).status_code == 200
        assert client.get("/metrics").status_code == 200


# --- The disk


def test_images_are_never_files(task: DemoTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = Image.frombytes("RGB", (1000, 1000), os.urandom(3_000_000))
    file = io.BytesIO()
    noise.save(file, "PNG")
    monkeypatch.setenv("IPO_DSPY_CACHE", str(tmp_path / "cache"))
    with serving(task.program) as client:
        assert client.post("/classify", files=files(png(task, 0))).status_code == 200  # PyTorch has made its folders
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))  # a temporary file would be an error
        assert client.post("/classify", files=files(file.getvalue(), png(task, 1))).status_code == 200
    assert list(tmp_path.iterdir()) == []


# --- Decisions


ANIMAL: Any = Choice[("cat", None), ("cow", ["cow", "bull"]), ("duck", "water bird")]
FLIES: Any = Noul[(True, "bird"), (False, "mammal")]


class Look(dspy.Signature):
    """pixel art of a <CLASS>."""

    image: dspy.Image = dspy.InputField()
    animal: ANIMAL = dspy.OutputField(desc="the animal")
    name: Literal["bat", "bear"] = dspy.OutputField(desc="a name")
    flies: FLIES = dspy.OutputField(desc="a drawing of a <CLASS>.")


class Wire:
    """Sends what DSPy asks a decision client as `TypeSafe` sends it."""

    supports_decision_requests = True

    def __init__(self, client: httpx.Client) -> None:
        self.client = client

    def __call__(self, state: Any, questions: Any) -> Any:
        body = {"model": "jev-latest", "state": state, "questions": questions}
        response = self.client.post("/v1/systemone", json=body).raise_for_status().json()
        assert set(response) == {"model", "answers", "usage"}
        assert [answer["type"] for answer in response["answers"].values()] == ["choice", "choice", "noul"]
        return response["answers"]


def test_decisions_are_those_of_a_decider(client: httpx.Client, task: DemoTask) -> None:
    image = dspy.Image(open_image(task.testset[0].image))
    local = dspy.Predict(Look)(image=image, lm=ClipDecider("demo"))
    remote = dspy.Predict(Look)(image=image, lm=Wire(client))
    assert remote.animal.value == local.animal.value
    assert remote.animal.probabilities == pytest.approx(local.animal.probabilities, abs=1e-5)
    assert remote.flies.probability == pytest.approx(local.flies.probability, abs=1e-5)
    assert remote.name == local.name


@pytest.mark.skipif(importlib.util.find_spec("typesafe_sdk") is None, reason="typesafe-sdk is not installed")
@pytest.mark.usefixtures("no_cache")
def test_typesafe_talks_to_a_clip(task: DemoTask) -> None:
    image = dspy.Image(open_image(task.testset[0].image))
    stars = {"stars": {"type": "score", "instructions": "stars", "criteria": ["bad", "good"]}}
    local = dspy.Predict(Look)(image=image, lm=ClipDecider("demo"))
    with serving(task.program, token="a-token-of-ours") as client:
        connect = functools.partial(dspy.experimental.TypeSafe, base_url=str(client.base_url), cache=False)
        remote = dspy.Predict(Look)(image=image, lm=connect(api_key="a-token-of-ours"))
        awaited = asyncio.run(dspy.Predict(Look).acall(image=image, lm=connect(api_key="a-token-of-ours")))
        with pytest.raises(Exception, match="Authorization: Bearer"):
            dspy.Predict(Look)(image=image, lm=connect(api_key="another"))
        with pytest.raises(Exception, match="instead of a Score use a Choice"):
            connect(api_key="a-token-of-ours")({"inputs": {"image": image.url}}, stars)
    assert remote.animal.probabilities == pytest.approx(local.animal.probabilities, abs=1e-5)
    assert awaited.animal.probabilities == pytest.approx(local.animal.probabilities, abs=1e-5)


def ask(**changes: Any) -> dict[str, Any]:
    """A request whose question is answered with the template of the program."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    uri = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    question = {"type": "choice", "criteria": {"cat": None, "dog": None}}
    return {"state": {"inputs": {"image": uri}}, "questions": {"animal": question}} | changes


def test_a_question_without_a_template_is_answered_with_that_of_the_program(task: DemoTask) -> None:
    program = task.program.deepcopy()
    program.template = "a drawing of a <CLASS>."
    question = {"animal": {**ask()["questions"]["animal"], "instructions": "a drawing of a <CLASS>."}}
    with serving(program) as client:
        responses = [client.post("/v1/systemone", json=body).json() for body in (ask(), ask(questions=question))]
    assert responses[0] == responses[1]
    assert set(responses[0]["answers"]["animal"]["probabilities"]) == {"cat", "dog"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (ask(state="a text"), "the state must be an object"),
        (ask(questions={}), "the questions must be an object"),
        (ask(questions={"a": "cat"}), "the questions must be an object"),
        (ask(state={"inputs": {}}), "a decision by CLIP is about one image, got 0"),
        (ask(state={"inputs": {"image": "data:image/png;base64,é"}}), "the image must be an image as base64"),
        (ask(state={"inputs": {"image": "data:image/png;base64,AAAA"}}), "cannot be read as an image"),
        (ask(questions={"a": {"type": "score", "criteria": ["bad", "good"]}}), "instead of a Score use a Choice"),
        (ask(questions={"a": {"type": "noul"}}), "'a' must have criteria for both outcomes"),
        (ask(questions={"a": {"type": "choice", "criteria": {"x": {"deep": 1}, "y": None}}}), ""),
        (ask(questions={"a": {"type": "choice", "criteria": {"x": "long " * 500, "y": None}}}), ""),
        (ask(questions={"a": {"type": "choice", "criteria": {f"c{i}": None for i in range(1001)}}}), "at most 1000"),
        (ask(questions={"a": {"type": "choice", "criteria": {"x": ["y"] * 1001}}}), "at most 1000"),
        (ask(state={**ask()["state"], "instructions": "a <CLASS>.\n" * 501}), "at most 1000 prompts, got 1002"),
    ],
)
def test_wrong_decisions_are_refused(client: httpx.Client, body: dict[str, Any], message: str) -> None:
    response = client.post("/v1/systemone", json=body)
    assert 400 <= response.status_code < 500
    assert set(response.json()) == {"error"}
    assert message in response.json()["error"]


def test_an_image_on_the_network_is_not_fetched(client: httpx.Client) -> None:
    body = ask()
    image = dspy.Image(url="http://127.0.0.1:9/cat.png")
    body["state"]["inputs"]["image"] = image.model_dump(mode="json")
    response = client.post("/v1/systemone", json=body)
    assert (response.status_code, "URLs are not fetched" in response.json()["error"]) == (400, True)


def test_compressed_decisions_are_read_within_the_limit(task: DemoTask) -> None:
    zstd = pytest.importorskip("backports.zstd")
    headers = {"content-type": "application/json", "content-encoding": "zstd"}
    with serving(task.program, body_bytes=100_000) as client:
        good = client.post("/v1/systemone", content=zstd.compress(json.dumps(ask()).encode()), headers=headers)
        large = client.post("/v1/systemone", content=zstd.compress(bytes(10**8)), headers=headers)
        bad = client.post("/v1/systemone", content=b"{}", headers=headers)
    assert [response.status_code for response in (good, large, bad)] == [200, 413, 400]


def test_compressed_bodies_count_as_they_are_in_memory(task: DemoTask) -> None:
    zstd = pytest.importorskip("backports.zstd")
    headers = {"content-type": "application/json", "content-encoding": "zstd"}
    small, padded = (zstd.compress(json.dumps(ask()).encode() + b" " * spaces) for spaces in (0, 90_000))
    with serving(task.program, body_bytes=100_000, waiting_bytes=50_000) as client:
        codes = [
            client.post("/v1/systemone", content=body, headers=headers).status_code for body in (padded, small, small)
        ]
    assert codes == [503, 200, 200]


# --- The page


@pytest.fixture
def page_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server of the program that the page's first block saves; the working folder has its files."""
    monkeypatch.chdir(tmp_path)
    exec(blocks("Server", "python")[0], {})
    with serving(ClipClassifier.from_file("best.json")) as client:
        yield str(client.base_url).rstrip("/")


def blocks(section: str, language: str) -> list[str]:
    """The code blocks of a section of the page."""
    sections = {part.partition("\n")[0].strip("# "): part for part in PAGE.read_text().split("\n## ")}
    return re.findall(rf"```{language}\n(.*?)```", sections[section], flags=re.DOTALL)


def promised(code: str) -> str:
    """The output of a block by its comments."""
    return "".join(f"{line}\n" for line in re.findall(r"^print\(.*\)  # (.*)$", code, flags=re.MULTILINE))


def test_the_python_lines_of_the_page_run(page_server: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = blocks("Server", "python")[1].replace(STATED, page_server)
    exec(code, {})
    assert capsys.readouterr().out == promised(code) != ""


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on PATH")
def test_the_shell_lines_of_the_page_run(page_server: str) -> None:
    code = blocks("Server", "bash")[1].replace(STATED, page_server)
    done = subprocess.run(["bash", "-euc", code.replace("curl ", "curl -sSf ")], capture_output=True, text=True)
    assert done.stderr == ""
    answers = [json.loads(line) for line in done.stdout.replace("}{", "}\n{").splitlines()]
    labels = [[result["label"] for result in answer["results"]] for answer in answers]
    assert labels == [["cow"], ["cow", "frog"], ["cow"]]


@pytest.mark.skipif(importlib.util.find_spec("typesafe_sdk") is None, reason="typesafe-sdk is not installed")
@pytest.mark.usefixtures("no_cache")
def test_the_lines_of_the_page_for_dspy_run(page_server: str, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks("From DSPy", "python")
    exec(code.replace(STATED, page_server), {})
    assert capsys.readouterr().out == promised(code) != ""


# --- Start and end


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory, forking_parent: Processes) -> Processes:
    return Processes(tmp_path_factory.mktemp("processes"), {}, parent=forking_parent)


@pytest.fixture(scope="module")
def program(task: DemoTask, processes: Processes) -> str:
    task.program.save(processes.folder / "best.json")
    return "best.json"


def address(processes: Processes) -> str:
    """The address that the running command prints."""
    for _ in range(600):
        if " at http" in (said := processes.said_so_far()):
            return said.partition(" at ")[2].split()[0]
        time.sleep(0.1)
    raise AssertionError(processes.so_far())


def ready(url: str) -> None:
    for _ in range(600):
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/healthz", timeout=60).status_code == 200:
                return
        time.sleep(0.1)


@pytest.mark.end_to_end
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_when_all_is_answered(
    processes: Processes, program: str, task: DemoTask, number: signal.Signals
) -> None:
    pid = processes.begin("serve", program, "--port", "0")
    url = httpx.URL(address(processes))
    ready(str(url))
    body = json.dumps({"images": [base64.b64encode(png(task, 0)).decode()]}).encode()
    assert url.port is not None
    with socket.create_connection((url.host, url.port), timeout=60) as connection:
        connection.sendall(post(len(body)) + body[:100])
        time.sleep(0.3)
        os.kill(pid, number)
        time.sleep(0.5)
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)
        connection.sendall(body[100:])
        answer = connection.makefile("rb").read().decode()
    assert answer.startswith("HTTP/1.1 200 ")
    assert task.program(image=png(task, 0)).label in answer
    done = processes.end()
    assert (done.code, done.err) == (0, "")
    assert "no token is required" in done.out


@pytest.mark.end_to_end
def test_a_request_of_many_images_is_not_too_much_for_the_server(processes: Processes, program: str) -> None:
    pid = processes.begin("serve", program, "--port", "0", "--max-images", "1100")
    url = address(processes)
    ready(url)
    response = httpx.post(f"{url}/classify", json={"images": ["AA=="] * 1100}, timeout=60)
    os.kill(pid, signal.SIGTERM)
    assert (response.status_code, processes.end().code) == (422, 0)  # none can be read


def test_a_port_in_use_is_one_error(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = call(capsys, "serve", "best.json", "--port", port)
    message = f"ipo-dspy: 127.0.0.1:{port} cannot be listened on: Address already in use; pass another --port or --host"
    assert done == (2, "", f"{message}\n")


def test_a_program_that_cannot_be_read_is_one_error(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "serve", "nothing.json", "--port", "0")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "nothing.json" in err


def test_other_machines_need_a_token(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "serve", "best.json", "--host", "0.0.0.0", "--port", "0")
    message = "--host must be a loopback address without a token, got '0.0.0.0'; set IPO_DSPY_SERVE_TOKEN"
    assert (code, message in err) == (2, True)


@pytest.mark.end_to_end
def test_a_missing_extra_is_one_error(processes: Processes) -> None:
    lines = (
        "import sys",
        "sys.modules['uvicorn'] = None",
        "from ipo_dspy.cli import main",
        "main(['serve', 'best.json'])",
    )
    done = processes.python("\n".join(lines))
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "run pip install 'ipo_dspy[serve]'" in done.err


@pytest.mark.parametrize("token", ["", " x", "x\ny", "é"])
def test_a_token_that_no_client_can_send_is_refused(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(server.TOKEN, token)
    with pytest.raises(InputError, match="IPO_DSPY_SERVE_TOKEN must be printable ASCII"):
        server.read_token()


def test_a_program_without_classes_is_refused() -> None:
    with pytest.raises(DataError, match="a program without class names cannot be served"):
        create_app(ClipClassifier(model="demo"))


@pytest.mark.end_to_end
def test_workers_that_end_at_the_start_are_one_error() -> None:
    build: Any = functools.partial(os._exit, 7)
    with (
        server.listen("127.0.0.1", 0, token=None) as listener,
        pytest.raises(
            InputError, match="3 workers ended at the start, the last with exit code 7; free memory, or pass"
        ),
    ):
        server._supervise(build, listener, Limits(), 2)


@pytest.mark.slow
def test_several_workers_share_a_port_and_their_metrics(processes: Processes, program: str, task: DemoTask) -> None:
    pid = processes.begin("serve", program, "--port", "0", "--workers", "2")
    url = address(processes)
    ready(url)
    time.sleep(5)  # the other worker
    with ThreadPoolExecutor(8) as threads:
        sent = list(threads.map(lambda i: httpx.post(f"{url}/classify", files=files(png(task, i))), range(40)))
    assert {response.status_code for response in sent} == {200}
    with httpx.Client(base_url=url) as client:
        assert {samples(client)["ipo_dspy_images_total", "encoded"] for _ in range(5)} == {40.0}
    os.kill(pid, signal.SIGTERM)
    assert processes.end().code == 0


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [[signal.SIGTERM, signal.SIGTERM], [signal.SIGKILL]])
def test_workers_end_with_the_server(processes: Processes, program: str, numbers: list[int]) -> None:
    pid = processes.begin("serve", program, "--port", "0", "--workers", "2")
    url = httpx.URL(address(processes))
    ready(str(url))
    assert url.port is not None
    with contextlib.ExitStack() as connections:
        if len(numbers) == 2:  # the first signal waits for these requests
            for _ in range(8):
                connection = connections.enter_context(socket.create_connection((url.host, url.port)))
                connection.sendall(post(100))
        time.sleep(1)
        for number in numbers:
            os.kill(pid, number)
            time.sleep(1)
        processes.end()
        for _ in range(100):
            time.sleep(0.1)
            try:
                socket.create_connection((url.host, url.port)).close()
            except ConnectionRefusedError:
                return
    raise AssertionError("a worker still listens")

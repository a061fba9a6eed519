"""Bodies that are wrong, large, slow, or compressed, and clients that do not keep to HTTP, are refused."""

import base64
import contextlib
import io
import json
import os
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from helpers.serving import ask, files, png, post, serving
from ipo_dspy.demo import DemoTask
from ipo_dspy.serve import server

CLOSED = "the connection was closed"


def form_text(charset: str, size: int) -> dict[str, Any]:
    """A form with one text of a charset."""
    body = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n' + b"9" * size + b"\r\n--b--\r\n"
    return {"content": body, "headers": {"content-type": f"multipart/form-data; boundary=b; charset={charset}"}}


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

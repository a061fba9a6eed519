"""A small OpenAI-compatible server on loopback: recorded replies by content, and an unseen prompt fails."""

import contextlib
import hashlib
import json
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from types import MappingProxyType
from typing import Any, Self

import dspy

from helpers.loopback import LoopbackServer

KEY = "sk-test-0123456789"
HONEST, MISSING = object(), object()


@dataclass(frozen=True)
class Reply:
    """An answer: a text, or a status with another body.

    Attributes:
        more: texts of further completions.
        headers: sent besides the usual ones, e.g. `Retry-After`.
        cut_at: the number of bytes of the body that are sent before the connection is reset.
        message: the first completion's message instead of one with `text`.
        usage: sent instead of honest counts; `MISSING` leaves it out.
        drip: seconds between two bytes of the body.
    """

    text: str = ""
    status: int = 200
    body: bytes | None = None
    more: tuple[str, ...] = ()
    finish_reason: str = "stop"
    headers: tuple[tuple[str, str], ...] = ()
    cut_at: int | None = None
    delay: float = 0.0
    message: Any = None
    usage: Any = HONEST
    drip: float = 0.0

    def payload(self, model: str, asked: str = "") -> bytes:
        if self.body is not None:
            return self.body
        if self.status != 200:
            return json.dumps({"error": {"message": self.text, "type": "error", "code": str(self.status)}}).encode()
        choices = [
            {"index": i, "finish_reason": self.finish_reason, "message": {"role": "assistant", "content": text}}
            for i, text in enumerate((self.text, *self.more))
        ]
        if self.message is not None:
            choices[0]["message"] = self.message
        usage = self.counts(asked) if self.usage is HONEST else self.usage
        answer = {"id": "1", "object": "chat.completion", "created": 1, "model": model, "choices": choices}
        return json.dumps(answer if usage is MISSING else {**answer, "usage": usage}).encode()

    def counts(self, asked: str) -> dict[str, int]:
        """About what a tokenizer would count."""
        prompt, completion = (1 + len(text) // 4 for text in (asked, "".join((self.text, *self.more))))
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


class OpenAIServer:
    """Answers a request by the first key of `replies` that its messages hold.

    With `together`, requests for one template are answered once this many of them have come.

    Attributes:
        requests: bodies of the requests, in order of arrival.
        unseen: text of the requests that no key fits; a test must find it empty.
        tokens: of all answers, as they said.
    """

    def __init__(self, replies: Mapping[str, Reply | str], *, together: int = 1, port: int = 0) -> None:
        self.replies = {key: Reply(reply) if isinstance(reply, str) else reply for key, reply in replies.items()}
        self.requests: list[dict[str, Any]] = []
        self.unseen: list[str] = []
        self.tokens = 0
        self.headers: list[dict[str, str]] = []
        self.together = threading.Barrier(together) if together > 1 else None
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                owner.headers.append(dict(self.headers))
                reply = owner.answer(body)
                if owner.together is not None and "Write 1 new" in text_of(body):
                    owner.together.wait(30)
                time.sleep(reply.delay)
                payload = reply.payload(str(body.get("model")), text_of(body))
                owner.tokens += reply.counts(text_of(body))["total_tokens"]
                self.send_response(reply.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                for name, value in reply.headers:
                    self.send_header(name, value)
                self.end_headers()
                send(self.wfile, payload[: reply.cut_at], reply.drip)
                if reply.cut_at is not None:
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = LoopbackServer(("127.0.0.1", port), Handler)
        self._server.block_on_close = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def answer(self, body: dict[str, Any]) -> Reply:
        self.requests.append(body)
        said = text_of(body)
        for key, reply in self.replies.items():
            if key in said:
                return reply
        self.unseen.append(said)
        return Reply("this prompt was not recorded", status=400)

    def lm(self, **settings: Any) -> dspy.LM:
        """A DSPy model that asks this server."""
        given = {"temperature": 1.0, "num_retries": 0, "api_key": KEY, **settings}
        return dspy.LM(given.pop("model", "openai/toy"), api_base=self.url, engine="litellm", **given)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def send(to: Any, payload: bytes, drip: float) -> None:
    """Write a body at once, or byte by byte until nobody reads it any more."""
    if not drip:
        to.write(payload)
        return
    with contextlib.suppress(OSError):
        for byte in payload:
            to.write(bytes([byte]))
            time.sleep(drip)


class AnyServer:
    """Answers whatever is asked with the same, and keeps what was asked.

    Attributes:
        seen: method, path, headers and body of each request, as one text.
    """

    def __init__(
        self, status: int = 200, *, headers: Mapping[str, str] = MappingProxyType({}), body: bytes = b"{}"
    ) -> None:
        self.seen: list[str] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                owner.seen.append(f"{self.command} {self.path}\n{self.headers}\n{sent.decode()}")
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self) -> None:
                self.do_POST()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = LoopbackServer(("127.0.0.1", 0), Handler)
        self.origin = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def text_of(body: dict[str, Any]) -> str:
    """All text of a request's messages."""
    return "\n".join(part["text"] for part in parts_of(body) if part["type"] == "text")


def images_of(body: dict[str, Any]) -> list[str]:
    """URLs of a request's images."""
    return [part["image_url"]["url"] for part in parts_of(body) if part["type"] == "image_url"]


def parts_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for message in body["messages"]:
        content = message["content"]
        parts += [{"type": "text", "text": content}] if isinstance(content, str) else content
    return parts


class Writer(OpenAIServer):
    """A language model that writes templates and descriptions which depend on the whole request and on nothing else.

    Attributes:
        odd: replies to the n-th request for templates, counted from 0, instead of the usual one.
        rewording: the reply to a request for rewordings; by default two that depend on the request.
        asked: how many requests for templates have come.
        reworded: texts of the requests for rewordings.
    """

    WORDS = ("pixel art", "blurry", "grainy", "dark", "tiny", "an old", "a drawn", "icon", "sprite", "black and white")

    def __init__(
        self, odd: Mapping[int, Reply] | None = None, *, rewording: Reply | None = None, port: int = 0
    ) -> None:
        super().__init__({}, port=port)
        self.odd, self.rewording = dict(odd or {}), rewording
        self.reworded: list[str] = []
        self.asked = 0
        self._counting = threading.Lock()

    def answer(self, body: dict[str, Any]) -> Reply:
        said = text_of(body)
        wanted = re.search(r"Write (\d+) new", said)
        with self._counting:
            self.requests.append(body)
            self.asked += wanted is not None
            odd = self.odd.get(self.asked - 1) if wanted else None
        if odd is not None:
            return odd
        if wanted:
            return Reply("\n".join(f"<INS>{text}</INS>" for text in self.templates(said, int(wanted[1]))))
        if "rewordings" in said:
            self.reworded.append(said)
            return self.rewording or Reply("\n".join(f"<INS>{text}</INS>" for text in self.templates(said, 2)))
        if images_of(body):
            return Reply("a grainy pixel art picture")
        return Reply("ready")

    def templates(self, said: str, count: int) -> list[str]:
        draw = random.Random(hashlib.sha256(said.encode()).digest())
        return [f"a {' '.join(draw.sample(self.WORDS, 3))} picture of a <CLASS>." for _ in range(count)]

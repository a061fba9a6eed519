"""Keys of ten shapes, planted in every place from which a run may take one, and a server that quotes them all."""

import base64
import html
import itertools
import json
import random
import string
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dspy
import pytest

from helpers.openai_server import OpenAIServer, Reply, images_of, text_of
from test_internal_secrets import forms, search

DRAW = random.Random(0)


def drawn(alphabet: str, length: int) -> str:
    return "".join(DRAW.choice(alphabet) for _ in range(length))


SHAPES: dict[str, Callable[[], str]] = {
    "prefixed": lambda: "sk-proj-" + drawn(string.ascii_letters + string.digits, 40),
    "letters": lambda: drawn(string.ascii_lowercase, 24),
    "seven characters": lambda: drawn(string.ascii_letters, 3) + "-" + drawn(string.digits, 3),
    "seven letters": lambda: drawn(string.ascii_lowercase, 7),
    "two words": lambda: f"{drawn(string.ascii_lowercase, 5)} {drawn(string.ascii_lowercase, 7)}",
    "hexadecimal": lambda: drawn("0123456789abcdef", 32),
    "digits": lambda: drawn(string.digits, 12),
    "base64": lambda: base64.b64encode(DRAW.randbytes(24)).decode(),
    "reserved": lambda: f"{drawn(string.ascii_letters, 9)}+/=%41&x#~:@!{drawn(string.digits, 9)}",
    "quotes": lambda: f"{drawn(string.ascii_letters, 6)}\"'\\<{drawn(string.digits, 6)}",
}
QUICK = ("letters", "seven letters", "two words", "reserved")
"""Shapes that differ most; the others are tried with the slow tests."""
NAMES = ("seven characters", "seven letters", "two words", "digits")
"""Shapes that a name in a path may have, too; there a longer key is planted instead."""

VARIABLES = (
    "OPENAI_API_KEY",  # of the provider that is asked
    "ANTHROPIC_API_KEY",  # of another one
    "MY_GATEWAY_PASSWORD",  # of no provider
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
)
HEADERS = ("Authorization", "Proxy-Token", "X-Api-Key", "Cookie")
PLACES = (
    *(f"variable {name}" for name in VARIABLES),
    "user of a proxy",  # HTTP_PROXY
    "token file",  # that `hf auth login` writes
    "stored token",  # there by its name
    "setting api_key",
    "setting extra_body",  # a field of it whose name says that it is a secret
    *(f"header {name}" for name in HEADERS),
    "password of the address",
    "path of the address",
    "query of the address",
)
"""Places of planted keys, each with another one."""

WAYS: tuple[Callable[[str], str], ...] = (
    lambda secret: f"Incorrect API key provided: {secret}.",
    lambda secret: f"POST https://host/v1?key={quote(secret, safe='')}&x=1",
    lambda secret: f"Authorization: Basic {base64.b64encode(f'me:{secret}'.encode()).decode()}",
    lambda secret: json.dumps({"key": secret}),
    html.escape,
    lambda secret: f"masked {secret[:14]}****" if len(secret) > 16 else secret,
)
"""Forms in which a server may write a key."""


def _message(**fields: Any) -> Reply:
    return Reply(message={"role": "assistant", "content": None, **fields})


def _call(said: str) -> dict[str, Any]:
    return {"id": "1", "type": "function", "function": {"name": "look", "arguments": json.dumps({"for": said})}}


ANSWERS: dict[str, Callable[[str], Reply]] = {
    "reasoning": lambda said: _message(reasoning_content=said),
    "reasoning and text": lambda said: _message(content="a dark picture", reasoning_content=said),
    "thoughts": lambda said: Reply(f"<think>{said}</think>\n<INS>a dark photo of a <CLASS>.</INS>"),
    "tool call": lambda said: _message(tool_calls=[_call(said)]),
    "refusal": lambda said: _message(refusal=said),
    "finish reason": lambda said: Reply("a dark picture", finish_reason=said),
    "number": lambda said: Reply("a dark picture", usage={"prompt_tokens": said, "completion_tokens": 1}),
    "name of the model": lambda said: Reply(
        body=json.dumps({"id": said, "model": said, "choices": [{"message": {"content": said}}]}).encode()
    ),
    "no JSON": lambda said: Reply(body=f"<html>{said}".encode()),
    "no choices": lambda said: Reply(body=json.dumps({said: said}).encode()),
    "error as an answer": lambda said: Reply(body=json.dumps({"error": {"message": said}}).encode()),
    "header": lambda said: Reply(said, status=429, headers=(("Retry-After", said), ("WWW-Authenticate", said))),
    "error 400": lambda said: Reply(said, status=400),
    "error 403": lambda said: Reply(said, status=403),
    "error 404": lambda said: Reply(said, status=404),
    "error 503": lambda said: Reply(said, status=503),
    "redirect": lambda said: Reply(
        status=307, body=said.encode(), headers=(("Location", f"http://127.0.0.1:9/{quote(said, safe='')}?k={said}"),)
    ),
    "redirect to itself": lambda said: Reply(
        status=307, body=said.encode(), headers=(("Location", f"/v1/{quote(said, safe='')}/chat/completions"),)
    ),
}
"""Places in which a server may write a key, besides the text of an answer and errors 401 and 500."""


def shapes(quick: Sequence[str] = QUICK) -> list[Any]:
    return [pytest.param(name, id=name, marks=() if name in quick else pytest.mark.slow) for name in SHAPES]


class Echo(OpenAIServer):
    """Quotes secrets in whatever it answers.

    Attributes:
        status: of the next answers, pings included.
        says: how to answer all but pings, instead of with templates and descriptions.
        quoted: all that it has said.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        super().__init__({})
        self.one = itertools.cycle([way(secret) for way in WAYS for secret in secrets])
        self.all = itertools.cycle(["; ".join(map(way, secrets)) for way in WAYS])
        self.status = 200
        self.says: Callable[[str], Reply] | None = None
        self.quoted: list[tuple[int, str]] = []

    def answer(self, body: dict[str, Any]) -> Reply:
        redirected = self.quoted[-1:] == [(307, "")] and body == self.requests[-1]
        self.requests.append(body)
        reply = Reply(next(self.all), status=404) if redirected else self._reply(body)
        self.quoted.append((reply.status, reply.text))
        return reply

    def _reply(self, body: dict[str, Any]) -> Reply:
        asked = text_of(body)
        if self.status != 200:
            return Reply(next(self.all), status=self.status)
        if "Say: ready" in asked:
            return Reply(next(self.all))
        if self.says is not None:
            return self.says(next(self.all))
        if images_of(body):
            return Reply(f"A dark picture. {next(self.all)}")
        if "proposed_instruction" in asked:
            names = ("instruction", "prefix_for_output_field")
            fields = (f"proposed_{name} ## ]]\na {next(self.one)} of a <CLASS>." for name in names)
            return Reply("\n\n".join(f"[[ ## {field}" for field in fields))
        return Reply("\n".join(f"<INS>{next(self.one)} of a <CLASS>.</INS>" for _ in range(9)))


class Planted:
    """A server, the settings that hold its secrets, and what to look for.

    Args:
        shape: of all keys.
        folder: `written` in it is searched, `given` holds the files that a key is planted in.
    """

    def __init__(self, shape: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.secrets = {place: SHAPES[shape]() for place in PLACES}
        if shape in NAMES:
            self.secrets["path of the address"] = SHAPES["hexadecimal"]()
        self.needles = {
            (place, form): needle
            for place, secret in self.secrets.items()
            for form, needle in forms(secret).items()
            if len(needle) >= 5
        }
        self.server, self.folder, self._given = Echo(list(self.secrets.values())), folder / "written", folder / "given"
        self.folder.mkdir()
        self._given.mkdir()
        self._plant_around(monkeypatch)

    def _plant_around(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Plant what is in the environment and in files."""
        for name in VARIABLES:
            monkeypatch.setenv(name, self.secrets[f"variable {name}"])
        user = quote(self.secrets["user of a proxy"], safe="")
        monkeypatch.setenv("HTTP_PROXY", f"http://me:{user}@127.0.0.1:{self.server.port}")
        for name in ("http_proxy", "NO_PROXY", "no_proxy", "HF_TOKEN_PATH"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_HOME", str(self._given))
        monkeypatch.setenv("HOME", str(self.folder))
        (self._given / "token").write_text(self.secrets["token file"] + "\n")
        (self._given / "stored_tokens").write_text(f"[mine]\nhf_token = {self.secrets['stored token']}\n\n")

    def headers(self) -> dict[str, str]:
        before = {"Authorization": "Bearer ", "Cookie": "session="}
        return {name: before.get(name, "") + self.secrets[f"header {name}"] for name in HEADERS}

    @property
    def address(self) -> str:
        password, path, query = (
            quote(self.secrets[f"{part} of the address"], safe="") for part in ("password", "path", "query")
        )
        return f"http://me:{password}@127.0.0.1:{self.server.port}/{path}/v1?token={query}"

    def settings(self, address: str) -> dict[str, Any]:
        return {
            "api_key": self.secrets["setting api_key"],
            "api_base": address,
            "extra_headers": self.headers(),
            "extra_body": {"options": [{"session_token": self.secrets["setting extra_body"]}]},
            "num_retries": 0,
        }

    def lm(self, address: str, **more: Any) -> dspy.LM:
        return dspy.LM("openai/toy", engine="litellm", **self.settings(address), **more)

    def found(self) -> list[tuple[str, Any]]:
        return search(self.folder, self.needles)

    def unquoted(self) -> Iterator[tuple[str, bool]]:
        """Yield which secret was not said as it is, in answers or in errors."""
        for place, secret in self.secrets.items():
            for fails in (False, True):
                if not any(secret in said for status, said in self.server.quoted if (status != 200) == fails):
                    yield place, fails

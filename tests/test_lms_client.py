"""The one client of language models: a request ends in time and in size, and stays at its address; over real HTTP."""

import contextlib
import json
import runpy
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import dspy
import httpx
import pytest
from dspy.utils.exceptions import LMError, LMTimeoutError

from helpers.openai_server import KEY, AnyServer, OpenAIServer, Reply
from ipo_dspy.errors import BudgetError, InputError
from ipo_dspy.lms import client
from ipo_dspy.lms import retry_notices as retries
from ipo_dspy.lms.client import seconds_of
from ipo_dspy.lms.error_messages import FATAL, one_line_error, suggest_fix
from ipo_dspy.lms.request_errors import RedirectError, RetryLaterError, UnreadableAnswerError
from ipo_dspy.lms.requests import ping
from ipo_dspy.run.ledger import Budget, Ledger

pytestmark = pytest.mark.usefixtures("no_cache")

PROVIDERS = {
    "openai/toy": "/v1",
    "hosted_vllm/toy": "/v1",
    "deepseek/toy": "/v1",
    "anthropic/claude-3-5-haiku-latest": "",
    "gemini/gemini-2.0-flash": "/v1beta/models/gemini-2.0-flash",
    "ollama_chat/toy": "",
    "mistral/toy": "/v1",
    "azure/toy": "",
}


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses between two tries, which are not waited for."""
    waited: list[float] = []
    monkeypatch.setattr(retries, "_sleep", waited.append)
    return waited


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("model", PROVIDERS)
def test_no_request_follows_a_redirect_to_another_origin(model: str, status: int) -> None:
    with AnyServer() as elsewhere:
        location = {"Location": f"{elsewhere.origin}/v1/chat/completions"}
        with AnyServer(status, headers=location) as gate:
            settings = {"api_version": "2024-06-01"} if model.startswith("azure") else {}
            base = gate.origin + PROVIDERS[model]
            lm = dspy.LM(model, api_base=base, api_key=KEY, engine="litellm", num_retries=2, **settings)
            with pytest.raises(RedirectError, match=r"redirects to http://127\.0\.0\.1:") as caught:
                ping(lm)
            assert elsewhere.seen == []
            assert len(gate.seen) == 1
    assert one_line_error(caught.value, lm) == (
        f"{gate.origin} redirects to {elsewhere.origin}, which is not followed: it would get the prompt and the key"
    )
    assert "set api_base to the address" in suggest_fix(caught.value, model, lm)
    assert isinstance(caught.value, FATAL)


def test_dspys_own_client_follows_no_redirect_either() -> None:
    with (
        AnyServer() as elsewhere,
        AnyServer(307, headers={"Location": f"{elsewhere.origin}/v1/chat/completions"}) as gate,
    ):
        with contextlib.suppress(LMError):
            ping(dspy.LM("openai/toy", api_base=f"{gate.origin}/v1", api_key=KEY, num_retries=0))
        assert (len(gate.seen), elsewhere.seen) == (1, [])


def test_a_dspy_with_another_engine_is_asked_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module still loads, so that whatever needs no language model works."""
    monkeypatch.setitem(sys.modules, "dspy._vendor.lm15.transports", None)
    changed = runpy.run_path(str(client.__file__))
    message = r"DSPy must be a version whose requests can be limited, got .*; run pip install 'dspy>=3\.4,<3\.5'"
    with OpenAIServer({}) as server:
        with pytest.raises(InputError, match=message):
            changed["exchange"](lambda: httpx.get(server.url), seconds=10)
        assert server.requests == []


def test_a_redirect_within_an_origin_is_followed() -> None:
    with OpenAIServer({"": "ready"}) as server:
        path = httpx.URL(server.url).path
        moved = Reply(status=307, body=b"", headers=(("Location", f"{path}/chat/completions"),))
        first = [moved]
        server.answer = lambda body: first.pop() if first else Reply("ready")  # type: ignore[method-assign]
        assert ping(server.lm()).calls == 1


def test_requests_of_others_are_left_as_they_were() -> None:
    with OpenAIServer({"": "ready"}) as server:
        ping(server.lm())  # puts the limits in
    with AnyServer(body=b"x" * (client.MAX_BYTES + 1)) as large:
        assert len(httpx.get(large.origin, trust_env=False).content) == client.MAX_BYTES + 1
        with AnyServer(302, headers={"Location": large.origin}) as gate:
            assert httpx.get(gate.origin, follow_redirects=True, trust_env=False).status_code == 200


@pytest.mark.end_to_end
@pytest.mark.parametrize("engine", ["litellm", "auto"])
@pytest.mark.parametrize(
    "reply", [Reply("ready", drip=0.02), Reply("ready", delay=30.0)], ids=["one byte after another", "silent"]
)
def test_a_request_as_a_whole_has_a_time_limit(reply: Reply, engine: str) -> None:
    with OpenAIServer({"": reply}) as server:
        lm = dspy.LM("openai/toy", api_base=server.url, api_key=KEY, engine=engine, num_retries=0, timeout=0.5)
        with pytest.raises(LMTimeoutError, match=r"no complete answer within 0\.5 s"):
            ping(lm)


@pytest.mark.parametrize("engine", ["litellm", "auto"])
def test_a_time_limit_is_reported_the_same_where_the_transport_notices_it_first(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "run_with_timeout", lambda _, ask: ask())
    with OpenAIServer({"": Reply("ready", delay=5.0)}) as server:
        lm = dspy.LM("openai/toy", api_base=server.url, api_key=KEY, engine=engine, num_retries=0, timeout=0.5)
        with pytest.raises(LMTimeoutError, match=r"^no complete answer within 0\.5 s$"):
            ping(lm)


@pytest.fixture
def headers_that_never_end() -> Iterator[str]:
    """An address whose server sends its headers byte by byte."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                while not ended.wait(0.02):
                    connection.sendall(b"x")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        ended.set()
        thread.join()


def test_headers_count_toward_the_time_limit_too(headers_that_never_end: str) -> None:
    lm = dspy.LM(
        "openai/toy", api_base=headers_that_never_end, api_key=KEY, engine="litellm", num_retries=0, timeout=0.5
    )
    with pytest.raises(LMTimeoutError, match=r"within 0\.5 s"):
        ping(lm)


@pytest.mark.parametrize("retry_after", [None, "60"], ids=["silent", "asks to wait"])
def test_the_time_of_a_run_ends_a_request_and_a_pause(retry_after: str | None) -> None:
    busy = Reply("busy", status=429, headers=(("Retry-After", retry_after),)) if retry_after else Reply(delay=60.0)
    with OpenAIServer({"": busy}) as server:
        ledger = Ledger(limits=Budget(max_seconds=0.5))
        lm = server.lm(num_retries=5, timeout=120)
        began = time.monotonic()
        with pytest.raises(BudgetError, match=r"the limit of 0\.5 seconds is reached"):
            ledger.once("", "ping", lambda: ping(lm))
        assert time.monotonic() - began < 50  # far from the 60 s, whatever else this machine does
        assert len(server.requests) == 1


def test_the_longest_wait_counts_retries_and_ends_with_the_run() -> None:
    def recorded(limits: Budget, **settings: Any) -> Any:
        with OpenAIServer({"": "ready"}) as server:
            ledger, events = Ledger(limits=limits), list[Any]()
            ledger.recorder.observers = (events.append,)
            ledger.once("", "ping", lambda: ping(server.lm(**settings)))
        return next(event["timeout"] for event in events if event["event"] == "lm_request")

    assert recorded(Budget(), timeout=120) == 120
    assert recorded(Budget(), timeout=None) == client.SECONDS
    assert recorded(Budget(), timeout=120, num_retries=5) == 6 * 120 + 5 * retries.LONGEST_WAIT
    assert recorded(Budget(max_seconds=60), timeout=120) == pytest.approx(60, abs=20)


def test_without_a_limit_no_longest_wait_is_known() -> None:
    assert client.longest_wait(dspy.LM("transformers/toy", engine="litellm")) is None


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("engine", ["litellm", "auto"])
@pytest.mark.parametrize("model", ["openai/toy", "anthropic/claude-3-5-haiku-latest"])
def test_an_answer_has_a_size_limit(model: str, engine: str, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_BYTES", 2**20)
    with AnyServer(status, body=b'{"choices": "' + b"x" * 2**21 + b'"}') as server:
        lm = dspy.LM(model, api_base=f"{server.origin}/v1", api_key=KEY, engine=engine, num_retries=3)
        with pytest.raises(UnreadableAnswerError, match="the answer is longer than 1 MB"):
            ping(lm)
        assert len(server.seen) == 1


def test_a_packed_answer_is_measured_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip

    monkeypatch.setattr(client, "MAX_BYTES", 2**20)
    with AnyServer(headers={"Content-Encoding": "gzip"}, body=gzip.compress(b" " * 2**24)) as server:
        lm = dspy.LM("openai/toy", api_base=server.origin, api_key=KEY, engine="litellm", num_retries=0)
        with pytest.raises(UnreadableAnswerError, match="the answer is longer than 1 MB"):
            ping(lm)


def completion(**fields: Any) -> bytes:
    return json.dumps({"id": "1", "object": "chat.completion", "created": 1, "model": "toy", **fields}).encode()


NO_ANSWER = {
    "a choice that is null": (completion(choices=[None]), "the answer has null for choices[0]"),
    "a choice without message": (completion(choices=[{}]), "the answer has null for choices[0].message"),
    "message null": (completion(choices=[{"message": None}]), "the answer has null for choices[0].message"),
    "a text for a choice": (completion(choices=["hi"]), 'the answer has "hi" for choices[0]'),
    "content 5": (
        completion(choices=[{"message": {"role": "assistant", "content": 5}}]),
        "the answer has 5 for choices[0].message.content",
    ),
    "content an object": (
        completion(choices=[{"message": {"role": "assistant", "content": {"text": "a long one it is"}}}]),
        "the answer has an object for choices[0].message.content",
    ),
    "choices 5": (b'{"choices": 5}', "the answer has no list of choices: '{\"choices\": 5}'"),
    "an error": (b'{"error": {"message": "no GPU left"}}', "the answer holds an error: 'no GPU left'"),
    "a list": (b"[1]", "the answer has no list of choices: '[1]'"),
    "no JSON": (b"<html>\n<p>hello</html>", "the answer is not JSON: '<html> <p>hello</html>'"),
    "deep JSON": (b"[" * 100_000, "the answer is not JSON: " + repr("[" * 77 + "...")),
    "odd bytes": (b"\xff\xfe\x00", "the answer is not JSON: '\ufffd\ufffd\\x00'"),
    "half": (b'{"choices": [{"mess', 'the answer is not JSON: \'{"choices": [{"mess\''),
}


@pytest.mark.parametrize(("body", "fact"), NO_ANSWER.values(), ids=NO_ANSWER)
def test_a_body_without_an_answer_is_reported_in_one_line(body: bytes, fact: str) -> None:
    with AnyServer(body=body) as server:
        lm = dspy.LM("openai/toy", api_base=f"{server.origin}/v1", api_key=KEY, engine="litellm", num_retries=3)
        with pytest.raises(UnreadableAnswerError) as caught:
            ping(lm)
        assert len(server.seen) == 1
    assert one_line_error(caught.value, lm) == fact
    assert suggest_fix(caught.value, lm.model, lm).endswith("most servers want it to end in /v1")


@pytest.mark.parametrize("model", ["anthropic/claude-3-5-haiku-latest", "gemini/gemini-2.0-flash", "ollama_chat/toy"])
@pytest.mark.parametrize("body", [b"<html>hello</html>", b'{"a": 1}'])
def test_so_it_is_for_providers_with_forms_of_their_own(model: str, body: bytes) -> None:
    with AnyServer(body=body) as server:
        lm = dspy.LM(model, api_base=server.origin + PROVIDERS[model], api_key=KEY, engine="litellm", num_retries=0)
        with pytest.raises(LMError) as caught:
            ping(lm)
    error_line = one_line_error(caught.value, lm)
    assert error_line.startswith("the response does not match the provider's format: '")
    assert body.decode() in error_line


@pytest.mark.parametrize(
    ("header", "waited"),
    [("3", 3.0), ("20", 20.0), ("0", 0.0), ("soon", 1.0), ("-5", 0.0), ("nan", 1.0), (None, 1.0)],
)
@pytest.mark.parametrize("status", [429, 503])
def test_the_pause_that_a_server_asks_for_is_kept(
    header: str | None, waited: float, status: int, waits: list[float]
) -> None:
    headers = () if header is None else (("Retry-After", header),)
    with OpenAIServer({"": Reply("busy", status=status, headers=headers)}) as server:
        with pytest.raises(LMError):
            ping(server.lm(num_retries=1))
        assert len(server.requests) == 2
    assert waits == [waited]


def test_pauses_double_where_the_server_names_none(waits: list[float]) -> None:
    with OpenAIServer({"": Reply("busy", status=503)}) as server, pytest.raises(LMError):
        ping(server.lm(num_retries=7))
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0]


@pytest.mark.parametrize("header", ["3600", "121", "Wed, 01 Jan 2199 00:00:00 GMT", "1e300"])
@pytest.mark.parametrize("num_retries", [0, 5])
def test_a_pause_beyond_the_bound_is_not_begun(header: str, num_retries: int, waits: list[float]) -> None:
    with OpenAIServer({"": Reply("busy", status=429, headers=(("Retry-After", header),))}) as server:
        lm = server.lm(num_retries=num_retries)
        with pytest.raises(RetryLaterError, match="more than the 120 s that a run waits") as caught:
            ping(lm)
        assert len(server.requests) == 1
    assert waits == []
    assert isinstance(caught.value, FATAL)
    assert suggest_fix(caught.value, lm.model, lm) == "run it again after that time, or use another model"


def test_a_date_is_read_as_the_seconds_until_then() -> None:
    from email.utils import formatdate

    seconds = seconds_of(formatdate(time.time() + 3600, usegmt=True))
    assert seconds is not None
    assert 3000 < seconds <= 3600

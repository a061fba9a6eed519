"""HTTP client of language models: limits the time and size of each request, and refuses redirects to other hosts.

LiteLLM uses the OpenAI SDK for some providers and its own clients for others. It creates and caches them in several
places, and all of them follow redirects. They share `httpx.HTTPTransport`, so its `handle_request` is replaced once.
The replacement enforces the limits below for requests of this package, which `exchange` marks, and leaves all other
requests unchanged. DSPy's own engine does not follow redirects; the same limits apply to its responses.

One limitation remains: if a server sends its headers byte by byte, the request times out, but the thread that reads
them lives until the server closes the connection or the process exits.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, TypeVar

import dspy
import httpx
from dspy.utils.exceptions import LMError, LMTimeoutError

from ipo_dspy._internal.threads import run_with_timeout
from ipo_dspy.errors import InputError
from ipo_dspy.lms import LOCAL
from ipo_dspy.lms.endpoints import origin
from ipo_dspy.lms.request_errors import RedirectError, UnreadableAnswerError
from ipo_dspy.lms.response_bodies import quote, usual_form
from ipo_dspy.lms.retry_notices import LONGEST_WAIT, ask_again
from ipo_dspy.run.budget import run_ends

T = TypeVar("T")

MAX_BYTES = 16 * 1024 * 1024
"""Maximum size of a decompressed response. Today's longest completions, a few 100,000 tokens, take about 1 MB."""
SECONDS = 600.0
"""Timeout of a ready `dspy.LM` without `timeout`: LiteLLM's default. `SETTINGS` has the one of models given by name."""


@dataclass
class Exchange:
    """A request in progress, with what the transport observed."""

    seconds: float  # time limit of the request
    ends: float  # the time when it is reached, by `time.monotonic()`
    fault: LMError | None = None  # the reason why it was aborted
    status: int | None = None  # status code of the latest response; None before the first one
    beginning: bytes = b""  # first bytes of that response
    retry_after: str | None = None  # `Retry-After` header of that response

    def send(self, request: httpx.Request, handle: Callable[[httpx.Request], httpx.Response]) -> httpx.Response:
        """Send a request and read its response, both within the limits; `fault` says which one was exceeded."""
        self.status, self.beginning, self.retry_after = None, b"", None
        left, given = max(0.001, self.ends - time.monotonic()), request.extensions.get("timeout", {})
        timeouts = {wait: min(left, given.get(wait) or left) for wait in ("connect", "read", "write", "pool")}
        request.extensions = {**request.extensions, "timeout": timeouts}
        response = handle(request)
        try:
            _check_redirect(request, response)
            content = b"".join(self.limited(response.iter_bytes()))
            self.status, self.beginning = response.status_code, content[:400]
            self.retry_after = response.headers.get("Retry-After")
            if response.is_success and request.url.path.endswith("/chat/completions"):
                content = usual_form(content)
        except LMError as fault:
            self.fault = fault
            raise httpx.RemoteProtocolError(str(fault), request=request) from None
        finally:
            response.close()
        framing = ("content-encoding", "content-length", "transfer-encoding")
        headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in framing]
        return httpx.Response(response.status_code, headers=headers, content=content, extensions=response.extensions)

    def limited(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the chunks of a response while it is within the limits."""
        count = 0
        for chunk in chunks:
            count += len(chunk)
            if count > MAX_BYTES:
                self.fault = UnreadableAnswerError(f"the answer is longer than {MAX_BYTES // 2**20} MB")
                raise self.fault
            if time.monotonic() > self.ends:
                self.fault = timed_out(self.seconds)
                raise self.fault
            yield chunk


def _check_redirect(request: httpx.Request, response: httpx.Response) -> None:
    if not response.has_redirect_location:
        return
    here, there = origin(str(request.url)), origin(str(request.url.join(response.headers["Location"])))
    if here != there:
        raise RedirectError(f"{here} redirects to {there}, which is not followed: it would get the prompt and the key")


def exchange(ask: Callable[[], T], *, seconds: float) -> T:
    """Send one request, limited to this many seconds and to the remaining time of the run.

    Raises:
        LMError: no readable response was received; `retry_after` has the value of the header with that name.
        BudgetError: the time of the run is up.
    """
    _install()
    end = run_ends.get()
    left = seconds if end is None else min(seconds, end.seconds_left())
    seen = Exchange(max(0.0, left), time.monotonic() + max(0.0, left))
    context = copy_context()
    context.run(_under_way.set, seen)
    try:
        return context.run(run_with_timeout, seen.seconds, ask)
    except TimeoutError:
        if end is not None:
            end.check()
        raise timed_out(seconds) from None
    except LMError as error:
        if end is not None:
            end.check()
        raise _transport_error(error, seen) from None


def timed_out(seconds: float) -> LMTimeoutError:
    """Return the error of a request that took too long."""
    return LMTimeoutError(f"no complete answer within {seconds:g} s")


def _transport_error(error: LMError, seen: Exchange) -> LMError:
    """Return the error that the transport observed, because the libraries in between only pass on its message."""
    if seen.fault is not None:
        return seen.fault
    if seen.status is None and (isinstance(error, LMTimeoutError) or time.monotonic() >= seen.ends):
        return timed_out(seen.seconds)  # the transport's own timeout came first
    if seen.status is not None and 200 <= seen.status < 300:
        return UnreadableAnswerError(f"the response does not match the provider's format: {quote(seen.beginning)}")
    if seen.retry_after is not None:
        error.retry_after = seconds_of(seen.retry_after)
    return error


def seconds_of(retry_after: str) -> float | None:
    """Return the seconds that a `Retry-After` header asks for, as a number or as a date.

    >>> seconds_of("20"), seconds_of("Wed, 21 Oct 2015 07:28:00 GMT"), seconds_of("soon")
    (20.0, 0.0, None)
    """
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            when = parsedate_to_datetime(retry_after)
        except ValueError:
            return None
        seconds = (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


class _Bounded:
    """Mixin that precedes `dspy.LM` among the bases of a bounded model."""

    original: dspy.BaseLM
    kwargs: dict[str, Any]

    def __call__(self, prompt: str | None = None, **kwargs: Any) -> Any:
        once = partial(super().__call__, prompt, **kwargs)  # type: ignore[misc]
        seconds = _timeout({**self.kwargs, **kwargs})
        return ask_again(self.original, lambda: exchange(once, seconds=seconds), retries=self.original.num_retries)


def _timeout(settings: Mapping[str, Any]) -> float:
    """Return the time limit of one attempt in seconds."""
    timeout = settings.get("timeout", settings.get("request_timeout"))
    return float(timeout) if isinstance(timeout, int | float) and timeout > 0 else SECONDS


def longest_wait(lm: dspy.BaseLM) -> float | None:
    """Return the most seconds that a model returned by `bounded` takes for a request; None if it is not limited.

    Counts all retries, and the longest pause before each; the remaining time of the run limits it, too.
    """
    if not isinstance(lm, _Bounded):
        return None
    retries, end = int(lm.original.num_retries), run_ends.get()
    longest = (retries + 1) * _timeout(lm.kwargs) + retries * LONGEST_WAIT
    return longest if end is None else min(longest, end.seconds_left())


def bounded(lm: dspy.BaseLM) -> dspy.BaseLM:
    """Return a model whose requests are limited in time and size, stay at their host, and are retried.

    Only the call changes; DSPy still builds, caches and records the requests. Models that run in this process and
    custom engines or models are returned unchanged, because they may not use a server.
    """
    if not isinstance(lm, dspy.LM) or isinstance(lm, _Bounded) or lm.model.startswith(LOCAL):
        return lm
    if not isinstance(lm.engine, str) or type(lm).forward is not dspy.LM.forward or "forward" in vars(lm):
        return lm
    copied: Any = lm.copy(num_retries=0)
    copied.history, copied.original = lm.history, lm
    copied._warned_zero_temp_rollout = lm._warned_zero_temp_rollout
    copied.__class__ = type(type(lm).__name__, (_Bounded, type(lm)), {})
    return copied


_under_way: ContextVar[Exchange | None] = ContextVar("_under_way", default=None)
_handle = httpx.HTTPTransport.handle_request
try:  # private in DSPy, but the only way to limit the responses of its own engine
    from dspy._vendor.lm15.transports import TransportResponse

    _chunks = TransportResponse.__iter__
except (ImportError, AttributeError):
    TransportResponse = None


def _install() -> None:
    """Install the limits in the transport that all of LiteLLM's clients share, and in that of DSPy's own engine."""
    if TransportResponse is None:
        raise InputError(
            f"DSPy must be a version whose requests can be limited, got {dspy.__version__}; "
            "run pip install 'dspy>=3.4,<3.5'"
        )
    transport: Any = httpx.HTTPTransport
    transport.handle_request, TransportResponse.__iter__ = _handle_request, _iterate


def _handle_request(self: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
    under_way = _under_way.get()
    return _handle(self, request) if under_way is None else under_way.send(request, partial(_handle, self))


def _iterate(self: "TransportResponse") -> Iterator[bytes]:
    under_way = _under_way.get()
    return _chunks(self) if under_way is None else under_way.limited(_chunks(self))

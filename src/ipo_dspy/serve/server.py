"""Run the application of a classifier on a port, in one process or several.

SIGTERM and Ctrl-C end the server once it has answered what is under way.
"""

import asyncio
import contextlib
import functools
import ipaddress
import math
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.supervisors import Multiprocess

from ipo_dspy.argument_checks import invalid
from ipo_dspy.errors import Argument, Hint, InputError
from ipo_dspy.serve.app import create_app
from ipo_dspy.serve.limits import Limits
from ipo_dspy.serve.monitoring import SHARED_FOLDER

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ipo_dspy.classifier import ClipClassifier

TOKEN = "IPO_DSPY_SERVE_TOKEN"
"""Variable with the token that clients must send."""
_BACKLOG = 2048
_MAX_CONNECTIONS = 1000
_IDLE_SECONDS = 30
_HEADER_SECONDS = 15
_START_SECONDS = 120
"""Time in which a worker process must have imported what it needs."""


def read_token() -> str | None:
    """Return the token in the environment, or None.

    Raises:
        InputError: it is empty, or has characters that a header cannot have.
    """
    token = os.environ.get(TOKEN)
    if token is not None and not (token.strip() == token != "" and token.isascii() and token.isprintable()):
        raise InputError(f"{TOKEN} must be printable ASCII without spaces around it; set another one, or unset it")
    return token


def listen(host: str, port: int, *, token: str | None) -> socket.socket:
    """Return a socket that listens; clients wait until the application accepts them.

    Raises:
        InputError: the port is in use, the address is not one of this machine, or others can reach it
            without a token.
    """
    if token is None and not _is_loopback(host):
        remedy = f"set {TOKEN} to let others in who have it"
        raise invalid("host", "a loopback address without a token", host, remedy)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None) or 0
        reason = os.strerror(number) if number > 0 else str(error)  # errors of name look-ups have negative numbers
        hint = Hint("pass another {} or {}", Argument("port"), Argument("host"))
        raise InputError(f"{host}:{port} cannot be listened on: {reason}", hint=hint) from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def run(
    load: "Callable[[], ClipClassifier]",
    listener: socket.socket,
    *,
    limits: Limits,
    token: str | None,
    workers: int = 1,
    announce: Callable[[], None] = lambda: None,
) -> None:
    """Serve until a signal arrives.

    Args:
        load: returns the classifier; with several workers it is pickled, and called in each of them.
        listener: see `listen`.
        limits: limits of requests to each worker.
        token: see `create_app`.
        workers: number of processes, each with its own model.
        announce: called when the model has been loaded.

    Raises:
        IPOError: the classifier cannot be loaded.
    """
    build = functools.partial(_build, load, limits, token)
    app = build()  # also with several workers: a program that cannot be loaded is one error, not one in each
    if workers == 1:
        announce()
        Server(config(app, limits)).run(sockets=[listener])
        return
    del app
    with tempfile.TemporaryDirectory(prefix="ipo-dspy-metrics-") as folder:
        os.environ[SHARED_FOLDER] = folder
        announce()
        Multiprocess(config(build, limits, factory=True, workers=workers), [listener]).run()


def _build(load: "Callable[[], ClipClassifier]", limits: Limits, token: str | None) -> "FastAPI":
    return create_app(load(), limits=limits, token=token)


def config(app: Any, limits: Limits, **settings: Any) -> uvicorn.Config:
    """Return the settings of uvicorn; what it reports goes to `logging`."""
    return uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_MAX_CONNECTIONS,
        backlog=_BACKLOG,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=math.ceil(limits.body_seconds + limits.request_seconds),
        timeout_worker_healthcheck=_START_SECONDS,
        **settings,
    )


class Server(uvicorn.Server):
    """A server that ends normally after a signal; uvicorn's own sends itself the signal again."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Stop at SIGINT and SIGTERM."""
        before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Protocol(H11Protocol):
    """A connection that is closed unless a request is complete in time; uvicorn alone waits for its header forever."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timer = self.loop.call_later(_HEADER_SECONDS, self._close_without_request)

    def on_response_complete(self) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(_IDLE_SECONDS + _HEADER_SECONDS, self._close_without_request)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _close_without_request(self) -> None:
        if self.cycle is None or self.cycle.response_complete:  # else the application has its own limits
            self.transport.abort()

"""Run the application of a classifier on a port, in one process or several.

SIGTERM and Ctrl-C end the server once it has answered what is under way.
"""

import asyncio
import contextlib
import functools
import gc
import ipaddress
import logging
import math
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Event
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ipo_dspy.argument_checks import invalid
from ipo_dspy.errors import Argument, Hint, InputError
from ipo_dspy.serve.app import create_app, prepare
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
_UNREAD_SECONDS = 30
_END_SECONDS = 10
_CHECK_SECONDS = 0.5
_FAILED_STARTS = 3

logger = logging.getLogger(__name__)


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
        remedy = f"set {TOKEN} to admit clients that send it"
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
        IPOError: the classifier cannot be loaded, or several workers end before they serve.
    """
    build = functools.partial(_build, load, limits, token)
    if workers == 1:
        app = build()
        announce()
        Server(config(app, limits)).run(sockets=[listener])
        return
    from ipo_dspy.clip import loading

    prepare(load())  # a program that cannot be loaded is one error, not one in each
    loading.unload()
    gc.collect()  # each worker has its own model; FastAPI would keep that of an application
    with tempfile.TemporaryDirectory(prefix="ipo-dspy-metrics-") as folder:
        os.environ[SHARED_FOLDER] = folder
        announce()
        _supervise(build, listener, limits, workers)


def _build(load: "Callable[[], ClipClassifier]", limits: Limits, token: str | None) -> "FastAPI":
    app = create_app(load(), limits=limits, token=token)
    gc.collect()
    gc.freeze()  # else each full collection visits the objects of all libraries, and some requests wait for that
    return app


def _supervise(build: "Callable[[], FastAPI]", listener: socket.socket, limits: Limits, workers: int) -> None:
    """Run worker processes until a signal arrives; one that dies is replaced, unless several died at the start.

    uvicorn's own supervisor lets the first worker that wakes accept all connections, see `_OneAtATime`.
    """
    context, signals = multiprocessing.get_context("spawn"), list[int]()
    running: list[tuple[SpawnProcess, Event]] = []

    def start() -> tuple[SpawnProcess, Event]:
        ready = context.Event()
        process = context.Process(target=_work, args=(build, listener, limits, ready))
        process.start()
        return process, ready

    failed = 0
    with _stopping(lambda number, _: signals.append(number)):  # no lock: the main thread may hold it
        try:
            while len(running) < workers:
                running.append(start())
            while not signals:
                time.sleep(_CHECK_SECONDS)
                for i, (process, ready) in enumerate(running):
                    if process.exitcode is None:
                        continue
                    failed = 0 if ready.is_set() else failed + 1
                    if failed == _FAILED_STARTS:
                        fact = f"{failed} workers ended at the start, the last with exit code {process.exitcode}"
                        raise InputError(fact, hint=Hint("free memory, or pass a smaller {}", Argument("workers")))
                    logger.error("a worker ended with exit code %d; starting another one", process.exitcode)
                    running[i] = start()
        finally:
            for process, _ in running:
                process.terminate()
            end = time.monotonic() + limits.body_seconds + limits.request_seconds + _END_SECONDS
            while any(process.is_alive() for process, _ in running) and len(signals) < 2 and time.monotonic() < end:
                time.sleep(0.1)
            for process, _ in running:
                process.kill()
                process.join()


def _work(build: "Callable[[], FastAPI]", listener: socket.socket, limits: Limits, ready: Event) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is sent to all processes, and the first one handles it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    server = Server(config(build(), limits))
    ready.set()
    server.run(sockets=[_OneAtATime(fileno=listener.detach())])


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


class _OneAtATime(socket.socket):
    """A listening socket that accepts one connection for each wake-up of asyncio, not all that wait.

    So workers that are idle share them.
    """

    _has_accepted = False

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection at every second call; at the others, none waits."""
        self._has_accepted = not self._has_accepted
        if not self._has_accepted:
            raise BlockingIOError
        return super().accept()


def config(app: "FastAPI", limits: Limits) -> uvicorn.Config:
    """Return the settings of uvicorn; what it reports goes to `logging`."""
    return uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_MAX_CONNECTIONS,
        backlog=_BACKLOG,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=math.ceil(limits.body_seconds + limits.request_seconds),
    )


class Server(uvicorn.Server):
    """A server that ends normally after a signal; uvicorn's own sends itself the signal again."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Stop at SIGINT and SIGTERM."""
        with _stopping(self.handle_exit):
            yield


@contextlib.contextmanager
def _stopping(handler: Callable[[int, Any], None]) -> Generator[None, None, None]:
    """Handle SIGINT and SIGTERM; only the main thread can."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


class _Protocol(H11Protocol):
    """A connection that is closed unless a request is complete, and its response is read, in time.

    uvicorn alone waits for either forever.
    """

    _timer: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timer = self.loop.call_later(_HEADER_SECONDS, self._close_without_request)

    def on_response_complete(self) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(_IDLE_SECONDS + _HEADER_SECONDS, self._close_without_request)
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(_UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self.resume_writing()
        super().connection_lost(exc)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _close_without_request(self) -> None:
        if self.cycle is None or self.cycle.response_complete:  # else the application has its own limits
            self.transport.abort()

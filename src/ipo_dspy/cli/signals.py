"""Handle Ctrl-C, SIGTERM and SIGHUP.

A signal raises `Interrupted`, which ends the command with exit code 128 plus its number. Inside `handle_interrupt`, the
first signal ends the command after the current step, and the second one raises. Signals that the parent process ignores
stay ignored: `nohup` ignores SIGHUP, and a shell ignores SIGINT for background jobs. Python sets signal handlers only
in the main thread; in other threads, signals are not handled here.

If the main thread waits and has one signal pending, the kernel delivers another one to another thread. Python then
calls its handler only when the main thread wakes, which may be minutes later. So a timer wakes it after the first
signal.
"""

import _thread
import contextlib
import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

SIGHUP: signal.Signals | None = getattr(signal, "SIGHUP", None)  # Windows has none
SIGALRM: signal.Signals | None = getattr(signal, "SIGALRM", None)
NUMBERS = tuple(number for number in (signal.SIGINT, signal.SIGTERM, SIGHUP) if number is not None)
ONE_HANGUP = 1.0
"""Seconds within which SIGHUPs count as one: kernel and shell both send one when a terminal is closed."""
WAKE_UP = 0.2
"""Seconds between two wake-ups of the main thread."""


class Interrupted(KeyboardInterrupt):
    """A signal that ends the command at once."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@dataclass
class StopRequest:
    """Signal that requested the end of a command, if any, and the time of its arrival."""

    number: int | None = None
    since: float = 0.0

    @property
    def received(self) -> bool:
        """True after a signal was received."""
        return self.number is not None

    @property
    def exit_code(self) -> int:
        """Exit code of an interrupted command: 130, 143 or 129."""
        return 128 + (signal.SIGINT if self.number is None else self.number)


def exit_code(interrupt: BaseException) -> int:
    """Return the exit code for a `KeyboardInterrupt`."""
    return interrupt.exit_code if isinstance(interrupt, Interrupted) else 128 + signal.SIGINT


@contextlib.contextmanager
def handle_interrupt(
    stop: Callable[[], None],
    log: Callable[[str], None],
    message: Callable[[], str] = lambda: "stopping after this step",
) -> Iterator[StopRequest]:
    """Call `stop` and print the message at the first signal; raise `Interrupted` at the second.

    Args:
        stop: must not take a lock, because it may be called between any two instructions of the main thread.
        log: prints a line, in a separate thread. A progress display takes locks, and the main thread may hold them.
        message: returns how the command ends; like `stop`, it must not take a lock.
    """
    request, shown = StopRequest(), threading.Event()

    def show(text: str) -> None:
        with contextlib.suppress(OSError, RuntimeError, ValueError):  # the stream may be closed
            log(text)
        shown.set()

    def handle(number: int, frame: FrameType | None) -> None:
        if number == SIGALRM:
            return  # awake, Python calls the handlers of all signals that have arrived
        if request.number is None:
            request.number, request.since = number, time.monotonic()
            _wake_main_thread(WAKE_UP)
            _leave_closed_terminal(number)
            stop()
            again = "press Ctrl-C again" if number == signal.SIGINT else "send another signal"
            text = f"{message()}; {again} to abort immediately"
            with contextlib.suppress(RuntimeError):  # no thread can be started
                _thread.start_new_thread(show, (text,))  # `threading.Thread.start` takes a lock
        elif not (number == request.number == SIGHUP and time.monotonic() - request.since < ONE_HANGUP):
            _wake_main_thread(0)
            interrupt(number, frame)

    with handling(handle, (*NUMBERS, SIGALRM)):
        try:
            yield request
        finally:
            _wake_main_thread(0)
            if request.received:
                shown.wait(1)  # the line belongs before what the command prints at its end


def leave(number: int, _frame: FrameType | None) -> None:
    """End the process at once with a one-line message; a handler for imports, when there is nothing to save."""
    _leave_closed_terminal(number)
    with contextlib.suppress(OSError):
        os.write(2, b"ipo-dspy: interrupted\n")
    os._exit(128 + number)


def interrupt(number: int, _frame: FrameType | None) -> None:
    """Raise `Interrupted`; the handler of a command."""
    _leave_closed_terminal(number)
    raise Interrupted(number)


@contextlib.contextmanager
def handling(
    handler: Callable[[int, FrameType | None], None], numbers: Sequence[signal.Signals | None] = NUMBERS
) -> Iterator[None]:
    """Set the handler of the signals that exist and are not ignored."""
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in numbers:
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, signal.SIG_DFL if earlier is None else earlier)  # None: not set by Python


def _wake_main_thread(every: float) -> None:
    """Wake the main thread at this interval in seconds; 0 ends this."""
    if SIGALRM is not None:
        signal.setitimer(signal.ITIMER_REAL, every, every)


def _leave_closed_terminal(number: int) -> None:
    """After a SIGHUP, redirect output of a closed terminal to the null device, because each write would fail."""
    if number != SIGHUP:
        return
    for descriptor in (1, 2):
        try:
            os.get_terminal_size(descriptor)
        except OSError as error:
            if error.errno == errno.EIO:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)

"""Ask again after a passing fault, with longer and longer pauses or after the one that the server names.

DSPy has such a loop, too. This one ends with the time of the run, waits for as long as `Retry-After` says, and tells
whoever listens that a question is being asked again.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import dspy
from dspy.utils.exceptions import LMError, is_retryable_lm_error

from ipo_dspy.lms.endpoints import endpoint
from ipo_dspy.lms.error_messages import one_line_error
from ipo_dspy.lms.request_errors import RetryLaterError
from ipo_dspy.run.budget import run_ends

T = TypeVar("T")

QUIET = 60.0
"""Seconds between two lines about the same model."""
LONGEST_BACK_OFF = 60.0
"""Seconds; pauses double from one second on."""
LONGEST_WAIT = 120.0
"""Seconds that a server may ask for with `Retry-After`; limits a minute pass in that time, limits a day do not."""


def ask_again(lm: dspy.BaseLM, ask: Callable[[], T], *, retries: int) -> T:
    """Ask until there is an answer, at most `retries` times more than once.

    Args:
        lm: the model asked, for those who listen.
        ask: raises an `LMError` whose `retry_after` is what the server asked for.
        retries: how often more.

    Raises:
        LMError: there is no answer.
        RetryLaterError: the server asks for a pause of more than `LONGEST_WAIT`.
        BudgetError: the time of the run is up.
    """
    for attempt in range(retries + 1):
        try:
            return ask()
        except LMError as error:
            wait = _wait(error, attempt)
            if attempt == retries or not is_retryable_lm_error(error):
                raise
            for listener in _listeners:
                listener.tell_of(lm, error, retries + 1)
        _pause(wait)
    raise AssertionError("unreachable")


def _wait(error: LMError, attempt: int) -> float:
    if error.retry_after is None or not is_retryable_lm_error(error):
        return min(2.0**attempt, LONGEST_BACK_OFF)
    if error.retry_after > LONGEST_WAIT:
        raise RetryLaterError(
            f"the server asks to wait {error.retry_after:.0f} s, more than the {LONGEST_WAIT:.0f} s that a run waits"
        ) from None
    return float(error.retry_after)


def _pause(seconds: float) -> None:
    """Wait, but not beyond the time of the run."""
    end = run_ends.get()
    _sleep(seconds if end is None else min(seconds, end.seconds_left()))
    if end is not None:
        end.check()


_sleep = time.sleep


class _Listener:
    """Someone who is told of a failed try that is followed by another one, once a minute for each model."""

    def __init__(self, lms: Sequence[dspy.BaseLM], tell: Callable[[str], None]) -> None:
        self.lms, self.tell = lms, tell
        self._told: dict[int, float] = {}
        self._lock = threading.Lock()

    def tell_of(self, lm: dspy.BaseLM, error: LMError, tries: int) -> None:
        if not any(one is lm for one in self.lms):
            return
        with self._lock:
            if time.monotonic() - self._told.get(id(lm), -QUIET) < QUIET:
                return
            self._told[id(lm)] = time.monotonic()
        at = f" at {endpoint(lm)}" if endpoint(lm) else ""
        said = one_line_error(error, lm).removesuffix(f" (asked{at})")
        self.tell(
            f"{lm.model}{at} gave no answer ({said}); a question is asked up to {tries} times, with longer and longer "
            "pauses"
        )


_listeners: list[_Listener] = []


@contextlib.contextmanager
def log_retries(lms: Sequence[dspy.BaseLM], tell: Callable[[str], None]) -> Iterator[None]:
    """Meanwhile, tell of a failed try of these models that is followed by another one; each model once a minute.

    Args:
        lms: of `dspy.LM`; others have tries of their own.
        tell: takes a line without keys; it may be called by any thread.
    """
    listener = _Listener(lms, tell)
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)

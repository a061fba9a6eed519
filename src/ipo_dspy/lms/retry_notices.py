"""Retry requests after transient errors, with exponential back-off or the delay that the server requests.

DSPy can retry, too. This loop also respects the time limit of the run and `Retry-After`, and it reports retries to
listeners.
"""

import contextlib
import math
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
"""Minimum number of seconds between two messages about the same model."""
LONGEST_BACK_OFF = 60.0
"""Maximum pause in seconds; pauses start at one second and double."""
LONGEST_WAIT = 120.0
"""Maximum `Retry-After` in seconds: long enough for limits per minute, but not for limits per day."""


def ask_again(lm: dspy.BaseLM, ask: Callable[[], T], *, retries: int) -> T:
    """Call `ask` until it succeeds, with at most `retries` retries.

    Raises:
        LMError: the last attempt failed, or a retry cannot help.
        RetryLaterError: the server asks for a pause of more than `LONGEST_WAIT`.
        BudgetError: the time of the run is up.
    """
    attempt = 0
    while True:
        try:
            return ask()
        except LMError as error:
            if not is_retryable_lm_error(error):
                raise
            wait = min(2.0**attempt, LONGEST_BACK_OFF) if error.retry_after is None else float(error.retry_after)
            if wait > LONGEST_WAIT:
                fact = f"the server asks to wait {wait:.0f} s, more than the {LONGEST_WAIT:.0f} s that a run waits"
                raise RetryLaterError(fact) from None
            if attempt == retries:
                raise
            for report in _listeners:
                report(lm, error, retries + 1)
        attempt += 1
        end = run_ends.get()
        _sleep(wait if end is None else min(wait, end.seconds_left()))
        if end is not None:
            end.check()


_sleep = time.sleep
_listeners: list[Callable[[dspy.BaseLM, LMError, int], None]] = []


@contextlib.contextmanager
def log_retries(lms: Sequence[dspy.BaseLM], log: Callable[[str], None]) -> Iterator[None]:
    """Report failed attempts of these models that will be retried, at most once a minute per model.

    `log` takes a line without secrets, and may be called from any thread.
    """
    reported = {id(lm): -math.inf for lm in lms}
    lock = threading.Lock()

    def report(lm: dspy.BaseLM, error: LMError, tries: int) -> None:
        with lock:
            if time.monotonic() - reported.get(id(lm), math.inf) < QUIET:
                return
            reported[id(lm)] = time.monotonic()
        at = f" at {endpoint(lm)}" if endpoint(lm) else ""
        reason = one_line_error(error, lm).removesuffix(f" (asked{at})")
        log(f"{lm.model}{at} gave no answer ({reason}); trying up to {tries} times with exponential back-off")

    _listeners.append(report)
    try:
        yield
    finally:
        _listeners.remove(report)

"""Run functions in threads, in order, under the settings of the caller.

For billed requests: unlike DSPy's `ParallelExecutor`, slow items are not resubmitted, tokens are counted, and the first
error is raised. Unlike those of `ThreadPoolExecutor`, the threads are daemons, so that a process that is stopping does
not wait for a server.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextvars import Context, copy_context
from functools import partial
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def start(work: Callable[[], Result]) -> "Future[Result]":
    """Start work at once in a new thread, in the caller's context, and return its future.

    >>> start(lambda: 1 + 1).result()
    2
    """
    future: Future[Result] = Future()
    context = copy_context()
    threading.Thread(target=context.run, args=(_settle, future, work), daemon=True).start()
    return future


def run_with_timeout(seconds: float, work: Callable[[], Result]) -> Result:
    """Return the result of `work`, which is abandoned after `seconds`.

    The timeout of an HTTP client applies to each read, so a server that keeps sending single bytes never exceeds it.

    Raises:
        TimeoutError: the work did not finish in time.
    """
    future = start(work)
    try:
        return future.result(timeout=seconds)
    except TimeoutError:
        if future.done():  # the work itself raised it
            raise
        raise TimeoutError(f"no result within {seconds:g} s") from None


def in_threads(function: Callable[[Item], Result], items: Sequence[Item], *, num_threads: int) -> list[Result]:
    """Return results in the order of the items; after the first error, raise it and start no further items.

    After an error, wait for the items that have started, since their requests are billed; after Ctrl-C, do not wait.
    Context variables, and with them DSPy's settings, are those of the caller.

    >>> in_threads(abs, [-1, 2, -3], num_threads=2)
    [1, 2, 3]
    """
    waiting = deque((Future[Result](), copy_context(), item) for item in items)
    futures = [future for future, _, _ in waiting]
    workers = [start(partial(_empty, waiting, function)) for _ in range(min(num_threads, len(futures)))]
    try:
        return [future.result() for future in futures]
    except Exception:
        for worker in workers:
            worker.result()
        raise
    finally:
        waiting.clear()  # after Ctrl-C no further item starts


def _empty(waiting: "deque[tuple[Future[Result], Context, Item]]", function: Callable[[Item], Result]) -> None:
    """Process items in order until none is left or one fails."""
    while True:
        try:
            future, context, item = waiting.popleft()
        except IndexError:
            return
        if not context.run(_settle, future, partial(function, item)):
            waiting.clear()


def _settle(future: "Future[Result]", work: Callable[[], Result]) -> bool:
    """Set the result or the exception of a future; return False if the work failed."""
    try:
        future.set_result(work())
    except BaseException as error:  # noqa: BLE001 - raised again by `Future.result`
        future.set_exception(error)
        return False
    return True

"""Run functions in threads, in order, under the settings of the caller.

DSPy's own `ParallelExecutor` sends a slow item a second time, counts tokens in copies that nobody reads, and
hides the first error behind a general one; what is paid for by the request needs none of that. The threads are
daemons, unlike those of `ThreadPoolExecutor`: a process that was told to stop does not wait for a server.
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
    """Return the future of work that begins at once, in a thread of its own and the caller's context.

    >>> start(lambda: 1 + 1).result()
    2
    """
    future: Future[Result] = Future()
    context = copy_context()
    threading.Thread(target=context.run, args=(_settle, future, work), daemon=True).start()
    return future


def run_with_timeout(seconds: float, work: Callable[[], Result]) -> Result:
    """Return what `work` returns; after so many seconds it is abandoned.

    Time-outs of HTTP clients hold for each read only, so a server that sends a byte now and then meets none.

    Raises:
        TimeoutError: it took too long.
    """
    future = start(work)
    try:
        return future.result(timeout=seconds)
    except TimeoutError:
        if future.done():  # the work itself raised it
            raise
        raise TimeoutError(f"nothing came within {seconds:g} s") from None


def in_threads(function: Callable[[Item], Result], items: Sequence[Item], *, num_threads: int) -> list[Result]:
    """Return results in the order of the items; the first error is raised and what has not begun is left undone.

    After an error it waits for the items that have begun, whose answers will have been paid for; after Ctrl-C it does
    not. Context variables, and with them DSPy's settings, are those of the caller.

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
        waiting.clear()  # after Ctrl-C nothing more begins


def _empty(waiting: "deque[tuple[Future[Result], Context, Item]]", function: Callable[[Item], Result]) -> None:
    """Take items in order until none is left, or one fails."""
    while True:
        try:
            future, context, item = waiting.popleft()
        except IndexError:
            return
        if not context.run(_settle, future, partial(function, item)):
            waiting.clear()


def _settle(future: "Future[Result]", work: Callable[[], Result]) -> bool:
    """Do the work for a future; false where it failed."""
    try:
        future.set_result(work())
    except BaseException as error:  # noqa: BLE001 - raised again where the future is waited for
        future.set_exception(error)
        return False
    return True

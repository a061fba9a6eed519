"""Run one function over many items in threads, in order, under the settings of the caller.

DSPy's own `ParallelExecutor` sends a slow item a second time, counts tokens in copies that nobody reads, and
hides the first error behind a general one; what is paid for by the request needs none of that.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(function: Callable[[Item], Result], items: Sequence[Item], *, num_threads: int) -> list[Result]:
    """Results in the order of the items; the first error is raised and what has not begun is left undone.

    Ctrl-C does not wait for what is under way. Context variables, and with them the settings of DSPy, are the caller's.

    >>> in_threads(abs, [-1, 2, -3], num_threads=2)
    [1, 2, 3]
    """
    pool, wait = ThreadPoolExecutor(max_workers=num_threads), True
    try:
        futures = [pool.submit(copy_context().run, function, item) for item in items]
        return [future.result() for future in futures]
    except KeyboardInterrupt:
        wait = False
        raise
    finally:
        pool.shutdown(wait=wait, cancel_futures=True)

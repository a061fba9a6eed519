"""Run independent calls of one function as Ray tasks, with bounded retries.

No more calls are handed out at a time than the nodes have room for: a call that has begun is running, and one that is
no longer wanted was never begun. Ray's own retries are off: for a process that was killed for its memory they may have
no end, and nobody would be told that the call begins again.
"""

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

from ipo_dspy.clip.weights import one_line_error
from ipo_dspy.distributed.cluster import Cluster, ClusterUser
from ipo_dspy.distributed.cluster import WorkerLost as WorkerLost

logger = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")

TRIES = 2
"""Of a call, as long as each ends with the loss of its process."""
TICK = 0.5
"""Seconds between two looks at whether the end is wanted, and at the room there is."""
ENDING = 10.0
"""Seconds in which canceled calls may end, so that they hold no files any more."""


class RayTasks(ClusterUser):
    """Makes calls on a Ray cluster; see `ClusterUser` for the arguments."""

    def run(
        self, function: Callable[[T], R], inputs: Iterable[T], *, begins: Callable[[T], None], check: Callable[[], None]
    ) -> Generator[tuple[T, R | WorkerLost]]:
        """Yield each input with its result, as calls end.

        Args:
            function: of one argument; raises nothing that a caller could mend.
            inputs: an argument each, in the order in which they begin.
            begins: called with each input that is handed out.
            check: called all the time; whatever it raises ends all calls.

        Raises:
            ClusterError: no node is left that has room.
        """
        cluster = self._joined()
        task = self._task(cluster, function)
        waiting = deque((one, TRIES) for one in inputs)
        running: dict[Any, tuple[T, int]] = {}
        try:
            while waiting or running:
                check()
                while waiting and cluster.worker_count(self.size, len(waiting) + len(running)) > len(running):
                    one, tries = waiting.popleft()
                    begins(one)
                    running[task.remote(one)] = one, tries - 1
                done, _ = cluster.ray.wait(list(running), num_returns=1, timeout=TICK)
                for call in done:
                    one, tries = running.pop(call)
                    answer: R | WorkerLost = _answer(cluster, call)
                    if isinstance(answer, WorkerLost):
                        check()  # whoever wants the end may have ended the process, too
                    if isinstance(answer, WorkerLost) and tries:
                        logger.warning("%s: worker died (%s); retrying", one, answer.error)
                        waiting.appendleft((one, tries))
                    else:
                        yield one, answer
        finally:
            _cancel(cluster, list(running))

    def _task(self, cluster: Cluster, function: Callable[[T], R]) -> Any:
        return cluster.ray.remote(
            num_cpus=self.size.cpus,
            num_gpus=self.size.gpus,
            max_retries=0,
            max_calls=0,  # else a process with a GPU would end after each call, and the model with it
            scheduling_strategy="SPREAD",
        )(function)


def _answer(cluster: Cluster, call: Any) -> Any:
    try:
        return cluster.ray.get(call)
    except cluster.ray.exceptions.RayError as error:
        return WorkerLost(f"{type(error).__name__}: {one_line_error(error)}")


def _cancel(cluster: Cluster, calls: list[Any]) -> None:
    """End calls, and wait until they have ended."""
    if not calls or not cluster.is_joined:
        return
    for call in calls:
        with contextlib.suppress(ValueError, cluster.ray.exceptions.RayError):
            cluster.ray.cancel(call, force=True)
    cluster.ray.wait(calls, num_returns=len(calls), timeout=ENDING)

"""Run independent calls of one function as Ray tasks, with bounded retries.

At most as many calls are submitted as fit on the nodes. So a submitted call runs at once, and no further call starts
after a cancellation. Ray's own retries are off: after an out-of-memory kill they may never end, and they are silent.
"""

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

from ipo_dspy.distributed.cluster import Cluster, ClusterUser, WorkerLost

logger = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")

TRIES = 2
"""Number of attempts of a call whose process dies."""
TICK = 0.5
"""Seconds between two checks for cancellation and for free resources."""
ENDING = 10.0
"""Seconds to wait for canceled calls, so that they have released their files."""


class RayTasks(ClusterUser):
    """Runs calls on a Ray cluster; see `RayScorer` for the arguments."""

    def run(
        self, function: Callable[[T], R], inputs: Iterable[T], *, begins: Callable[[T], None], check: Callable[[], None]
    ) -> Generator[tuple[T, R | WorkerLost]]:
        """Yield each input with its result, in the order in which calls finish.

        `begins` is called with each input when its call is submitted, and `check` about every `TICK` seconds; an
        exception from it cancels all calls. Raises `ClusterError` if no remaining node has enough resources.
        """
        cluster = self._joined()
        task = cluster.ray.remote(
            num_cpus=self.size.cpus,
            num_gpus=self.size.gpus,
            max_retries=0,
            max_calls=0,  # otherwise a process with a GPU exits after each call and loses the loaded model
            scheduling_strategy="SPREAD",
        )(function)
        waiting = deque((argument, TRIES) for argument in inputs)
        running: dict[Any, tuple[T, int]] = {}
        try:
            while waiting or running:
                check()
                while waiting and cluster.worker_count(self.size, len(waiting) + len(running)) > len(running):
                    argument, tries = waiting.popleft()
                    begins(argument)
                    running[task.remote(argument)] = argument, tries - 1
                done, _ = cluster.ray.wait(list(running), num_returns=1, timeout=TICK)
                for call in done:
                    argument, tries = running.pop(call)
                    try:
                        answer: R | WorkerLost = cluster.ray.get(call)
                    except cluster.ray.exceptions.RayError as error:
                        answer = WorkerLost.of(error)
                    if isinstance(answer, WorkerLost):
                        check()  # the cancellation may be what killed the process
                    if isinstance(answer, WorkerLost) and tries:
                        logger.warning("%s: worker died (%s); retrying", argument, answer.error)
                        waiting.appendleft((argument, tries))
                    else:
                        yield argument, answer
        finally:
            _cancel(cluster, list(running))


def _cancel(cluster: Cluster, calls: list[Any]) -> None:
    """Cancel calls and wait until they have ended."""
    if not calls or not cluster.is_joined:
        return
    for call in calls:
        with contextlib.suppress(ValueError, cluster.ray.exceptions.RayError):
            cluster.ray.cancel(call, force=True)
    cluster.ray.wait(calls, num_returns=len(calls), timeout=ENDING)

"""Calls of one function that have nothing to do with one another, each a task on a Ray cluster.

No more are handed out at a time than the nodes have room for, so one that has begun is one that runs, and what is not
wanted any more was never begun. Ray's own retries are off: for a process that was killed for its memory they may have
no end. A call whose process or node is lost is made once more; if that is lost too, it is told and the others go on.
"""

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ipo_dspy.clip.weights import brief
from ipo_dspy.distributed.cluster import NO_FOLDERS, Cluster, check_address
from ipo_dspy.distributed.model_ref import files_of
from ipo_dspy.distributed.ray_encoding import Size
from ipo_dspy.validation import whole

if TYPE_CHECKING:
    from ipo_dspy.clip.backbone import Backbone

logger = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")

TRIES = 2
"""Of a call, as long as each ends with the loss of its process."""
TICK = 0.5
"""Seconds between two looks at whether the end is wanted, and at what room there is."""
ENDING = 10.0
"""Seconds in which what was cancelled may end, so that it holds no files any more."""


@dataclass(frozen=True, slots=True)
class Lost:
    """What came of a call whose process is gone.

    Attributes:
        error: kind and message, on one line.
    """

    error: str


class RayTasks:
    """Makes calls on a Ray cluster.

    Args:
        address: `auto` for the cluster that this machine is a node of, `local` for one on this machine that ends with
            the process, or `host:port`.
        num_workers: calls at a time at most; by default as many as the cluster has room for.
        cpus_per_worker, gpus_per_worker: that a call takes.

    Raises:
        InputError: a number below 1, or an address of no kind.
    """

    def __init__(
        self,
        address: str = "auto",
        *,
        num_workers: int | None = None,
        cpus_per_worker: int = 1,
        gpus_per_worker: float = 0,
    ) -> None:
        check_address(address)
        self.address = address
        self.size = Size(
            None if num_workers is None else whole("num_workers", num_workers, 1),
            whole("cpus_per_worker", cpus_per_worker, 1),
            gpus_per_worker,
        )
        self._cluster: Cluster | None = None

    def check(self, backbone: "Backbone", folders: Mapping[str, str] = NO_FOLDERS) -> None:
        """Join the cluster and see that its nodes have room, this package, the model's files and the folders.

        Args:
            backbone: the model.
            folders: what is told of each where a node lacks it.

        Raises:
            InputError: they have not, or nobody answers.
            ClusterError: there is no room for one call.
        """
        cluster = self._joined()
        nodes = dict.fromkeys(cluster.seats(self.size.cpus, self.size.gpus))
        cluster.check(list(nodes), backbone.name, files_of(backbone), folders)

    def run(
        self, function: Callable[[T], R], inputs: Iterable[T], *, begins: Callable[[T], None], check: Callable[[], None]
    ) -> Generator[tuple[T, R | Lost]]:
        """Each input with what came of it, as calls end.

        Args:
            function: of one argument; raises nothing that a caller could mend.
            inputs: an argument each, in the order in which they begin.
            begins: told of each when it is handed out.
            check: asked all the time; whatever it raises ends all.

        Raises:
            ClusterError: no node is left that has room.
        """
        calls = _Calls(self._joined(), function, self.size)
        waiting = deque((one, TRIES) for one in inputs)
        try:
            while waiting or calls.running:
                check()
                while waiting and calls.room(len(waiting)) > 0:
                    one, tries = waiting.popleft()
                    begins(one)
                    calls.begin(one, tries - 1)
                for one, tries, answer in calls.ended():
                    if isinstance(answer, Lost):
                        check()  # whoever wants the end may have ended the process, too
                        if tries:
                            logger.warning("%s was lost with its worker (%s); it begins once more", one, answer.error)
                            waiting.appendleft((one, tries))
                            continue
                    yield one, answer
        finally:
            calls.cancel()

    def _joined(self) -> Cluster:
        if self._cluster is None or not self._cluster.is_joined:
            self._cluster = Cluster(self.address)
        return self._cluster

    def __repr__(self) -> str:
        return f"RayTasks({self.address!r}, num_workers={self.size.workers})"


class _Calls(Generic[T, R]):
    """The calls that are under way."""

    def __init__(self, cluster: Cluster, function: Callable[[T], R], size: Size) -> None:
        self._cluster, self._size = cluster, size
        self._task = cluster.ray.remote(
            num_cpus=size.cpus,
            num_gpus=size.gpus,
            max_retries=0,
            max_calls=0,  # else a process with a GPU would end after each call, and the model with it
            scheduling_strategy="SPREAD",
        )(function)
        self.running: dict[Any, tuple[T, int]] = {}

    def room(self, wanted: int) -> int:
        """How many more may begin."""
        running = len(self.running)
        return self._size.fitting(self._cluster, wanted + running) - running

    def begin(self, one: T, tries: int) -> None:
        """Hand a call out; `tries` are left if it is lost."""
        self.running[self._task.remote(one)] = (one, tries)

    def ended(self) -> list[tuple[T, int, R | Lost]]:
        """Those that have ended since; waits a little for the first."""
        done, _ = self._cluster.ray.wait(list(self.running), num_returns=1, timeout=TICK)
        return [(*self.running.pop(reference), self._answer(reference)) for reference in done]

    def _answer(self, reference: Any) -> R | Lost:
        try:
            found: R = self._cluster.ray.get(reference)
        except self._cluster.ray.exceptions.RayError as error:
            return Lost(f"{type(error).__name__}: {brief(error)}")
        return found

    def cancel(self) -> None:
        """End what is under way, and wait until it has ended."""
        if not self.running or not self._cluster.is_joined:
            return
        references = list(self.running)
        for reference in references:
            with contextlib.suppress(ValueError, self._cluster.ray.exceptions.RayError):
                self._cluster.ray.cancel(reference, force=True)
        self._cluster.ray.wait(references, num_returns=len(references), timeout=ENDING)

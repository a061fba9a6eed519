"""Scoring actors and their fault tolerance: assign partitions to workers, and reassign them when a worker dies.

A partition stays with the worker that encoded it. If that worker dies, the remaining workers and new ones encode its
partitions again. Sums of losses are exact (see `metrics`), so results do not depend on the assignment.

Workers reserve no CPUs, so that they can run next to other work on the cluster; each is placed on a node with enough
CPUs for it. GPUs are reserved as long as the workers live.
"""

import itertools
import logging
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ipo_dspy.clip.feature_dtype import storage_dtype
from ipo_dspy.distributed.cluster import Cluster, WorkerLost, WorkerSpec
from ipo_dspy.distributed.partitions import Partition
from ipo_dspy.distributed.worker import Asked, EncodeJob, PartitionReport, ScoringActor
from ipo_dspy.errors import ClusterError, IPOError

logger = logging.getLogger(__name__)

TRIES = 5
"""Number of consecutive worker deaths, with no partition encoded in between, after which encoding fails."""

START_SECONDS = 120.0
"""Seconds after which a warning reports that no worker has started yet."""


@dataclass(eq=False)
class ImageSetHandle:
    """An image set on the workers, which drop its features once the driver has dropped the handle."""

    number: int  # unique in its pool
    job: Any  # a reference to the settings in the object store
    parts: Sequence[Partition]
    holders: dict[int, Any] = field(default_factory=dict)  # index of a partition -> the worker that holds it
    dtype: torch.dtype = torch.float32  # of stored features


class WorkerPool:
    """Workers that encode image sets and score templates on them; all sets share the same workers."""

    def __init__(self, cluster: Cluster, size: WorkerSpec) -> None:
        self.cluster, self._size = cluster, size
        self._sets: weakref.WeakValueDictionary[int, ImageSetHandle] = weakref.WeakValueDictionary()
        self._numbers = itertools.count()
        self._workers: dict[Any, str] = {}  # worker -> key of its node
        self._lock = threading.RLock()

    def encode(
        self, job: EncodeJob, parts: Sequence[Partition], progress: Callable[[int], None]
    ) -> tuple[ImageSetHandle, list[PartitionReport]]:
        """Encode a new image set and return the reports of its partitions in order.

        `progress` is called with the index of each partition that is done. Raises the first `IPOError` of a worker (an
        invalid label or file, a missing or different model), or `ClusterError` if workers died repeatedly.
        """
        with self._lock:
            images = ImageSetHandle(next(self._numbers), self.cluster.ray.put(job), parts)
            self._sets[images.number] = images
            reports = self._encode(images, progress)
            total = sum(len(report.kept) for report in reports.values())
            images.dtype = storage_dtype(total, max(report.width for report in reports.values()))
            return images, [reports[index] for index in range(len(parts))]

    def ask(self, method: str, images: ImageSetHandle, text: Any, scale: float, bias: float, *more: Any) -> list[Any]:
        """Return the answers of all workers that hold partitions of an image set; encode lost ones again before.

        `method` names a method of `ScoringActor`; `text` refers to text features in the object store; `scale` and
        `bias` are those of the model's logits; `more` are further arguments of the method. Raises `ClusterError` if
        workers died repeatedly.
        """
        with self._lock:
            for _ in range(TRIES):
                self._encode(images, lambda _: None)
                shares: dict[Any, list[int]] = {}
                for index, worker in images.holders.items():
                    shares.setdefault(worker, []).append(index)
                alive, calls = tuple(self._sets), []
                for worker, share in shares.items():
                    asked = Asked(images.number, tuple(share), alive, images.dtype, scale, bias)
                    calls.append((worker, getattr(worker, method).remote(asked, text, *more)))
                answers = [self._answer(*call) for call in calls]
                losses = [answer.error for answer in answers if isinstance(answer, WorkerLost)]
                if not losses:
                    return answers
            raise ClusterError(f"the Ray cluster lost workers {TRIES} times in one step ({losses[0]}); see ray status")

    def release(self) -> None:
        """Stop the workers; the next call starts new ones."""
        with self._lock:
            for worker in list(self._workers):
                if self.cluster.is_joined:
                    self.cluster.ray.kill(worker)
                self._drop(worker)

    def _encode(self, images: ImageSetHandle, progress: Callable[[int], None]) -> dict[int, PartitionReport]:
        """Encode the partitions that no worker holds, one per worker at a time; a free worker takes the next one."""
        reports: dict[int, PartitionReport] = {}
        calls: dict[Any, tuple[Any, int | None]] = {}  # call -> worker and partition; None while the worker starts
        waiting: deque[int] = deque()
        rounds, loss = 0, WorkerLost("")
        while len(images.holders) < len(images.parts):
            if not calls:  # at the start, and after all workers died
                if rounds == TRIES:
                    raise ClusterError(
                        f"the Ray cluster lost workers {TRIES} times in a row ({loss.error}); see ray status"
                    )
                rounds += 1
                self._start(images)
                calls = {worker.ready.remote(): (worker, None) for worker in self._workers}
                waiting = deque(index for index in range(len(images.parts)) if index not in images.holders)
            done, _ = self.cluster.ray.wait(list(calls), num_returns=1, timeout=START_SECONDS)
            if not done:
                if all(index is None for _, index in calls.values()):
                    logger.warning(
                        "no Ray worker has started in %g s; GPUs may be in use, see ray status", START_SECONDS
                    )
                continue
            worker, index = calls.pop(done[0])
            answer = self._answer(worker, done[0])
            if isinstance(answer, WorkerLost):
                loss = answer
                waiting.extendleft(() if index is None else (index,))
                continue
            if index is not None:
                rounds = 0
                images.holders[index], reports[index] = worker, answer
                progress(index)
            if waiting:
                index = waiting.popleft()
                name = images.number, index
                calls[worker.encode.remote(name, images.job, images.parts[index])] = worker, index
        return reports

    def _start(self, images: ImageSetHandle) -> None:
        """Start workers until there are enough for an image set."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

        actor = self.cluster.ray.remote(num_cpus=0, num_gpus=self._size.gpus)(ScoringActor)
        target = self.cluster.worker_count(self._size, len(images.parts))
        occupied = Counter(self._workers.values())
        for slot in self.cluster.worker_slots(self._size):
            occupied[slot.key] -= 1
            if occupied[slot.key] < 0 and len(self._workers) < target:
                worker = actor.options(scheduling_strategy=On(slot.key, soft=False)).remote()
                self._workers[worker] = slot.key

    def _answer(self, worker: Any, call: Any) -> Any:
        """Return the answer of a worker, or a `WorkerLost`; raise an `IPOError` as it is, without Ray's traceback."""
        errors = self.cluster.ray.exceptions
        try:
            return self.cluster.ray.get(call)
        except errors.RayTaskError as error:
            if isinstance(error.cause, IPOError):
                raise error.cause from None
            raise
        except errors.RayError as error:
            logger.warning("a Ray worker died; redistributing its images")
            self._drop(worker)
            return WorkerLost.of(error)

    def _drop(self, worker: Any) -> None:
        self._workers.pop(worker, None)
        for images in list(self._sets.values()):
            images.holders = {index: holder for index, holder in images.holders.items() if holder != worker}

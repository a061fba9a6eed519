"""Scoring actors and their fault tolerance: hand partitions to workers, and to others when a worker dies.

A partition stays with the worker that encoded it. If that dies, its partitions are encoded again by the workers that
are left and by new ones; sums of losses are exact (see `metric`), so which worker holds what never shows.

Workers reserve no processors, so that they stand beside other work on the cluster; each is sent to a node with room
for it. GPUs are reserved as long as the workers live.
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
from ipo_dspy.clip.weights import one_line_error
from ipo_dspy.distributed.cluster import Cluster, WorkerLost, WorkerSpec
from ipo_dspy.distributed.partitions import Partition
from ipo_dspy.distributed.worker import Asked, EncodeJob, PartitionReport, ScoringActor
from ipo_dspy.errors import ClusterError, IPOError

logger = logging.getLogger(__name__)

TRIES = 5
"""Losses of workers in a row, without a partition encoded between them, after which the cluster is given up."""

START_SECONDS = 120.0
"""After which a warning says that no worker has started yet."""


@dataclass(eq=False)
class ImageSetHandle:
    """An image set, encoded partition by partition; workers drop its features once the driver has dropped it.

    Attributes:
        number: unique in its pool.
        job: a reference to the settings in the object store.
        parts: the partitions.
        holders: the worker that holds each partition, by index.
        dtype: the number format of the features while they are not computed with.
    """

    number: int
    job: Any
    parts: Sequence[Partition]
    holders: dict[int, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32


class WorkerPool:
    """Workers that encode image sets and answer questions about them; the same workers for all sets."""

    def __init__(self, cluster: Cluster, size: WorkerSpec) -> None:
        self.cluster, self._size = cluster, size
        self._sets: weakref.WeakValueDictionary[int, ImageSetHandle] = weakref.WeakValueDictionary()
        self._numbers = itertools.count()
        self._workers: dict[Any, str] = {}  # with the key of each one's node
        self._lock = threading.RLock()

    def encode(
        self, job: EncodeJob, parts: Sequence[Partition], progress: Callable[[int], None]
    ) -> tuple[ImageSetHandle, list[PartitionReport]]:
        """Encode a new image set; returns the reports of its partitions in order.

        Args:
            job: settings.
            parts: the partitions.
            progress: called with the index of each partition that is done.

        Raises:
            IPOError: the first mistake that a worker finds: a label, a file, a missing or another model.
            ClusterError: workers die again and again.
        """
        with self._lock:
            images = ImageSetHandle(next(self._numbers), self.cluster.ray.put(job), parts)
            self._sets[images.number] = images
            reports = self._encode(images, progress)
            total, width = sum(len(one.kept) for one in reports.values()), max(one.width for one in reports.values())
            images.dtype = storage_dtype(total, width)
            return images, [reports[index] for index in range(len(parts))]

    def ask(self, method: str, images: ImageSetHandle, text: Any, scale: float, bias: float) -> list[Any]:
        """Return the answers of all workers that hold partitions of an image set.

        Args:
            method: of `ScoringActor`.
            images: the image set.
            text: a reference to text features.
            scale: logit scale of the model.
            bias: logit bias of the model.

        Raises:
            ClusterError: workers die again and again.
        """
        with self._lock:
            for _ in range(TRIES):
                self._encode(images, lambda _: None)
                shares: dict[Any, list[int]] = {}
                for index, worker in images.holders.items():
                    shares.setdefault(worker, []).append(index)
                calls = []
                for worker, share in shares.items():
                    asked = Asked(images.number, tuple(share), tuple(self._sets), images.dtype, scale, bias)
                    calls.append((worker, getattr(worker, method).remote(asked, text)))
                answers = [self._answer(*call) for call in calls]
                losses = [answer.error for answer in answers if isinstance(answer, WorkerLost)]
                if not losses:
                    return answers
            raise ClusterError(f"the Ray cluster lost workers {TRIES} times in one step ({losses[0]}); see ray status")

    def release(self) -> None:
        """End the workers; the next question starts others."""
        with self._lock:
            for worker in list(self._workers):
                if self.cluster.is_joined:
                    self.cluster.ray.kill(worker)
                self._drop(worker)

    def _encode(self, images: ImageSetHandle, progress: Callable[[int], None]) -> dict[int, PartitionReport]:
        """Encode the partitions that no worker holds: one a worker at a time, the next to whichever is free."""
        reports: dict[int, PartitionReport] = {}
        calls: dict[Any, tuple[Any, int | None]] = {}  # answer -> worker and partition; None while it is starting
        waiting: deque[int] = deque()
        rounds, loss = 0, WorkerLost("")
        while len(images.holders) < len(images.parts):
            if not calls:  # at first, and when workers died
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
        """Start as many workers as an image set is worth, beside those that are there.

        Raises:
            ClusterError: no node has room for a worker.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

        actor = self.cluster.ray.remote(num_cpus=0, num_gpus=self._size.gpus)(ScoringActor)
        wanted = self.cluster.worker_count(self._size, len(images.parts))
        taken = Counter(self._workers.values())
        for seat in self.cluster.seats(self._size):
            taken[seat.key] -= 1
            if taken[seat.key] < 0 and len(self._workers) < wanted:
                worker = actor.options(scheduling_strategy=On(seat.key, soft=False)).remote()
                self._workers[worker] = seat.key

    def _answer(self, worker: Any, call: Any) -> Any:
        """Return the answer of a worker, or a `WorkerLost`; an `IPOError` is raised as it is, without Ray's traceback."""
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
            return WorkerLost(f"{type(error).__name__}: {one_line_error(error)}")

    def _drop(self, worker: Any) -> None:
        self._workers.pop(worker, None)
        for images in list(self._sets.values()):
            images.holders = {index: holder for index, holder in images.holders.items() if holder != worker}

"""The workers that hold shards and score them, and what happens when one goes.

Whatever a worker holds can be made again: it is in the object store of some node, or on disk, or can be encoded anew
from its part. So a lost worker costs time. Sums of losses are exact (see `metric`), so which worker held what never
shows.

Ray is not asked for processors: encoding has them, and never runs while a question is answered. Each worker is sent to
a node that has room for it.
"""

import contextlib
import itertools
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ipo_dspy.distributed.cluster import Cluster
from ipo_dspy.distributed.messages import Job
from ipo_dspy.distributed.partitions import Part
from ipo_dspy.distributed.ray_encoding import TRIES, Size, encode
from ipo_dspy.distributed.worker import Holder
from ipo_dspy.errors import ClusterError, InputError, IPOError

logger = logging.getLogger(__name__)

START_SECONDS = 120.0
"""After that, scoring begins with the workers that are there."""

Name = tuple[int, int]
"""Of a shard: the number of its set of images, and its place in it."""


@dataclass(frozen=True, slots=True)
class Images:
    """A set of encoded images.

    Attributes:
        job: with which they were encoded.
        parts: where they come from.
        shards: a reference for each.
        dtype: in which their features are kept.
    """

    job: Job
    parts: tuple[Part, ...]
    shards: list[Any]
    dtype: torch.dtype


class Pool:
    """Workers over sets of images, the same for all sets."""

    def __init__(self, cluster: Cluster, size: Size) -> None:
        self.cluster, self._size = cluster, size
        self._sets: dict[int, Images] = {}
        self._numbers = itertools.count()
        self._dropped: deque[int] = deque()
        self._workers: list[tuple[Any, str]] = []  # with the node of each
        self._held: set[Name] = set()
        self._lock = threading.RLock()

    def add(self, images: Images) -> int:
        """Take over a set; its number."""
        with self._lock:
            number = next(self._numbers)
            self._sets[number] = images
            return number

    def drop(self, number: int) -> None:
        """Forget a set that is no longer asked about, before the next question.

        A finalizer calls it, at any moment, also within a question of the same thread.
        """
        self._dropped.append(number)

    def _forget(self) -> None:
        while self._dropped:
            number = self._dropped.popleft()
            self._sets.pop(number, None)
            self._held = {name for name in self._held if name[0] != number}
            for worker, _ in self._workers if self.cluster.is_joined else ():
                worker.forget.remote(number)

    def release(self) -> None:
        """End the workers; the next question starts others."""
        with self._lock:
            for worker, _ in self._workers if self.cluster.is_joined else ():
                self.cluster.ray.kill(worker)
            self._workers, self._held = [], set()

    def ask(self, method: str, number: int, *arguments: Any) -> list[Any]:
        """The answers of all workers about one set; after a loss all are asked again.

        Raises:
            ClusterError: workers are lost again and again.
        """
        with self._lock:
            self._forget()
            for _ in range(TRIES):
                try:
                    self._fill()
                    asked = [getattr(worker, method).remote(number, *arguments) for worker, _ in self._workers]
                    return self._answers(asked)
                except self.cluster.losses as error:
                    logger.warning("a worker of the Ray cluster was lost; its images go to the others")
                    last = error
                    self.release()
            raise ClusterError(f"the Ray cluster lost a worker {TRIES} times in one step ({last}); see ray status")

    def _fill(self) -> None:
        """See that workers are there and hold all shards of all sets."""
        for _ in range(TRIES):
            self._workers = self._workers or self._start()
            lost = self._hold()
            if not lost:
                return
            logger.warning("%d parts of the images were lost with a node; they are encoded again", len(lost))
            self._encode_again(lost)
        stores = {self._sets[number].job.store for number, _ in lost}
        if stores != {None}:
            raise InputError(
                f"what one node writes to store={stores.pop()!r} another does not see; name a folder on all nodes"
            )
        raise ClusterError(
            f"the Ray cluster lost {len(lost)} parts of the images {TRIES} times in a row; see ray status"
        )

    def _start(self) -> list[tuple[Any, str]]:
        """Start as many workers as there is use for, each with its node.

        Raises:
            ClusterError: not one came.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as At

        size = self._size
        most = max((len(images.parts) for images in self._sets.values()), default=1)
        kind = self.cluster.ray.remote(num_cpus=0, max_restarts=0)(Holder)
        seats = self.cluster.seats(size.cpus, size.gpus)
        workers = (kind.options(scheduling_strategy=At(seat.key, soft=False)).remote(size.cpus) for seat in seats)
        found = self._ready(workers, size.fitting(self.cluster, most))
        if not found:
            raise ClusterError(
                "no worker could be started on the Ray cluster; see ray status and the logs of its nodes"
            )
        return found

    def _ready(self, workers: Iterator[Any], wanted: int) -> list[tuple[Any, str]]:
        """Return so many workers with their nodes, or those that have answered after `START_SECONDS`.

        The next one is started for each that is lost: Ray lists a node for a while after its end.
        """
        ray, deadline = self.cluster.ray, time.monotonic() + START_SECONDS
        found: list[tuple[Any, str]] = []
        coming: dict[Any, Any] = {}
        while True:
            for worker in itertools.islice(workers, wanted - len(found) - len(coming)):
                coming[worker.ready.remote()] = worker
            answers = ray.wait(list(coming), timeout=max(0.0, deadline - time.monotonic()))[0] if coming else []
            if not answers:
                break
            for answer in answers:
                worker = coming.pop(answer)
                with contextlib.suppress(*self.cluster.losses):
                    found.append((worker, ray.get(answer)))
        for worker in coming.values():
            ray.kill(worker)
        return found

    def _hold(self) -> list[Name]:
        """Hand out the shards that nobody holds; those that are lost."""
        lost: list[Name] = []
        for number, images in self._sets.items():
            places = [place for place in range(len(images.parts)) if (number, place) not in self._held]
            calls = [
                worker.hold.remote(
                    {(number, place): images.shards[place] for place in mine}, images.job.classes, images.dtype
                )
                for (worker, _), mine in zip(self._workers, self._shares(images, places), strict=True)
                if mine
            ]
            missing = [name for names in self._answers(calls) for name in names]
            self._held |= {(number, place) for place in places} - set(missing)
            lost += missing
        return lost

    def _shares(self, images: Images, places: Sequence[int]) -> list[list[int]]:
        """Equal shares for the workers, each as far as possible of shards that are on its node."""
        where = self.cluster.ray.experimental.get_object_locations([images.shards[place] for place in places])
        shares: list[list[int]] = [[] for _ in self._workers]
        most = math.ceil(len(places) / len(shares))
        rest: list[int] = []
        for place in places:
            nodes = where.get(images.shards[place], {}).get("node_ids", ())
            near = (
                mine
                for mine, (_, node) in zip(shares, self._workers, strict=True)
                if node in nodes and len(mine) < most
            )
            next(near, rest).append(place)
        for place in rest:
            min(shares, key=len).append(place)
        return shares

    def _encode_again(self, lost: Sequence[Name]) -> None:
        for number in sorted({number for number, _ in lost}):
            images = self._sets[number]
            parts = {place: images.parts[place] for of, place in lost if of == number}
            for place, (_, shard) in encode(self.cluster, images.job, parts, self._size, lambda told: None).items():
                images.shards[place] = shard

    def _answers(self, asked: Sequence[Any]) -> list[Any]:
        """Of remote calls; a mistake that a worker tells is raised as it is, without Ray's traceback."""
        try:
            answers: list[Any] = self.cluster.ray.get(list(asked))
        except self.cluster.ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, IPOError):
                raise error.cause from None
            raise
        return answers

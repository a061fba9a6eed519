"""Parts to shards by Ray Data: a part a worker, features stay where they were made, the driver hears what it must know.

A row of the data set is a part, not an image, and so is what comes out. Ray Data queues, spreads and retries. Features
never come to the driver.

To make a lost block again, Ray Data would start its actors anew, which wait for the processors that scoring holds. So
each block is taken apart into what the driver reads and an object without a history; lost parts are encoded anew here.
"""

import contextlib
import logging
import pickle
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ipo_dspy import errors
from ipo_dspy.distributed.cluster import Cluster
from ipo_dspy.distributed.messages import Job, Told
from ipo_dspy.distributed.partitions import Part
from ipo_dspy.distributed.worker import encode_batch
from ipo_dspy.errors import ClusterError, InputError

logger = logging.getLogger(__name__)

TRIES = 5
"""Losses of workers in a row, without a part done between them, after which the cluster is given up."""


@dataclass(frozen=True, slots=True)
class Size:
    """How many workers there are at most, and what each takes.

    Attributes:
        workers: None takes as many as the cluster has room for.
        cpus, gpus: of one.
    """

    workers: int | None
    cpus: int
    gpus: float

    def fitting(self, cluster: Cluster, parts: int) -> int:
        """Workers for so many parts on the nodes that are up."""
        return min(parts, len(cluster.seats(self.cpus, self.gpus)), self.workers or parts)


def encode(
    cluster: Cluster, job: Job, parts: Mapping[int, Part], size: Size, progress: Callable[[Told], None]
) -> dict[int, tuple[Told, Any]]:
    """What is told of each part, and a reference to its shard.

    Raises:
        IPOError: the first mistake that a worker finds: an image, a label, a model that is not there or another one.
        ClusterError: workers are lost again and again.
    """
    done: dict[int, tuple[Told, Any]] = {}
    losses = 0
    while rest := {place: part for place, part in parts.items() if place not in done}:
        before = len(done)
        try:
            with _quiet(), contextlib.closing(_stream(cluster, job, rest, size)) as stream:
                for told, shard in stream:
                    _raise(told)
                    done[told.part] = told, shard
                    progress(told)
        except cluster.losses as error:
            losses = 0 if len(done) > before else losses + 1
            if losses == TRIES:
                raise ClusterError(
                    f"the Ray cluster lost its workers {TRIES} times in a row ({error}); see ray status"
                ) from error
            logger.warning("a worker of the Ray cluster was lost; %d parts are encoded again", len(parts) - len(done))
    return done


def _stream(cluster: Cluster, job: Job, parts: Mapping[int, Part], size: Size) -> Generator[tuple[Told, Any]]:
    ray = cluster.ray
    rows = [{"part": pickle.dumps((job, place, part))} for place, part in parts.items()]
    encoded = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        encode_batch,
        batch_size=1,
        concurrency=size.fitting(cluster, len(parts)),
        num_cpus=size.cpus,
        num_gpus=size.gpus,
        scheduling_strategy="SPREAD",
        max_calls=0,  # else a process with a GPU would end after each part, and the model with it
    )
    take_apart = ray.remote(num_cpus=0, num_returns=2, max_retries=0)(_apart())
    for bundle in encoded.iter_internal_ref_bundles():
        for block in bundle.block_refs:
            told, shard = take_apart.remote(block)
            yield pickle.loads(ray.get(told)), shard


def _apart() -> Callable[[Any], tuple[bytes, Any]]:
    """The function that takes a block apart; made inside another, Ray sends it by value and no worker imports torch."""

    def apart(block: Any) -> tuple[bytes, Any]:
        import pickle

        (told,), (shard,) = block.column("told").to_pylist(), block.column("shard").to_pylist()
        return told, pickle.loads(shard)

    return apart


def _raise(told: Told) -> None:
    if told.error is not None:
        kind, message = told.error
        raise getattr(errors, kind, InputError)(message)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Ray Data writes plans and progress to the terminal, where ours is, and warns of its own settings."""
    from ray.data import DataContext

    log = logging.getLogger("ray.data")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context = DataContext.get_current()
        before = context.enable_progress_bars, log.level
        context.enable_progress_bars = False
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            context.enable_progress_bars = before[0]
            log.setLevel(before[1])

"""The actor of a Ray cluster that encodes partitions of the images, holds their features and scores templates on them.

An actor makes no decisions. It loads the model by name and compares fingerprints, because features of a different model
would give a wrong score without an error. Everything it holds can be computed again from a partition, so a lost actor
costs only time.

Letters: n images of a partition, C classes, T templates, D feature width.
"""

import functools
import hashlib
import operator
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.feature_cache import origin
from ipo_dspy.clip.image_features import encode_images, open_image
from ipo_dspy.data.dataset import class_name, unknown_class
from ipo_dspy.distributed.model_ref import ModelRef
from ipo_dspy.distributed.partition_store import StoredPartition, file_name, read, write
from ipo_dspy.distributed.partitions import Listed, Partition
from ipo_dspy.errors import DataError, ImageError, IPOError
from ipo_dspy.scoring.candidate_classes import CandidateClasses
from ipo_dspy.scoring.class_objectives import Outcomes
from ipo_dspy.scoring.comparison import PairTally
from ipo_dspy.scoring.metrics import predict, tally_pairs, tally_templates
from ipo_dspy.scoring.tally import Counts, Tally


@dataclass(frozen=True, slots=True)
class EncodeJob:
    """The settings shared by all partitions of one encoding."""

    model: ModelRef
    classes: tuple[str, ...] = field(repr=False)
    allow_url: bool
    threads: int  # of torch and of decoding
    store: str | None  # folder for features on disk


@dataclass(frozen=True, slots=True)
class PartitionReport:
    """The report of an encoded partition; its features stay with the worker."""

    kept: tuple[int, ...] = field(repr=False)  # positions of the images that could be read
    keys: tuple[str, ...] = field(repr=False)  # their content hashes; but for `Listed`, one of all images and labels
    skipped: tuple[tuple[int, str], ...]  # position and message of each image that could not be read
    width: int  # D


@dataclass(slots=True)
class _Rows:
    """The images of one partition, ready for scoring."""

    features: Tensor  # [n, D]
    targets: Tensor  # [n] class indices
    allowed: CandidateClasses | None  # None if all images share the classes


@dataclass(frozen=True, slots=True)
class Asked:
    """The images that a call refers to, and how to score them."""

    images: int  # number of the image set
    parts: tuple[int, ...] = field(repr=False)  # its partitions; a worker may hold others, reassigned meanwhile
    alive: tuple[int, ...]  # numbers of all image sets that are still in use
    dtype: torch.dtype  # of stored features
    logit_scale: float
    logit_bias: float


class ScoringActor:
    """Encodes partitions and scores templates on them. A partition is identified by image set and index."""

    def __init__(self) -> None:
        self._held: dict[tuple[int, int], _Rows] = {}

    def ready(self) -> None:
        """Return once the process has started."""

    def encode(self, name: tuple[int, int], job: EncodeJob, part: Partition) -> PartitionReport:
        """Encode a partition, or read its features from disk, and hold them; an `IPOError` ends with the node."""
        torch.set_num_threads(job.threads)
        try:
            stored = _features(job, part)
            targets = _targets(stored, job.classes, part)
        except IPOError as error:
            raise type(error)(f"{error} (on {node_name()})") from None
        allowed = None
        if isinstance(part, Listed) and part.choices:
            index = {name: i for i, name in enumerate(job.classes)}
            allowed = CandidateClasses.of([part.choices[i] for i in stored.indices], index)
        self._held[name] = _Rows(stored.features, targets, allowed)
        return _report(stored, part)

    def tally(self, asked: Asked, text: NDArray[np.float32], pairs: Counts | None = None) -> list[Tally]:
        """Return the tally of each template [T, C, D], summed over partitions; `pairs` as in `tally_templates`."""
        texts, scale, bias = torch.tensor(text), asked.logit_scale, asked.logit_bias
        tallies = [
            tally_templates(
                r.features, r.targets, texts, logit_scale=scale, logit_bias=bias, allowed=r.allowed, pairs=pairs
            )
            for r in self._rows(asked).values()
        ]
        return [functools.reduce(operator.add, of_template) for of_template in zip(*tallies, strict=True)]

    def tally_pairs(
        self, asked: Asked, text: NDArray[np.float32], outcomes: Outcomes | Literal["top5", "loss"] | None = None
    ) -> PairTally:
        """Return the pair tally of templates [T, C, D], summed over partitions; `outcomes` as in `tally_pairs`."""
        texts, scale, bias = torch.tensor(text), asked.logit_scale, asked.logit_bias
        tallies = [
            tally_pairs(
                r.features, r.targets, texts, logit_scale=scale, logit_bias=bias, allowed=r.allowed, outcomes=outcomes
            )
            for r in self._rows(asked).values()
        ]
        return functools.reduce(operator.add, tallies)

    def predict(self, asked: Asked, text: NDArray[np.float32]) -> dict[int, list[int]]:
        """Return the predicted class indices by one template [C, D] for each partition."""
        texts, scale, bias = torch.tensor(text), asked.logit_scale, asked.logit_bias
        return {
            index: predict(r.features, texts, logit_scale=scale, logit_bias=bias, allowed=r.allowed)[0].tolist()
            for index, r in self._rows(asked).items()
        }

    def _rows(self, asked: Asked) -> dict[int, _Rows]:
        """Return the requested partitions in their storage format; drop image sets that are no longer in use."""
        self._held = {name: rows for name, rows in self._held.items() if name[0] in asked.alive}
        requested = {index: self._held[asked.images, index] for index in asked.parts}
        for rows in requested.values():
            rows.features = rows.features.to(asked.dtype)
        return requested


def node_name() -> str:
    """Return a description of this process's node for messages."""
    import ray

    return f"node {socket.gethostname()!r}, {ray.get_runtime_context().get_node_id()[:8]}"


def _features(job: EncodeJob, part: Partition) -> StoredPartition:
    """Read a partition's features from disk, or encode them and write them there."""
    backbone = job.model.load()
    stamp = None if job.store is None else part.stamp()
    if job.store is None or stamp is None:
        return _encode(job, backbone, part)
    name = file_name(origin(backbone), stamp)
    stored = read(job.store, name)
    if stored is None:
        stored = _encode(job, backbone, part)
        if not stored.skipped:  # an unreadable image may be repaired without a change of the stamp
            write(job.store, name, stored)
    return stored


def _encode(job: EncodeJob, backbone: Backbone, part: Partition) -> StoredPartition:
    images, labels = part.read()
    try:
        encoded = encode_images(
            backbone, images, num_threads=job.threads, skip_unreadable=True, allow_url=job.allow_url
        )
    except DataError:  # no image can be read
        skipped = tuple(enumerate(_read_error(image, allow_url=job.allow_url) for image in images))
        return StoredPartition(torch.zeros(0, 1), (), (), (), skipped)
    kept = encoded.kept
    return StoredPartition(encoded.features, tuple(labels[i] for i in kept), kept, encoded.keys, encoded.skipped)


def _read_error(image: Any, *, allow_url: bool) -> str:
    try:
        open_image(image, allow_url=allow_url)
    except ImageError as error:
        return str(error)
    return "transient read failure; run again"


def _targets(kept: StoredPartition, classes: Sequence[str], part: Partition) -> Tensor:
    """Return the class indices of labels; a number that is not a class name counts as an index."""
    known: dict[str | int, int] = {number: i for i in range(len(classes)) for number in (i, str(i))}
    known.update({name: i for i, name in enumerate(classes)})
    labels = [class_name(label) if isinstance(label, str) else label for label in kept.labels]
    for index, label in zip(kept.indices, labels, strict=True):
        if isinstance(label, bool | float) or label not in known:
            raise DataError(f"{part.place(index)} has {unknown_class(label, classes)}")
    return torch.tensor([known[label] for label in labels], dtype=torch.int64)


def _report(kept: StoredPartition, part: Partition) -> PartitionReport:
    width = kept.features.shape[1]
    if isinstance(part, Listed):
        return PartitionReport(kept.indices, kept.keys, kept.skipped, width)
    marks = "\n".join([*kept.keys, *map(str, kept.labels)])
    skipped = tuple((i, f"{message} ({part.place(i)})") for i, message in kept.skipped)
    return PartitionReport(kept.indices, (hashlib.sha256(marks.encode()).hexdigest(),), skipped, width)

"""What runs on a worker: encoding parts of the images, and holding their features for scoring.

Nothing is decided here. A worker loads the model by name and must find the very same one, by fingerprint: features of
another model would be a wrong number and no error. What a caller can mend is not raised but handed back in a `Told`,
with the node it happened on; Ray would wrap it into a traceback.

Letters: n images of a part, C classes, T templates, D feature width.
"""

import hashlib
import pickle
import socket
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.feature_cache import origin
from ipo_dspy.clip.image_features import READING, encode_images, open_image
from ipo_dspy.data.dataset import class_name, unknown_class
from ipo_dspy.distributed.messages import Job, Shard, Told
from ipo_dspy.distributed.partition_store import Kept, file_name, read, write
from ipo_dspy.distributed.partitions import Chunk, Listed, Part
from ipo_dspy.errors import DataError, ImageError, InputError, IPOError
from ipo_dspy.scoring.candidate_classes import Allowed
from ipo_dspy.scoring.metrics import Tally, predict, tally_templates


def encode_batch(batch: Mapping[str, Any]) -> dict[str, list[bytes]]:
    """As Ray Data calls it: one row with a pickled job, place and part to one with what is told and the shard, pickled.

    The process stays, and with it the model: a worker loads it once, not for every part.
    """
    (packed,) = batch["part"]
    told, shard = encode(*pickle.loads(packed))
    return {"told": [pickle.dumps(told)], "shard": [pickle.dumps(shard, protocol=5)]}


class Holder:
    """Holds shards and answers for their images; one on each worker."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self._held: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor, Allowed | None]] = {}

    def ready(self) -> str:
        """Answers once the process is there: the key of its node."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def hold(self, shards: Mapping[tuple[int, int], Any], classes: Sequence[str], dtype: torch.dtype) -> list[Any]:
        """Take over shards by reference; returns those that are lost, for a node that had them is gone."""
        import ray

        lost = []
        for name, reference in shards.items():
            try:
                self._held[name] = _opened(ray.get(reference), classes, dtype)
            except (ray.exceptions.ObjectLostError, FileNotFoundError):
                lost.append(name)
        return lost

    def forget(self, images: int) -> None:
        """Drop all shards of a set of images."""
        self._held = {name: held for name, held in self._held.items() if name[0] != images}

    def tally(self, images: int, text: NDArray[np.float32], scale: float, bias: float) -> list[Tally]:
        """What each template [T, C, D] comes to on the shards of a set."""
        total: list[Tally] = []
        for features, targets, allowed in self._of(images):
            one = tally_templates(features, targets, _tensor(text), logit_scale=scale, logit_bias=bias, allowed=allowed)
            total = [a + b for a, b in zip(total, one, strict=True)] if total else one
        return total

    def predict(
        self, images: int, text: NDArray[np.float32], scale: float, bias: float
    ) -> dict[int, NDArray[np.int64]]:
        """The class index given to each image by one template [C, D], shard by shard."""
        return {
            part: predict(features, _tensor(text), logit_scale=scale, logit_bias=bias, allowed=allowed).numpy()
            for (of, part), (features, _, allowed) in self._held.items()
            if of == images
        }

    def _of(self, images: int) -> list[tuple[torch.Tensor, torch.Tensor, Allowed | None]]:
        return [held for (of, _), held in self._held.items() if of == images]


def encode(job: Job, place: int, part: Part) -> tuple[Told, Shard | None]:
    """A part's features, from disk if they are there."""
    try:
        kept, stored = _kept(job, part)
        targets = _targets(kept, job.classes, part)
    except IPOError as error:
        return Told(place, error=(type(error).__name__, f"{error} (on {node_name()})")), None
    known = isinstance(part, Listed)
    keys = kept.keys if known else (_digest([*kept.keys, *map(str, kept.labels)]),)
    skipped = tuple((i, message if known else f"{message} ({part.place(i)})") for i, message in kept.skipped)
    told = Told(place, kept.indices, keys, skipped, len(kept.indices), kept.features.shape[1])
    choices = tuple(part.choices[i] for i in kept.indices) if isinstance(part, Listed) and part.choices else None
    return told, Shard(None if stored else kept.features.numpy(), targets, choices, stored)


def node_name() -> str:
    """The node of this process, in words."""
    import ray

    return f"node {socket.gethostname()!r}, {ray.get_runtime_context().get_node_id()[:8]}"


def _kept(job: Job, part: Part) -> tuple[Kept, tuple[str, str] | None]:
    """From disk, or encoded and put there; and where on disk they are."""
    backbone = job.model.load()
    stored = _place(job, backbone, part)
    found = None if stored is None else read(*stored)
    if found is None:
        torch.set_num_threads(job.threads)
        found = _encoded(job, backbone, part)
        if found.skipped:
            stored = None  # an image may be mended, and the stamp need not show it
        if stored is not None:
            write(*stored, found)
    return found, stored


def _place(job: Job, backbone: Backbone, part: Part) -> tuple[str, str] | None:
    """Where the features of a part belong on disk."""
    stamp = None if job.store is None else part.stamp()
    return None if job.store is None or stamp is None else (job.store, file_name(origin(backbone, READING), stamp))


def _encoded(job: Job, backbone: Backbone, part: Part) -> Kept:
    """A part chunk by chunk, in passes of the tower as `encode_images` makes them on one machine."""
    done: list[Kept] = []
    start = 0
    for chunk in part.read():
        done.append(_encoded_chunk(job, backbone, chunk, start))
        start += len(chunk.images)
    features = [one.features for one in done if len(one.features)]
    return Kept(
        features=torch.cat(features) if features else torch.zeros(0, 1),
        labels=tuple(label for one in done for label in one.labels),
        indices=tuple(index for one in done for index in one.indices),
        keys=tuple(key for one in done for key in one.keys),
        skipped=tuple(bad for one in done for bad in one.skipped),
    )


def _encoded_chunk(job: Job, backbone: Backbone, chunk: Chunk, start: int) -> Kept:
    images = chunk.images
    try:
        found = encode_images(backbone, images, num_threads=job.threads, skip_bad=True, allow_url=job.allow_url)
    except DataError:  # not one of them can be read
        wrong = [_wrong_with(image, allow_url=job.allow_url) for image in images]
        skipped = tuple((start + i, message) for i, message in enumerate(wrong))
        return Kept(torch.zeros(0, 1), (), (), (), skipped)
    return Kept(
        features=found.features,
        labels=tuple(chunk.labels[i] for i in found.kept),
        indices=tuple(start + i for i in found.kept),
        keys=found.keys,
        skipped=tuple((start + i, message) for i, message in found.skipped),
    )


def _wrong_with(image: Any, *, allow_url: bool) -> str:
    try:
        open_image(image, allow_url=allow_url)
    except ImageError as error:
        return str(error)
    return "it could not be read before, and now it can; run again"


def _targets(kept: Kept, classes: Sequence[str], part: Part) -> NDArray[np.int64]:
    """Class indices of labels; a number that is no class name is an index already.

    Raises:
        DataError: a label outside the classes.
    """
    known: dict[str | int, int] = {}
    for i in range(len(classes)):
        known[i] = known[str(i)] = i
    known.update({name: i for i, name in enumerate(classes)})
    labels = [class_name(label) if isinstance(label, str) else label for label in kept.labels]
    for index, label in zip(kept.indices, labels, strict=True):
        if isinstance(label, bool | float) or label not in known:
            raise DataError(f"{part.place(index)} has {unknown_class(label, classes)}")
    return np.array([known[label] for label in labels], dtype=np.int64)


def _opened(
    shard: Shard, classes: Sequence[str], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, Allowed | None]:
    """Features, targets and choices of a shard as tensors over its arrays.

    Raises:
        FileNotFoundError: the file with the features is not there, or damaged.
        InputError: not even its folder is there.
    """
    features = _stored(*shard.stored) if shard.stored else _tensor(shard.features)
    choices = shard.choices
    allowed = None if choices is None else Allowed.of(choices, {name: i for i, name in enumerate(classes)})
    return features.to(dtype), _tensor(shard.targets), allowed


def _stored(folder: str, name: str) -> torch.Tensor:
    if not Path(folder).is_dir():
        raise InputError(f"store={folder!r} is no folder on {node_name()}; name one that all nodes share")
    kept = read(folder, name)
    if kept is None:
        raise FileNotFoundError(name)
    return kept.features


def _tensor(array: Any) -> torch.Tensor:
    """Over the same memory; it is Ray's and may be read only, which nothing here minds."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()

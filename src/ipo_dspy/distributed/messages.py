"""What goes between the driver and its workers: plain values, so light that any worker process opens them at once."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ipo_dspy.distributed.model_ref import Known


@dataclass(frozen=True, slots=True)
class Job:
    """What all parts of one encoding have in common.

    Attributes:
        model: the driver's.
        classes: class names in order.
        allow_url: fetch images.
        threads: of torch and for decoding.
        store: folder for features on disk, or None.
    """

    model: "Known"
    classes: tuple[str, ...] = field(repr=False)
    allow_url: bool
    threads: int
    store: str | None


@dataclass(frozen=True, slots=True)
class Told:
    """What the driver hears of an encoded part.

    Attributes:
        part: its place among the parts.
        kept: places in the part of the images that could be read.
        keys: a hash of the content of each; one of all, labels included, where the images are not known one by one.
        skipped: place and message of the others.
        count: images kept.
        width: of the features.
        error: kind and message of what ended it, instead of all that.
    """

    part: int
    kept: tuple[int, ...] = field(repr=False, default=())
    keys: tuple[str, ...] = field(repr=False, default=())
    skipped: tuple[tuple[int, str], ...] = ()
    count: int = 0
    width: int = 0
    error: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Shard:
    """An encoded part as it is in the object store: arrays, which a worker reads without copying them.

    Attributes:
        features: [n, D] float32, normalised; None where they are on disk.
        targets: [n] class indices.
        choices: for each image its own class names, if they differ.
        stored: folder and name of the file with the features.
    """

    features: NDArray[np.float32] | None = field(repr=False)
    targets: NDArray[np.int64] = field(repr=False)
    choices: tuple[tuple[str, ...], ...] | None = field(repr=False)
    stored: tuple[str, str] | None

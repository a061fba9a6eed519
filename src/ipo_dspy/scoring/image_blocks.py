"""Images block by block, where the texts are and in their format, with room for the logits of a block.

The room is the same for all blocks. Made anew each time it would let the memory of the process grow towards the very
table of all images times classes that is to be avoided: aligned memory that was freed is often a few bytes too small
to be taken again.

Letters: N images, n images of a block, C classes, D feature width.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ipo_dspy.scoring.candidate_classes import CandidateClasses

BLOCK = {"cpu": 2**23, "cuda": 2**26}
"""Numbers in the largest table of a block. 4 MB, which a cache holds, are no faster than these 32 MB, and slower where
other processes want the cores: the threads of PyTorch wait for one another after every step of every block."""

LEAST = 64
"""Images of a block, however many classes there are; products of fewer rows are slow."""


@dataclass(frozen=True, slots=True)
class ImageBlock:
    """Some of the images, until the next block is asked for.

    Attributes:
        part: which of all.
        images: [n, D], their features.
        forbidden: [n, C] bool, the classes that each must not be given; None if there are none.
        room: [n, C], for their logits.
        more_room: [n, C], for what is made of these.
    """

    part: slice
    images: Tensor
    forbidden: Tensor | None
    room: Tensor
    more_room: Tensor


def block_size(text_features: Tensor) -> int:
    """Return how many images keep their features and their logits within `BLOCK` numbers each, but at least `LEAST`.

    >>> block_size(torch.zeros(8, 1000, 512)), block_size(torch.zeros(1, 200_000, 512))
    (8388, 64)
    """
    widest = max(text_features.shape[-2:])
    return max(LEAST, BLOCK.get(text_features.device.type, BLOCK["cpu"]) // widest)


def blocks(
    image_features: Tensor,  # [N, D]
    text_features: Tensor,  # [..., C, D]
    allowed: Tensor | CandidateClasses | None = None,  # [N, C] bool
    size: int | None = None,
) -> Iterator[ImageBlock]:
    """All images in order; by default as many at a time as `block_size` says."""
    starts = range(0, len(image_features), size or block_size(text_features))
    parts = [slice(start, stop) for start, stop in itertools.pairwise([*starts, len(image_features)])]
    largest, (classes, width) = max((part.stop - part.start for part in parts), default=0), text_features.shape[-2:]
    room, more_room = (text_features.new_empty(largest, classes) for _ in range(2))
    near = None if _is_near(image_features, text_features) else text_features.new_empty(largest, width)
    forbidden = None if allowed is None else torch.empty(largest, classes, dtype=torch.bool)
    for part in parts:
        rows, count = image_features[part], part.stop - part.start
        images = rows if near is None else near[:count].copy_(rows, non_blocking=True)  # [n, D]
        mask = None if allowed is None or forbidden is None else _forbid(allowed, part, forbidden[:count])
        yield ImageBlock(part, images, None if mask is None else mask.to(room.device), room[:count], more_room[:count])


def _is_near(image_features: Tensor, text_features: Tensor) -> bool:
    return (image_features.dtype, image_features.device) == (text_features.dtype, text_features.device)


def _forbid(allowed: Tensor | CandidateClasses, part: slice, room: Tensor) -> Tensor:
    if isinstance(allowed, CandidateClasses):
        return allowed.forbidden(part, out=room)
    return torch.logical_not(allowed[part], out=room)

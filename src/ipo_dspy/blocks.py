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

from ipo_dspy.allowed import Allowed

BLOCK = {"cpu": 2**23, "cuda": 2**26}
"""Numbers in the largest table of a block. 4 MB, which a cache holds, are no faster than these 32 MB, and slower where
other processes want the cores: the threads of PyTorch wait for one another after every step of every block."""

STEP = 64
"""Images of a block are a multiple of it, so that parts which are too have the same blocks as the whole."""


@dataclass(frozen=True, slots=True)
class Block:
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
    """Images of a block: neither their features nor their logits are more than `BLOCK` numbers, if 64 images allow it.

    >>> block_size(torch.zeros(8, 1000, 512)), block_size(torch.zeros(1, 200_000, 512))
    (8384, 64)
    """
    widest = max(text_features.shape[-2:])
    return max(1, BLOCK.get(text_features.device.type, BLOCK["cpu"]) // widest // STEP) * STEP


def blocks(
    image_features: Tensor,  # [N, D]
    text_features: Tensor,  # [..., C, D]
    allowed: Tensor | Allowed | None = None,  # [N, C] bool
    size: int | None = None,
) -> Iterator[Block]:
    """All images in order; by default as many at a time as `block_size` says."""
    parts = _parts(len(image_features), size, block_size(text_features))
    largest, (classes, width) = max((part.stop - part.start for part in parts), default=0), text_features.shape[-2:]
    room, more_room = (text_features.new_empty(largest, classes) for _ in range(2))
    near = None if _is_near(image_features, text_features) else text_features.new_empty(largest, width)
    forbidden = None if allowed is None else torch.empty(largest, classes, dtype=torch.bool)
    for part in parts:
        rows, count = image_features[part], part.stop - part.start
        images = rows if near is None else near[:count].copy_(rows, non_blocking=True)  # [n, D]
        mask = None if allowed is None or forbidden is None else _forbid(allowed, part, forbidden[:count])
        yield Block(part, images, None if mask is None else mask.to(room.device), room[:count], more_room[:count])


def _parts(count: int, given: int | None, usual: int) -> list[slice]:
    # A product of few rows has other last bits than one of many: a rest of fewer than 64 joins the block before.
    starts = range(0, count if given else max(count - STEP + 1, min(count, 1)), given or usual)
    return [slice(start, stop) for start, stop in itertools.pairwise([*starts, count])]


def _is_near(image_features: Tensor, text_features: Tensor) -> bool:
    return (image_features.dtype, image_features.device) == (text_features.dtype, text_features.device)


def _forbid(allowed: Tensor | Allowed, part: slice, room: Tensor) -> Tensor:
    if isinstance(allowed, Allowed):
        return allowed.forbidden(part, out=room)
    return torch.logical_not(allowed[part], out=room)

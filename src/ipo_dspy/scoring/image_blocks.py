"""Iterate over images in blocks, on the device and in the dtype of the text features, with reused logits buffers.

All blocks share the same buffers. Allocating them per block would let the memory of the process grow toward the full
table of images by classes that blocks avoid: freed aligned memory is often a few bytes too small to be reused.

Letters: N images, n images of a block, C classes, D feature width.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ipo_dspy.scoring.candidate_classes import CandidateClasses

BLOCK_ELEMENTS = {"cpu": 2**23, "cuda": 2**26}
"""Elements of the largest table of a block, by device. On a CPU, 4 MB (the size of a cache) is no faster than these
32 MB, and slower on a busy machine: PyTorch's threads synchronize after every operation of every block."""

MIN_IMAGES = 64
"""Minimum number of images in a block; matrix products with fewer rows are slow."""


@dataclass(frozen=True, slots=True)
class ImageBlock:
    """One block of images; its tensors are valid until the next block is requested.

    Attributes:
        rows: the rows of all images that are in this block.
        images: [n, D], their features.
        forbidden: [n, C] bool, the classes that each must not be predicted as; None if all are candidates.
        logits_buffer: [n, C], for their logits.
        log_probs_buffer: [n, C], for the log-probabilities.
    """

    rows: slice
    images: Tensor
    forbidden: Tensor | None
    logits_buffer: Tensor
    log_probs_buffer: Tensor


def block_size(text_features: Tensor) -> int:
    """Return the number of images of a block.

    Features and logits have at most `BLOCK_ELEMENTS` elements each, but a block has at least `MIN_IMAGES` images.

    >>> block_size(torch.zeros(8, 1000, 512)), block_size(torch.zeros(1, 200_000, 512))
    (8388, 64)
    """
    widest = max(text_features.shape[-2:])
    return max(MIN_IMAGES, BLOCK_ELEMENTS.get(text_features.device.type, BLOCK_ELEMENTS["cpu"]) // widest)


def blocks(
    image_features: Tensor,  # [N, D]
    text_features: Tensor,  # [..., C, D]
    allowed: CandidateClasses | None = None,
    size: int | None = None,
) -> Iterator[ImageBlock]:
    """Yield all images in order, `size` at a time; by default as many as `block_size` returns."""
    starts = range(0, len(image_features), size or block_size(text_features))
    slices = [slice(start, stop) for start, stop in itertools.pairwise([*starts, len(image_features)])]
    largest, (classes, width) = max((rows.stop - rows.start for rows in slices), default=0), text_features.shape[-2:]
    logits, log_probs = (text_features.new_empty(largest, classes) for _ in range(2))
    is_compatible = (image_features.dtype, image_features.device) == (text_features.dtype, text_features.device)
    moved = None if is_compatible else text_features.new_empty(largest, width)
    forbidden = torch.empty(0 if allowed is None else largest, classes, dtype=torch.bool)
    for rows in slices:
        images, count = image_features[rows], rows.stop - rows.start  # [n, D]
        images = images if moved is None else moved[:count].copy_(images, non_blocking=True)
        mask = None if allowed is None else allowed.forbidden(rows, out=forbidden[:count]).to(logits.device)
        yield ImageBlock(rows, images, mask, logits[:count], log_probs[:count])


def block_logits(block: ImageBlock, text_features: Tensor, scale: float, bias: float | Tensor) -> Tensor:
    """Compute the logits [n, C] of a block in its buffer; those of forbidden classes are minus infinity."""
    # Few operations on the table, because PyTorch's threads synchronize after each.
    zero = text_features.new_zeros(())
    scores = torch.addmm(zero, block.images, text_features.T, beta=0, alpha=scale, out=block.logits_buffer)
    scores = scores if isinstance(bias, float) and not bias else scores.add_(bias)
    return scores if block.forbidden is None else scores.masked_fill_(block.forbidden, float("-inf"))

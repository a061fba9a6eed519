"""The number format in which image features are kept while they are not computed with.

Float32 is what the tower gives. Above a gibibyte (half a million images of width 512) features are kept in float16, so
that a million images and a model fit into 3 GB. Each number is rounded to the nearest of float16, ties to even, once
and consistently; blocks are brought back to float32, so what is lost is this one rounding. docs/decisions.md says how
much that moves scores.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

LIMIT = 2**30
"""Bytes of float32 features above which they are kept in float16."""


def storage_dtype(images: int, width: int) -> torch.dtype:
    """Return the storage dtype for a number of images of a feature width.

    >>> storage_dtype(50_000, 512), storage_dtype(1_280_000, 512)
    (torch.float32, torch.float16)
    """
    return torch.float32 if 4 * images * width <= LIMIT else torch.float16


def to_storage_dtype(features: Tensor) -> Tensor:
    """Features [N, D] in the format in which they are kept; those that are kept in half already stay so."""
    return features.half() if storage_dtype(*features.shape) == torch.float16 else features


class FeatureBuffer:
    """Collects features as they are computed, in their storage dtype: a million are never held in float32."""

    def __init__(self, most: int) -> None:
        self._most, self._count = most, 0
        self._table: Tensor | None = None  # [most, D], once D is known

    def add(self, rows: Sequence[Tensor]) -> None:
        """Put rows [D] after those that are there."""
        if not rows:
            return
        if self._table is None:
            width = len(rows[0])
            self._table = torch.empty(self._most, width, dtype=storage_dtype(self._most, width))
        stop = self._count + len(rows)
        self._table[self._count : stop] = torch.stack(list(rows))
        self._count = stop

    @property
    def features(self) -> Tensor:
        """All of them, [N, D]."""
        return torch.empty(0, 0) if self._table is None else self._table[: self._count]


def to_scoring_device(features: Tensor, device: torch.device) -> Tensor:
    """Return stored features on the device from which scoring reads them.

    A GPU holds them itself where they take at most half of its free memory. Else they are pinned once, so that blocks
    are brought to it without waiting for each.
    """
    if device.type != "cuda":
        return features
    free, _ = torch.cuda.mem_get_info(device)
    return features.to(device) if features.nbytes <= free // 2 else features.pin_memory()

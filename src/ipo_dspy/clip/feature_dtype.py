"""Choose the number format in which image features are stored in memory: float32, or float16 for very many.

Above a gibibyte (half a million images of width 512) features are stored in float16, so that a million images and a
model fit into 3 GB. Blocks are converted back to float32, so each number is rounded once; docs/decisions.md says how
much that changes scores.
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
    """Return features [N, D] in their storage dtype."""
    return features.half() if storage_dtype(*features.shape) == torch.float16 else features


class FeatureBuffer:
    """Collects features as they are computed, in their storage dtype: a million are never stored in float32."""

    def __init__(self, capacity: int) -> None:
        self._capacity, self._count = capacity, 0
        self._table = torch.empty(0, 0)  # [capacity, D] once D is known

    def add(self, rows: Sequence[Tensor]) -> None:
        """Append rows [D]."""
        if not rows:
            return
        if not self._table.numel():
            shape = self._capacity, len(rows[0])
            self._table = torch.empty(shape, dtype=storage_dtype(*shape))
        self._table[self._count : self._count + len(rows)] = torch.stack(list(rows))
        self._count += len(rows)

    @property
    def features(self) -> Tensor:
        """All features, [N, D]."""
        return self._table[: self._count]


def to_scoring_device(features: Tensor, device: torch.device) -> Tensor:
    """Return stored features on the device from which scoring reads them.

    They are moved to a GPU if they take at most half of its free memory. Otherwise they are pinned once, so that blocks
    are copied to it asynchronously.
    """
    if device.type != "cuda":
        return features
    free, _ = torch.cuda.mem_get_info(device)
    return features.to(device) if features.nbytes <= free // 2 else features.pin_memory()

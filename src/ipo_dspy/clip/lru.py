"""A bounded, thread-safe store of the latest tensors by key."""

import threading
from collections import OrderedDict
from collections.abc import Hashable

from torch import Tensor


class TensorLRU:
    """The latest tensors by key, at most `max_floats` numbers in all. The least recently used are evicted first."""

    def __init__(self, max_floats: int) -> None:
        self._max, self._floats = max_floats, 0
        self._items: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Tensor | None:
        """Return the tensor under `key` and mark it as the most recently used, or return None."""
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
            return self._items.get(key)

    def put(self, key: Hashable, value: Tensor) -> None:
        """Store `value` under `key`, and evict the least recently used tensors while there are too many numbers."""
        with self._lock:
            old = self._items.pop(key, None)
            self._floats += value.numel() - (0 if old is None else old.numel())
            self._items[key] = value
            while self._floats > self._max and len(self._items) > 1:
                self._floats -= self._items.popitem(last=False)[1].numel()

    def __len__(self) -> int:
        return len(self._items)

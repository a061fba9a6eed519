"""A bounded, thread-safe store of the latest tensors by key."""

import threading
from collections import OrderedDict
from collections.abc import Hashable

from torch import Tensor


class TensorLRU:
    """The latest tensors by key, at most `max_floats` numbers in all. The least recently used are evicted first."""

    def __init__(self, max_floats: int) -> None:
        self._max = max_floats
        self._held = 0
        self._items: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Tensor | None:
        """Return the tensor under `key` and mark it as the most recently used, or return None."""
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
            return self._items.get(key)

    def put(self, key: Hashable, value: Tensor) -> None:
        """Keep `value` under `key`, dropping the longest unused while there is too much."""
        with self._lock:
            old = self._items.pop(key, None)
            self._held += value.numel() - (0 if old is None else old.numel())
            self._items[key] = value
            while self._held > self._max and len(self._items) > 1:
                self._held -= self._items.popitem(last=False)[1].numel()

    def __len__(self) -> int:
        return len(self._items)

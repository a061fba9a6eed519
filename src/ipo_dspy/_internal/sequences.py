"""Select items of sequences."""

from collections.abc import Sequence
from typing import TypeVar

_T = TypeVar("_T")


def evenly_spaced(items: Sequence[_T], limit: int) -> list[_T]:
    """Return at most `limit` evenly spaced items, including the first.

    >>> evenly_spaced("abcdefgh", 4), evenly_spaced("ab", 4)
    (['a', 'c', 'e', 'g'], ['a', 'b'])
    """
    keep = min(limit, len(items))
    return [items[i * len(items) // keep] for i in range(keep)]

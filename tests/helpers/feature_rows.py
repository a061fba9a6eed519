"""Features of numbered images, for the tests of the store of features and the processes that they start."""

from hashlib import sha256

import numpy as np

from ipo_dspy.clip.feature_store import FeatureStore, Row
from ipo_dspy.clip.lmdb_segments import CacheNamespace

ORIGIN = CacheNamespace("0123", "float32, cpu", "reading 1", "toy")
WIDTH, BATCH = 64, 16
ROOMY = 1 << 30


def key(number: int) -> str:
    return sha256(str(number).encode()).hexdigest()


def row(number: int, width: int = WIDTH) -> Row:
    """Features that belong to a key and to no other."""
    return np.random.default_rng(number).normal(size=width).astype(np.float32)


def rows(first: int, count: int = BATCH, width: int = WIDTH) -> dict[str, Row]:
    return {key(i): row(i, width) for i in range(first, first + count)}


def found(store: FeatureStore, numbers: range, origin: CacheNamespace = ORIGIN, width: int = WIDTH) -> list[int]:
    """Those that are held; each must be what was put."""
    held = []
    for number in numbers:
        one = store.get(origin, key(number))
        if one is not None:
            assert one.tobytes() == row(number, width).tobytes()
            held.append(number)
    return held

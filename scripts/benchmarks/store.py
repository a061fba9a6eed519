"""Image features on disk

Opening a store with one million entries and reading single entries in random order. Features and keys are random;
this does not affect timing. The file is in the OS page cache as far as it fits. On a busy machine, CPU time shows
what an idle machine would achieve.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.common import Size, seconds, table
from ipo_dspy.clip.feature_store import FeatureStore
from ipo_dspy.clip.lmdb_segments import CacheNamespace

WIDTH = 512
LIMIT = 10 * 10**9  # which is the default: several segments


def filled(folder: Path, count: int, seed: int) -> tuple[CacheNamespace, list[str]]:
    """Create a store with a number of entries; returns it and their keys."""
    store, origin = FeatureStore(folder, LIMIT), CacheNamespace("0", "float32, cpu", "", "random")
    rng = np.random.default_rng(seed)
    keys = [rng.bytes(32).hex() for _ in range(count)]
    for first in range(0, count, 1024):
        some = keys[first : first + 1024]
        store.put(origin, dict(zip(some, rng.normal(size=(len(some), WIDTH)).astype(np.float32), strict=True)))
    store._close()
    return origin, keys


def measured(folder: Path, count: int, seed: int) -> Iterator[list[str]]:
    """Measure the time to open and the look-ups per second."""
    took, (origin, keys) = seconds(lambda: filled(folder, count, seed))
    yield ["written", f"{count / took:,.0f} a second, 1,024 a batch"]
    store = FeatureStore(folder, LIMIT)
    yield ["size", f"{store.size() / count:,.0f} bytes per image"]
    took, _ = seconds(lambda: store.get(origin, keys[0]))
    yield ["opened and first look-up", f"{took * 1000:.1f} ms"]
    picked = np.random.default_rng(seed + 1).integers(0, count, 200_000)
    asked = {"found": [keys[i] for i in picked], "not there": [keys[i][::-1] for i in picked]}
    for name, some in asked.items():
        began, busy = time.perf_counter(), time.process_time()
        assert sum(store.get(origin, key) is not None for key in some) == (len(some) if name == "found" else 0)
        each, own = (time.perf_counter() - began) / len(some), (time.process_time() - busy) / len(some)
        yield [f"look-ups, {name}", f"{1 / each:,.0f} a second; {1 / own:,.0f} a second of processor time"]
    store._close()


def run(size: Size, seed: int) -> None:
    """Print the table."""
    count = 1_000_000 if size == "full" else 100_000
    print(f"{count:,} images of width {WIDTH}.\n")
    with tempfile.TemporaryDirectory() as folder:
        table(("what", ""), measured(Path(folder) / "image-features", count, seed))

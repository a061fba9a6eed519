"""Features of numbered images, for the tests of the store of features and the processes that they start."""

import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np

from ipo_dspy.clip.feature_store import FeatureStore, Row
from ipo_dspy.clip.lmdb_segments import CacheNamespace

ORIGIN = CacheNamespace("0123", "float32, cpu", "reading 1", "toy")
WIDTH, BATCH = 64, 16
ROOMY = 1 << 30
CHILD = """
import resource, sys
from pathlib import Path
from helpers.feature_rows import *
from ipo_dspy.clip import lmdb_segments as segments
from ipo_dspy.clip.feature_store import FeatureStore
from ipo_dspy.errors import StoreFullError
store = FeatureStore(Path(sys.argv[1]), ROOMY)
"""


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


def child(source: str, *arguments: object) -> "subprocess.Popen[str]":
    """A script in a process of its own, with a store in the folder that is its first argument."""
    return subprocess.Popen(
        [sys.executable, "-c", CHILD + source, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])},
    )


def ended(process: "subprocess.Popen[str]") -> str:
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return out

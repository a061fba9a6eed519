"""Libraries for the cache of image features

The same entries in the caches of libraries and in the store of this package: written in batches, opened, and asked for
single images in random order. Each compares a checksum of every row and its key. Then what a cache has to survive: two
processes that write at once, `kill -9` in the middle, and single bytes of the file changed.
"""

import os
import random
import shutil
import signal
import sqlite3
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.common import Size, seconds, table
from ipo_dspy.clip.feature_store import FeatureStore
from ipo_dspy.clip.lmdb_segments import CacheNamespace

WIDTH, BATCH, LOOKUPS = 512, 1024, 100_000
SMALL_BATCH, DAMAGES, BATCHES = 16, 200, 100


class Candidate(Protocol):
    """A cache of bytes by hash; opened with its folder, closed by `close`."""

    def __init__(self, folder: Path) -> None: ...
    def put(self, rows: Mapping[bytes, bytes]) -> None: ...
    def get(self, key: bytes) -> bytes | None: ...
    def close(self) -> None: ...


class Lmdb:
    """One LMDB database, no limit and no eviction; keys are hashes."""

    def __init__(self, folder: Path) -> None:
        import lmdb

        folder.mkdir(parents=True, exist_ok=True)
        self._env = lmdb.open(str(folder), map_size=1 << 36, metasync=False)

    def put(self, rows: Mapping[bytes, bytes]) -> None:
        with self._env.begin(write=True) as txn:
            for key, row in rows.items():
                txn.put(key, row)

    def get(self, key: bytes) -> bytes | None:
        with self._env.begin() as txn:
            return txn.get(key)

    def close(self) -> None:
        self._env.close()


class Sqlite:
    """One table of SQLite and an index of hashes, no eviction."""

    journal, page = "WAL", 4096

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(folder / "features.sqlite", timeout=60, isolation_level=None)
        self._db.execute(f"PRAGMA page_size={self.page}")
        self._db.execute(f"PRAGMA journal_mode={self.journal}")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("CREATE TABLE IF NOT EXISTS features (key BLOB PRIMARY KEY, row BLOB)")

    def put(self, rows: Mapping[bytes, bytes]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany("INSERT OR IGNORE INTO features VALUES (?, ?)", rows.items())
        self._db.execute("COMMIT")

    def get(self, key: bytes) -> bytes | None:
        row = self._db.execute("SELECT row FROM features WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def close(self) -> None:
        self._db.close()


class SqliteWide(Sqlite):
    """The same with pages of 16 KiB, into which seven rows go."""

    page = 16384


class SqliteRollback(SqliteWide):
    """The same with a rollback journal, which is one file when closed."""

    journal = "TRUNCATE"


class Diskcache:
    """The cache of diskcache, with bytes for keys and rows, so that it pickles nothing; least recently stored."""

    def __init__(self, folder: Path) -> None:
        import diskcache  # type: ignore[import-untyped]

        self._cache = diskcache.Cache(str(folder), size_limit=1 << 36)

    def put(self, rows: Mapping[bytes, bytes]) -> None:
        with self._cache.transact():
            for key, row in rows.items():
                self._cache.set(key, row)

    def get(self, key: bytes) -> bytes | None:
        row: bytes | None = self._cache.get(key)
        return row

    def close(self) -> None:
        self._cache.close()


class Today:
    """The store of this package."""

    def __init__(self, folder: Path) -> None:
        self._store, self._origin = FeatureStore(folder, 10**10), CacheNamespace("0", "float32, cpu", "", "random")

    def put(self, rows: Mapping[bytes, bytes]) -> None:
        self._store.put(self._origin, {key.hex(): np.frombuffer(row, np.float32) for key, row in rows.items()})

    def get(self, key: bytes) -> bytes | None:
        row = self._store.get(self._origin, key.hex())
        return None if row is None else row.tobytes()

    def close(self) -> None:
        self._store._close()


CANDIDATES: dict[str, type[Candidate]] = {
    "LMDB, one table": Lmdb,
    "sqlite3, WAL, 4 KiB pages": Sqlite,
    "sqlite3, WAL, 16 KiB pages": SqliteWide,
    "sqlite3, rollback, 16 KiB pages": SqliteRollback,
    "diskcache": Diskcache,
    "this package": Today,
}


class Checked:
    """A candidate whose rows are checked; the package's own does that itself."""

    def __init__(self, kind: type[Candidate], folder: Path) -> None:
        self._inner, self._own = kind(folder), kind is Today
        self.close = self._inner.close

    def put(self, rows: Mapping[bytes, bytes]) -> None:
        self._inner.put(rows if self._own else {key: _checksum(key, row) + row for key, row in rows.items()})

    def get(self, key: bytes) -> bytes | None:
        row = self._inner.get(key)
        if row is None or self._own:
            return row
        if row[:4] != _checksum(key, row[4:]):
            raise ValueError("checksum")
        return row[4:]


def run(size: Size, seed: int) -> None:
    """Print one table of times and one of faults."""
    count = 1_000_000 if size == "full" else 100_000
    print(f"{count:,} images of width {WIDTH}.\n")
    heads = (
        "cache",
        "written a second",
        "bytes an image",
        "opened",
        "found a second",
        "absent a second",
        "a second of processor time",
    )
    table(heads, (_times(name, kind, count, seed) for name, kind in CANDIDATES.items()))
    print(f"\nLost or torn batches after 10 kills, and {DAMAGES} files with one byte changed.\n")
    faults = (
        "cache",
        "two writers kept",
        "kills: lost",
        "torn",
        "damage: an error",
        "rows missing",
        "no effect",
        "died",
    )
    table(faults, (_faults(name, kind, seed) for name, kind in CANDIDATES.items()))


def _times(name: str, kind: type[Candidate], count: int, seed: int) -> list[object]:
    rng = np.random.default_rng(seed)
    keys = [rng.bytes(32) for _ in range(count)]
    rows = rng.normal(size=(BATCH, WIDTH)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "cache"
        cache = Checked(kind, place)

        def write() -> None:
            for first in range(0, count, BATCH):
                cache.put({key: row.tobytes() for key, row in zip(keys[first : first + BATCH], rows, strict=False)})

        took, _ = seconds(write)
        cache.close()
        used = sum(path.stat().st_blocks * 512 for path in place.rglob("*"))
        opened, cache = seconds(lambda: _opened(kind, place, keys[0]))
        picked = random.Random(seed).choices(keys, k=LOOKUPS)
        busy, (found, _) = _processor(lambda: seconds(lambda: _asked(cache, picked, present=True)))
        absent, _ = seconds(lambda: _asked(cache, [key[::-1] for key in picked], present=False))
        cache.close()
    numbers = [count / took, used / count, LOOKUPS / found, LOOKUPS / absent, LOOKUPS / busy]
    written, disk, here, gone, own = (f"{number:,.0f}" for number in numbers)
    return [name, written, disk, f"{opened * 1000:.1f} ms", here, gone, own]


def _opened(kind: type[Candidate], folder: Path, key: bytes) -> Checked:
    cache = Checked(kind, folder)
    assert cache.get(key) is not None
    return cache


def _asked(cache: Checked, keys: Sequence[bytes], *, present: bool) -> None:
    assert sum(cache.get(key) is not None for key in keys) == (len(keys) if present else 0)


def _processor(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    found = work()
    return time.process_time() - began, found


def _key(number: int) -> bytes:
    return zlib.crc32(str(number).encode()).to_bytes(4, "big") * 7 + number.to_bytes(4, "big")


def _row(number: int) -> bytes:
    return np.random.default_rng(number).normal(size=WIDTH).astype(np.float32).tobytes()


def _batch(number: int) -> dict[bytes, bytes]:
    numbers = range(number * SMALL_BATCH, (number + 1) * SMALL_BATCH)
    return {_key(one): _row(one) for one in numbers}


def _faults(name: str, kind: type[Candidate], seed: int) -> list[object]:
    with tempfile.TemporaryDirectory() as folder:
        children = [_forked(_write, kind, Path(folder) / "two", range(first, BATCHES, 2)) for first in (0, 1)]
        ends = [os.waitpid(child, 0)[1] for child in children]
        both = _held(kind, Path(folder) / "two", range(BATCHES))
        lost, torn = _killed(kind, Path(folder) / "killed", random.Random(seed))
        damages = _damaged(kind, Path(folder) / "two", random.Random(seed))
    kept = f"{sum(count == SMALL_BATCH for count in both)} of {BATCHES}" if ends == [0, 0] else "a process died"
    return [name, kept, lost, torn, *(damages.count(what) for what in ("error", "missing", "right", "died"))]


def _forked(work: Callable[..., Any], *arguments: Any) -> int:
    """Do something in a process of its own, which ends with 0, or 3 for an exception."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(work(*arguments) or 0)
        except BaseException:  # noqa: BLE001 - whatever the library raises
            os._exit(3)
    return child


def _write(kind: type[Candidate], folder: Path, numbers: Sequence[int], progress: int | None = None) -> None:
    cache = Checked(kind, folder)
    for number in numbers:
        cache.put(_batch(number))
        if progress is not None:
            os.write(progress, b".")
    cache.close()


def _held(kind: type[Candidate], folder: Path, numbers: Sequence[int]) -> list[int]:
    """Return how many entries of each batch are there; each must be what was put."""
    cache = Checked(kind, folder)
    held = []
    for number in numbers:
        rows = [(cache.get(key), row) for key, row in _batch(number).items()]
        assert all(found in (None, row) for found, row in rows)
        held.append(sum(found is not None for found, _ in rows))
    cache.close()
    return held


def _killed(kind: type[Candidate], folder: Path, rng: random.Random) -> tuple[int, int]:
    lost = torn = first = 0
    for _ in range(10):
        reading, report = os.pipe()
        child = _forked(_write, kind, folder, range(first, first + 100_000), report)
        os.close(report)
        for _ in range(rng.randint(1, 20)):
            os.read(reading, 1)
        time.sleep(rng.uniform(0, 0.01))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with open(reading, "rb") as pipe:  # noqa: PTH123 - a descriptor
            put = len(pipe.read())  # beyond those read above
        held = _held(kind, folder, range(first, first + put + 22))
        lost += put + 1 > sum(count > 0 for count in held)
        torn += sum(0 < count < SMALL_BATCH for count in held)
        first += len(held)
    return lost, torn


def _damaged(kind: type[Candidate], folder: Path, rng: random.Random) -> list[str]:
    """Return what a reader meets in files with one byte changed: an error, missing rows, nothing, or its end."""
    largest = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    whole, outcomes = largest.read_bytes(), []
    used = len(whole.rstrip(b"\0"))
    for _ in range(DAMAGES):
        copy = Path(shutil.copytree(folder, folder.with_name("copy")))
        place = rng.randrange(used)
        data = whole[:place] + bytes([whole[place] ^ 1 << rng.randrange(8)]) + whole[place + 1 :]
        (copy / largest.relative_to(folder)).write_bytes(data)
        child = _forked(lambda copy=copy: int(any(count < SMALL_BATCH for count in _held(kind, copy, range(BATCHES)))))
        status = os.waitpid(child, 0)[1]
        outcomes.append({0: "right", 1: "missing", 3: "error"}.get(os.waitstatus_to_exitcode(status), "died"))
        shutil.rmtree(copy)
    return outcomes


def _checksum(key: bytes, row: bytes) -> bytes:
    return zlib.crc32(row, zlib.crc32(key)).to_bytes(4, "little")

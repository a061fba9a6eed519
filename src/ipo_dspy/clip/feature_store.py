"""Image features on disk, by model and setup and by image content.

Features are float32 as they were computed, each with a checksum over its origin, its key and itself. They fill segments
of at most an eighth of the limit. When the store is full, the least recently used segment is evicted as a whole, of
several the oldest. Evicting single entries would need an order that every look-up writes.
"""

import contextlib
import os
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from filelock import Timeout
from numpy.typing import NDArray

from ipo_dspy.clip import lmdb_segments as lmdb_file
from ipo_dspy.clip.lmdb_segments import CacheNamespace, Segment, SegmentFile, Transaction
from ipo_dspy.errors import StoreError, StoreFullError

FRESH_SECONDS = 60.0
"""Precision of the recorded time of a segment's last use."""
_SEGMENTS_IN_LIMIT = 8  # a look-up may have to search all segments of its model
_FREE_SHARE = 8  # an eighth stays free: changed pages are written elsewhere before the old ones are free
_CHECKSUM_BYTES = 4  # before each row

Row: TypeAlias = NDArray[np.float32]

# Held during transactions, and while a process forks: the child could not end those of its parent's threads.
_WRITING, _READING = threading.Lock(), threading.Lock()
_STORES: "weakref.WeakSet[FeatureStore]" = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class StoreEntry:
    """Contents of a store for one origin."""

    origin: CacheNamespace  # model and setup of the features
    images: int  # number of images
    bytes: int  # size on disk
    used: float  # last use, in seconds since 1970


class FeatureStore:
    """Features of images on disk, for many threads and processes; one object for each folder and process.

    Args:
        folder: folder of the file, which is created with the first features.
        limit: maximum bytes on disk.

    Raises:
        StoreError: raised by every method: the store cannot be used; the message names a remedy.
        StoreFullError: raised by writes: the store is full, but its contents can be read.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._file: SegmentFile | None = None
        self._last_uses: dict[int, float] = {}  # by slot, not yet written
        self._lock_timeout: str | None = None
        _STORES.add(self)

    def get(self, origin: CacheNamespace, key: str) -> Row | None:
        """Return the features [D] of the image with this hash, or None."""
        name = bytes.fromhex(key)
        try:  # not `raising_store_errors`: this is called for every image, and a context manager costs a tenth of it
            with _READING:
                file = self._file or self._open()
                with file.env.begin() as txn:
                    for segment in file.table(txn).get(origin, ()):
                        value = txn.get(name, db=file.slots[segment.slot])
                        if value is not None:
                            self._touch(segment)
                            return self._verified(origin, name, value)
        except lmdb_file.FAULTS as error:
            raise lmdb_file.to_store_error(error, self.folder) from error
        return None

    def put(self, origin: CacheNamespace, rows: Mapping[str, Row]) -> None:
        """Store features [D] by the hashes of their images: all of them or, if that fails, none."""
        values = {}
        for key, row in rows.items():
            name, data = bytes.fromhex(key), row.astype("<f4", copy=False).tobytes()
            values[name] = _checksum(origin, name, data) + data
        with self._writing() as (file, txn):
            # A page for each part of a value, as LMDB uses for all but small ones, and one for its key.
            pages = sum(-(-len(value) // file.page) + 1 for value in values.values())
            slot = file.slots[self._segment_with_room(file, txn, origin, pages).slot]
            for name, value in values.items():
                txn.put(name, value, db=slot)
            file.extend(pages)

    def record_uses(self) -> None:
        """Write the last uses of segments since the previous call."""
        if self._last_uses:
            with self._writing() as (file, txn):
                uses, self._last_uses = self._last_uses, {}
                segments = [replace(s, used=max(s.used, uses.get(s.slot, 0.0))) for s in file.segments(txn)]
                file.write_table(txn, segments)

    def size(self) -> int:
        """Return the bytes on disk, without the holes of the file."""
        try:
            return lmdb_file.data_file(self.folder).stat().st_blocks * 512
        except OSError:
            return 0

    def contents(self) -> list[StoreEntry]:
        """Return the contents of each origin, most recently used first."""
        if not lmdb_file.data_file(self.folder).exists():
            return []
        entries = []
        with _READING, lmdb_file.raising_store_errors(self.folder):
            file = self._open()
            with file.env.begin() as txn:
                for origin, segments in file.table(txn).items():
                    images, pages = map(sum, zip(*(file.usage(txn, segment) for segment in segments), strict=True))
                    used = max(segment.used for segment in segments)
                    entries.append(StoreEntry(origin, images, pages * file.page, used))
        return sorted(entries, key=lambda entry: -entry.used)

    def clear(self, wanted: Callable[[CacheNamespace], bool] | None = None) -> None:
        """Remove all features, or those of the origins that are `wanted`, and free their space on disk."""
        with _WRITING, _READING, lmdb_file.raising_store_errors(self.folder):
            self._close()
            with self._locked():
                if wanted is None:
                    lmdb_file.remove(self.folder)
                elif lmdb_file.data_file(self.folder).exists():
                    file = SegmentFile(self.folder)
                    with file.env.begin(write=True) as txn:
                        file.drop(txn, [segment for segment in file.segments(txn) if wanted(segment.origin)])
                    file.compact()

    def _open(self) -> SegmentFile:
        """Return the open file, even if another process has removed or replaced it."""
        if self._file is None:
            with self._locked():
                return self._reopen()
        return self._file

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Exclude other processes; after one timeout nobody waits again, or all threads would in turn."""
        if self._lock_timeout is None:
            try:
                with lmdb_file.folder_lock(self.folder):
                    yield
                    return
            except Timeout as error:
                self._lock_timeout = str(lmdb_file.to_store_error(error, self.folder))
        raise StoreError(self._lock_timeout)

    def _reopen(self) -> SegmentFile:
        self._close()
        file = SegmentFile(self.folder)
        if file.pages > self.limit // file.page:  # the limit was lowered
            with file.env.begin(write=True) as txn:
                self._evict(file, txn, pages=0)
            file.compact()
            file = SegmentFile(self.folder)
        self._file = file
        return file

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._last_uses = None, {}

    @contextlib.contextmanager
    def _writing(self) -> Iterator[tuple[SegmentFile, Transaction]]:
        """Begin a write transaction; other threads of this process may read meanwhile."""
        with _WRITING, lmdb_file.raising_store_errors(self.folder), self._locked():
            with _READING:
                file = self._file
                if file is None or not file.is_current():
                    file = self._reopen()
            with file.env.begin(write=True) as txn:
                yield file, txn

    def _segment_with_room(self, file: SegmentFile, txn: Transaction, origin: CacheNamespace, pages: int) -> Segment:
        """Return a segment for a number of new pages, after making room for them."""
        limit = self.limit // file.page
        segment = next(iter(file.table(txn).get(origin, ())), None)
        if segment is None or file.usage(txn, segment)[1] + pages > limit // _SEGMENTS_IN_LIMIT:
            segment = _new_segment(file, txn, origin)
        self._touch(segment)
        in_use = self._evict(file, txn, pages, keep=segment)
        # Pages are not free as long as a reader, perhaps a process that was stopped, may look at them.
        if file.pages + pages > max(limit, in_use + 4 * pages):
            raise self._full()
        return segment

    def _evict(self, file: SegmentFile, txn: Transaction, pages: int, keep: Segment | None = None) -> int:
        """Drop the least recently used segments until `pages` more fit; return the number of pages still in use."""
        limit = self.limit // file.page
        most = limit - limit // _FREE_SHARE - pages
        sizes = {segment: file.usage(txn, segment)[1] for segment in file.segments(txn)}
        in_use, evicted = sum(sizes.values()), list[Segment]()
        for segment in sorted(sizes.keys() - {keep}, key=_eviction_order):
            if in_use > most:
                evicted.append(segment)
                in_use -= sizes[segment]
        if in_use > most:
            raise self._full()
        file.drop(txn, evicted)
        return in_use

    def _full(self) -> StoreFullError:
        return StoreFullError(
            f"the image cache {str(self.folder)!r} is full at {self.limit} bytes; allow more, e.g. "
            "export IPO_DSPY_CACHE_LIMIT=20GB"
        )

    def _touch(self, segment: Segment) -> None:
        now = time.time()
        if now - segment.used > FRESH_SECONDS:
            self._last_uses[segment.slot] = now

    def _verified(self, origin: CacheNamespace, name: bytes, value: bytes) -> Row:
        data = memoryview(value)[_CHECKSUM_BYTES:]
        if len(data) % 4 or value[:_CHECKSUM_BYTES] != _checksum(origin, name, data):
            raise lmdb_file.damaged(self.folder)
        return np.frombuffer(data, "<f4")

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.folder)!r}, at most {self.limit} bytes)"


def _new_segment(file: SegmentFile, txn: Transaction, origin: CacheNamespace) -> Segment:
    """Begin a segment; if there are too many, in place of the least recently used one."""
    file.env.reader_check()  # frees the pages that killed processes were reading
    segments = file.segments(txn)
    if len(segments) == lmdb_file.SEGMENTS:
        file.drop(txn, [min(segments, key=_eviction_order)])
        segments = file.segments(txn)
    slot = min(set(range(lmdb_file.SEGMENTS)) - {segment.slot for segment in segments})
    now = time.time()
    segment = Segment(slot, origin, began=now, used=now)
    file.write_table(txn, [*segments, segment])
    return segment


def _checksum(origin: CacheNamespace, name: bytes, data: bytes | memoryview) -> bytes:
    """Return a checksum of a row, its key and its origin, so that it is valid for no other image and no other model."""
    seed = zlib.crc32(f"{origin.fingerprint}\n{origin.arithmetic}\n{origin.software}".encode())
    return zlib.crc32(data, zlib.crc32(name, seed)).to_bytes(_CHECKSUM_BYTES, "little")


def _eviction_order(segment: Segment) -> tuple[float, float]:
    return segment.used, segment.began


def _before_fork() -> None:
    _WRITING.acquire()
    _READING.acquire()


def _after_fork() -> None:
    _READING.release()
    _WRITING.release()


def _after_fork_in_child() -> None:
    """LMDB's locks belong to one process, so a child process opens the file again."""
    for store in _STORES:
        store._close()
    _after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)

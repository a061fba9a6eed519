"""Image features on disk, by what they depend on and by image content.

Features are float32 as they were computed, each with a checksum over its origin, its key and itself that is compared
whenever it is read. No pixels, paths or labels are kept: hashes, features, and what the models were called.

The features of a model fill segments of at most an eighth of the limit. When the store is full, the segment that was
used longest ago goes as a whole, of several the oldest. One by one, entries could only go in an order that every
look-up would have to write down.
"""

import contextlib
import functools
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

from ipo_dspy.clip.lmdb_segments import (
    FAULTS,
    SEGMENTS,
    CacheNamespace,
    Segment,
    SegmentFile,
    Transaction,
    damaged,
    data_file,
    inode,
    locked,
    raising_store_errors,
    remove,
    to_store_error,
)
from ipo_dspy.errors import StoreError, StoreFullError

FRESH_SECONDS = 60.0
"""When a segment was used last is written down to the minute."""

_PART = 8  # of the limit is a segment; each that a model has may have to be searched at a look-up
_SPARE = 8  # of the limit stays free: changed pages are written elsewhere before the old ones are free
_CHECKSUM = 4  # bytes before each row

Row: TypeAlias = NDArray[np.float32]

# Held while there are transactions, and while a process forks: the child could not end those of its parent's threads.
_WRITING, _READING = threading.Lock(), threading.Lock()
_STORES: "weakref.WeakSet[FeatureStore]" = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class StoreEntry:
    """Contents of a store for one origin.

    Attributes:
        origin: of the features.
        images: how many.
        bytes: that they take on disk.
        used: when they were used last, in seconds since 1970.
    """

    origin: CacheNamespace
    images: int
    bytes: int
    used: float


class FeatureStore:
    """Features of images on disk, for many threads and processes; one object a folder and process.

    Args:
        folder: of the file, which is made with the first features.
        limit: bytes on disk at most.

    Raises:
        StoreError: by every method: the store cannot be used; the message says what to write.
        StoreFullError: raised by writes: the store is full, but its contents can be read.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._file: SegmentFile | None = None
        self._touched: dict[int, float] = {}
        self._given_up: str | None = None
        _STORES.add(self)

    def get(self, origin: CacheNamespace, key: str) -> Row | None:
        """The features [D] of the image with this hash, or None."""
        name = bytes.fromhex(key)
        try:  # not `raising_store_errors`: this is called for every image, and a context manager costs a tenth of it
            with _READING:
                file = self._file or self._open()
                with file.env.begin() as txn:
                    for segment in file.table(txn).get(origin, ()):
                        value = txn.get(name, db=file.slots[segment.slot])
                        if value is not None:
                            self._touch(segment)
                            return self._checked(origin, name, value)
        except FAULTS as error:
            raise to_store_error(error, self.folder) from error
        return None

    def put(self, origin: CacheNamespace, rows: Mapping[str, Row]) -> None:
        """Keep features [D] by the hashes of their images: all of them or, if that fails, none."""
        sealed = {(name := bytes.fromhex(key)): _seal(origin, name, row) for key, row in rows.items()}
        with self._writing() as (file, txn):
            pages = sum(map(file.pages_for, sealed.values()))
            segment = self._room(file, txn, origin, pages)
            for name, value in sealed.items():
                txn.put(name, value, db=file.slots[segment.slot])
            file.extend(pages)

    def settle(self) -> None:
        """Write down which segments were used since the last time."""
        if self._touched:
            with self._writing() as (file, txn):
                touched, self._touched = self._touched, {}
                segments = [replace(s, used=max(s.used, touched.get(s.slot, 0.0))) for s in file.segments(txn)]
                file.write_table(txn, segments)

    def size(self) -> int:
        """Bytes on disk, without the holes that the file has."""
        try:
            return data_file(self.folder).stat().st_blocks * 512
        except OSError:
            return 0

    def contents(self) -> list[StoreEntry]:
        """Return the contents of each origin, most recently used first."""
        if not data_file(self.folder).exists():
            return []
        with _READING, raising_store_errors(self.folder):
            file = self._open()
            with file.env.begin() as txn:
                entries = [_held(file, txn, origin, parts) for origin, parts in file.table(txn).items()]
        return sorted(entries, key=lambda entry: -entry.used)

    def clear(self, wanted: Callable[[CacheNamespace], bool] | None = None) -> None:
        """Remove what is held, of all origins or of those that are wanted, and give the space back."""
        with _WRITING, _READING, raising_store_errors(self.folder):
            self._close()
            with self._locked():
                if wanted is None:
                    remove(self.folder)
                elif data_file(self.folder).exists():
                    file = SegmentFile(self.folder)
                    with file.env.begin(write=True) as txn:
                        file.drop(txn, [segment for segment in file.segments(txn) if wanted(segment.origin)])
                        file.extend(0)
                    file.compact()

    def _open(self) -> SegmentFile:
        """The file; what another process has removed or replaced can still be read."""
        if self._file is None:
            with self._locked():
                return self._open_anew()
        return self._file

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes out; after one wait in vain nobody waits again, or all threads would in turn."""
        with contextlib.ExitStack() as stack:
            if self._given_up is None:
                try:
                    stack.enter_context(locked(self.folder))
                except Timeout as error:
                    self._given_up = str(to_store_error(error, self.folder))
            if self._given_up is not None:
                raise StoreError(self._given_up)
            yield

    def _open_anew(self) -> SegmentFile:
        self._close()
        file = SegmentFile(self.folder)
        if file.pages > self.limit // file.page:  # the limit was lowered
            with file.env.begin(write=True) as txn:
                self._evict(file, txn, pages=0)
                file.extend(0)
            file.compact()
            file = SegmentFile(self.folder)
        self._file = file
        return file

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._touched = None, {}

    @contextlib.contextmanager
    def _writing(self) -> Iterator[tuple[SegmentFile, Transaction]]:
        """A write transaction; other threads of this process may read meanwhile."""
        with _WRITING, raising_store_errors(self.folder), self._locked():
            with _READING:
                file = self._file
                if file is None or file.inode != inode(self.folder):  # someone has removed or replaced it
                    file = self._open_anew()
            with file.env.begin(write=True) as txn:
                yield file, txn

    def _room(self, file: SegmentFile, txn: Transaction, origin: CacheNamespace, pages: int) -> Segment:
        """Return a segment for a number of new pages, after making room for them."""
        segment, now = next(iter(file.table(txn).get(origin, ())), None), time.time()
        if segment is None or file.pages_in(txn, segment) + pages > self.limit // file.page // _PART:
            segment = self._begin(file, txn, origin, now)
        held = self._evict(file, txn, pages, keep=segment.slot)
        # Pages are not free as long as a reader, perhaps a process that was stopped, may look at them.
        if file.pages + pages > max(self.limit // file.page, held + 4 * pages):
            raise self._full()
        if now - segment.used > FRESH_SECONDS:
            others = [other for other in file.segments(txn) if other.slot != segment.slot]
            file.write_table(txn, [*others, replace(segment, used=now)])
        return segment

    def _begin(self, file: SegmentFile, txn: Transaction, origin: CacheNamespace, now: float) -> Segment:
        """A new segment; where there are too many, in the place of the one used longest ago."""
        file.env.reader_check()  # killed processes read no more, and their pages are free again
        segments = file.segments(txn)
        if len(segments) == SEGMENTS:
            file.drop(txn, [min(segments, key=_age)])
            segments = file.segments(txn)
        slot = min(set(range(SEGMENTS)) - {segment.slot for segment in segments})
        segment = Segment(slot, origin, began=now, used=now)
        file.write_table(txn, [*segments, segment])
        return segment

    def _evict(self, file: SegmentFile, txn: Transaction, pages: int, keep: int | None = None) -> int:
        """Drop the segments used longest ago until so many more pages fit in; the pages still in use."""
        most = self.limit // file.page
        sizes = {segment: file.pages_in(txn, segment) for segment in file.segments(txn)}
        held, gone = sum(sizes.values()), []
        for segment in sorted((s for s in sizes if s.slot != keep), key=_age):
            if held + pages <= most - most // _SPARE:
                break
            gone.append(segment)
            held -= sizes[segment]
        if held + pages > most - most // _SPARE:
            raise self._full()
        file.drop(txn, gone)
        return held

    def _full(self) -> StoreFullError:
        return StoreFullError(
            f"the image cache {str(self.folder)!r} has no room within {self.limit} bytes; allow more, e.g. "
            "export IPO_DSPY_CACHE_LIMIT=20GB"
        )

    def _touch(self, segment: Segment) -> None:
        now = time.time()
        if now - segment.used > FRESH_SECONDS:
            self._touched[segment.slot] = now

    def _checked(self, origin: CacheNamespace, name: bytes, value: bytes) -> Row:
        """The row of an entry; if it is not what was written, neither is the rest to be trusted."""
        data = memoryview(value)[_CHECKSUM:]
        if len(data) % 4 or value[:_CHECKSUM] != _checksum(origin, name, data):
            raise damaged(self.folder)
        return np.frombuffer(data, "<f4")

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.folder)!r}, at most {self.limit} bytes)"


def _held(file: SegmentFile, txn: Transaction, origin: CacheNamespace, parts: tuple[Segment, ...]) -> StoreEntry:
    images = sum(file.images_in(txn, part) for part in parts)
    pages = sum(file.pages_in(txn, part) for part in parts)
    return StoreEntry(origin, images, pages * file.page, max(part.used for part in parts))


def _seal(origin: CacheNamespace, name: bytes, row: Row) -> bytes:
    data = row.astype("<f4", copy=False).tobytes()
    return _checksum(origin, name, data) + data


def _checksum(origin: CacheNamespace, name: bytes, data: bytes | memoryview) -> bytes:
    """Of a row, its key and its origin, so that it counts as nobody else's and as no other model's."""
    return zlib.crc32(data, zlib.crc32(name, _mark(origin))).to_bytes(_CHECKSUM, "little")


@functools.lru_cache(maxsize=SEGMENTS)
def _mark(origin: CacheNamespace) -> int:
    return zlib.crc32(f"{origin.fingerprint}\n{origin.arithmetic}\n{origin.software}".encode())


def _age(segment: Segment) -> tuple[float, float]:
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

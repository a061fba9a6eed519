"""A file of segments, each a database of features by image hash; the only importer of LMDB.

LMDB lets many processes read a file while one writes, and has each transaction whole or not at all whenever a process
is killed. It reads through a memory map, and a map without a page behind it ends the process. So a cut file is refused
beforehand (`SegmentFile.extend` keeps the size right at all times), and the lock file gets its space before it is
mapped. Network file systems, whose locks and memory maps LMDB cannot rely on, are given up.
"""

import contextlib
import errno
import json
import os
import shutil
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import lmdb
from filelock import FileLock, Timeout

from ipo_dspy._internal.file_io import open_regular
from ipo_dspy.errors import StoreError, StoreFullError

Transaction: TypeAlias = "lmdb.Transaction[bytes]"

SCHEMA = "2"
"""Of what is in the file; one with another is left alone."""

SEGMENTS = 64
"""At most, of all models together."""

CLEAR = "remove it with: ipo-dspy cache clear"
ELSEWHERE = "take another folder, e.g. export IPO_DSPY_CACHE=/a/folder/that/you/may/write"

FAULTS = (lmdb.Error, OSError)
"""Errors that `to_store_error` translates."""

_MAP = 1 << 40  # address space, not memory; the same for all, so that no process outgrows the map of another
_READERS = 1024
_LOCK_BYTES = 64 * _READERS + 8192  # 64 for each reader, and a little for what comes before them
_LOCK_SECONDS = 60.0
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DAMAGED = (lmdb.InvalidError, lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.VersionMismatchError, lmdb.PanicError)
_FILES = ("data.mdb", "lock.mdb")
_ABOUT, _SCHEMA, _TABLE = b"about", b"schema", b"segments"


@dataclass(frozen=True, slots=True)
class CacheNamespace:
    """Everything besides the image that features depend on.

    Attributes:
        fingerprint: of the model: weights, architecture, transform.
        arithmetic: number format, kind of device and precision that it ran with.
        software: versions of all that reads, resizes and computes.
        name: what the model was called, for people; under another name it is the same origin.
    """

    fingerprint: str
    arithmetic: str
    software: str
    name: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class Segment:
    """Features of one origin, up to a size; dropped as a whole.

    Attributes:
        slot: number of its database.
        origin: of its features.
        began, used: first and last, in seconds since 1970.
    """

    slot: int
    origin: CacheNamespace
    began: float
    used: float


Table: TypeAlias = dict[CacheNamespace, tuple[Segment, ...]]


class SegmentFile:
    """The open file of a folder, found to be whole; open it under `locked`, and once in a process.

    Raises:
        StoreError: it is cut off, or not ours. What LMDB and the system raise is for `raising_store_errors`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        fresh = not data_file(folder).exists()
        _check_regular(folder)
        with contextlib.ExitStack() as undo:
            if fresh:  # half a file, because the disk is full, would be a damaged one from now on
                undo.callback(_unlink, folder)
            self.env = _environment(folder)
            undo.callback(self.env.close)
            self.page = self.env.stat()["psize"]
            self._file = undo.enter_context(data_file(folder).open("r+b", buffering=0))
            self.inode = inode(folder)
            self._check(fresh)
            self.env.reader_check()  # frees what killed processes were reading
            undo.pop_all()
        self._parsed: tuple[bytes, Table] = (b"[]", {})

    def _check(self, fresh: bool) -> None:
        last = self.pages  # before the size: others may be writing
        if not fresh and os.fstat(self._file.fileno()).st_size < last * self.page:
            raise StoreError(f"the image cache {str(self.folder)!r} is cut off; {CLEAR}")
        if self.env.stat()["entries"] == 0:
            self._found()
        else:
            self._check_schema()
        self._about = self.env.open_db(_ABOUT, create=False)
        self.slots = [self.env.open_db(_slot(i), create=False) for i in range(SEGMENTS)]

    def _check_schema(self) -> None:
        try:
            about = self.env.open_db(_ABOUT, create=False)
        except lmdb.Error as error:
            raise StoreError(f"{str(data_file(self.folder))!r} is of another program; {ELSEWHERE}") from error
        with self.env.begin() as txn:
            if txn.get(_SCHEMA, db=about) != SCHEMA.encode():
                what = "was written by another version of ipo_dspy"
                raise StoreError(f"the image cache {str(self.folder)!r} {what}; {CLEAR}")

    def _found(self) -> None:
        with self.env.begin(write=True) as txn:
            txn.put(_SCHEMA, SCHEMA.encode(), db=self.env.open_db(_ABOUT, txn=txn))
            for i in range(SEGMENTS):
                self.env.open_db(_slot(i), txn=txn)
            self.extend(SEGMENTS)

    @property
    def pages(self) -> int:
        """Number of pages up to the end of the file, including free ones."""
        return int(self.env.info()["last_pgno"]) + 1

    def table(self, txn: Transaction) -> Table:
        """Segments by origin, the newest first."""
        raw = txn.get(_TABLE, _sealed(b"[]"), db=self._about)
        known, table = self._parsed
        if raw != known:
            table = {}
            for row in json.loads(_unsealed(raw, self.folder)):
                segment = Segment(**{**row, "origin": CacheNamespace(**row["origin"])})
                parts = (*table.get(segment.origin, ()), segment)
                table[segment.origin] = tuple(sorted(parts, key=lambda part: (-part.began, part.slot)))
            self._parsed = raw, table
        return table

    def segments(self, txn: Transaction) -> list[Segment]:
        """All segments."""
        return [segment for parts in self.table(txn).values() for segment in parts]

    def write_table(self, txn: Transaction, segments: list[Segment]) -> None:
        """Replace the table of segments."""
        rows = json.dumps([asdict(segment) for segment in segments])
        txn.put(_TABLE, _sealed(rows.encode()), db=self._about)

    def drop(self, txn: Transaction, segments: list[Segment]) -> None:
        """Empty segments; their databases stay, so that no process has a handle to what is gone."""
        for segment in segments:
            txn.drop(self.slots[segment.slot], delete=False)
        if segments:
            gone = {segment.slot for segment in segments}
            self.write_table(txn, [segment for segment in self.segments(txn) if segment.slot not in gone])

    def pages_in(self, txn: Transaction, segment: Segment) -> int:
        """Pages that a segment takes."""
        stat = txn.stat(self.slots[segment.slot])
        return stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]

    def images_in(self, txn: Transaction, segment: Segment) -> int:
        """Entries of a segment."""
        return txn.stat(self.slots[segment.slot])["entries"]

    def pages_for(self, value: bytes) -> int:
        """Upper bound on the pages of an entry: its own, as LMDB uses for all but small values, and one for its key."""
        return -(-len(value) // self.page) + 1

    def extend(self, pages: int) -> None:
        """Make the file long enough for a transaction with a number of pages, before it ends.

        LMDB leaves pages at the end unwritten if they were not needed after all, and the file would look cut. What is
        added is a hole that takes no space. The last terms are for pages that change in addition, and for the list of
        free ones.
        """
        needed = self.pages + 4 * pages + self.pages // 256 + 256
        if os.fstat(self._file.fileno()).st_size < needed * self.page:
            os.ftruncate(self._file.fileno(), (needed + 256) * self.page)

    def compact(self) -> None:
        """Put a copy without free pages in the place of the file, and close that; other processes turn to the copy."""
        fresh = _trash_path(self.folder)
        with contextlib.ExitStack() as undo:
            undo.callback(shutil.rmtree, fresh, ignore_errors=True)
            fresh.mkdir(mode=0o700)
            self.env.copy(str(fresh), compact=True)
            self.close()
            self.folder.rename(_trash_path(self.folder))
            fresh.rename(self.folder)
            undo.pop_all()
        _sweep(self.folder)

    def close(self) -> None:
        """End the use of the file; no transaction may be under way."""
        self.env.close()
        self._file.close()


def _environment(folder: Path) -> lmdb.Environment:
    """Open or found an environment; with less address space where a process may not have that much."""
    folder.mkdir(mode=0o700, exist_ok=True)
    _reserve(lock_file(folder))
    options: dict[str, Any] = {"max_dbs": SEGMENTS + 1, "max_readers": _READERS, "metasync": False, "mode": 0o700}
    for size in (_MAP, _MAP >> 6):
        with contextlib.suppress(lmdb.MemoryError):
            return lmdb.open(str(folder), map_size=size, **options)
    return lmdb.open(str(folder), map_size=_MAP >> 10, **options)


def data_file(folder: Path) -> Path:
    """The file with everything in it."""
    return folder / "data.mdb"


def lock_file(folder: Path) -> Path:
    """The file with LMDB's locks and its list of readers, which is mapped for writing."""
    return folder / "lock.mdb"


def _check_regular(folder: Path) -> None:
    """Raise an OSError if a file exists and is not a regular file; LMDB would wait for a named pipe."""
    for path in (data_file(folder), lock_file(folder)):
        with contextlib.suppress(FileNotFoundError):
            open_regular(path).close()


def _reserve(path: Path) -> None:
    """Fill the lock file up with zeros: LMDB would leave a hole, and a full disk has no page for a write into one."""
    with path.open("ab") as file:
        file.write(bytes(max(0, _LOCK_BYTES - os.fstat(file.fileno()).st_size)))


def _sealed(rows: bytes) -> bytes:
    return b"%08x" % zlib.crc32(rows) + rows


def _unsealed(raw: bytes, folder: Path) -> bytes:
    rows = raw[8:]
    if raw != _sealed(rows):
        raise damaged(folder)
    return rows


def damaged(folder: Path) -> StoreError:
    """The error for content that is not what was written."""
    return StoreError(f"the image cache {str(folder)!r} is damaged; {CLEAR}")


def inode(folder: Path) -> tuple[int, int] | None:
    """Which file it is; None if it is gone."""
    try:
        stat = os.stat(f"{folder}/data.mdb")  # noqa: PTH116 - at every look-up, and pathlib takes its time
    except FileNotFoundError:
        return None
    return stat.st_dev, stat.st_ino


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep others from writing to, replacing or opening the file meanwhile.

    LMDB's own lock for writers would wait without end for a process that was stopped with Ctrl-Z.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock"), timeout=_LOCK_SECONDS, poll_interval=0.005):
        yield


def remove(folder: Path) -> None:
    """Remove the files of a store; under its own name it is gone at once, and processes that have it open can continue.

    Raises:
        StoreError: there is more in the folder than a store.
    """
    if folder.exists():
        strange = sorted({place.name for place in folder.iterdir()} - set(_FILES))
        if strange:
            raise StoreError(f"{str(folder)!r} holds {strange[0]!r}, which is not ours; remove the folder by hand")
        folder.rename(_trash_path(folder))
    _sweep(folder)


def _trash_path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.{uuid.uuid4().hex}")


def _sweep(folder: Path) -> None:
    """Remove what was put aside, also by processes that were killed then."""
    for place in folder.parent.glob(f"{folder.name}.{'[0-9a-f]' * 32}"):
        _unlink(place)
        place.rmdir()


def _unlink(folder: Path) -> None:
    for name in _FILES:
        (folder / name).unlink(missing_ok=True)


@contextlib.contextmanager
def raising_store_errors(folder: Path) -> Iterator[None]:
    """Raise errors of LMDB and the system as a StoreError."""
    try:
        yield
    except FAULTS as error:
        raise to_store_error(error, folder) from error


def to_store_error(error: Exception, folder: Path) -> StoreError:
    """Translate an error of LMDB or the system into a StoreError with a remedy."""
    shown = f"the image cache {str(folder)!r}"
    if isinstance(error, Timeout):
        return StoreError(f"{shown} was held by another process for {_LOCK_SECONDS:.0f} s; {ELSEWHERE}")
    if isinstance(error, _DAMAGED):
        return StoreError(f"{shown} is damaged, or no cache at all ({error}); {CLEAR}")
    code = getattr(error, "errno", None) or getattr(error, "code", None) or 0
    why = getattr(error, "strerror", None) or (os.strerror(code) if code > 0 else str(error))
    if code in _FULL or isinstance(error, lmdb.MapFullError):
        return StoreFullError(f"{shown} cannot be written ({why}); free space, or {ELSEWHERE}")
    return StoreError(f"{shown} cannot be used ({why}); {ELSEWHERE}")


def _slot(number: int) -> bytes:
    return f"segment {number:02}".encode()

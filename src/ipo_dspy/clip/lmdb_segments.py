"""One LMDB file with the segments of the cache, each a database of features by image hash; the only importer of LMDB.

LMDB reads through a memory map, and reading a mapped page that the file lacks ends the process. So a truncated file is
refused when it is opened, `SegmentFile.extend` keeps the file long enough, and the lock file gets its space before it
is mapped. Network file systems, whose locks and memory maps LMDB cannot rely on, are not supported.
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
"""Version of the layout; a file with another one is left alone."""
SEGMENTS = 64
"""Maximum number of segments, of all models together."""
CLEAR = "remove it with: ipo-dspy cache clear"
ELSEWHERE = "take another folder, e.g. export IPO_DSPY_CACHE=/a/folder/that/you/may/write"

FAULTS = (lmdb.Error, OSError)
"""Errors that `to_store_error` translates."""
_MAP_SIZES = (1 << 40, 1 << 34, 1 << 30)
"""Address space, not memory. The first fits every cache; the others are for processes with limited address space."""
_READERS = 1024
_LOCK_BYTES = 64 * _READERS + 8192  # 64 for each reader, and a little for what comes before them
_LOCK_SECONDS = 60.0
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DAMAGED = (lmdb.InvalidError, lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.VersionMismatchError, lmdb.PanicError)
_FILES = ("data.mdb", "lock.mdb")
_ABOUT, _SCHEMA, _TABLE = b"about", b"schema", b"segments"


@dataclass(frozen=True, slots=True)
class CacheNamespace:
    """Everything besides the image that features depend on."""

    fingerprint: str  # of the model: weights, architecture, transform
    arithmetic: str  # number format, kind of device and precision that it ran with
    software: str  # versions of all that reads, resizes and computes
    name: str = field(compare=False)  # name of the model as the user passed it; it does not count in comparisons


@dataclass(frozen=True, slots=True)
class Segment:
    """Features of one model and setup, up to a size; evicted as a whole."""

    slot: int  # number of its database
    origin: CacheNamespace  # model and setup of the features
    began: float  # first use, in seconds since 1970
    used: float  # last use


Table: TypeAlias = dict[CacheNamespace, tuple[Segment, ...]]


class SegmentFile:
    """The open file of a folder, checked to be complete; open it under `folder_lock`, and only once in a process.

    Raises:
        StoreError: it is truncated, or of another program or version. `raising_store_errors` translates the errors of
            LMDB and the system.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        is_new = not data_file(folder).exists()
        for name in _FILES:  # opening a named pipe, LMDB would wait without end
            with contextlib.suppress(FileNotFoundError):
                open_regular(folder / name).close()
        with contextlib.ExitStack() as undo:
            if is_new:  # a full disk would leave half a file
                undo.callback(_unlink, folder)
            self.env = _environment(folder)
            undo.callback(self.env.close)
            self.page = self.env.stat()["psize"]
            self._file = undo.enter_context(data_file(folder).open("r+b", buffering=0))
            needed = self.pages * self.page  # before the size is read: other processes may be writing
            if not is_new and os.fstat(self._file.fileno()).st_size < needed:
                raise StoreError(f"the image cache {str(folder)!r} is cut off; {CLEAR}")
            self._open_databases()
            self.env.reader_check()  # frees the pages that killed processes were reading
            undo.pop_all()
        self._parsed: tuple[bytes, Table] = (b"[]", {})

    def _open_databases(self) -> None:
        names = [f"segment {slot:02}".encode() for slot in range(SEGMENTS)]
        if self.env.stat()["entries"] == 0:
            with self.env.begin(write=True) as txn:
                txn.put(_SCHEMA, SCHEMA.encode(), db=self.env.open_db(_ABOUT, txn=txn))
                for name in names:
                    self.env.open_db(name, txn=txn)
                self.extend(SEGMENTS)
        try:
            self._about = self.env.open_db(_ABOUT, create=False)
        except lmdb.Error as error:
            raise StoreError(f"{str(data_file(self.folder))!r} belongs to another program; {ELSEWHERE}") from error
        with self.env.begin() as txn:
            if txn.get(_SCHEMA, db=self._about) != SCHEMA.encode():
                reason = "was written by another version of ipo_dspy"
                raise StoreError(f"the image cache {str(self.folder)!r} {reason}; {CLEAR}")
        self.slots = [self.env.open_db(name, create=False) for name in names]

    def is_current(self) -> bool:
        """Return False if another process has removed or replaced the file."""
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), data_file(self.folder).stat())
        except FileNotFoundError:
            return False

    @property
    def pages(self) -> int:
        """Number of pages up to the end of the file, including free ones."""
        return int(self.env.info()["last_pgno"]) + 1

    def table(self, txn: Transaction) -> Table:
        """Return the segments by origin, the newest first."""
        raw = txn.get(_TABLE, _with_checksum(b"[]"), db=self._about)
        if raw != self._parsed[0]:
            if raw != _with_checksum(raw[8:]):
                raise damaged(self.folder)
            segments = [Segment(**{**row, "origin": CacheNamespace(**row["origin"])}) for row in json.loads(raw[8:])]
            table: Table = {}
            for segment in sorted(segments, key=lambda segment: (-segment.began, segment.slot)):
                table[segment.origin] = (*table.get(segment.origin, ()), segment)
            self._parsed = raw, table
        return self._parsed[1]

    def segments(self, txn: Transaction) -> list[Segment]:
        """Return all segments."""
        return [segment for parts in self.table(txn).values() for segment in parts]

    def write_table(self, txn: Transaction, segments: list[Segment]) -> None:
        """Replace the table of segments."""
        rows = json.dumps([asdict(segment) for segment in segments])
        txn.put(_TABLE, _with_checksum(rows.encode()), db=self._about)
        self.extend(0)

    def drop(self, txn: Transaction, dropped: list[Segment]) -> None:
        """Empty segments. Their databases stay, because other processes may have handles to them."""
        for segment in dropped:
            txn.drop(self.slots[segment.slot], delete=False)
        if dropped:
            self.write_table(txn, [segment for segment in self.segments(txn) if segment not in dropped])

    def usage(self, txn: Transaction, segment: Segment) -> tuple[int, int]:
        """Return the numbers of images and of pages in a segment."""
        stat = txn.stat(self.slots[segment.slot])
        return stat["entries"], stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]

    def extend(self, pages: int) -> None:
        """Make the file long enough for a transaction that writes a number of pages, before it ends.

        LMDB does not write pages at the end that were not needed after all, so the file would look truncated. The added
        part is a hole that takes no space. The last terms are for pages that change in addition, and for the list of
        free ones.
        """
        needed = self.pages + 4 * pages + self.pages // 256 + 256
        if os.fstat(self._file.fileno()).st_size < needed * self.page:
            os.ftruncate(self._file.fileno(), (needed + 256) * self.page)

    def compact(self) -> None:
        """Replace the file by a copy without free pages, and close it; other processes switch to the copy."""
        copy = _trash_path(self.folder)
        with contextlib.ExitStack() as undo:
            undo.callback(shutil.rmtree, copy, ignore_errors=True)
            copy.mkdir(mode=0o700)
            self.env.copy(str(copy), compact=True)
            self.close()
            self.folder.rename(_trash_path(self.folder))
            copy.rename(self.folder)
            undo.pop_all()
        _empty_trash(self.folder)

    def close(self) -> None:
        """Close the file; no transaction may be open."""
        self.env.close()
        self._file.close()


def _environment(folder: Path) -> lmdb.Environment:
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / "lock.mdb").open("ab") as file:  # LMDB would leave a hole, and a full disk has no page for one
        file.write(bytes(max(0, _LOCK_BYTES - os.fstat(file.fileno()).st_size)))
    options: dict[str, Any] = {"max_dbs": SEGMENTS + 1, "max_readers": _READERS, "metasync": False, "mode": 0o700}
    *larger, smallest = _MAP_SIZES
    for size in larger:
        with contextlib.suppress(lmdb.MemoryError):
            return lmdb.open(str(folder), map_size=size, **options)
    return lmdb.open(str(folder), map_size=smallest, **options)


def data_file(folder: Path) -> Path:
    """Return the path of the file with all data."""
    return folder / "data.mdb"


def _with_checksum(rows: bytes) -> bytes:
    return b"%08x" % zlib.crc32(rows) + rows


def damaged(folder: Path) -> StoreError:
    """Return the error for data that does not match its checksum."""
    return StoreError(f"the image cache {str(folder)!r} is damaged; {CLEAR}")


def folder_lock(folder: Path) -> FileLock:
    """Return a lock that keeps other processes from writing to, replacing, or opening the file; enter it with `with`.

    LMDB's own lock for writers would wait without end for a process that was stopped with Ctrl-Z.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(folder.with_name(f"{folder.name}.lock"), timeout=_LOCK_SECONDS, poll_interval=0.005)


def remove(folder: Path) -> None:
    """Remove the files of a store that others may have open; raise `StoreError` if the folder contains other files."""
    if folder.exists():
        others = sorted({path.name for path in folder.iterdir()} - set(_FILES))
        if others:
            reason = f"contains {others[0]!r}, which is not part of the cache"
            raise StoreError(f"{str(folder)!r} {reason}; remove the folder by hand")
        folder.rename(_trash_path(folder))
    _empty_trash(folder)


def _trash_path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.{uuid.uuid4().hex}")


def _empty_trash(folder: Path) -> None:
    """Remove folders that were renamed by `_trash_path`, also by processes that were killed then."""
    for path in folder.parent.glob(f"{folder.name}.{'[0-9a-f]' * 32}"):
        _unlink(path)
        path.rmdir()


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
    cache = f"the image cache {str(folder)!r}"
    if isinstance(error, Timeout):
        return StoreError(f"{cache} was held by another process for {_LOCK_SECONDS:.0f} s; {ELSEWHERE}")
    if isinstance(error, _DAMAGED):
        return StoreError(f"{cache} is damaged or not a cache ({error}); {CLEAR}")
    code = getattr(error, "errno", None) or getattr(error, "code", None) or 0
    reason = getattr(error, "strerror", None) or (os.strerror(code) if code > 0 else str(error))
    if code in _FULL or isinstance(error, lmdb.MapFullError):
        return StoreFullError(f"{cache} cannot be written ({reason}); free space, or {ELSEWHERE}")
    return StoreError(f"{cache} cannot be used ({reason}); {ELSEWHERE}")

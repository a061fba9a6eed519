"""A file to which one process at a time appends: on disk when `append` returns, and written anew if it is removed."""

import contextlib
import errno
import os
import sys
import time
import uuid
from io import FileIO
from pathlib import Path

from ipo_dspy._internal.file_io import atomic_write, open_descriptor, sync_folder


class FileInUseError(OSError):
    """A file that another process, or another object of this one, holds the lock of."""


class FileReplacedError(OSError):
    """A file whose name now belongs to another one; `strerror` names the file with everything that was appended."""

    def __init__(self, path: Path, rescued: Path) -> None:
        super().__init__(errno.ESTALE, f"it was replaced by another file; what it held is in {rescued.name!r}", path)


class AppendOnlyFile:
    """A file to which one process at a time appends; each `append` is on disk when it returns.

    The lock is the operating system's, on the open file itself: it ends with the process, and removing a file does not
    free it. What the file held and what was appended are kept in memory as well. If somebody empties or removes the
    file meanwhile, the next `append`, or `close`, writes it anew.

    Args:
        path: the file, made if missing; its folder must exist.
        limit: in bytes, of what it may hold when it is opened.
        patience: seconds to wait for the lock.

    Raises:
        FileInUseError: the lock is held elsewhere.
        OSError: it is no regular file, is larger than `limit`, or cannot be read or written.
    """

    def __init__(self, path: Path, *, limit: int, patience: float = 0.0) -> None:
        self.path = path
        self._rescued: Path | None = None
        self._file = _open_locked(path, limit, patience)
        try:
            self._file.seek(0)
            self._content = bytearray(self._file.read())
        except BaseException:
            self._file.close()
            raise

    @property
    def content(self) -> bytes:
        """What it holds."""
        return bytes(self._content)

    def drop_torn_line(self) -> None:
        """Remove what follows the last newline."""
        size = self._content.rfind(b"\n") + 1
        self._file.truncate(size)
        del self._content[size:]

    def append(self, data: bytes) -> None:
        """Write to the end and sync; what could not be written whole is taken back.

        Raises:
            FileReplacedError: the name belongs to another file now; the data is in a third one, with all the rest.
            OSError: the disk is full or gone.
        """
        self._restore(data)
        size = len(self._content)
        try:
            self._content += data
            self._write(data)
        except BaseException:  # after half a line the next one could not be read
            del self._content[size:]
            with contextlib.suppress(OSError):
                self._file.truncate(size)
            raise

    def close(self, *, remove_empty: bool = False) -> None:
        """See that the file is still there, and let go of it.

        Args:
            remove_empty: remove a file that holds nothing.

        Raises:
            OSError: as `append`.
        """
        try:
            if self._rescued is None:
                self._restore(b"")
            if remove_empty and not self._content:
                with contextlib.suppress(OSError):
                    self.path.unlink()
        finally:
            self._file.close()

    def _restore(self, more: bytes) -> None:
        """Write anew what somebody has emptied or removed; `more` is what is about to be appended."""
        try:
            there = self.path.stat()
        except FileNotFoundError:
            self._file, gone = self._made_anew(more), self._file
            gone.close()
        else:
            same = os.path.samestat(os.fstat(self._file.fileno()), there)
            if not same or there.st_size > len(self._content):
                raise self._replaced(more)
            if there.st_size == len(self._content):
                return
            self._file.truncate(0)
        self._write(self._content)

    def _made_anew(self, more: bytes) -> FileIO:
        """The file under its name again, empty and locked."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return _open_locked(self.path, 0, 0.0, more_flags=os.O_EXCL)
        except (FileExistsError, FileInUseError):
            raise self._replaced(more) from None

    def _replaced(self, more: bytes) -> FileReplacedError:
        self._content += more
        if self._rescued is None:
            self._rescued = self.path.with_name(f"{self.path.stem}-{uuid.uuid4().hex[:8]}{self.path.suffix}")
        atomic_write(self._rescued, bytes(self._content))
        return FileReplacedError(self.path, self._rescued)

    def _write(self, data: bytes | bytearray) -> None:
        self._file.seek(0, os.SEEK_END)
        with memoryview(data) as whole:
            written = 0
            while written < len(whole):
                written += self._file.write(whole[written:])
        os.fsync(self._file.fileno())


def complete_lines(content: bytes) -> list[bytes]:
    r"""Return the lines of a file up to the last newline; what follows it was never finished.

    >>> complete_lines(b"one\ntwo\nthr")
    [b'one', b'two']
    """
    *lines, _torn = content.split(b"\n")
    return lines


def is_locked(path: Path) -> bool:
    """Return whether somebody holds the lock of a file; one that does not exist is held by nobody.

    Raises:
        OSError: the file cannot be read, or its file system knows no locks.
    """
    try:
        descriptor = open_descriptor(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        _lock(descriptor, shared=True)
    except FileInUseError:
        return True
    finally:
        os.close(descriptor)
    return False


def _open_locked(path: Path, limit: int, patience: float, *, more_flags: int = 0) -> FileIO:
    """Open for appending, and see that the lock is that of the file which has this name by then."""
    deadline = time.monotonic() + patience
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | more_flags
    while True:
        file = FileIO(open_descriptor(path, flags, limit=limit), "a+b")
        try:
            _lock(file.fileno())
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                sync_folder(path.parent)
                return file
        except FileInUseError:
            if time.monotonic() >= deadline:
                file.close()
                raise
        except FileNotFoundError:
            pass  # its last writer has just removed it
        except BaseException:
            file.close()
            raise
        file.close()
        time.sleep(0.02)


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int, *, shared: bool = False) -> None:
        # Of a byte far beyond the end: what is locked here, others could not read.
        place = os.lseek(descriptor, 0, os.SEEK_CUR)
        os.lseek(descriptor, 1 << 40, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            if shared:
                msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
        except OSError as error:
            raise FileInUseError(errno.EAGAIN, "it is in use") from error
        finally:
            os.lseek(descriptor, place, os.SEEK_SET)

else:
    import fcntl

    def _lock(descriptor: int, *, shared: bool = False) -> None:
        """Take the lock, which ends with the last descriptor of this open file.

        Raises:
            FileInUseError: it is held elsewhere.
            OSError: the file system knows no locks.
        """
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FileInUseError(errno.EAGAIN, "it is in use") from error

"""A durable append-only file for one writer at a time."""

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
    """The file is locked by another process, or by another object of this process."""


class FileReplacedError(OSError):
    """The path now belongs to another file; `strerror` names the file that holds everything appended so far."""

    def __init__(self, path: Path, rescued: Path) -> None:
        super().__init__(errno.ESTALE, f"it was replaced by another file; what it held is in {rescued.name!r}", path)


class AppendOnlyFile:
    """An append-only file for one writer at a time; each `append` is on disk when it returns.

    The operating system locks the open file itself. The lock ends with the process, and removing the file does not
    release it. If the file is emptied or removed, the next `append` or `close` writes its content again, from memory.

    Args:
        path: the file, created if missing; its folder must exist.
        limit: maximum size of the file in bytes when it is opened.
        patience: seconds to wait for the lock.

    Raises:
        FileInUseError: the lock is held elsewhere.
        OSError: the path is not a regular file, is larger than `limit`, or cannot be read or written.
    """

    def __init__(self, path: Path, *, limit: int, patience: float = 0.0) -> None:
        self.path = path
        self._rescued: Path | None = None
        with contextlib.ExitStack() as undo:
            self._file = undo.enter_context(_open_locked(path, limit, patience))
            self._file.seek(0)
            self._content = bytearray(self._file.read())
            undo.pop_all()

    @property
    def content(self) -> bytes:
        """The complete content of the file."""
        return bytes(self._content)

    def drop_torn_line(self) -> None:
        """Remove everything after the last newline."""
        size = self._content.rfind(b"\n") + 1
        self._file.truncate(size)
        del self._content[size:]

    def append(self, data: bytes) -> None:
        """Append data and sync it to disk; a partial write is removed again.

        Raises:
            FileReplacedError: the path belongs to another file now; a third file holds the complete content.
            OSError: the disk is full or not available.
        """
        self._restore(data)
        size = len(self._content)
        try:
            self._content += data
            self._write(data)
        except BaseException:  # a line after a partial one could not be read
            del self._content[size:]
            with contextlib.suppress(OSError):
                self._file.truncate(size)
            raise

    def close(self, *, remove_empty: bool = False) -> None:
        """Restore the file if it was removed or emptied, or remove it if it is empty and `remove_empty`; then close it.

        Raises:
            OSError: the same errors as `append`.
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
        """Write the content again if the file was emptied or removed; `more` is the data about to be appended."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                new_file = _open_locked(self.path, 0, 0.0, more_flags=os.O_EXCL)
            except (FileExistsError, FileInUseError):
                raise self._replaced(more) from None
            self._file.close()
            self._file = new_file
        else:
            is_same = os.path.samestat(os.fstat(self._file.fileno()), status)
            if not is_same or status.st_size > len(self._content):
                raise self._replaced(more)
            if status.st_size == len(self._content):
                return
            self._file.truncate(0)
        self._write(self._content)

    def _replaced(self, more: bytes) -> FileReplacedError:
        self._content += more
        if self._rescued is None:
            self._rescued = self.path.with_name(f"{self.path.stem}-{uuid.uuid4().hex[:8]}{self.path.suffix}")
        atomic_write(self._rescued, bytes(self._content))
        return FileReplacedError(self.path, self._rescued)

    def _write(self, data: bytes | bytearray) -> None:
        self._file.seek(0, os.SEEK_END)
        with memoryview(data) as view:
            written = 0
            while written < len(view):
                written += self._file.write(view[written:])
        os.fsync(self._file.fileno())


def complete_lines(content: bytes) -> list[bytes]:
    r"""Return the lines of a file up to the last newline; an incomplete last line is left out.

    >>> complete_lines(b"one\ntwo\nthr")
    [b'one', b'two']
    """
    *lines, _torn = content.split(b"\n")
    return lines


def is_locked(path: Path) -> bool:
    """Return True if a file is locked; a missing file is not.

    Raises:
        OSError: the file cannot be read, or its file system does not support locks.
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
    """Open a file for appending and lock it; retry if the path belongs to another file by then."""
    deadline = time.monotonic() + patience
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | more_flags
    while True:
        with contextlib.ExitStack() as undo:
            file = undo.enter_context(FileIO(open_descriptor(path, flags, limit=limit), "a+b"))
            try:
                _lock(file.fileno())
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    sync_folder(path.parent)
                    undo.pop_all()
                    return file
            except FileInUseError:
                if time.monotonic() >= deadline:
                    raise
            except FileNotFoundError:
                pass  # its last writer has just removed it
        time.sleep(0.02)


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int, *, shared: bool = False) -> None:
        # Lock a byte far beyond the end: Windows keeps others from reading locked bytes.
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
        """Take the lock, which ends with the last descriptor of this open file."""
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FileInUseError(errno.EAGAIN, "it is in use") from error

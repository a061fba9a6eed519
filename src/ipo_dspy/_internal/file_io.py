"""Bounded reads of regular files, and atomic writes.

All paths that users pass are opened here, so that a named pipe, a device, or an endless file can neither block the
process nor exhaust its memory.
"""

import contextlib
import errno
import os
import stat
import uuid
from pathlib import Path
from typing import Any, BinaryIO

from ipo_dspy._internal.json_input import parse_json

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


def open_regular(path: str | os.PathLike[str], *, limit: int | None = None) -> BinaryIO:
    """Open a regular file of at most `limit` bytes, or a link to one, for reading.

    Raises:
        OSError: the file does not exist, cannot be read, is not a regular file, or is larger; `strerror` says which.
    """
    return os.fdopen(open_descriptor(path, os.O_RDONLY, limit=limit), "rb")


def open_descriptor(path: str | os.PathLike[str], flags: int, *, limit: int | None = None) -> int:
    """Return a descriptor of a regular file opened with `flags`; for reading, see `open_regular`."""
    # Without O_NONBLOCK, opening a named pipe would block until a process opens its other end.
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0), 0o666)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "a special file")
            raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", os.fspath(path))
        if limit is not None and status.st_size > limit:
            reason = f"it has {status.st_size:,} bytes, more than the {limit:,} that are read"
            raise OSError(errno.EFBIG, reason, os.fspath(path))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_regular(path: str | os.PathLike[str], *, limit: int) -> bytes:
    """Return the bytes of a regular file of at most `limit` bytes.

    Raises:
        OSError: the same errors as `open_regular`, or the file grows beyond the limit while it is read.
    """
    with open_regular(path, limit=limit) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it grew to more than the {limit:,} bytes that are read", os.fspath(path))
    return data


def read_json(path: str | os.PathLike[str], *, limit: int) -> Any:
    """Return the JSON value in a regular file: UTF-8, UTF-16, or UTF-32, with or without a byte order mark.

    Raises:
        OSError: the same errors as `read_regular`.
        ValueError: the file does not hold JSON, or is nested too deeply.
    """
    return parse_json(read_regular(path, limit=limit))


def atomic_write(target: Path, data: bytes) -> None:
    """Write to a temporary file in the same folder, sync it, and rename it; a partial file is removed."""
    part = target.parent / f".{target.name}.{uuid.uuid4().hex}.part"
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except BaseException:  # remove the temporary file after Ctrl-C, too
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Sync the entries of a folder, where the system supports it; a synced file may otherwise lose its name."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

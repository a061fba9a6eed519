"""Write a file whole, or a line of one: whatever happens, a reader sees what was there before or what is there now."""

import contextlib
import os
import uuid
from io import FileIO
from pathlib import Path


def write_whole(target: Path, data: bytes) -> None:
    """Write beside its place, sync and move there; what could not be written whole is removed.

    Raises:
        OSError: the file cannot be written there.
    """
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def append_whole(file: FileIO, data: bytes) -> None:
    """Write to the end of an open file and sync; what could not be written whole is taken back.

    Raises:
        OSError: the disk is full or gone.
    """
    begin = file.seek(0, os.SEEK_END)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            file.truncate(begin)
        raise

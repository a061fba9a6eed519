"""Write a file whole: beside its place and then moved there, so that a reader sees the old one or the new one."""

import contextlib
import os
import uuid
from pathlib import Path


def write_whole(target: Path, data: bytes) -> None:
    """Write, sync and move to its place; what could not be written whole is removed.

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

"""Features of partitions on disk, a file for each, in a folder shared by all workers.

A file is named after the model and the images, and its checksum covers the name and the content, so one that can be
read is the right one. It is written whole or not at all, and one that cannot be read is made anew.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ipo_dspy._internal.file_io import atomic_write, open_regular
from ipo_dspy.clip.lmdb_segments import CacheNamespace
from ipo_dspy.errors import InputError

_ROWS = ("labels", "indices", "keys", "skipped")


@dataclass(frozen=True, slots=True)
class StoredPartition:
    """An encoded partition.

    Attributes:
        features: [n, D], float32, normalized.
        labels: n class names or numbers, as the source has them.
        indices: n positions in the partition.
        keys: n content hashes.
        skipped: position and message of each image that could not be read.
    """

    features: Tensor
    labels: tuple[str | int, ...]
    indices: tuple[int, ...]
    keys: tuple[str, ...]
    skipped: tuple[tuple[int, str], ...]


def file_name(origin: CacheNamespace, stamp: str) -> str:
    """Return the name for a model's features of certain images, by all that they depend on."""
    text = f"{origin.fingerprint} {origin.arithmetic} {origin.software} {stamp}"
    return hashlib.sha256(text.encode()).hexdigest()[:40] + ".safetensors"


def write(folder: str, name: str, kept: StoredPartition) -> None:
    """Write a file whole: another worker may be reading it, and this one may be killed.

    Raises:
        InputError: the folder is missing, or cannot be written to.
    """
    from safetensors.torch import save

    rows = json.dumps({field: getattr(kept, field) for field in _ROWS})
    metadata = {"told": rows, "sum": _sum(name, rows, kept.features)}
    data = save({"features": kept.features.contiguous()}, metadata=metadata)
    try:
        atomic_write(Path(folder) / name, data)
    except OSError as error:
        raise InputError(
            f"{folder!r} cannot be written ({error.strerror})",
            argument="store",
            hint="pass a folder that all nodes share",
        ) from error


def read(folder: str, name: str) -> StoredPartition | None:
    """Return what was written, memory-mapped; None where there is no file, or no whole one."""
    from safetensors import SafetensorError, safe_open

    try:
        open_regular(Path(folder) / name).close()  # opening a named pipe would block
        with safe_open(Path(folder) / name, framework="pt") as file:
            rows, expected = file.metadata()["told"], file.metadata()["sum"]
            features = file.get_tensor("features")
        if _sum(name, rows, features) != expected:
            return None
        found = json.loads(rows)
        labels, indices, keys, skipped = (tuple(found[field]) for field in _ROWS)
        return StoredPartition(features, labels, indices, keys, tuple((index, message) for index, message in skipped))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None


def _sum(name: str, rows: str, features: Tensor) -> str:
    """Return a checksum; the format has none, and a flipped bit would be a wrong number or label."""
    digest = hashlib.sha256(f"{name}\n{rows}\n".encode())
    digest.update(features.contiguous().numpy().data)
    return digest.hexdigest()

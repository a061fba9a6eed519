"""Store the features of partitions on disk, one file each, in a folder shared by all workers.

A file is named after the model and the images. Its checksum covers name and content, because safetensors has none and a
flipped bit would go unnoticed in a feature or a label. A file that cannot be read is computed again.
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
    """An encoded partition of n readable images."""

    features: Tensor  # [n, D], float32, normalized
    labels: tuple[str | int, ...]  # n class names or numbers, as the source has them
    indices: tuple[int, ...]  # n positions in the partition
    keys: tuple[str, ...]  # n content hashes
    skipped: tuple[tuple[int, str], ...]  # position and message of each image that could not be read


def file_name(origin: CacheNamespace, stamp: str) -> str:
    """Return the file name for a model's features of some images: a hash of everything they depend on."""
    text = f"{origin.fingerprint} {origin.arithmetic} {origin.software} {stamp}"
    return hashlib.sha256(text.encode()).hexdigest()[:40] + ".safetensors"


def write(folder: str, name: str, kept: StoredPartition) -> None:
    """Write a file atomically; raise `InputError` if the folder cannot be written to."""
    from safetensors.torch import save

    rows = json.dumps({field: getattr(kept, field) for field in _ROWS})
    metadata = {"rows": rows, "sum": _sum(name, rows, kept.features)}
    data = save({"features": kept.features.contiguous()}, metadata=metadata)
    try:
        atomic_write(Path(folder) / name, data)
    except OSError as error:
        message, hint = f"{folder!r} cannot be written ({error.strerror})", "pass a folder that all nodes share"
        raise InputError(message, argument="store", hint=hint) from error


def read(folder: str, name: str) -> StoredPartition | None:
    """Return a stored partition, memory-mapped; None if the file is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        open_regular(Path(folder) / name).close()  # opening a named pipe would block
        with safe_open(Path(folder) / name, framework="pt") as file:
            metadata = dict(file.metadata())
            expected = metadata.pop("sum")
            (rows,) = metadata.values()  # earlier versions used another key
            features = file.get_tensor("features")
        if _sum(name, rows, features) != expected:
            return None
        fields = json.loads(rows)
        labels, indices, keys, skipped = (tuple(fields[field]) for field in _ROWS)
        return StoredPartition(features, labels, indices, keys, tuple((index, message) for index, message in skipped))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None


def _sum(name: str, rows: str, features: Tensor) -> str:
    digest = hashlib.sha256(f"{name}\n{rows}\n".encode())
    digest.update(features.contiguous().numpy().data)
    return digest.hexdigest()

"""Features of parts on disk, a file for each, in a folder that all workers see.

A file is named after the model and the images, and its checksum covers the name and all that is in it, so one that can
be read is the right one. It is written whole or not at all, and one that cannot be read is made anew. Features are
float32 as they were computed.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ipo_dspy._internal.file_io import open_regular, write_whole
from ipo_dspy.clip.lmdb_segments import Origin
from ipo_dspy.errors import InputError


@dataclass(frozen=True, slots=True)
class Kept:
    """What is known of a part once it is encoded.

    Attributes:
        features: [n, D], float32, normalised.
        labels: n class names or numbers, as the source has them.
        indices: n places in the part.
        keys: n hashes of content.
        skipped: place in the part and message of each image that could not be read.
    """

    features: Tensor
    labels: tuple[str | int, ...]
    indices: tuple[int, ...]
    keys: tuple[str, ...]
    skipped: tuple[tuple[int, str], ...]


def file_name(origin: Origin, stamp: str) -> str:
    """Of a model's features of certain images, by all that they depend on."""
    told = f"{origin.fingerprint} {origin.arithmetic} {origin.software} {stamp}"
    return hashlib.sha256(told.encode()).hexdigest()[:40] + ".safetensors"


def write(folder: str, name: str, kept: Kept) -> None:
    """Write a file whole: another worker may be reading, and this one may be killed.

    Raises:
        InputError: the folder is not there, or cannot be written to.
    """
    from safetensors.torch import save

    told = json.dumps({"labels": kept.labels, "indices": kept.indices, "keys": kept.keys, "skipped": kept.skipped})
    metadata = {"told": told, "sum": _sum(name, told, kept.features)}
    data = save({"features": kept.features.contiguous()}, metadata=metadata)
    try:
        write_whole(Path(folder) / name, data)
    except OSError as error:
        raise InputError(
            f"features cannot be written to store={folder!r} ({error.strerror}); name a folder that all nodes share"
        ) from error


def read(folder: str, name: str) -> Kept | None:
    """What was written, mapped and not loaded; None where there is nothing, or nothing whole."""
    from safetensors import SafetensorError, safe_open

    try:
        open_regular(Path(folder) / name).close()  # a named pipe would be waited for
        with safe_open(Path(folder) / name, framework="pt") as file:
            text, expected = file.metadata()["told"], file.metadata()["sum"]
            features = file.get_tensor("features")
        if _sum(name, text, features) != expected:
            return None
        told = json.loads(text)
        skipped = tuple((index, message) for index, message in told["skipped"])
        return Kept(features, tuple(told["labels"]), tuple(told["indices"]), tuple(told["keys"]), skipped)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None


def _sum(name: str, told: str, features: Tensor) -> str:
    """The format has none of its own, and a bit that flipped would be a wrong number or label."""
    digest = hashlib.sha256(f"{name}\n{told}\n".encode())
    digest.update(features.contiguous().numpy().data)
    return digest.hexdigest()

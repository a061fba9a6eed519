"""Cache of a model's image features, first in memory, then on disk.

A store that is damaged, foreign, read-only or full costs time and never the run: a warning names a remedy, and images
are encoded as if there were no store.
"""

import functools
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import PIL
import PIL.features
import torch
from torch import Tensor

from ipo_dspy._internal.versions import package_versions
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.bundled import canonical_model_name
from ipo_dspy.clip.cache_config import cache_folder, cache_limit
from ipo_dspy.clip.feature_store import FeatureStore
from ipo_dspy.clip.image_io import READING
from ipo_dspy.clip.lmdb_segments import CacheNamespace
from ipo_dspy.clip.transformers_files import TRANSFORMERS
from ipo_dspy.errors import StoreError, StoreFullError

_Result = TypeVar("_Result")

logger = logging.getLogger(__name__)


class FeatureCache:
    """Features of images by content, for a model and the current settings of PyTorch.

    `backbone.image_memo` is the cache in memory. Raises `InputError` if the size limit in the environment is not valid.
    """

    def __init__(self, backbone: Backbone, *, on_disk: bool = True) -> None:
        self._memo = backbone.image_memo
        self._disk = _disk() if on_disk else None
        self._origin = origin(backbone)

    def get(self, key: str) -> Tensor | None:
        """Return the features [D] of the image with this hash, float32 on the CPU, or None."""
        features = self._memo.get(key)
        if features is None and self._disk is not None:
            row = self._disk.attempt(lambda store: store.get(self._origin, key))
            if row is not None:
                features = torch.from_numpy(row.copy())  # torch wants an array that may be written to
                self._memo.put(key, features)
        return features

    def store_in_memory(self, rows: Mapping[str, Tensor]) -> None:
        """Store features [D] by hash in memory."""
        for key, row in rows.items():
            self._memo.put(key, row)

    def store_on_disk(self, rows: Mapping[str, Tensor]) -> None:
        """Store features [D] by hash on disk, all or none; they survive a kill of the process."""
        if self._disk is not None and rows:
            arrays = {key: row.numpy() for key, row in rows.items()}
            self._disk.attempt(lambda store: store.put(self._origin, arrays), writes=True)

    def record_uses(self) -> None:
        """Record on disk which features were used."""
        if self._disk is not None:
            self._disk.attempt(FeatureStore.record_uses, writes=True)


class FailSafeStore:
    """A store that is not used again after it has failed, until the process ends; a full one is still read."""

    def __init__(self, store: FeatureStore) -> None:
        self.store = store
        self._reads = self._writes = True
        self._lock = threading.Lock()

    def attempt(self, call: Callable[[FeatureStore], _Result], *, writes: bool = False) -> _Result | None:
        """Return the result of a call, or None after a failure, of which one warning is logged."""
        if not (self._writes if writes else self._reads):
            return None
        try:
            return call(self.store)
        except StoreError as error:
            readable = writes and isinstance(error, StoreFullError)
            with self._lock:
                is_known = not (self._writes if readable else self._reads)  # from another thread
                self._reads, self._writes = self._reads and readable, False
            if not is_known:
                effect = "nothing more is kept until then" if readable else "until then images are encoded without it"
                logger.warning("%s; %s", error, effect)
        return None


_disks: dict[Path, FailSafeStore] = {}


def _disk() -> FailSafeStore | None:
    folder = cache_folder()
    if folder is None:
        return None
    disk = _disks.setdefault(folder, FailSafeStore(FeatureStore(folder, cache_limit())))
    disk.store.limit = cache_limit()  # one store for each folder: LMDB allows no file to be open twice
    return disk


def origin(backbone: Backbone) -> CacheNamespace:
    """Return everything besides the image that features depend on in this process."""
    kind = backbone.device.type
    parts = [backbone.identity["dtype"], kind, f"matmul {torch.get_float32_matmul_precision()}"]
    if torch.is_autocast_enabled(kind):
        parts.append(f"autocast {torch.get_autocast_dtype(kind)}")
    library = "transformers" if backbone.name.startswith(TRANSFORMERS) else "open_clip_torch"
    shown = f"{canonical_model_name(backbone.name)} {backbone.pretrained or ''}".strip()
    return CacheNamespace(backbone.fingerprint, ", ".join(parts), f"reading {READING}, {_software(library)}", shown)


@functools.cache
def _software(library: str) -> str:
    # The Pillow of a Linux distribution uses the libjpeg of the system, which is updated independently.
    libjpeg = PIL.features.version("libjpeg_turbo") or PIL.features.version("jpg")
    versions = {"Pillow": PIL.__version__, "libjpeg": str(libjpeg)}
    for name, version in package_versions(("torch", "torchvision", library)).items():
        versions[name] = version.partition("+")[0]  # +cpu and +cu128 compute the same here
    return ", ".join(f"{name} {version}" for name, version in versions.items())

"""Cache of a model's image features, first in memory, then on disk; keeps working if the disk fails.

A store that is damaged, foreign, read-only or full costs time and never the run: a warning says what to do, and images
are encoded as if it were not there.
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
from ipo_dspy.clip.lmdb_segments import CacheNamespace
from ipo_dspy.errors import StoreError, StoreFullError

_COMPUTE = ("torch", "torchvision", "open_clip_torch")

logger = logging.getLogger(__name__)

_Found = TypeVar("_Found")


class FeatureCache:
    """Features of images by content, under the model and the settings of now.

    Args:
        backbone: the model; its `image_memo` is the memory.
        reading: number of the way in which images become pixels.

    Raises:
        InputError: a variable of the environment that cannot be understood.
    """

    def __init__(self, backbone: Backbone, reading: int) -> None:
        self._memo = backbone.image_memo
        self._disk = _disk()
        self._origin = origin(backbone, reading)

    def get(self, key: str) -> Tensor | None:
        """Features [D] of the image with this hash, float32 on the CPU, or None."""
        features = self._memo.get(key)
        if features is None and self._disk is not None:
            row = self._disk.attempt(lambda store: store.get(self._origin, key))
            if row is not None:
                features = torch.from_numpy(row.copy())  # torch wants an array that may be written to
                self._memo.put(key, features)
        return features

    def remember(self, rows: Mapping[str, Tensor]) -> None:
        """Keep features [D] by hash in memory, at once."""
        for key, row in rows.items():
            self._memo.put(key, row)

    def keep(self, rows: Mapping[str, Tensor]) -> None:
        """Keep them on disk, all or none: when this returns, no kill of the process takes them away."""
        if self._disk is not None and rows:
            arrays = {key: row.numpy() for key, row in rows.items()}
            self._disk.attempt(lambda store: store.put(self._origin, arrays), writes=True)

    def settle(self) -> None:
        """Write down what was used."""
        if self._disk is not None:
            self._disk.attempt(FeatureStore.settle, writes=True)


class FailSafeStore:
    """A store as far as it works: after a failure it is left alone, as long as the process lives."""

    def __init__(self, store: FeatureStore) -> None:
        self.store = store
        self.reads = self.writes = True
        self._telling = threading.Lock()

    def attempt(self, work: Callable[[FeatureStore], _Found], *, writes: bool = False) -> _Found | None:
        """Return the result of a call, or None and, once, a warning."""
        if self.writes if writes else self.reads:
            try:
                return work(self.store)
            except StoreError as error:
                self._fail(error, reads=writes and isinstance(error, StoreFullError))
        return None

    def _fail(self, error: StoreError, *, reads: bool) -> None:
        with self._telling:
            known = not (self.writes if reads else self.reads)
            self.reads, self.writes = self.reads and reads, False
        if not known:  # by another thread
            way = "nothing more is kept until then" if reads else "until then images are encoded without it"
            logger.warning("%s; %s", error, way)


_disks: dict[Path, FailSafeStore] = {}


def _disk() -> FailSafeStore | None:
    folder = cache_folder()
    if folder is None:
        return None
    disk = _disks.setdefault(folder, FailSafeStore(FeatureStore(folder, cache_limit())))
    disk.store.limit = cache_limit()  # one store a folder: LMDB allows no file to be open twice
    return disk


def origin(backbone: Backbone, reading: int) -> CacheNamespace:
    """Return everything besides the image that its features depend on in this process."""
    kind = backbone.device.type
    parts = [backbone.identity["dtype"], kind, f"matmul {torch.get_float32_matmul_precision()}"]
    if torch.is_autocast_enabled(kind):
        parts.append(f"autocast {torch.get_autocast_dtype(kind)}")
    shown = f"{canonical_model_name(backbone.name)} {backbone.pretrained or ''}".strip()
    return CacheNamespace(backbone.fingerprint, ", ".join(parts), f"reading {reading}, {_software()}", shown)


def _libjpeg() -> str | None:
    """Pillows of distributions take it from the system, where it changes by itself."""
    return PIL.features.version("libjpeg_turbo") or PIL.features.version("jpg")


@functools.cache
def _software() -> str:
    versions = {"Pillow": PIL.__version__, "libjpeg": str(_libjpeg())}
    for name, version in package_versions(_COMPUTE).items():
        versions[name] = version.partition("+")[0]  # +cpu and +cu128 compute the same here
    return ", ".join(f"{name} {version}" for name, version in versions.items())

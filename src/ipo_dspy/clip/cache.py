"""What is known of a model's image features: first in memory, then on disk; and going on where the disk fails.

The store lies in the user's cache folder unless the environment says otherwise. One that is damaged, foreign, read-only
or full costs time and never the run: a warning says what to do, and images are encoded as if it were not there.
"""

import functools
import importlib.metadata
import logging
import os
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import PIL
import PIL.features
import torch
from torch import Tensor

from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.segments import Origin
from ipo_dspy.clip.store import FeatureStore
from ipo_dspy.errors import InputError, StoreError, StoreFullError

PLACE, LIMIT = "IPO_DSPY_CACHE", "IPO_DSPY_CACHE_LIMIT"
"""Names of the variables: a folder, or one of `OFF`; and a size such as 10GB."""

OFF = ("", "0", "off", "no", "none", "false")
FOLDER = "image-features"
DEFAULT_LIMIT = 10 * 10**9
LEAST_LIMIT = 50 * 10**6
"""Of less, what must stay free would leave next to nothing."""

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_COMPUTE = ("torch", "torchvision", "open_clip_torch")

logger = logging.getLogger(__name__)

_Found = TypeVar("_Found")


class KnownFeatures:
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
        found = self._memo.get(key)
        if found is None and self._disk is not None:
            row = self._disk.attempt(lambda store: store.get(self._origin, key))
            if row is not None:
                found = torch.from_numpy(row.copy())  # torch wants an array that may be written to
                self._memo.put(key, found)
        return found

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


class Disk:
    """A store as far as it works: after a failure it is left alone, as long as the process lives."""

    def __init__(self, store: FeatureStore) -> None:
        self.store = store
        self.reads = self.writes = True
        self._telling = threading.Lock()

    def attempt(self, work: Callable[[FeatureStore], _Found], *, writes: bool = False) -> _Found | None:
        """What something gives, or None and, once, a warning."""
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


_disks: dict[Path, Disk] = {}


def _disk() -> Disk | None:
    folder = cache_folder()
    if folder is None:
        return None
    disk = _disks.setdefault(folder, Disk(FeatureStore(folder, cache_limit())))
    disk.store.limit = cache_limit()  # one store a folder: LMDB allows no file to be open twice
    return disk


def cache_folder() -> Path | None:
    """Where the store is, or None if it is off."""
    told = os.environ.get(PLACE)
    if told is not None and told.strip().lower() in OFF:
        return None
    if told is not None:
        return Path(told).expanduser().absolute() / FOLDER
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (given if given.is_absolute() else Path.home() / ".cache") / "ipo_dspy" / FOLDER
    except RuntimeError:  # a user without a home
        return None


def cache_limit() -> int:
    """Bytes that the store may take.

    Raises:
        InputError: it is no size, or too small a one.
    """
    told = os.environ.get(LIMIT, "").strip()
    if not told:
        return DEFAULT_LIMIT
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", told.lower())
    if parts is None or parts[2] not in _UNITS:
        raise InputError(f"{LIMIT}={told!r} is no size; write e.g. {LIMIT}=10GB")
    size = int(float(parts[1]) * _UNITS[parts[2]])
    if size < LEAST_LIMIT:
        raise InputError(f"{LIMIT}={told!r} is too small; write at least {LIMIT}=50MB, or {PLACE}=off for no cache")
    return size


def origin(backbone: Backbone, reading: int) -> Origin:
    """What the features of images depend on besides the images, as things are now."""
    kind = backbone.device.type
    parts = [backbone.identity["dtype"], kind, f"matmul {torch.get_float32_matmul_precision()}"]
    if torch.is_autocast_enabled(kind):
        parts.append(f"autocast {torch.get_autocast_dtype(kind)}")
    named = f"{backbone.name} {backbone.pretrained or ''}".strip()
    return Origin(backbone.fingerprint, ", ".join(parts), f"reading {reading}, {_software()}", named)


def _libjpeg() -> str | None:
    """Pillows of distributions take it from the system, where it changes by itself."""
    return PIL.features.version("libjpeg_turbo") or PIL.features.version("jpg")


@functools.cache
def _software() -> str:
    versions = {"Pillow": PIL.__version__, "libjpeg": str(_libjpeg())}
    for name in _COMPUTE:
        try:
            versions[name] = importlib.metadata.version(name).partition("+")[0]  # +cpu and +cu128 compute alike here
        except importlib.metadata.PackageNotFoundError:  # built on the spot
            versions[name] = "unknown"
    return ", ".join(f"{name} {version}" for name, version in versions.items())

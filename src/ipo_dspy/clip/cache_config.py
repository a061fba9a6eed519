"""Location and size limit of the image-feature cache: the user's cache folder, or as set in the environment."""

import os
import re
from pathlib import Path

from ipo_dspy.errors import InputError

PLACE, LIMIT = "IPO_DSPY_CACHE", "IPO_DSPY_CACHE_LIMIT"
"""Names of the variables: a folder, or one of `OFF`; and a size such as 10GB."""
OFF = ("", "0", "off", "no", "none", "false")
FOLDER = "image-features"
DEFAULT_LIMIT = 10 * 10**9
LEAST_LIMIT = 50 * 10**6
"""With a lower limit, the part that must stay free would leave next to nothing."""
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}


def cache_folder() -> Path | None:
    """Return the folder of the cache, or None if it is off."""
    setting = os.environ.get(PLACE)
    if setting is not None:
        return None if setting.strip().lower() in OFF else Path(setting).expanduser().absolute() / FOLDER
    cache_home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (cache_home if cache_home.is_absolute() else Path.home() / ".cache") / "ipo_dspy" / FOLDER
    except RuntimeError:  # a user without a home
        return None


def cache_limit() -> int:
    """Return the maximum size of the cache in bytes; raise `InputError` if it is not a size, or too small."""
    setting = os.environ.get(LIMIT, "").strip()
    if not setting:
        return DEFAULT_LIMIT
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", setting.lower())
    if parts is None or parts[2] not in _UNITS:
        raise InputError(f"{LIMIT} must be a size, got {setting!r}; for example {LIMIT}=10GB")
    size = int(float(parts[1]) * _UNITS[parts[2]])
    if size < LEAST_LIMIT:
        raise InputError(f"{LIMIT} must be at least 50MB, got {setting!r}; set {PLACE}=off for no cache")
    return size

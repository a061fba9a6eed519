"""Accept settings under their names in earlier versions, with a `DeprecationWarning`."""

import functools
import warnings
from collections.abc import Collection, Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any, TypeVar, cast

from ipo_dspy.errors import InputError

T = TypeVar("T")

RENAMED: Mapping[str, str] = MappingProxyType(
    {
        "words": "ctx_init",
        "batch": "batch_size",
        "weight": "consistency_weight",
        "image_share": "image_adapter_ratio",
        "text_share": "text_adapter_ratio",
    }
)
"""Old name -> new name."""


def current_names(settings: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Return settings under their current names; warn about each old name of a known setting.

    >>> current_names({"epochs": 5, "weight": 2}, known=["epochs", "depth"])
    {'epochs': 5, 'weight': 2}
    """
    current = dict(settings)
    for old in settings:
        new = RENAMED.get(old, old)
        if new == old or new not in known:
            continue
        if new in settings:
            raise InputError(f"{old} is the old name of {new}, and both are given; pass only {new}")
        message = f"{old} is now named {new}; pass {new}={settings[old]!r:.80}"
        warnings.warn(message, DeprecationWarning, stacklevel=3)
        current[new] = current.pop(old)
    return current


def takes_old_names(method: type[T]) -> type[T]:
    """Let a dataclass accept its fields under their old names, too."""
    init = method.__init__
    known = [setting.name for setting in fields(cast(Any, method))]

    @functools.wraps(init)
    def accept(self: T, *args: Any, **settings: Any) -> None:
        init(self, *args, **current_names(settings, known))

    method.__init__ = accept  # type: ignore[assignment]
    return method

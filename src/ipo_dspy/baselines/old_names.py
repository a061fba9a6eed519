"""Settings of earlier versions under their names now, with a `DeprecationWarning`."""

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
    """Return settings under their names now, of which some are known; one by its old name is a `DeprecationWarning`.

    Raises:
        InputError: a setting is given by both names.

    >>> current_names({"epochs": 5, "weight": 2}, known=["epochs", "depth"])
    {'epochs': 5, 'weight': 2}
    """
    found = dict(settings)
    for old in settings:
        new = RENAMED.get(old, old)
        if new == old or new not in known:
            continue
        if new in settings:
            raise InputError(f"{old} is the old name of {new}, and both are given; pass {new} alone")
        message = f"{old} is now named {new}; pass {new}={settings[old]!r:.80}"
        warnings.warn(message, DeprecationWarning, stacklevel=3)
        found[new] = found.pop(old)
    return found


def takes_old_names(method: type[T]) -> type[T]:
    """Let a dataclass take its fields by their old names, too."""
    init = method.__init__
    known = [one.name for one in fields(cast(Any, method))]

    @functools.wraps(init)
    def accept(self: T, *args: Any, **settings: Any) -> None:
        init(self, *args, **current_names(settings, known))

    method.__init__ = accept  # type: ignore[assignment]
    return method

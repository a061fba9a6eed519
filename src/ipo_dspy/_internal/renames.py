"""Accept argument names of the previous release with a warning, and translate them in recorded settings."""

import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")

OLD_ARGUMENTS: Mapping[str, str] = {
    "overlap": "prefetch",
    "max_descriptions": "max_described_images",
    "task": "task_description",
    "scorer": "backend",
    "allow_changes": "allow_config_changes",
    "skip_bad": "skip_unreadable",
    "max_errors": "max_consecutive_errors",
}
"""Arguments of `IPO`: old name -> current name."""
OLD_REQUEST_MODES: Mapping[str, str] = {"list": "batch", "draws": "samples", "singles": "single"}
OLD_SETTING_NAMES: Mapping[str, str] = {**OLD_ARGUMENTS, "asking": "proposer_settings"}
"""Settings in the journal of a run: old name -> current name."""
OLD_PROPOSER_SETTINGS: Mapping[str, str] = {"asking": "request_mode", "window": "history_only"}
OLD_BENCH_SETTINGS: Mapping[str, str] = {
    **OLD_PROPOSER_SETTINGS,
    "max_descriptions": "max_described_images",
    "lm_settings": "lm_kwargs",
    "vlm_settings": "vlm_kwargs",
}
"""Settings of a sweep, in its rows and its `bench.json`: old name -> current name."""
OLD_BASELINE_SETTINGS: Mapping[str, str] = {
    "words": "ctx_init",
    "batch": "batch_size",
    "weight": "consistency_weight",
    "image_share": "image_adapter_ratio",
    "text_share": "text_adapter_ratio",
}
"""Settings of the other methods: old name -> current name."""


def renamed_arguments(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Accept arguments under their old names, with a `DeprecationWarning` that gives the current name.

    Args:
        names: old name -> current name.

    >>> @renamed_arguments(overlap="prefetch")
    ... def search(*, prefetch=False):
    ...     return prefetch
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     search(overlap=True), str(caught[0].message)
    (True, 'overlap= is deprecated and will be removed in version 0.3; use prefetch=')
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            return function(*args, **current_names(kwargs, names, stacklevel=4))

        return wrapper

    return decorate


def renamed_fields(method: type[R]) -> type[R]:
    """Let a dataclass of a method take its settings under the names of `OLD_BASELINE_SETTINGS`, too."""
    known = {setting.name for setting in fields(cast(Any, method))}
    names = {old: new for old, new in OLD_BASELINE_SETTINGS.items() if new in known}
    method.__init__ = renamed_arguments(**names)(method.__init__)  # type: ignore[method-assign]
    return method


def current_names(given: Mapping[str, Any], names: Mapping[str, str], *, stacklevel: int) -> dict[str, Any]:
    """Return arguments under their current names, with a warning for each old one; the order is kept.

    Raises:
        TypeError: an argument is given under both names.
    """
    for old in given:
        if (new := names.get(old)) is None:
            continue
        if new in given:
            raise TypeError(f"{old} is an earlier name of {new}; pass {new} only")
        warn_renamed(f"{old}=", f"{new}=", stacklevel=stacklevel)
    return _renamed(given, names)


def warn_renamed(old: str, new: str, *, stacklevel: int) -> None:
    """Warn that an old name was used."""
    message = f"{old} is deprecated and will be removed in version 0.3; use {new}"
    warnings.warn(message, DeprecationWarning, stacklevel=stacklevel)


def present_settings(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of an earlier session under their current names.

    >>> present_settings({"overlap": True, "asking": {"asking": "list", "adapter": "PaperAdapter"}})
    {'prefetch': True, 'proposer_settings': {'request_mode': 'batch', 'adapter': 'PaperAdapter'}}
    """
    settings = _renamed(recorded, OLD_SETTING_NAMES)
    if isinstance(proposer_settings := settings.get("proposer_settings"), Mapping):
        settings["proposer_settings"] = _with_present_mode(_renamed(proposer_settings, OLD_PROPOSER_SETTINGS))
    return settings


def present_bench_settings(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a sweep or of a cell under their current names.

    >>> present_bench_settings({"window": True, "steps": 5})
    {'history_only': True, 'steps': 5}
    """
    return _with_present_mode(_renamed(recorded, OLD_BENCH_SETTINGS))


def _renamed(settings: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in settings.items()}


def _with_present_mode(settings: dict[str, Any]) -> dict[str, Any]:
    mode = settings.get("request_mode")
    return {**settings, "request_mode": OLD_REQUEST_MODES.get(mode, mode)} if isinstance(mode, str) else settings


def renamed_names(module: str, **names: str) -> Callable[[str], Any]:
    """Return a `__getattr__` for a module that resolves old names (`names`: old to current) with a warning."""

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warn_renamed(name, names[name], stacklevel=3)
        return getattr(sys.modules[module], names[name])

    return get

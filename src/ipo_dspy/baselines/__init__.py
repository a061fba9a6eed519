"""The baselines of the paper's tables: one file each, behind the Protocol in `base`.

`METHODS` lists all of them. Baselines and optimizer do not depend on each other.
"""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from ipo_dspy._internal.renames import OLD_BASELINE_SETTINGS, current_names
from ipo_dspy.errors import InputError

if TYPE_CHECKING:
    from ipo_dspy.baselines.base import FewShotMethod

METHODS: Mapping[str, str] = MappingProxyType(
    {
        "clip": "zero_shot:ZeroShotClip",
        "clip-ensemble": "zero_shot:ClipEnsemble",
        "clip-best": "zero_shot:BestTemplate",
        "linear-probe": "linear_probe:LinearProbe",
        "coop": "coop:CoOp",
        "cocoop": "cocoop:CoCoOp",
        "maple": "maple:MaPLe",
        "promptsrc": "promptsrc:PromptSRC",
        "coprompt": "coprompt:CoPrompt",
        "vpt": "vpt:VPT",
    }
)
"""Method name -> `module:class`, imported on first use."""


def build_method(name: str, **settings: Any) -> "FewShotMethod":
    """Return a method by name; settings default to the hyper-parameters of its paper.

    Args:
        name: a key of `METHODS`.
        settings: arguments of the method.

    Raises:
        InputError: an unknown method or setting (the message lists the known ones), or an invalid value.
    """
    import importlib
    import inspect

    if name not in METHODS:
        raise InputError(f"no method {name!r}; known: {', '.join(METHODS)}")
    module, _, kind = METHODS[name].partition(":")
    method = getattr(importlib.import_module(f"ipo_dspy.baselines.{module}"), kind)
    known = list(inspect.signature(method).parameters)
    settings = current_settings(settings, known)
    if unknown := sorted(settings.keys() - set(known)):
        raise InputError(f"{name} has no setting {unknown[0]!r}; known: {', '.join(known) or 'none'}")
    return cast("FewShotMethod", method(**settings))


def current_settings(
    settings: Mapping[str, Any], known: Collection[str] = OLD_BASELINE_SETTINGS.values()
) -> dict[str, Any]:
    """Return settings under their current names, as far as these are known, with a warning for each old name.

    Raises:
        InputError: a setting is given under both names.
    """
    names = {old: new for old, new in OLD_BASELINE_SETTINGS.items() if new in known}
    try:
        return current_names(settings, names, stacklevel=5)
    except TypeError as error:
        raise InputError(str(error)) from error

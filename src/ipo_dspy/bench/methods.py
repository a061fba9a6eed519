"""The methods of the tables by name: what each reads of the settings, and how it is run on a split.

The methods of `baselines` are fitted and asked for logits; IPO and DSPy's optimizers search a template, which is scored
on both halves as zero-shot CLIP is. `Kind` says of each what decides its result, which makes a cell's key.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ipo_dspy.baselines import METHODS as FITTED
from ipo_dspy.baselines import build_method
from ipo_dspy.errors import InputError, LanguageModelError

if TYPE_CHECKING:
    from ipo_dspy.bench.runs import Run
    from ipo_dspy.bench.settings import Settings

TITLES: Mapping[str, str] = {
    "clip": "CLIP",
    "clip-ensemble": "CLIP, 80 templates",
    "clip-best": "CLIP, best of the 80",
    "coop": "CoOp",
    "cocoop": "CoCoOp",
    "maple": "MaPLe",
    "promptsrc": "PromptSRC",
    "coprompt": "CoPrompt",
    "vpt": "VPT",
    "ipo": "IPO",
    "vpt+ipo": "VPT + IPO",
    "copro": "COPRO",
    "miprov2": "MIPROv2",
    "gepa": "GEPA",
    "simba": "SIMBA",
}
"""Names as tables write them, in the order of the tables."""

ZERO_SHOT = frozenset({"clip", "clip-ensemble"})
"""What learns from no image: its result is the same for all shots and seeds."""

MODEL = ("model", "pretrained")
PROPOSING = ("steps", "prompts_per_step", "lm", "lm_settings")
SEARCHING = (
    *PROPOSING,
    "history_size",
    "max_descriptions",
    "descriptions",
    "feedback",
    "window",
    "vlm",
    "vlm_settings",
    "asking",
)
DSPY = ("copro", "miprov2", "gepa", "simba")


@dataclass(frozen=True, slots=True)
class Kind:
    """A method of the tables.

    Attributes:
        name: on the command line.
        reads: the settings that decide its result.
        learns: whether the drawn images and the seed do.
        needs_lm: whether it cannot do without a language model.
        runner: `module:function` of this package, loaded when a cell is run.
    """

    name: str
    reads: tuple[str, ...]
    learns: bool
    needs_lm: bool
    runner: str

    @property
    def title(self) -> str:
        """As tables write it."""
        return TITLES.get(self.name, self.name)

    def load(self) -> "Run":
        """The function that runs it."""
        module, _, name = self.runner.partition(":")
        run: Run = getattr(importlib.import_module(f"ipo_dspy.bench.{module}"), name)
        return run


def kinds() -> Mapping[str, Kind]:
    """All methods by name, in the order of the tables; `baselines.METHODS` says which are fitted."""
    found = {name: Kind(name, MODEL, name not in ZERO_SHOT, False, "runs:fitted") for name in FITTED}
    found["ipo"] = Kind("ipo", (*MODEL, *SEARCHING), True, False, "runs:ipo")
    for name in DSPY:
        found[name] = Kind(name, (*MODEL, *PROPOSING), True, True, f"optimizers:{name}")
    order = [*TITLES, *(name for name in found if name not in TITLES)]
    return {name: found[name] for name in order if name in found}


def find_kind(name: str) -> Kind:
    """A method by name.

    Raises:
        InputError: there is none; the message lists those that there are.
    """
    known = kinds()
    if name not in known:
        raise InputError(f"there is no method {name!r}; known: {', '.join(known)}")
    return known[name]


def check_methods(names: tuple[str, ...], settings: "Settings") -> None:
    """See that the methods are known and can be run with these settings.

    Raises:
        InputError: an unknown method or hyper-parameter; the message lists the known.
        LanguageModelError: one needs a language model and none is named.
    """
    for name in names:
        if find_kind(name).needs_lm and settings.lm is None:
            raise LanguageModelError(
                f"method {name!r} has a language model write its templates and none is named; write e.g. "
                "--lm openai/gpt-4o-mini, or leave it out of --methods"
            )
    for name in settings.arguments.keys() & set(names) & FITTED.keys():
        build_method(name, **settings.arguments[name])
    if foreign := [name for name in settings.arguments if name not in FITTED]:
        raise InputError(f"method {foreign[0]!r} takes no settings of its own; known: {', '.join(FITTED) or 'none'}")

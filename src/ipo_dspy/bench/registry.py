"""The methods of the tables by name: what each reads of the settings, and how it is run on a split.

The methods of `baselines` are fitted and asked for logits; IPO and DSPy's optimizers search a template, which is scored
on both halves as zero-shot CLIP is. `MethodSpec` says of each what decides its result, which makes a cell's key.
"""

import importlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ipo_dspy.baselines import METHODS as FITTED
from ipo_dspy.baselines import build_method
from ipo_dspy.baselines.old_names import RENAMED, current_names
from ipo_dspy.errors import Hint, InputError, LanguageModelError

if TYPE_CHECKING:
    from ipo_dspy.bench.method_runners import RunView
    from ipo_dspy.bench.settings import Settings
    from ipo_dspy.clip.backbone import Backbone

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
PROPOSING = ("steps", "prompts_per_step", "lm", "lm_kwargs")
SEARCHING = (
    *PROPOSING,
    "history_size",
    "max_described_images",
    "descriptions",
    "feedback",
    "history_only",
    "vlm",
    "vlm_kwargs",
    "request_mode",
)
DSPY = ("copro", "miprov2", "gepa", "simba")


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """A method of the tables.

    Attributes:
        name: on the command line.
        reads: the settings that decide its result.
        learns: whether the drawn images and the seed do.
        needs_lm: whether it cannot do without a language model.
        runner: `module:function` of this package, loaded when a cell is run.
        fits: the method of `baselines` that is fitted in it and whose hyper-parameters it takes, if there is one.
    """

    name: str
    reads: tuple[str, ...]
    learns: bool
    needs_lm: bool
    runner: str
    fits: str | None = None

    @property
    def title(self) -> str:
        """As tables write it."""
        return TITLES.get(self.name, self.name)

    def check(self, backbone: "Backbone") -> None:
        """See that the towers of a model can do what it needs.

        Raises:
            InputError: they cannot; which can is told.
        """
        from ipo_dspy.baselines.towers import check_towers  # loads torch

        if self.fits is not None:
            check_towers(backbone, build_method(self.fits).towers)

    def load(self) -> "RunView":
        """The function that runs it."""
        module, _, name = self.runner.partition(":")
        run: RunView = getattr(importlib.import_module(f"ipo_dspy.bench.{module}"), name)
        return run


def kinds() -> Mapping[str, MethodSpec]:
    """All methods by name, in the order of the tables; `baselines.METHODS` says which are fitted."""
    found = {
        name: MethodSpec(name, MODEL, name not in ZERO_SHOT, False, "method_runners:fit_and_score", name)
        for name in FITTED
    }
    found["ipo"] = MethodSpec("ipo", (*MODEL, *SEARCHING), True, False, "method_runners:ipo")
    found["vpt+ipo"] = MethodSpec("vpt+ipo", (*MODEL, *SEARCHING), True, False, "vpt_ipo:vpt_ipo", "vpt")
    for name in DSPY:
        found[name] = MethodSpec(name, (*MODEL, *PROPOSING), True, True, f"dspy_optimizers:{name}")
    order = [*TITLES, *(name for name in found if name not in TITLES)]
    return {name: found[name] for name in order if name in found}


def find_kind(name: str) -> MethodSpec:
    """A method by name.

    Raises:
        InputError: there is none; the message lists those that there are.
    """
    known = kinds()
    if name not in known:
        raise InputError(f"there is no method {name!r}; known: {', '.join(known)}")
    return known[name]


def with_sentences(arguments: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return hyper-parameters by method with the texts of CoPrompt where the path of their file was.

    So the texts decide a cell's key, not where they lie, and machines of a cluster need no such file. Old names of
    hyper-parameters become the new ones.

    Raises:
        InputError: a file that cannot be read, or of another form.
    """
    found = {name: current_names(given, RENAMED.values()) for name, given in arguments.items()}
    for name, given in found.items():
        if name.partition("@")[0] == "coprompt" and isinstance(given.get("sentences"), str):
            from ipo_dspy.baselines.class_sentences import read_sentences  # loads torch

            given["sentences"] = read_sentences(given["sentences"])
    return found


def check_methods(names: Sequence[str], settings: "Settings", datasets: Collection[str]) -> None:
    """See that the methods are known and can be run with these settings on these data sets.

    Raises:
        InputError: an unknown method or hyper-parameter; the message lists the known.
        LanguageModelError: one needs a language model and none is named.
    """
    known = kinds()
    for name in names:
        if find_kind(name).needs_lm and settings.lm is None:
            raise LanguageModelError(
                f"method {name!r} needs a language model and none is given",
                hint=Hint("pass {prompt_model}, or remove the method", prompt_model="openai/gpt-4o-mini"),
            )
    for key, given in settings.arguments.items():
        name, at, dataset = key.partition("@")
        if at and dataset not in datasets:
            raise InputError(f"settings of {key!r} are for no data set of the suite; known: {', '.join(datasets)}")
        fits = known[name].fits if name in known else None
        if fits is None:
            takes = ", ".join(one for one, kind in known.items() if kind.fits)
            raise InputError(f"method {name!r} takes no settings of its own; known: {takes}")
        build_method(fits, **given)


def unsupported_reasons(names: Sequence[str], backbone: "Backbone") -> dict[str, str | None]:
    """Why each method cannot be run with a model; `None` where it can."""
    found: dict[str, str | None] = {}
    for name in names:
        found[name] = None
        try:
            find_kind(name).check(backbone)
        except InputError as error:
            found[name] = str(error)
    return found

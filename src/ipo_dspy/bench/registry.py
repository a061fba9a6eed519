"""Methods of the tables by name: the settings that each reads, and the function that runs it on a split.

The methods of `baselines` are fitted and return logits. IPO and DSPy's optimizers search for a template, which is
scored on both halves like zero-shot CLIP. `MethodSpec` lists the settings that affect the result, which are part of the
key of a cell.
"""

import importlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ipo_dspy.baselines import build_method, current_settings
from ipo_dspy.errors import Hint, InputError, LanguageModelError

if TYPE_CHECKING:
    from ipo_dspy.bench.settings import Settings
    from ipo_dspy.clip.backbone import Backbone

MODEL = ("model", "pretrained")
PROPOSING = ("steps", "prompts_per_step", "lm", "lm_kwargs")
DESCRIBING = ("max_described_images", "descriptions", "vlm", "vlm_kwargs")
SEARCHING = (*PROPOSING, *DESCRIBING, "history_size", "feedback", "history_only", "request_mode")


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """A method of the tables.

    Attributes:
        name: on the command line.
        title: in tables.
        reads: the settings that affect its result.
        runner: `module:function` of this package, loaded when a cell runs.
        fits: the method of `baselines` that it fits and whose hyper-parameters it takes, if any.
        learns: whether the sampled images and the seed affect it.
        needs_lm: whether it requires a language model.
        any_classes: whether it classifies any class by name, rather than only the classes that it was fitted to.
        options: arguments of `IPO` that differ from the defaults.
    """

    name: str
    title: str
    reads: tuple[str, ...]
    runner: str
    fits: str | None = None
    learns: bool = True
    needs_lm: bool = False
    any_classes: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)

    def check(self, backbone: "Backbone") -> None:
        """Check that the encoders of a model support the method.

        Raises:
            InputError: they do not; the message lists the supported models.
        """
        from ipo_dspy.baselines.towers import check_towers  # loads torch

        if self.fits is not None:
            check_towers(backbone, build_method(self.fits).towers)

    def load(self) -> Callable[[Any], Any]:
        """Import and return the function that runs the method: `CellContext` -> `MethodResult`."""
        module, _, name = self.runner.partition(":")
        function: Callable[[Any], Any] = getattr(importlib.import_module(f"ipo_dspy.bench.{module}"), name)
        return function


def _fitted(name: str, title: str, *, learns: bool = True, any_classes: bool = True) -> MethodSpec:
    runner = "method_runners:fit_and_score"
    return MethodSpec(name, title, MODEL, runner, fits=name, learns=learns, any_classes=any_classes)


def _ipo(name: str, title: str, runner: str = "method_runners:ipo", **fields: Any) -> MethodSpec:
    return MethodSpec(name, title, (*MODEL, *SEARCHING), runner, **fields)


def _of_dspy(name: str, title: str) -> MethodSpec:
    return MethodSpec(name, title, (*MODEL, *PROPOSING), "dspy_optimizers:run", needs_lm=True)


_ALL = (
    _fitted("clip", "CLIP", learns=False),
    _fitted("clip-ensemble", "CLIP, 80 templates", learns=False),
    _fitted("clip-best", "CLIP, best of the 80"),
    _fitted("linear-probe", "Linear probe", any_classes=False),
    _fitted("coop", "CoOp"),
    _fitted("cocoop", "CoCoOp"),
    _fitted("maple", "MaPLe"),
    _fitted("promptsrc", "PromptSRC"),
    _fitted("coprompt", "CoPrompt"),
    _fitted("vpt", "VPT"),
    # The rows of IPO differ in what is selected after the same search.
    _ipo("ipo", "IPO"),
    _ipo("ipo-best", "IPO, most accurate", options={"choose": "best"}),
    _ipo("ipo-ensemble", "IPO, ensemble", options={"ensemble": 4}),
    _ipo("vpt+ipo", "VPT + IPO", "vpt_ipo:vpt_ipo", fits="vpt"),
    _of_dspy("copro", "COPRO"),
    _of_dspy("miprov2", "MIPROv2"),
    _of_dspy("gepa", "GEPA"),
    _of_dspy("simba", "SIMBA"),
)
METHODS: Mapping[str, MethodSpec] = {method.name: method for method in _ALL}
"""All methods by name, in the order of the tables."""


def find_kind(name: str) -> MethodSpec:
    """Return a method by name.

    Raises:
        InputError: the name is unknown; the message lists the known ones.
    """
    if name not in METHODS:
        raise InputError(f"unknown method {name!r}; known: {', '.join(METHODS)}")
    return METHODS[name]


def with_sentences(arguments: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return hyper-parameters by method, with the path of CoPrompt's sentences replaced by the texts of the file.

    The key of a cell then depends on the texts rather than on their path, and the machines of a cluster do not need the
    file. Old names of hyper-parameters are replaced by the current ones.

    Raises:
        InputError: the file cannot be read or has another format.
    """
    by_method = {name: current_settings(values) for name, values in arguments.items()}
    for name, values in by_method.items():
        if name.partition("@")[0] == "coprompt" and isinstance(values.get("sentences"), str):
            from ipo_dspy.baselines.class_sentences import read_sentences  # loads torch

            values["sentences"] = read_sentences(values["sentences"])
    return by_method


def check_methods(names: Sequence[str], settings: "Settings", datasets: Collection[str]) -> None:
    """Check that the methods are known and can run with these settings on these data sets.

    Raises:
        InputError: a method or hyper-parameter is unknown; the message lists the known ones.
        LanguageModelError: a method needs a language model and none is given.
    """
    for name in names:
        if find_kind(name).needs_lm and settings.lm is None:
            raise LanguageModelError(
                f"method {name!r} needs a language model, but none is given",
                hint=Hint("pass {prompt_model}, or remove the method", prompt_model="openai/gpt-4o-mini"),
            )
    for key, values in settings.arguments.items():
        name, at, dataset = key.partition("@")
        if at and dataset not in datasets:
            raise InputError(f"{key!r} names an unknown data set; known: {', '.join(datasets)}")
        spec = METHODS.get(name)
        if spec is None or spec.fits is None:
            takes = ", ".join(method for method, known in METHODS.items() if known.fits)
            raise InputError(f"method {name!r} takes no hyper-parameters; known: {takes}")
        build_method(spec.fits, **values)


def unsupported_reasons(names: Sequence[str], backbone: "Backbone") -> dict[str, str | None]:
    """Return the reason why each method does not support a model; `None` if it does."""
    reasons: dict[str, str | None] = {}
    for name in names:
        reasons[name] = None
        try:
            find_kind(name).check(backbone)
        except InputError as error:
            reasons[name] = str(error)
    return reasons

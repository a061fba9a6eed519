"""The configuration of the optimizer: each argument of `IPO` with its default, validated once and then frozen.

The command line and the benchmark read their defaults here. The module imports neither DSPy nor torch.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, cast, get_args, get_origin

from ipo_dspy.argument_checks import as_template, callables, flag, having, invalid, one_of, require_int, require_number
from ipo_dspy.clip.bundled import canonical_model_name
from ipo_dspy.clip.weights import check_name
from ipo_dspy.errors import Hint
from ipo_dspy.run.budget import Budget
from ipo_dspy.scoring.objectives import DEFAULT, Objective, ObjectiveName, build_objective
from ipo_dspy.scoring.template_lists import TEMPLATE_LISTS
from ipo_dspy.template import DEFAULT_TEMPLATE, PLACEHOLDER, Template, has_placeholder

if TYPE_CHECKING:
    import dspy
    from dspy.utils.callback import BaseCallback

    from ipo_dspy.clip.backbone import Backbone
    from ipo_dspy.describers import Describer
    from ipo_dspy.proposers import Proposer
    from ipo_dspy.run.events import Observer
    from ipo_dspy.scoring.scorers import ScoringBackend

SearchPreset = Literal["light", "medium", "heavy"]
SEARCH_PRESETS: Mapping[str, int] = {"light": 20, "medium": 50, "heavy": 100}
"""Steps of each `auto` budget; the paper runs 100."""
DEFAULT_STEPS = 100
PROPOSERS = ("lm", "evolution")
DESCRIBERS = ("auto", "lm", "clip")
ChoiceRule = Literal["plainest", "best"]
Part = Literal["template", "class_texts"]
"""A part of a classifier that is searched."""
Across = Literal["mean", "worst"]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Arguments of the optimizer; `IPO` documents each field.

    `steps` is resolved from `auto`, and `prefetch` from the proposer, so equal runs have equal configurations. In the
    metadata of a field, `least` is the smallest number that is accepted, and `recorded` is true if a journal has it.

    >>> OptimizerConfig(auto="light", proposer="evolution").steps
    20
    """

    prompt_model: "str | dspy.BaseLM | None" = None
    description_model: "str | dspy.BaseLM | None" = None
    proposer: "Literal['lm', 'evolution'] | Proposer | None" = None
    describer: "Literal['auto', 'lm', 'clip'] | Describer | None" = "auto"
    steps: int | None = field(default=None, metadata={"least": 0, "recorded": True})
    prompts_per_step: int = field(default=8, metadata={"least": 1, "recorded": True})
    history_size: int = field(default=20, metadata={"least": 0, "recorded": True})
    initial_templates: str | Sequence[str | Template] = ()
    auto: SearchPreset | None = None
    choose: ChoiceRule = field(default="plainest", metadata={"recorded": True})
    tolerance: float = field(default=1.0, metadata={"least": 0, "recorded": True})
    objective: ObjectiveName = "accuracy"
    costs: Mapping[tuple[str, str], float] | None = None
    min_recall: Mapping[str, float] | None = None
    metric: Callable[..., Any] | None = None
    polish: bool = field(default=True, metadata={"recorded": True})
    images_in_request: int = field(default=0, metadata={"least": 0})
    ensemble: int = field(default=1, metadata={"least": 1, "recorded": True})
    optimize: Part | Sequence[Part] = ("template",)
    candidates: Mapping[str, Sequence[str]] | None = None
    max_recall_drop: float = field(default=10.0, metadata={"least": 0})
    patience: int | None = field(default=None, metadata={"least": 1, "recorded": True})
    max_consecutive_errors: int = field(default=3, metadata={"least": 1, "recorded": True})
    max_lm_calls: int | None = None
    max_tokens: int | None = None
    max_cost: float | None = None
    max_seconds: float | None = None
    prefetch: bool | None = field(default=None, metadata={"recorded": True})
    num_threads: int | None = field(default=None, metadata={"least": 1, "recorded": True})
    seed: int = field(default=0, metadata={"least": 0})
    log_dir: str | os.PathLike[str] | None = None
    allow_config_changes: bool = False
    track_stats: bool = True
    progress: bool | None = None
    observers: "Sequence[Observer]" = ()
    callbacks: "Sequence[BaseCallback] | None" = None
    label_field: str | Mapping[str, str] = "label"
    max_described_images: int = field(default=64, metadata={"least": 0, "recorded": True})
    skip_unreadable: bool = False
    task_description: str | None = field(default=None, metadata={"recorded": True})
    also: "Sequence[str | Backbone]" = ()
    across: Across = "mean"
    backend: "ScoringBackend | None" = None

    def __post_init__(self) -> None:
        self._check_values()
        _ = self.limits, self.goal  # validated on construction
        self._check_parts()
        self._check_models()
        self._check_encoders()
        for name, condition, remedy in self._conflicts():
            raise invalid(name, condition, getattr(self, name), remedy)
        if self.log_dir is not None and not (isinstance(self.log_dir, str | os.PathLike) and os.fspath(self.log_dir)):
            raise invalid(
                "log_dir", "the path of a folder", self.log_dir, Hint("for example {log_dir}", log_dir="runs/1")
            )
        if not isinstance(self.task_description, str | None):
            raise invalid("task_description", "a string or None", self.task_description, "describe what is classified")
        if not isinstance(self.callbacks, list | tuple | None):
            raise invalid("callbacks", "a list of DSPy callbacks", self.callbacks, "for example callbacks=[callback]")
        if not isinstance(self.label_field, str | Mapping):
            raise invalid("label_field", "a string or a mapping of strings", self.label_field, "for example 'label'")
        self._resolve(
            steps=self._total_steps(),
            auto=None,
            prefetch=self._asks_lm() if self.prefetch is None else self.prefetch,
            initial_templates=self._templates_and_lists(),
            observers=callables("observers", self.observers),
        )

    def _check_values(self) -> None:
        """Check flags and named choices by their types, and numbers by the metadata of their fields."""
        for f in fields(self):
            value = getattr(self, f.name)
            if value is None and f.default is None:
                continue
            if f.type in (bool, bool | None):
                flag(f.name, value)
            elif get_origin(f.type) is Literal:
                one_of(f.name, value, get_args(f.type))
            elif "least" in f.metadata:
                require = require_number if f.type is float else require_int
                require(f.name, value, f.metadata["least"])

    def _check_models(self) -> None:
        """Reject unknown names, objects of another kind, and a model that would not be used."""
        if isinstance(self.proposer, str):
            one_of("proposer", self.proposer, PROPOSERS)
        elif self.proposer is not None:
            having("proposer", self.proposer, "propose", "'evolution'")
        if isinstance(self.describer, str):
            one_of("describer", self.describer, DESCRIBERS)
        elif self.describer is not None:
            having("describer", self.describer, "describe", "'clip'")
        if self.backend is not None:
            having("backend", self.backend, "check", "RayScorer('auto')")
        self._check_unused("prompt_model", "proposer", self.proposer in (None, "lm"))
        self._check_unused("description_model", "describer", self.describer in ("auto", "lm"))
        if self.description_model is not None and not self.searches_template:
            hint = Hint("omit it, or pass {optimize}", optimize=["template", "class_texts"])
            name = display_name(self.description_model)
            raise invalid("description_model", "None if templates are not searched", name, hint)

    def _conflicts(self) -> Iterator[tuple[str, str, str | Hint]]:
        """Yield each argument that another one rules out, with the condition on it and the remedy."""
        is_remote, searches_words = self.backend is not None, self.searches_class_texts
        shows_images = self.proposer in (None, "lm") or getattr(self.proposer, "shows_images", False)
        alone = Hint("pass {optimize}, and search for the words in a separate run", optimize="template")
        if searches_words and self.goal != DEFAULT:
            needed = "'accuracy'" if self.goal.argument == "objective" else "None"
            yield self.goal.argument, f"{needed} if class texts are searched", alone
        if searches_words and self.also:
            yield "also", "empty if class texts are searched", alone
        if searches_words and is_remote:
            condition = "'template' with a backend, which has other images than this machine"
            yield "optimize", condition, "search for the words on this machine"
        if is_remote and self.metric is not None:
            condition = "None with a backend, because only its workers have the probabilities"
            yield "metric", condition, "pass objective=..., or score on this machine"
        if is_remote and self.also:
            yield "also", "empty with a backend, because its workers load one model", "score on this machine"
        if is_remote and self.images_in_request:
            condition = "0 with a backend, because only its workers read the images"
            yield "images_in_request", condition, "score on this machine, or pass 0"
        if self.images_in_request and not shows_images:
            hint = Hint("pass {prompt_model}, or another multimodal model", prompt_model="openai/gpt-4o-mini")
            yield "images_in_request", "0 if the proposer does not show images to a language model", hint
        if self.also and self.metric is not None:
            condition = "None with also, where outcomes are combined image by image"
            yield "metric", condition, "pass objective=..., or search with one model"
        if self.across != "mean" and not self.also:
            yield "across", "'mean' without other models", Hint("pass {also} too", also=["demo"])

    def check_several_labels(self) -> None:
        """Check the settings for classifiers with `multi_label=True`.

        Raises:
            InputError: words are searched, images are shown to the proposer, or a backend or other models score.
        """
        for name, value, needed in (
            ("optimize", "class_texts" if self.searches_class_texts else None, "'template'"),
            ("images_in_request", self.images_in_request or None, "0"),
            ("backend", self.backend and type(self.backend).__name__, "None"),
            ("also", list(self.also) or None, "empty"),
        ):
            if value is not None:
                condition = f"{needed} for images with several labels"
                raise invalid(name, condition, value, "omit it, or search a classifier with one label for each image")

    def _check_parts(self) -> None:
        """Check what is searched, and resolve it to a tuple in the order of the search."""
        given, known = (self.optimize,) if isinstance(self.optimize, str) else self.optimize, get_args(Part)
        if not isinstance(given, Iterable) or not (parts := [one_of("optimize", part, known) for part in given]):
            remedy = "for example 'template', or ['template', 'class_texts']"
            raise invalid("optimize", "a part or a list of parts", self.optimize, remedy)
        self._resolve(optimize=tuple(part for part in known if part in parts))
        if self.candidates is not None:
            self._check_candidates(self.candidates)
        asks = self.proposer in (None, "lm") or hasattr(self.proposer, "propose_class_texts")
        if self.searches_class_texts and self.candidates is None and not asks:
            example = {"prompt_model": "openai/gpt-4o-mini", "candidates": ...}
            hint = Hint("pass {prompt_model}, or texts for some labels as {candidates}", **example)
            raise invalid("optimize", "'template' without a language model or candidates", self.optimize, hint)

    def _check_candidates(self, candidates: Mapping[str, Sequence[str]]) -> None:
        if not self.searches_class_texts:
            hint = Hint("pass {optimize}", optimize="class_texts")
            raise invalid("candidates", "None if class texts are not searched", type(candidates).__name__, hint)
        example = "for example {'crane': ['crane bird', 'wading bird']}"
        if not isinstance(candidates, Mapping):
            raise invalid("candidates", "a mapping from labels to lists of texts", candidates, example)
        texts = {label: (given,) if isinstance(given, str) else given for label, given in candidates.items()}
        for label, given in texts.items():
            is_text = isinstance(given, Sequence) and all(isinstance(text, str) for text in given)
            if not isinstance(label, str) or not is_text or not given:
                condition = "a mapping from labels to texts or lists of texts"
                raise invalid("candidates", condition, {label: candidates[label]}, example)
        self._resolve(candidates={label: tuple(given) for label, given in texts.items()})

    def _templates_and_lists(self) -> tuple[str | Template, ...]:
        """Return the initial templates, and the names of published lists among them."""
        given, known = self.initial_templates, " or ".join(map(repr, TEMPLATE_LISTS))
        if not isinstance(given, Iterable) or (isinstance(given, str) and given not in TEMPLATE_LISTS):
            example = [given] if isinstance(given, str) and has_placeholder(given) else next(iter(TEMPLATE_LISTS))
            hint = Hint("for example {initial_templates}", initial_templates=example)
            raise invalid("initial_templates", f"a list of templates, {known}", given, hint)
        entries: list[str | Template] = []
        for entry in (given,) if isinstance(given, str) else given:
            if isinstance(entry, str) and entry not in TEMPLATE_LISTS and not has_placeholder(entry):
                hint = Hint("for example {initial_templates}", initial_templates=[DEFAULT_TEMPLATE])
                raise invalid("initial_templates", f"templates with {PLACEHOLDER}, {known}", entry, hint)
            is_name = isinstance(entry, str) and entry in TEMPLATE_LISTS
            entries.append(entry if is_name else as_template(entry))
        return tuple(entries)

    def _check_encoders(self) -> None:
        if isinstance(self.also, str) or not isinstance(self.also, Iterable):
            raise invalid("also", "a list of models", self.also, Hint("for example {also}", also=[str(self.also)]))
        self._resolve(also=tuple(self.also))
        for model in self.also:
            if isinstance(model, str):
                check_name(canonical_model_name(model))
            elif not hasattr(model, "fingerprint"):
                raise invalid(
                    "also", "names of models or loaded models", model, Hint("for example {also}", also=["demo"])
                )

    def _check_unused(self, model: str, owner: str, is_used: bool) -> None:
        if getattr(self, model) is not None and not is_used:
            chosen = getattr(self, owner)
            name = repr(chosen) if chosen is None or isinstance(chosen, str) else type(chosen).__name__
            condition = f"None with {owner}={name}, which does not use it"
            raise invalid(model, condition, display_name(getattr(self, model)), "pass one of the two")

    def _total_steps(self) -> int:
        if not self.searches_template:
            if (self.steps, self.auto) not in ((None, None), (0, None)):
                given = self.steps if self.auto is None else self.auto
                hint = Hint("pass {optimize}", optimize=["template", "class_texts"])
                raise invalid("steps", "0 or None if templates are not searched", given, hint)
            return 0
        if self.auto is None:
            return DEFAULT_STEPS if self.steps is None else self.steps
        if self.steps is not None:
            hint = Hint("pass either {steps} or {auto}", steps=self.steps, auto=self.auto)
            raise invalid("steps", "None if auto is given", self.steps, hint)
        return SEARCH_PRESETS[one_of("auto", self.auto, SEARCH_PRESETS)]

    def _asks_lm(self) -> bool:
        from ipo_dspy.proposers import LMProposer  # loads DSPy

        return self.proposer in (None, "lm") or isinstance(self.proposer, LMProposer)

    def _resolve(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def searches_template(self) -> bool:
        """True if templates are searched."""
        return "template" in self.optimize

    @property
    def searches_class_texts(self) -> bool:
        """True if the words of the classes are searched."""
        return "class_texts" in self.optimize

    @property
    def num_steps(self) -> int:
        """Maximum number of steps."""
        return cast(int, self.steps)

    @property
    def templates(self) -> tuple[Template, ...]:
        """The initial templates, without those of published lists."""
        return tuple(entry for entry in self.initial_templates if isinstance(entry, Template))

    @property
    def template_lists(self) -> tuple[str, ...]:
        """Names of the published lists among the initial templates."""
        return tuple(entry for entry in self.initial_templates if isinstance(entry, str))

    @property
    def describer_kind(self) -> "str | Describer | None":
        """The describer, with `auto` resolved: `lm` if a `description_model` is given, else `clip`."""
        if self.describer == "auto":
            return "clip" if self.description_model is None else "lm"
        return self.describer

    @property
    def goal(self) -> Objective:
        """The objective with its costs, floors or metric."""
        return build_objective(self.objective, self.costs, self.min_recall, self.metric)

    @property
    def limits(self) -> Budget:
        """Limits of the run."""
        return Budget(self.max_lm_calls, self.max_tokens, self.max_cost, self.max_seconds)

    def as_dict(self) -> dict[str, Any]:
        """Return a new dict of the fields by name; values are not copied."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def settings(self) -> dict[str, Any]:
        """Return the settings that a journal records: plain values, no keys and no addresses."""
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.metadata.get("recorded")}
        settings |= {"images_in_request": self.images_in_request} if self.images_in_request else {}
        if self.searches_class_texts:
            settings |= {"optimize": list(self.optimize), "max_recall_drop": self.max_recall_drop}
            if given := self.candidates or {}:
                digest = hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()[:16]
                settings |= {"candidates": f"{sum(map(len, given.values()))}, SHA-256 {digest}"}
        if self.also:
            models = [model if isinstance(model, str) else model.name for model in self.also]
            settings |= {"also": models, "across": self.across}
        return {
            **settings,
            **self.goal.settings,
            **asdict(self.limits),
            "describer": display_name(self.describer_kind),
            "description_model": display_name(self.description_model),
            "initial_templates": list(map(str, self.initial_templates)),
        }

    def __repr__(self) -> str:
        return f"OptimizerConfig({', '.join(self.changed())})"

    def changed(self) -> list[str]:
        """Return `name=value` for each field that differs from its default, with models by name only."""
        shown: list[str] = []
        for f in fields(self):
            value = getattr(self, f.name)
            if value not in (f.default, None, ()):
                is_plain = isinstance(value, (int, float, str, tuple, dict, os.PathLike))
                shown.append(f"{f.name}={value if is_plain else display_name(value)!r}")
        return shown


def display_name(thing: Any) -> str | None:
    """Return the name of a model, proposer or describer for a journal, without keys or addresses."""
    if thing is None or isinstance(thing, str):
        return thing
    return str(getattr(thing, "model", None) or type(thing).__name__)

"""The paper's ablations of IPO: the same sweep with one setting varied."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from ipo_dspy.bench.cells import Grid
from ipo_dspy.bench.settings import Settings
from ipo_dspy.errors import Argument, Hint, InputError, LanguageModelError

Variants = Mapping[str, Mapping[str, Any]]
HISTORY = (0, 1, 5, 10, 20, 50, 100)
"""The lengths of the paper's figure."""
PROMPTS = (1, 2, 4, 8, 16)


@dataclass(frozen=True, slots=True)
class Models:
    """Language models that are compared, by name.

    Attributes:
        lms: that propose.
        vlms: that describe.
    """

    lms: tuple[str, ...] = ()
    vlms: tuple[str, ...] = ()


def _descriptions(settings: Settings, models: Models) -> Variants:
    return {"without": {"descriptions": False}, "with": {"descriptions": True}}


def _history(settings: Settings, models: Models) -> Variants:
    # The embedded proposer reads all trials unless it is told to see what is shown, as a language model does.
    history_only = {} if settings.lm else {"history_only": True}
    return {str(size): {"history_size": size, **history_only} for size in HISTORY}


def _feedback(settings: Settings, models: Models) -> Variants:
    told = {"loss": "loss", "accuracy": "accuracy", "loss and accuracy": "both"}
    return {name: {"feedback": feedback} for name, feedback in told.items()}


def _prompts(settings: Settings, models: Models) -> Variants:
    return {str(count): {"prompts_per_step": count} for count in PROMPTS}


def _lm(settings: Settings, models: Models) -> Variants:
    return {
        "embedded": {"lm": None, "lm_kwargs": {}},
        **{name: {"lm": name} for name in _several("prompt_model", models.lms)},
    }


def _vlm(settings: Settings, models: Models) -> Variants:
    return {
        "CLIP": {"vlm": None, "vlm_kwargs": {}},
        **{name: {"vlm": name} for name in _several("description_model", models.vlms)},
    }


ABLATIONS: Mapping[str, Callable[[Settings, Models], Variants]] = MappingProxyType(
    {
        "descriptions": _descriptions,
        "history": _history,
        "feedback": _feedback,
        "prompts-per-step": _prompts,
        "lm": _lm,
        "vlm": _vlm,
    }
)
"""What can be varied, by name. Steps stay as they are: more prompts per step are more templates tried."""


def variant_names(ablations: Mapping[str, Grid]) -> Mapping[str, str]:
    """What the cells of ablations are called, by key; a cell of several has all of its names."""
    found: dict[str, list[str]] = defaultdict(list)
    for name, grid in ablations.items():
        for place in itertools.product(grid.datasets, grid.methods, grid.shots, grid.seeds):
            for variant in grid.variants:
                found[grid.cell(*place, variant).key].append(f"{name}: {variant}")
    return {key: ", ".join(names) for key, names in found.items()}


def ablation(name: str, grid: Grid, models: Models) -> Grid:
    """The cells of IPO with one setting varied, on the data sets, shots and seeds of a grid.

    Raises:
        InputError: an unknown ablation; the message lists the known.
        LanguageModelError: one of language models without any.
    """
    if name not in ABLATIONS:
        raise InputError(f"there is no ablation {name!r}; known: {', '.join(ABLATIONS)}")
    return replace(grid, methods=("ipo",), variants=ABLATIONS[name](grid.settings, models))


def _several(role: str, names: Sequence[str]) -> Sequence[str]:
    if not names:
        raise LanguageModelError(
            "this ablation compares language models and none is given",
            hint=Hint("pass {} for each", Argument(role, "openai/gpt-4o-mini")),
        )
    return names

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
"""History sizes of the figure in the paper."""
PROMPTS = (1, 2, 4, 8, 16)


@dataclass(frozen=True, slots=True)
class Models:
    """Names of the language models to compare.

    Attributes:
        lms: proposer models.
        vlms: multimodal describer models.
    """

    lms: tuple[str, ...] = ()
    vlms: tuple[str, ...] = ()


def _descriptions(settings: Settings, models: Models) -> Variants:
    return {"without": {"descriptions": False}, "with": {"descriptions": True}}


def _history(settings: Settings, models: Models) -> Variants:
    # By default the embedded proposer uses all trials; here it sees only the shown history, as a language model does.
    history_only = {} if settings.lm else {"history_only": True}
    return {str(size): {"history_size": size, **history_only} for size in HISTORY}


def _feedback(settings: Settings, models: Models) -> Variants:
    choices = {"loss": "loss", "accuracy": "accuracy", "loss and accuracy": "both"}
    return {name: {"feedback": feedback} for name, feedback in choices.items()}


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
"""Ablations by name. The number of steps is constant, so more prompts per step mean more templates in total."""


def variant_names(ablations: Mapping[str, Grid]) -> Mapping[str, str]:
    """Return the variant names of cells by key; a cell of several ablations has several names."""
    names: dict[str, list[str]] = defaultdict(list)
    for name, grid in ablations.items():
        for place in itertools.product(grid.datasets, grid.methods, grid.shots, grid.seeds):
            for variant in grid.variants:
                names[grid.cell(*place, variant).key].append(f"{name}: {variant}")
    return {key: ", ".join(variants) for key, variants in names.items()}


def ablation(name: str, grid: Grid, models: Models) -> Grid:
    """Return the cells of IPO with one setting varied, on the data sets, shots, and seeds of a grid.

    Raises:
        InputError: the ablation is unknown; the message lists the known ones.
        LanguageModelError: the ablation compares language models and none is given.
    """
    if name not in ABLATIONS:
        raise InputError(f"unknown ablation {name!r}; known: {', '.join(ABLATIONS)}")
    return replace(grid, methods=("ipo",), variants=ABLATIONS[name](grid.settings, models))


def _several(role: str, names: Sequence[str]) -> Sequence[str]:
    if not names:
        raise LanguageModelError(
            "this ablation compares language models, but none is given",
            hint=Hint("pass {} for each model", Argument(role, "openai/gpt-4o-mini")),
        )
    return names

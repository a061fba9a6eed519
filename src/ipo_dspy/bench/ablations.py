"""The paper's ablations of IPO: the same sweep with one setting varied."""

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from ipo_dspy.bench.cells import Grid
from ipo_dspy.errors import Argument, Hint, InputError, LanguageModelError

Variants = Mapping[str, Mapping[str, Any]]
ROLES = {"lm": "prompt_model", "vlm": "description_model"}
"""Argument of the models that an ablation compares."""


ABLATIONS: Mapping[str, Variants] = MappingProxyType(
    {
        "descriptions": {"without": {"descriptions": False}, "with": {"descriptions": True}},
        "history": {str(size): {"history_size": size} for size in (0, 1, 5, 10, 20, 50, 100)},  # the paper's figure
        "feedback": {
            "loss": {"feedback": "loss"},
            "accuracy": {"feedback": "accuracy"},
            "loss and accuracy": {"feedback": "both"},
        },
        "prompts-per-step": {str(count): {"prompts_per_step": count} for count in (1, 2, 4, 8, 16)},
        "lm": {"embedded": {"lm": None, "lm_kwargs": {}}},
        "vlm": {"CLIP": {"vlm": None, "vlm_kwargs": {}}},
    }
)
"""Ablations by name; `lm` and `vlm` also have a variant for each model to compare.

The number of steps is constant, so more prompts per step mean more templates in total.
"""


def variant_names(ablations: Mapping[str, Grid]) -> Mapping[str, str]:
    """Return the variant names of cells by key; a cell of several ablations has several names."""
    names: dict[str, list[str]] = defaultdict(list)
    for name, grid in ablations.items():
        for place in itertools.product(grid.datasets, grid.methods, grid.shots, grid.seeds):
            for variant in grid.variants:
                names[grid.cell(*place, variant).key].append(f"{name}: {variant}")
    return {key: ", ".join(variants) for key, variants in names.items()}


def ablation(name: str, grid: Grid, models: Mapping[str, Sequence[str]]) -> Grid:
    """Return the cells of a grid for IPO with one setting varied; `lm` and `vlm` vary over the models of that name.

    Raises:
        InputError: the ablation is unknown; the message lists the known ones.
        LanguageModelError: the ablation compares language models and none is given.
    """
    if name not in ABLATIONS:
        raise InputError(f"unknown ablation {name!r}; known: {', '.join(ABLATIONS)}")
    variants = ABLATIONS[name]
    if name == "history" and not grid.settings.lm:
        # Otherwise the built-in proposer uses all trials; here it sees the shown history, as a language model does.
        variants = {size: {**changed, "history_only": True} for size, changed in variants.items()}
    elif name in ROLES:
        if not models.get(name):
            raise LanguageModelError(
                "this ablation compares language models, but none is given",
                hint=Hint("pass {} for each model", Argument(ROLES[name], "openai/gpt-4o-mini")),
            )
        variants = {**variants, **{model: {name: model} for model in models[name]}}
    return replace(grid, methods=("ipo",), variants=variants)

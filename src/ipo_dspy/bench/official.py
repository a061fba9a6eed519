"""Hyper-parameters that the authors of a method set for single data sets, where these differ from its defaults.

They hold for the paper's data sets and give way to what a user sets; docs/baselines.md has their sources.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_COPROMPT = {  # depth, n_ctx, weight
    "imagenet": (12, 4, 8.0),
    "caltech101": (12, 4, 4.0),
    "oxford_pets": (12, 2, 0.1),
    "stanford_cars": (12, 4, 4.0),
    "oxford_flowers": (9, 4, 8.0),
    "food101": (9, 4, 0.5),
    "fgvc_aircraft": (9, 4, 2.0),
    "sun397": (12, 4, 8.0),
    "dtd": (12, 2, 8.0),
    "eurosat": (12, 2, 0.1),
    "ucf101": (12, 4, 2.0),
}

_SET: Mapping[str, Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "coop": {"imagenet": {"epochs": 50}},
        "coprompt": {
            name: {"depth": depth, "n_ctx": n_ctx, "weight": weight, **({"epochs": 5} if name == "food101" else {})}
            for name, (depth, n_ctx, weight) in _COPROMPT.items()
        },
    }
)


def official(suite: str, dataset: str, method: str) -> Mapping[str, Any]:
    """What the authors of a method set for a data set; nothing for data sets that are not the paper's.

    >>> official("paper", "imagenet", "coop"), official("demo", "grey-food", "coop")
    ({'epochs': 50}, {})
    """
    return _SET.get(method, {}).get(dataset, {}) if suite == "paper" else {}

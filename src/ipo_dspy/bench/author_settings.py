"""Per-data-set and transfer hyper-parameters of the original authors that differ from the defaults.

They apply to the data sets of the paper, and user settings take precedence. docs/baselines.md lists the sources.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_COPROMPT = {  # depth, n_ctx, consistency_weight
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
            name: {
                "depth": depth,
                "n_ctx": n_ctx,
                "consistency_weight": weight,
                **({"epochs": 5} if name == "food101" else {}),
            }
            for name, (depth, n_ctx, weight) in _COPROMPT.items()
        },
    }
)


_TRANSFER: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "maple": {"depth": 3, "lr": 0.0026, "epochs": 2},
        "promptsrc": {"depth": 3, "gpa_mean": 6, "gpa_std": 10},
    }
)


def official(suite: str, dataset: str, method: str, *, transfer: bool = False) -> Mapping[str, Any]:
    """Return the hyper-parameters of the authors for a data set; empty for data sets outside the paper.

    Args:
        suite: the collection of the data set.
        dataset: the training data set.
        method: its name.
        transfer: whether the test is on other data sets instead of base to novel classes.

    >>> official("paper", "imagenet", "coop"), official("demo", "grey-food", "coop")
    ({'epochs': 50}, {})
    >>> official("paper", "imagenet", "maple", transfer=True)
    {'depth': 3, 'lr': 0.0026, 'epochs': 2}
    """
    if suite != "paper":
        return {}
    return {**_SET.get(method, {}).get(dataset, {}), **(_TRANSFER.get(method, {}) if transfer else {})}

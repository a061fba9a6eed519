"""Per-data-set and transfer hyper-parameters of the original authors that differ from the defaults.

They apply to the data sets of the paper, and user settings take precedence. docs/baselines.md lists the sources.
"""

from collections.abc import Mapping
from typing import Any

_SET: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "coop": {"imagenet": {"epochs": 50}},
    "coprompt": {
        "imagenet": {"depth": 12, "n_ctx": 4, "consistency_weight": 8.0},
        "caltech101": {"depth": 12, "n_ctx": 4, "consistency_weight": 4.0},
        "oxford_pets": {"depth": 12, "n_ctx": 2, "consistency_weight": 0.1},
        "stanford_cars": {"depth": 12, "n_ctx": 4, "consistency_weight": 4.0},
        "oxford_flowers": {"depth": 9, "n_ctx": 4, "consistency_weight": 8.0},
        "food101": {"depth": 9, "n_ctx": 4, "consistency_weight": 0.5, "epochs": 5},
        "fgvc_aircraft": {"depth": 9, "n_ctx": 4, "consistency_weight": 2.0},
        "sun397": {"depth": 12, "n_ctx": 4, "consistency_weight": 8.0},
        "dtd": {"depth": 12, "n_ctx": 2, "consistency_weight": 8.0},
        "eurosat": {"depth": 12, "n_ctx": 2, "consistency_weight": 0.1},
        "ucf101": {"depth": 12, "n_ctx": 4, "consistency_weight": 2.0},
    },
}
_TRANSFER: Mapping[str, Mapping[str, Any]] = {
    "maple": {"depth": 3, "lr": 0.0026, "epochs": 2},
    "promptsrc": {"depth": 3, "gpa_mean": 6, "gpa_std": 10},
}


def official(suite: str, dataset: str, method: str, *, transfer: bool = False) -> Mapping[str, Any]:
    """Return the hyper-parameters of the authors for a data set; empty for data sets outside the paper.

    >>> official("paper", "imagenet", "coop"), official("demo", "grey-food", "coop")
    ({'epochs': 50}, {})
    >>> official("paper", "imagenet", "maple", transfer=True)
    {'depth': 3, 'lr': 0.0026, 'epochs': 2}
    """
    if suite != "paper":
        return {}
    return {**_SET.get(method, {}).get(dataset, {}), **(_TRANSFER.get(method, {}) if transfer else {})}

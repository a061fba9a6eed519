"""The figures that the paper prints, to stand beside measured ones: base, novel and H in percent."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

Figures = tuple[float | None, float | None, float | None]
"""Base, novel, H; `None` where the paper gives none."""

NOTHING: Figures = (None, None, None)
AVERAGE = "average"


@cache
def _read() -> Mapping[str, Any]:
    return dict(json.loads(Path(__file__).with_name("published.json").read_text()))


def published(dataset: str, method: str, shots: int) -> Figures:
    """What the paper prints for a method on a data set, or on `average` over all eleven.

    >>> published("average", "ipo", 1), published("dtd", "ipo", 4)
    ((71.76, 77.0, 74.29), (None, None, None))
    """
    found = _read()["shots"].get(str(shots), {}).get(dataset, {}).get(method)
    return NOTHING if found is None else (found[0], found[1], found[2])


def published_ablation(name: str) -> Mapping[str, Figures]:
    """The averages over the eleven data sets that the paper prints for an ablation, by variant.

    >>> published_ablation("descriptions")["without"], published_ablation("prompts-per-step")
    ((71.12, 76.03, 73.49), {})
    """
    found = _read()["ablations"].get(name, {})
    return {variant: (row[0], row[1], row[2]) for variant, row in found.items()}

"""Published results of the paper, to compare with measured ones: base, novel, and H in percent."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

Figures = tuple[float | None, float | None, float | None]
"""Base, novel, and H; `None` if the paper has no value."""

NOTHING: Figures = (None, None, None)
AVERAGE = "average"


@cache
def _read() -> Mapping[str, Any]:
    return dict(json.loads(Path(__file__).with_name("published.json").read_text()))


def published(dataset: str, method: str, shots: int) -> Figures:
    """Return the published values of a method on a data set, or on `average` over all eleven.

    >>> published("average", "ipo", 1), published("dtd", "ipo", 4)
    ((71.76, 77.0, 74.29), (None, None, None))
    """
    values = _read()["shots"].get(str(shots), {}).get(dataset, {}).get(method)
    return NOTHING if values is None else (values[0], values[1], values[2])


def published_ablation(name: str) -> Mapping[str, Figures]:
    """Return the published averages over the eleven data sets for an ablation, by variant.

    >>> published_ablation("descriptions")["without"], published_ablation("prompts-per-step")
    ((71.12, 76.03, 73.49), {})
    """
    rows = _read()["ablations"].get(name, {})
    return {variant: (row[0], row[1], row[2]) for variant, row in rows.items()}

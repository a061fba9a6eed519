"""Options for what is optimized, and the files with the costs of errors."""

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from ipo_dspy._internal.counts import first_few
from ipo_dspy._internal.file_io import read_regular
from ipo_dspy._internal.json_input import has_type, parse_json
from ipo_dspy.cli import output as show
from ipo_dspy.errors import DataError, InputError
from ipo_dspy.scoring.objectives import ObjectiveName

MAX_FILE = 64 << 20
"""Maximum bytes of a file with costs."""
_COLUMNS = ("true", "predicted", "cost")
Costs = Annotated[
    Path | None,
    Option(
        metavar="FILE",
        help="Optimize the mean cost of errors: CSV with the columns true, predicted and cost, or JSON such as "
        '{"deer": {"elk": 5}}. Other errors cost 1.',
    ),
]
MinRecall = Annotated[
    list[str] | None,
    Option(
        metavar="CLASS=RECALL",
        help="Minimum recall of a class, 0 to 1, e.g. 'stop sign=0.99'; templates that miss it rank last. May be "
        "repeated.",
    ),
]


@dataclass(frozen=True)
class Goal:
    """The objective, and the costs and floors that change it."""

    objective: Annotated[ObjectiveName, Option(help="What is optimized; ties are decided by the loss.")] = "accuracy"
    costs: Costs = None
    min_recall: MinRecall = None

    def arguments(self) -> dict[str, Any]:
        """Return the options as arguments of `IPO`; raises as `costs_and_floors`."""
        return {"objective": self.objective, **costs_and_floors(self.costs, self.min_recall)}


def costs_and_floors(costs: Path | None, min_recall: Sequence[str] | None) -> dict[str, Any]:
    """Return a file of costs and floors of recall as arguments of `IPO`.

    Raises:
        InputError: a floor without a number.
        DataError: a file of costs that cannot be read.
    """
    return {"costs": costs and read_costs(costs), "min_recall": dict(map(_floor, min_recall or ())) or None}


def of_searched(options: Mapping[str, Any], searched: Collection[str], others: Collection[str]) -> dict[str, Any]:
    """Return options of `IPO` without costs, floors and candidates for classes that are not searched, with a note.

    Args:
        options: the options.
        searched: classes of the training images.
        others: classes of the data; those that are not searched are the novel ones.
    """
    novel, kept = set(others) - set(searched), dict(options)
    for name in ("costs", "min_recall", "candidates"):
        given: Mapping[Any, Any] = options.get(name) or {}
        ignored = [key for key in given if novel.intersection((key,) if isinstance(key, str) else key)]
        if ignored:
            kept[name] = {key: value for key, value in given.items() if key not in ignored} or None
            show.note(f"{name} for classes that are not searched are ignored: {first_few(list(map(str, ignored)), 3)}")
    return kept


def read_costs(path: Path) -> dict[tuple[str, str], float]:
    """Return the costs of errors in a CSV or JSON file.

    Raises:
        DataError: the file cannot be read, or has another form.
    """
    form = 'CSV with the columns true, predicted and cost, or JSON such as {"deer": {"elk": 5}}'
    try:
        content = read_regular(path, limit=MAX_FILE)
        rows = _csv_costs(content) if path.suffix.lower() == ".csv" else _json_costs(content)
    except OSError as error:
        raise DataError(f"costs {str(path)!r} cannot be read ({error.strerror}); pass {form}") from error
    except (ValueError, csv.Error) as error:
        raise DataError(f"costs {str(path)!r} cannot be used: {error}; pass {form}") from error
    if not rows:
        raise DataError(f"costs {str(path)!r} must have at least one pair of classes, got none; pass {form}")
    return rows


def _csv_costs(content: bytes) -> dict[tuple[str, str], float]:
    reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""))
    if missing := [column for column in _COLUMNS if column not in (reader.fieldnames or ())]:
        raise ValueError(f"it has no column {missing[0]!r}")
    return {(row["true"], row["predicted"]): float(row["cost"] or "") for row in reader}


def _json_costs(content: bytes) -> dict[tuple[str, str], float]:
    value: Mapping[str, Mapping[str, float]] = parse_json(content)
    if not has_type(value, dict[str, dict[str, float]]):
        raise ValueError("it does not map each true class to predicted classes and their costs")
    return {(true, predicted): cost for true, costs in value.items() for predicted, cost in costs.items()}


def _floor(argument: str) -> tuple[str, float]:
    name, _, recall = argument.rpartition("=")
    try:
        floor = float(recall)
    except ValueError:
        name, floor = "", 0.0
    if not name:
        example = "for example --min-recall 'stop sign=0.99'"
        raise InputError(f"--min-recall must be CLASS=RECALL, got {argument!r}; {example}")
    return name, floor

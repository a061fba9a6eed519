"""Objectives of a search: accuracy, another measure, the cost of errors, or a metric; and recall floors.

The functions of the user come in two forms, which are told apart by the names of their first two parameters: a metric
of all images has `labels` and `probabilities`; any other metric is called with an example and a prediction, as in DSPy.
How objectives are computed is in `scoring.class_objectives`. Needs neither torch nor DSPy.
"""

import hashlib
import inspect
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import CodeType
from typing import Any, Literal, get_args

from ipo_dspy.argument_checks import check_class_names, invalid, one_of
from ipo_dspy.errors import Hint, InputError
from ipo_dspy.scoring.tally import TOP

ObjectiveName = Literal["accuracy", "balanced_accuracy", "macro_f1", "loss", "top5"]
OBJECTIVES: tuple[ObjectiveName, ...] = get_args(ObjectiveName)
SETTINGS = frozenset({"objective", "metric", "costs", "min_recall"})
"""Names of the settings that make an objective."""
COST = "cost"
"""Name of the objective that `costs` sets."""
METRIC = "metric "
"""Beginning of the name of an objective that is a metric of the user; the metric's own name follows."""
SHARES = frozenset({"accuracy", "balanced_accuracy", "macro_f1", "top5"})
"""Objectives in percent."""
LONGEST_METRIC = 5
"""Arguments of a metric for GEPA: example, prediction, trace, name of the predictor, its trace."""
_MEANINGS = {
    "balanced accuracy": " is the mean recall of the classes in percent: higher is better",
    "macro F1": " is the mean F1 score of the classes in percent: higher is better",
    "top-5 accuracy": " is the percentage of images whose class is among the five likeliest: higher is better",
    "mean cost": " is what errors cost per image, some more than others: lower is better",
}
_LABELS = {
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "mean_average_precision": "mean average precision",
    "top5": "top-5 accuracy",
    "calibration_error": "calibration error",
    COST: "mean cost",
}


@dataclass(frozen=True, slots=True)
class ObjectiveText:
    """The text of the values of an objective; made from its name by `ObjectiveText.of`.

    Attributes:
        label: its name as people write it.
        is_share: it is shown in percent.
        sign: -1 if people know it as a quantity that should be low, such as a loss, which is shown without the minus.

    >>> balanced, cost = ObjectiveText.of("balanced_accuracy"), ObjectiveText.of("cost")
    >>> balanced.show(81.25), cost.show(-0.5), ObjectiveText.of("metric f_beta").show(0.75)
    ('balanced accuracy 81.25 %', 'mean cost 0.5000', 'metric f_beta 0.7500')
    """

    label: str
    is_share: bool
    sign: int

    @classmethod
    def of(cls, name: str) -> "ObjectiveText":
        """Return the text of an objective by its name, which may come from a journal."""
        return cls(
            _LABELS.get(name, name),
            name in SHARES | {"calibration_error", "mean_average_precision"},
            -1 if name in ("loss", COST) else 1,
        )

    def show(self, value: float) -> str:
        """Return the label and a value."""
        return f"{self.label} {self.number(value)}"

    def number(self, value: float) -> str:
        """Return a value without its label."""
        return f"{value:.2f} %" if self.is_share else f"{self.sign * value + 0.0:.4f}"

    def brief(self, value: float) -> str:
        """Return a value with one digit less than its standard error has on few images."""
        return f"{value:.1f} %" if self.is_share else f"{self.sign * value + 0.0:.3f}"

    def interval(self, low: float, high: float) -> str:
        """Return an interval of values, the smaller number first."""
        first, last = sorted((self.sign * low, self.sign * high))
        return f"{first:.1f} to {last:.1f}" if self.is_share else f"{first:.3f} to {last:.3f}"

    def gain(self, gain: float, error: float | None = None) -> str:
        """Return a gain, with its standard error if it is given.

        >>> ObjectiveText.of("accuracy").gain(0.4, 1.0), ObjectiveText.of("cost").gain(0.25)
        ('+0.4 points, standard error 1.0', 'mean cost -0.250')
        """
        if self.is_share:
            of = "" if self.label == "accuracy" else f" of {self.label}"
            text, digits = f"{round(gain, 1) + 0.0:+.1f} points{of}", 1
        else:
            text, digits = f"{self.label} {round(self.sign * gain, 3) + 0.0:+.3f}", 3
        return text if error is None else f"{text}, standard error {error:.{digits}f}"

    @property
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest possible value."""
        return (0.0, 100.0) if self.is_share else (-math.inf, 0.0 if self.sign < 0 else math.inf)

    @property
    def title(self) -> str:
        """The label as the beginning of a line."""
        return self.label[0].upper() + self.label[1:]

    @property
    def meaning(self) -> str:
        """A sentence on what the values mean."""
        return f"{self.title}{_MEANINGS.get(self.label, ': higher is better')}."


@dataclass(frozen=True, slots=True)
class Objective:
    """An objective by the names of classes.

    Attributes:
        name: one of `OBJECTIVES`, `COST`, or `METRIC` and the name of a metric.
        costs: cost of an image of the first class of a pair that is predicted as the second; other errors cost 1.
        min_recall: lowest recall of a class, 0 to 1.
        metric: a function of the user, if the objective is a metric; see `optimizer.user_metric`.
    """

    name: str = "accuracy"
    costs: Mapping[tuple[str, str], float] = field(default_factory=dict)
    min_recall: Mapping[str, float] = field(default_factory=dict)
    metric: Any = None

    @property
    def text(self) -> ObjectiveText:
        """The text of its values."""
        return ObjectiveText.of(self.name)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that differ from the default, as plain values for a journal."""
        costs: dict[str, dict[str, float]] = {}
        for (true, predicted), cost in self.costs.items():
            costs.setdefault(true, {})[predicted] = cost
        values = {
            "objective": self.name if self.name in OBJECTIVES[1:] else None,
            "metric": self.name.removeprefix(METRIC) if self.metric is not None else None,
            "costs": costs,
            "min_recall": dict(self.min_recall),
        }
        return {name: value for name, value in values.items() if value}

    @property
    def digest(self) -> str | None:
        """Identity of what is measured: values of other objectives are not comparable; None for plain accuracy."""
        if self == DEFAULT:
            return None
        code = None if self.metric is None else _content(self.metric)
        numbers = [sorted((key, float(value)) for key, value in one.items()) for one in (self.costs, self.min_recall)]
        content = [self.name, *numbers, code]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def check(self, classes: Sequence[str], labels: Collection[str] | None, images: str, *, options: int) -> None:
        """Check that the objective can be measured on images.

        Args:
            classes: classes of all classifiers.
            labels: labels of the images of one of them; None if they are not known here.
            images: name of the images for messages, such as `trainset`.
            options: largest number of classes that this one chooses among.

        Raises:
            InputError: a class is not among the classes, a floor is for a class without images, or every template has
                the same top-5 accuracy.
        """
        named = {"costs": [name for pair in self.costs for name in pair], "min_recall": list(self.min_recall)}
        for argument, names in named.items():
            check_class_names(argument, names, classes)
        if labels is not None and (absent := [name for name in self.min_recall if name not in labels]):
            remedy = "add images of it, or drop its floor"
            raise invalid("min_recall", f"given for classes with images in the {images}", absent[0], remedy)
        if self.name == "top5" and options <= TOP:
            condition = f"another than 'top5' with {options} classes, all of which are among the five likeliest"
            raise invalid("objective", condition, "top5", Hint("for example {objective}", objective="accuracy"))

    @property
    def argument(self) -> str:
        """The name of the argument that sets the objective, or floors."""
        return next((name for name in ("min_recall", "costs", "metric") if getattr(self, name)), "objective")


DEFAULT = Objective()


def build_objective(
    objective: str,
    costs: Mapping[tuple[str, str], float] | None,
    min_recall: Mapping[str, float] | None,
    metric: Callable[..., Any] | None,
) -> Objective:
    """Return the objective of the arguments of `IPO`.

    Raises:
        InputError: an unknown name, malformed costs or floors, a metric that cannot be called, or several objectives.
    """
    one_of("objective", objective, OBJECTIVES)
    for name, values, example in (("costs", costs, {("deer", "elk"): 5.0}), ("min_recall", min_recall, {"deer": 0.9})):
        if not isinstance(values, Mapping | None):
            raise invalid(name, "a mapping", values, f"for example {name}={example}")
    for pair, cost in (costs or {}).items():
        if not isinstance(pair, tuple) or len(set(pair)) != 2 or not all(isinstance(label, str) for label in pair):
            condition = "a mapping from (true class, predicted class) to a cost"
            raise invalid("costs", condition, costs, "for example costs={('deer', 'elk'): 5.0}")
        if isinstance(cost, bool) or not isinstance(cost, int | float) or not 0 <= cost < math.inf:
            raise invalid("costs", f"a number of at least 0 for {pair}", cost, "for example 5.0")
    for label, floor in (min_recall or {}).items():
        if isinstance(floor, bool) or not isinstance(floor, int | float) or not 0 <= floor <= 1:
            raise invalid("min_recall", f"a number from 0 to 1 for {label!r}", floor, "for example 0.9")
    goals = {"costs": costs, "metric": metric}
    chosen = [f"objective={objective!r}"] * (objective != "accuracy") + [name for name, goal in goals.items() if goal]
    if len(chosen) > 1:
        raise invalid(chosen[-1], f"None with {chosen[0]}", goals[chosen[-1]], "pass one of them, which is optimized")
    if metric is not None:
        _ = arguments_needed(metric)  # which raises for one of another form
    name = METRIC + metric_name(metric) if metric is not None else COST if costs else objective
    return Objective(name, dict(costs or {}), dict(min_recall or {}), metric)


def metric_name(metric: Callable[..., Any]) -> str:
    """Return the name of a metric for journals and reports."""
    return str(getattr(metric, "__name__", type(metric).__name__))


def _content(thing: Any, depth: int = 8) -> str:
    """Return what a metric computes as a text that is the same in every process.

    It holds the qualified name and the bytecode of functions, with their constants, defaults and plain values from
    around them, and nothing but the type of other objects.
    """
    if isinstance(thing, bool | int | float | complex | str | bytes | None):
        return repr(thing)
    if depth and isinstance(thing, tuple | frozenset):
        parts = [_content(part, depth - 1) for part in thing]
        return f"({', '.join(parts if isinstance(thing, tuple) else sorted(parts))})"
    if depth and isinstance(thing, CodeType):
        return f"{thing.co_code.hex()} {thing.co_names} {_content(thing.co_consts, depth - 1)}"
    if not callable(thing):
        return type(thing).__qualname__
    if depth and isinstance(thing, partial):
        return _content((thing.func, thing.args, *sorted(thing.keywords.items())), depth - 1)
    function = thing if hasattr(thing, "__code__") else type(thing).__call__
    name = getattr(thing, "__qualname__", type(thing).__qualname__)
    if not depth or not hasattr(function, "__code__"):
        return str(name)
    around = tuple(cell.cell_contents for cell in function.__closure__ or ())
    return f"{name} {_content((function.__code__, function.__defaults__, around), depth - 1)}"


def is_of_all_images(metric: Callable[..., Any]) -> bool:
    """Return True if a metric takes the labels and probabilities of all images."""
    return tuple(inspect.signature(metric).parameters)[:2] == ("labels", "probabilities")


def arguments_needed(metric: Callable[..., Any]) -> int:
    """Return the number of arguments to pass to a metric: two, or as many as have no default, as for GEPA.

    Raises:
        InputError: it takes less than two or more than five arguments, or some by name only.
    """
    remedy: str = "give its other parameters a default"
    try:
        signature = inspect.signature(metric)
        parameters = signature.parameters.values()
        needed = [
            p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        count = max(2, len(needed))
        signature.bind(*range(count))
        if count <= (2 if is_of_all_images(metric) else LONGEST_METRIC):
            return count
        shown = f"{getattr(metric, '__name__', 'a metric')}{signature}"
    except (TypeError, ValueError):
        shown, remedy = repr(metric), "pass a Python function with these parameters"
    condition = "metric(labels, probabilities) of all images, or metric(example, prediction, trace=None)"
    raise InputError(f"metric must be {condition}, got {shown}; {remedy}")


def finite(value: Any, name: str) -> float:
    """Return the value of a metric as a number.

    Raises:
        InputError: it is not a finite number.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        hint = "return a float or a bool, higher is better"
        raise InputError(f"metric {name} must return a finite number, got {value!r:.120}; {hint}")
    return number

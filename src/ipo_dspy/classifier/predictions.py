"""The questions that a classifier answers, as DSPy signatures, and its answers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import dspy

from ipo_dspy.errors import DataError, Hint
from ipo_dspy.template import Template, same_class


class ClassifyImage(dspy.Signature):
    """a photo of a <CLASS>."""

    image: dspy.Image = dspy.InputField(desc="the picture to classify")
    label: str = dspy.OutputField(desc="the class whose filled template matches the picture best")


class ClassifyAmong(ClassifyImage):
    """a photo of a <CLASS>."""

    classes: list[str] = dspy.InputField(desc="the class names to choose from")


class LabelImage(dspy.Signature):
    """a photo of a <CLASS>."""

    image: dspy.Image = dspy.InputField(desc="the picture to label")
    labels: list[str] = dspy.OutputField(desc="the classes whose filled template matches the picture")
    label: str = dspy.OutputField(desc="the most probable of them")


class LabelAmong(LabelImage):
    """a photo of a <CLASS>."""

    classes: list[str] = dspy.InputField(desc="the class names to choose from")


@dataclass(frozen=True, slots=True)
class Question:
    """The checked inputs of one call."""

    image: Any
    classes: tuple[str, ...]
    template: Template


class Classification(dspy.Prediction):
    """Prediction of a `ClipClassifier`: `confidence`, the top-k `scores`, `label`, and all `probabilities`."""

    _classes: tuple[str, ...] = ()
    _shares: Sequence[float] = ()

    def __init__(self, base: Any = None, **fields: Any) -> None:
        super().__init__(base, **fields)
        if isinstance(base, Classification):  # a copy
            self._classes, self._shares = base._classes, base._shares

    @property
    def probabilities(self) -> dict[str, float]:
        """Probability of every class, after class weights; empty if the instructions are not a template.

        It is not one of the fields, because optimizers show these to language models, and takes little memory.
        """
        return dict(zip(self._classes, self._shares, strict=True))


class MultiLabelClassification(Classification):
    """Prediction with `multi_label=True`: also `labels`, the classes with at least 0.5, the most probable first."""

    @property
    def labels(self) -> list[str]:
        """The classes in the image, in place of DSPy's method of the same name."""
        return cast("list[str]", self["labels"])


def apply_weights(classes: Sequence[str], shares: Sequence[float], weights: Mapping[str, float]) -> list[float]:
    """Return the probabilities times the weights of their classes, normalized.

    Raises:
        DataError: all are zero.
    """
    products = [share * weights.get(label, 1.0) for label, share in zip(classes, shares, strict=True)]
    if (total := math.fsum(products)) <= 0:
        raise DataError("class weights must leave a class with a positive probability; raise a weight above 0")
    return [product / total for product in products]


def class_index(example: dspy.Example, index: int, field: str, classes: tuple[str, ...]) -> int:
    """Return the index of an example's class.

    Raises:
        DataError: it is not one of the classes.
    """
    label = example.get(field)
    known = same_class(label, classes) if isinstance(label, str) else None
    if known is None:
        hint = Hint("correct it, or name its field: {label_field}", label_field=...)
        raise DataError(
            f"valset[{index}] must have one of the {len(classes)} classes as its {field}, got {label!r:.120}", hint=hint
        )
    return classes.index(known)

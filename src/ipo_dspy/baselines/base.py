"""Few-shot method interface: fit on labeled images, then return logits for any images and classes.

The base-to-novel protocol fits on the base classes and then scores base and novel ones. So a fitted method takes class
names with each call, not when it is created.

Letters: N images, C classes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import NoneType
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar, get_args, get_type_hints

import torch
from torch import Tensor

from ipo_dspy._internal.json_input import has_type
from ipo_dspy._internal.renames import renamed_names
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.image_features import ImageSource
from ipo_dspy.data.dataset import unknown_class
from ipo_dspy.errors import DataError, InputError
from ipo_dspy.scoring.metrics import class_logits, tally_logits
from ipo_dspy.scoring.score import Score
from ipo_dspy.template import Template

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
Tower = Literal["text", "image"]

Progress = Callable[[int, int], None]
"""Called with the number of steps done and the total."""

BATCH = 64
"""Batch size of `evaluate`."""


@dataclass(frozen=True, slots=True)
class FewShotTask:
    """A few-shot task.

    Attributes:
        backbone: the frozen CLIP.
        images: N training images.
        labels: N class names.
        classes: C names, in the order of label indices; every label is one of them.
        template: the data set's hand-written template.
        validation_images, validation_labels: further images of these classes, for methods that search for a setting.
    """

    backbone: Backbone = field(repr=False)
    images: Sequence[ImageSource] = field(repr=False)
    labels: Sequence[str] = field(repr=False)
    classes: tuple[str, ...]
    template: Template
    validation_images: Sequence[ImageSource] = field(default=(), repr=False)
    validation_labels: Sequence[str] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        pairs = ((self.images, self.labels), (self.validation_images, self.validation_labels))
        for images, labels in pairs:
            if len(images) != len(labels) or not self.images:
                raise DataError(f"{len(images)} images and {len(labels)} labels; pass one label per image")
            targets_of(labels, self.classes)

    @property
    def targets(self) -> Tensor:
        """Return the index of each label among the classes: [N] int64."""
        return targets_of(self.labels, self.classes)


def targets_of(labels: Sequence[str], classes: Sequence[str]) -> Tensor:
    """Return the index of each label among the classes, [N] int64; raise `DataError` for a label of no class.

    >>> targets_of(["dog", "cat"], ["cat", "dog"])
    tensor([1, 0])
    """
    index_of = {name: index for index, name in enumerate(classes)}
    if unknown := sorted(set(labels) - index_of.keys()):
        raise DataError(f"an image has {unknown_class(unknown[0], classes)}")
    return torch.tensor([index_of[label] for label in labels], dtype=torch.int64)


def validate_field_types(method: "DataclassInstance") -> None:
    """Raise `InputError` for the first setting of a method whose value has not the type of its field."""
    hints = get_type_hints(type(method))
    for setting in fields(method):
        name, default, hint, value = setting.name, setting.default, hints[setting.name], getattr(method, setting.name)
        kinds = set(get_args(hint) or (hint,))
        if kinds <= _IN_WORDS.keys() and not has_type(value, hint, largest=math.inf):
            words = " or ".join(_IN_WORDS[kind] for kind in _IN_WORDS if kind in kinds)
            raise InputError(f"{name} must be {words}, got {value!r:.80}; for example {name}={default!r}")


_IN_WORDS: Mapping[type, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a finite number",
    str: "a string",
    NoneType: "None",
}


class FittedClassifier(Protocol):
    """A classifier for any class names."""

    def logits(self, images: Sequence[ImageSource], classes: Sequence[str]) -> Tensor:
        """Return logits [N, C], float32, on the CPU, at the model's logit scale.

        Raises:
            InputError, TemplateError: no classes, or a name that does not fit the model.
            ImageError: an image cannot be read.
        """
        ...


class FewShotMethod(Protocol):
    """A method that fits a classifier to a few images; `towers` are those that must support learned tokens."""

    towers: tuple[Tower, ...]

    def fit(self, task: FewShotTask, *, seed: int = 0, progress: Progress | None = None) -> FittedClassifier:
        """Fit to the images; the backbone does not change.

        Raises:
            InputError, TemplateError: the backbone's towers do not support the method (the message names some that do),
                a class has no sentences, or a text is too long.
            ImageError: an image cannot be read.
        """
        ...


class LatestClasses(Generic[T]):
    """Caches the value of the latest class names only, because consecutive calls tend to share them."""

    def __init__(self) -> None:
        self._latest: tuple[tuple[str, ...], T] | None = None

    def get(self, classes: Sequence[str], compute: Callable[[tuple[str, ...]], T]) -> T:
        """Return the value for the class names; `compute` receives them as a tuple."""
        names = tuple(classes)
        if self._latest is None or self._latest[0] != names:
            self._latest = names, compute(names)
        return self._latest[1]


def clip_logits(backbone: Backbone, image: Tensor, text: Tensor) -> Tensor:
    """Return logits [N, C] of normalized features [N, D] and [C, D], with the logit scale and bias of a model."""
    return class_logits(image, text, logit_scale=backbone.logit_scale, logit_bias=backbone.logit_bias)


def evaluate(
    fitted: FittedClassifier, images: Sequence[ImageSource], labels: Sequence[str], classes: Sequence[str]
) -> Score:
    """Return loss and accuracy over all images, as defined in `metrics`.

    Raises:
        InputError: no images, or a label that is not one of the classes.
    """
    targets = targets_of(labels, classes)  # [N]
    parts = [slice(start, start + BATCH) for start in range(0, len(images), BATCH)]
    tallies = [tally_logits(fitted.logits(images[part], classes), targets[part]) for part in parts]
    if not tallies:
        raise InputError("a score needs images and there are none; pass at least one")
    return sum(tallies[1:], tallies[0]).score


__getattr__ = renamed_names(__name__, FewShot="FewShotTask", Fitted="FittedClassifier", Method="FewShotMethod")

"""Describe an image source by its labels, so that images can be selected before any is read."""

import functools
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, ParamSpec, TypedDict

from ipo_dspy._internal.counts import first_few, pluralize
from ipo_dspy.data.dataset import ImageDataset
from ipo_dspy.data.sampling import few_shot, select
from ipo_dspy.errors import DataError

logger = logging.getLogger(__name__)
_P = ParamSpec("_P")


class DataOptions(TypedDict, total=False):
    """Keyword arguments of the loaders; see `load_image_table` and `load_hub`."""

    image: str
    label: str
    classes: Sequence[str] | None
    base: str | PathLike[str] | None
    split: str | None


@dataclass(frozen=True, slots=True)
class Catalog:
    """The images of a source.

    Attributes:
        classes: class names in label index order.
        labels: class name of each image.
        build: positions -> data set of these images, in that order.
    """

    classes: tuple[str, ...]
    labels: Sequence[str]
    build: Callable[[Sequence[int]], ImageDataset]

    def load(self, *, shots: int | None, seed: int) -> ImageDataset:
        """Return `shots` images per class, or all of them."""
        return self.build(select(self.labels, shots=shots, test=None, seed=seed).train)

    def without_small_classes(self, min_images: int) -> "Catalog":
        """Return the catalog without classes of fewer than `min_images` images, with a logged warning."""
        counts = Counter(self.labels)
        small = [f"{name} ({counts[name]})" for name in self.classes if counts[name] < min_images]
        if not small:
            return self
        large = [name for name in self.classes if counts[name] >= min_images]
        if len(large) < 2:
            fact = f"must leave two classes, and {min_images} leaves {pluralize(len(large), 'class')}"
            raise DataError(fact, argument="min_images", hint="lower it")
        left_out, fewest = pluralize(len(small), "class"), pluralize(min_images, "image")
        logger.warning("left out %s with fewer than %s: %s", left_out, fewest, first_few(small, 8))
        positions = [at for at, label in enumerate(self.labels) if label in large]

        def build(rows: Sequence[int]) -> ImageDataset:
            return self.build([positions[row] for row in rows]).subset(large)

        return Catalog(tuple(large), [self.labels[at] for at in positions], build)

    def split(
        self, *, shots: int | None, test: float | None, seed: int
    ) -> tuple[ImageDataset, ImageDataset | None, ImageDataset | None]:
        """Return training, validation, and test images.

        Images in neither the training nor the test part are used for validation, at most `shots` per class. There is no
        validation part if fewer than a quarter as many images as the training images remain: they would decide nothing.
        """
        chosen = select(self.labels, shots=shots, test=test, seed=seed)
        taken = {*chosen.train, *(chosen.test or ())}
        rest = [at for at in range(len(self.labels)) if at not in taken]
        validation = None
        if shots is not None and 4 * len(rest) >= len(chosen.train):
            drawn = few_shot([self.labels[at] for at in rest], shots=shots, seed=seed, tell_short=False)
            validation = self.build([rest[at] for at in drawn.train])
        return self.build(chosen.train), validation, None if chosen.test is None else self.build(chosen.test)


def accept_test_argument(load: Callable[_P, ImageDataset]) -> Callable[_P, ImageDataset]:
    """Let a loader accept its deprecated argument `test`: it warns and returns ``(train, test)``."""

    @functools.wraps(load)
    def loader(*args: _P.args, **options: _P.kwargs) -> ImageDataset:
        test: Any = options.pop("test", None)
        if test is None:
            return load(*args, **options)
        arguments: dict[str, Any] = {"test": test, "shots": options.pop("shots", None), "seed": options.get("seed", 0)}
        call = ", ".join(f"{name}={value!r}" for name, value in arguments.items() if value is not None)
        new = f"{load.__name__}(...).split({call})"
        warnings.warn(f"test= is deprecated in {load.__name__}; use {new}", DeprecationWarning, stacklevel=2)
        return load(*args, **options).split(**arguments)  # type: ignore[return-value]  # the former return type

    return loader

"""The labels of an image source, and a way to build any part of it, before anything is drawn."""

import functools
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypedDict

from ipo_dspy._internal.counts import first_few, pluralize
from ipo_dspy.data.dataset import ImageDataset
from ipo_dspy.data.sampling import few_shot, select
from ipo_dspy.errors import DataError

logger = logging.getLogger(__name__)
_P = ParamSpec("_P")


class DataOptions(TypedDict, total=False):
    """Arguments of the loaders that say how a source is read; see `load_image_table` and `load_hub`."""

    image: str
    label: str
    classes: Sequence[str]
    base: str
    split: str


@dataclass(frozen=True, slots=True)
class Catalog:
    """The images of a source.

    Attributes:
        classes: class names in label index order.
        labels: the class of each image.
        build: positions -> the data set of these images, in that order.
    """

    classes: tuple[str, ...]
    labels: Sequence[str]
    build: Callable[[Sequence[int]], ImageDataset]

    def load(self, *, shots: int | None, seed: int) -> ImageDataset:
        """Return `shots` images per class, or all of them."""
        return self.build(select(self.labels, shots=shots, test=None, seed=seed).train)

    def without_small_classes(self, min_images: int) -> "Catalog":
        """Leave out classes with fewer images, with a logged warning.

        Raises:
            DataError: fewer than two classes are left.
        """
        counts = Counter(self.labels)
        small = [f"{name} ({counts[name]})" for name in self.classes if counts[name] < min_images]
        if not small:
            return self
        wanted = [name for name in self.classes if counts[name] >= min_images]
        if len(wanted) < 2:
            left = pluralize(len(wanted), "class")
            raise DataError(
                f"must leave two classes, and {min_images} leaves {left}", argument="min_images", hint="lower it"
            )
        left_out, fewest = pluralize(len(small), "class"), pluralize(min_images, "image")
        logger.warning("left out %s with fewer than %s: %s", left_out, fewest, first_few(small, 8))
        kept = [at for at, label in enumerate(self.labels) if label in wanted]

        def build(rows: Sequence[int]) -> ImageDataset:
            return self.build([kept[row] for row in rows]).subset(wanted)

        return Catalog(tuple(wanted), [self.labels[at] for at in kept], build)

    def split(
        self, *, shots: int | None, test: float | None, seed: int
    ) -> tuple[ImageDataset, ImageDataset | None, ImageDataset | None]:
        """Return training, validation, and test images.

        Images that are in neither the training nor the test part are for validation: at most `shots` per class, and
        only if they are at least a quarter as many as the training images, since fewer decide nothing.
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
    """Let a loader take its former argument `test` for one more release: it warns and returns ``(train, test)``."""

    @functools.wraps(load)
    def loader(*args: _P.args, **options: _P.kwargs) -> ImageDataset:
        test: Any = options.pop("test", None)
        if test is None:
            return load(*args, **options)
        arguments: dict[str, Any] = {"test": test, "shots": options.pop("shots", None), "seed": options.get("seed", 0)}
        call = ", ".join(f"{name}={value!r}" for name, value in arguments.items() if value is not None)
        new = f"{load.__name__}(...).split({call})"
        warnings.warn(f"test= is deprecated in {load.__name__}; use {new}", DeprecationWarning, stacklevel=2)
        return load(*args, **options).split(**arguments)  # type: ignore[return-value]  # as it was

    return loader

"""Data sets, which are lists of `dspy.Example` with class names, and catalogs, from which images are sampled unread.

`ImageDataset` is a list because DSPy optimizers and `dspy.Evaluate` slice, shuffle and iterate lists. Examples hold a
path (or a `dspy.Image` for bytes from a table) and never pixels, so a large folder needs little memory. The trade-off:
a file that is not an image is detected only when it is encoded.
"""

import difflib
import functools
import logging
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, ParamSpec, SupportsIndex, TypedDict, overload

import dspy

from ipo_dspy._internal.counts import first_few, pluralize
from ipo_dspy.data.sampling import NO_CLASS, few_shot, select, split_classes
from ipo_dspy.errors import DataError, InputError
from ipo_dspy.template import check_classes, same_class

logger = logging.getLogger(__name__)
_P = ParamSpec("_P")


class DataOptions(TypedDict, total=False):
    """Keyword arguments of the loaders; see `load_image_table` and `load_hub`."""

    image: str
    label: str
    classes: Sequence[str] | None
    base: str | PathLike[str] | None
    split: str | None


_PURPOSES = {
    "image": "it names a column of a table",
    "label": "it names a column of a table",
    "base": "it is the folder of the relative image paths of a table",
    "classes": "it names integer labels, and sub-folders have names",
    "split": "it names a part of a table, a folder or a saved data set",
}


def check_options(options: DataOptions, path: PathLike[str], kind: str, known: Collection[str]) -> Any:
    """Return options of a path after checking that its kind of data accepts each.

    Raises:
        DataError: an option is for another kind of data.
    """
    for name, value in options.items():
        if name not in known:
            hint = f"remove it: {_PURPOSES[name]}"
            raise DataError(f"must be left out for {path}, {kind}", argument=name, value=value, hint=hint)
    return options


class ImageDataset(list[dspy.Example]):
    """Examples with the fields `image` (the input), `label` (a class name) and `source`, plus `classes`.

    A label may also be a list of class names; see `load_label_sets`.

    `source` identifies the image in reports: a path, or ``FILE.parquet#ROW`` with rows counted from 0. Slices, copies
    and sums keep `classes`; ``sorted`` and ``*`` return plain lists.

    >>> data = ImageDataset([example("a.jpg", "cat"), example("b.jpg", "dog")], classes=["cat", "dog"])
    >>> data
    ImageDataset(2 images, 2 classes)
    >>> data[:1].classes, data.counts()
    (('cat', 'dog'), {'cat': 1, 'dog': 1})

    Attributes:
        classes: class names; a class's position is its label index.
    """

    classes: tuple[str, ...]

    def __init__(self, examples: Iterable[dspy.Example], *, classes: Sequence[str]) -> None:
        super().__init__(examples)
        self.classes = tuple(classes)
        known = set(self.classes)
        for item in self:
            if unknown := [label for label in _label_list(item.label) if label not in known]:
                raise DataError(f"image {item.source!r} has {unknown_class(unknown[0], self.classes)}")

    def labels(self) -> list[str]:
        """Return the class name of each image."""
        return [item.label for item in self]

    def counts(self) -> dict[str, int]:
        """Return the number of images per class, in the order of `classes`; 0 for a class without images."""
        counts = Counter(label for item in self for label in _label_list(item.label))
        return {name: counts[name] for name in self.classes}

    def split(self, *, test: float, shots: int | None = None, seed: int = 0) -> tuple["ImageDataset", "ImageDataset"]:
        """Split into training and test images, in the same proportion for each class; the seed determines the split.

        >>> data = ImageDataset((example(f"{i}.jpg", "ab"[i % 2]) for i in range(10)), classes=["a", "b"])
        >>> data.split(test=0.4), data.split(test=2, shots=1)[0].counts()
        ((ImageDataset(6 images, 2 classes), ImageDataset(4 images, 2 classes)), {'a': 1, 'b': 1})

        Args:
            test: fraction of the images, between 0 and 1, or number of images for testing.
            shots: images per class that `few_shot` draws from the rest for training; None takes all of the rest.
            seed: seed of the split and of the draw.

        Raises:
            DataError: `test` or `shots` is invalid.
        """
        counts = self.counts()
        # An image with several labels is drawn by its rarest one.
        drawn_by = [
            min(_label_list(item.label), key=lambda name: (counts[name], name), default=NO_CLASS) for item in self
        ]
        train, held_out = select(drawn_by, shots=shots, test=test, seed=seed)
        return self.pick(train), self.pick(held_out or ())

    def subset(self, classes: Iterable[str]) -> "ImageDataset":
        """Return the images of these classes, which become the new `classes` in the given order.

        Labels of other classes are removed from images with several labels.

        Raises:
            DataError: a name is not in `classes`.
        """
        names = tuple(dict.fromkeys([classes] if isinstance(classes, str) else classes))
        for name in names:
            if name not in self.classes:
                raise DataError(f"the subset has {unknown_class(name, self.classes)}")
        kept = [(item, [name for name in _label_list(item.label) if name in names]) for item in self]
        items = (
            example(item.image, labels, item.source) if isinstance(item.label, list) else item
            for item, labels in kept
            if labels
        )
        return ImageDataset(items, classes=names)

    def spelled_as(self, classes: Sequence[str]) -> "ImageDataset":
        """Return the same images with class names spelled as in `classes`, which may differ in underscores and spaces.

        Names without a match are kept. All names are kept if two of them would become equal.
        """
        names = {name: same_class(name, classes) or name for name in self.classes}
        if len(set(names.values())) < len(names) or all(name == new for name, new in names.items()):
            return self
        items = (
            example(
                item.image,
                [names[name] for name in item.label] if isinstance(item.label, list) else names[item.label],
                item.source,
            )
            for item in self
        )
        return ImageDataset(items, classes=tuple(names.values()))

    def pick(self, rows: Iterable[int]) -> "ImageDataset":
        """Return the images at these positions, in the given order, with the same `classes`."""
        return ImageDataset((self[row] for row in rows), classes=self.classes)

    @overload
    def __getitem__(self, index: SupportsIndex) -> dspy.Example: ...
    @overload
    def __getitem__(self, index: slice) -> "ImageDataset": ...
    def __getitem__(self, index: SupportsIndex | slice) -> "dspy.Example | ImageDataset":
        if isinstance(index, slice):
            return ImageDataset(super().__getitem__(index), classes=self.classes)
        return super().__getitem__(index)

    def __add__(self, other: Iterable[dspy.Example]) -> "ImageDataset":
        """Return the images of both; classes that only `other` has come last."""
        classes = dict.fromkeys((*self.classes, *getattr(other, "classes", ())))
        return ImageDataset((*self, *other), classes=tuple(classes))

    def __iadd__(self, other: Iterable[dspy.Example]) -> "ImageDataset":
        both = self + other
        self[:], self.classes = both, both.classes
        return self

    def copy(self) -> "ImageDataset":
        """Return a new data set with the same images."""
        return self[:]

    def __repr__(self) -> str:
        return f"ImageDataset({len(self)} images, {len(self.classes)} classes)"


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
        return self.build(select(self.labels, shots=shots, test=None, seed=seed)[0])

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
        validation part if the remaining images are fewer than a quarter of the training images: too few to decide.
        """
        train, held_out = select(self.labels, shots=shots, test=test, seed=seed)
        taken = {*train, *(held_out or ())}
        rest = [at for at in range(len(self.labels)) if at not in taken]
        validation = None
        if shots is not None and 4 * len(rest) >= len(train):
            drawn = few_shot([self.labels[at] for at in rest], shots=shots, seed=seed, tell_short=False)
            validation = self.build([rest[at] for at in drawn.train])
        return self.build(train), validation, None if held_out is None else self.build(held_out)


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


def _label_list(label: str | list[str]) -> list[str]:
    return label if isinstance(label, list) else [label]


def example(image: Any, label: str | list[str], source: str | None = None) -> dspy.Example:
    """Return an example; `source` defaults to the image path."""
    where = image if source is None else source
    return dspy.Example(image=image, label=label, source=where).with_inputs("image")


def class_name(text: str) -> str:
    """Return a class name in NFC, because macOS decomposes the accents of file names."""
    return unicodedata.normalize("NFC", text).strip()


def usable_classes(names: Sequence[str], where: object) -> tuple[str, ...]:
    """Return the class names that `template.check_classes` accepts; errors name the folder or table."""
    try:
        return check_classes(names)
    except InputError as error:
        raise DataError(f"{where}: {error}") from error


def unknown_class(name: object, classes: Sequence[str]) -> str:
    """Return the error text for an unknown label, with the most similar class or the first few."""
    near = closest(str(name), classes)
    remedy = repr(near) if near else f"one of {first_few(list(map(repr, classes)), 8)}"
    return f"the unknown label {shorten(name)}; expected {remedy}"


def closest(name: str, options: Sequence[str]) -> str | None:
    """Return the option with the most similar spelling, ignoring case, or None."""
    folded = {option.casefold(): option for option in options}
    near = difflib.get_close_matches(name.casefold(), folded, n=1)
    return folded[near[0]] if near else None


def shorten(value: object) -> str:
    """Return the `repr` of a value, shortened so that a huge cell does not fill the screen."""
    text = repr(value)
    return text if len(text) <= 80 else text[:60] + f"... ({len(text)} characters)"


def base_novel(dataset: ImageDataset) -> tuple[ImageDataset, ImageDataset]:
    """Return the base and novel halves of a data set, each with label indices from 0.

    Classes without images are ignored. Call this on the training set and use ``testset.subset(base.classes)`` for the
    test images of a half.

    Raises:
        DataError: fewer than four classes have images, so that a half would have a single class.
    """
    present = [name for name, count in dataset.counts().items() if count]
    if len(present) < 4:
        have = pluralize(len(present), "class")
        raise DataError(f"{dataset!r} has images of {have}; a base/novel split needs at least four")
    base, novel = split_classes(present)
    return dataset.subset(base), dataset.subset(novel)

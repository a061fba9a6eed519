"""Represent benchmark splits as lists of paths and labels, from which the protocol draws before it builds examples.

The items are plain tuples, since ImageNet has 1.3 million images, of which only a few shots are needed.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ipo_dspy.data.dataset import shorten
from ipo_dspy.data.image_tree import file_size
from ipo_dspy.errors import DataError
from ipo_dspy.template import display_class_name


class LabelledPath(NamedTuple):
    """An image: its path relative to the image folder, and its label index."""

    path: str
    label: int


@dataclass(frozen=True, slots=True)
class BenchmarkSplits:
    """The splits of a data set.

    Attributes:
        where: file that lists the splits, for messages.
        base: folder that the paths are relative to.
        train, val, test: images in the order of the files.
        names: published name of each label; several labels may share a name.
        ids: unique id of each label, for labels with the same name: ImageNet's folder names.
    """

    where: Path
    base: Path
    train: Sequence[LabelledPath] = field(repr=False)
    val: Sequence[LabelledPath] = field(repr=False)
    test: Sequence[LabelledPath] = field(repr=False)
    names: Mapping[int, str] = field(repr=False)
    ids: Mapping[int, str] = field(repr=False, default_factory=dict)


def check_labels(lists: BenchmarkSplits) -> BenchmarkSplits:
    """Return the splits after checking that each label of `val` and `test` has a training image.

    Raises:
        DataError: a label has no training image.
    """
    known = {item.label for item in lists.train}
    for part, items in (("val", lists.val), ("test", lists.test)):
        for item in items:
            if item.label not in known:
                fact = (
                    f"{lists.where}: label {item.label} ({lists.names[item.label]!r}) of {part} does not occur in train"
                )
                raise DataError(f"{fact}; download the published file again")
    return lists


def distinct_names(lists: BenchmarkSplits) -> dict[int, str]:
    """Return a distinct name for each label: the published name, with the folder name added to ImageNet's duplicates.

    CLIP's class names for ImageNet contain `missile` and `sunglasses` twice. Sharing a name would merge two classes and
    inflate the score.

    Raises:
        DataError: two labels share a name and have no ids.
    """
    taken: dict[str, int] = {}
    distinct: dict[int, str] = {}
    for label, name in sorted(lists.names.items()):
        first = taken.setdefault(display_class_name(name).casefold(), label)
        if first != label and label not in lists.ids:
            fact = f"{lists.where}: labels {first} and {label} are both called {name!r}"
            raise DataError(f"{fact}; rename one, or download the published file again")
        distinct[label] = name if first == label else f"{name} ({lists.ids[label]})"
    return distinct


def absent_images(lists: BenchmarkSplits) -> list[str]:
    """Return the listed paths that are missing or empty, in order and without repetition."""
    listed = dict.fromkeys(item.path for items in (lists.train, lists.val, lists.test) for item in items)
    return [path for path in listed if not file_size(os.path.join(lists.base, path))]  # noqa: PTH118 - a Path is slow


def format_paths(paths: Iterable[str], count: int = 3) -> str:
    """Return the first paths as text for a message.

    >>> format_paths(["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    'a.jpg, b.jpg, c.jpg, ...'
    """
    shown = list(paths)
    return ", ".join(shorten(path).strip("'") for path in shown[:count]) + (", ..." if len(shown) > count else "")

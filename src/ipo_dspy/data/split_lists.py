"""Benchmark splits as lists of paths and labels, from which the protocol draws before examples are built.

Plain tuples, since ImageNet has 1.3 million images, of which only a few shots are needed.
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
    """An image: its path from the folder of images, and the number of its class."""

    path: str
    label: int


@dataclass(frozen=True, slots=True)
class BenchmarkSplits:
    """The splits that a data set's files list.

    Attributes:
        where: the file that lists them, for messages.
        base: folder that the paths start from.
        train, val, test: in the order of the files.
        names: the published name of each label; several labels may share one.
        ids: what tells labels apart where names do not: ImageNet's folder names.
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
        DataError: a label has none, so its images could never be classified correctly.
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
    """Return a distinct name for each label: the published one, with the folder's name for ImageNet's duplicates.

    CLIP's names for ImageNet have `missile` and `sunglasses` twice each. Under one name, two classes would become one
    and the score would be too high.

    Raises:
        DataError: two labels share a name and have no ids.
    """
    taken: dict[str, int] = {}
    found: dict[int, str] = {}
    for label, name in sorted(lists.names.items()):
        first = taken.setdefault(display_class_name(name).casefold(), label)
        if first != label and label not in lists.ids:
            fact = f"{lists.where}: labels {first} and {label} are both called {name!r}"
            raise DataError(f"{fact}; rename one, or download the published file again")
        found[label] = name if first == label else f"{name} ({lists.ids[label]})"
    return found


def absent_images(lists: BenchmarkSplits) -> list[str]:
    """Return the listed paths that are missing, or empty after an interrupted download; in order, each once."""
    listed = dict.fromkeys(item.path for items in (lists.train, lists.val, lists.test) for item in items)
    return [path for path in listed if not file_size(os.path.join(lists.base, path))]  # noqa: PTH118 - a Path is slow


def format_paths(paths: Iterable[str], count: int = 3) -> str:
    """Return the first paths, for a message.

    >>> format_paths(["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    'a.jpg, b.jpg, c.jpg, ...'
    """
    shown = list(paths)
    return ", ".join(shorten(path).strip("'") for path in shown[:count]) + (", ..." if len(shown) > count else "")

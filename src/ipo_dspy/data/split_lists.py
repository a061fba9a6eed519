"""Images by path and label as a benchmark lists them: what the protocol draws from, before anything is an example.

Plain tuples, since ImageNet has 1.3 million images of which a few shots are wanted.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ipo_dspy.data.dataset import shorten
from ipo_dspy.data.image_tree import file_size
from ipo_dspy.errors import DataError
from ipo_dspy.template import spoken


class Item(NamedTuple):
    """An image: its path from the folder of images, and the number of its class."""

    path: str
    label: int


@dataclass(frozen=True, slots=True)
class Lists:
    """What a data set's files say.

    Attributes:
        where: the file that says it, for messages.
        base: folder that the paths start from.
        train, val, test: in the order of the files.
        names: the published name of each label; several labels may share one.
        ids: what tells labels apart where names do not: ImageNet's folder names.
    """

    where: Path
    base: Path
    train: Sequence[Item] = field(repr=False)
    val: Sequence[Item] = field(repr=False)
    test: Sequence[Item] = field(repr=False)
    names: Mapping[int, str] = field(repr=False)
    ids: Mapping[int, str] = field(repr=False, default_factory=dict)


def check_labels(lists: Lists) -> Lists:
    """See that what is tested can be learnt: each label of `val` and `test` has a training image.

    Raises:
        DataError: one has none, so that its images could never be scored right.
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


def distinct_names(lists: Lists) -> dict[int, str]:
    """A name of its own for each label: the published one; ImageNet's later namesakes with their folder's name.

    CLIP's names for ImageNet have `missile` and `sunglasses` twice each. Under one name, two classes would become one
    and the score would be too high.

    Raises:
        DataError: two labels share a name, and there is nothing to tell them apart by.
    """
    taken: dict[str, int] = {}
    found: dict[int, str] = {}
    for label, name in sorted(lists.names.items()):
        first = taken.setdefault(spoken(name).casefold(), label)
        if first != label and label not in lists.ids:
            fact = f"{lists.where}: labels {first} and {label} are both called {name!r}"
            raise DataError(f"{fact}; rename one, or download the published file again")
        found[label] = name if first == label else f"{name} ({lists.ids[label]})"
    return found


def absent_images(lists: Lists) -> list[str]:
    """Paths that are listed and not there, or empty as after a download that was cut; in order, each once."""
    listed = dict.fromkeys(item.path for items in (lists.train, lists.val, lists.test) for item in items)
    return [path for path in listed if not file_size(os.path.join(lists.base, path))]  # noqa: PTH118 - a Path is slow


def told(paths: Iterable[str], count: int = 3) -> str:
    """The first few of some paths.

    >>> told(["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    'a.jpg, b.jpg, c.jpg, ...'
    """
    shown = list(paths)
    return ", ".join(shorten(path).strip("'") for path in shown[:count]) + (", ..." if len(shown) > count else "")

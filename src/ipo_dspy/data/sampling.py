"""Draw few-shot, train/test and base/novel parts of a data set; pure functions of labels and a seed.

The few-shot draw and the base/novel halves are those of the CoOp line of work (CoOp, CoCoOp, MaPLe,
PromptSRC, IPO), image for image, so that results can be compared with published ones. The functions take labels and
return positions, so that no image has to be loaded before it is drawn.
"""

import logging
import random
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import NamedTuple, TypeVar

from ipo_dspy._internal.counts import first_few, pluralize
from ipo_dspy.errors import DataError, Hint

logger = logging.getLogger(__name__)
T = TypeVar("T")

VALIDATION_SHOTS = 4
"""Maximum number of validation images per class in the protocol."""
NO_CLASS = ""
"""Label of images of no class: they are drawn like those of a class, but messages do not name one."""


class FewShotSample(NamedTuple):
    """Positions drawn from the train list and from the validation list."""

    train: list[int]
    val: list[int]


def few_shot(
    train: Sequence[Hashable], val: Sequence[Hashable] = (), *, shots: int, seed: int, tell_short: bool = True
) -> FewShotSample:
    """Draw `shots` positions per class from `train`, then min(shots, 4) per class from `val`.

    One Mersenne Twister `random.Random(seed)` serves both lists, train first. Classes come in order of
    FIRST APPEARANCE in each list (not sorted), and `random.sample` draws from a class's items in list
    order. A class with fewer than `shots` items is used completely, without a draw. For base/novel, draw from
    all classes first and take the halves afterwards. The result keeps the order of drawing.

    >>> few_shot(["cat", "dog", "cat", "dog", "cat"], shots=1, seed=1)
    FewShotSample(train=[0, 1], val=[])

    Args:
        train: the label of each training image.
        val: the label of each validation image.
        shots: images per class, at least 1.
        seed: seed of the generator; the published runs use 1, 2 and 3.
        tell_short: log a warning about classes with fewer than `shots` images.

    Raises:
        DataError: `shots` is not an integer of at least 1.
    """
    if isinstance(shots, bool) or not isinstance(shots, int) or shots < 1:
        hint = Hint("for example {shots}", shots=16)
        raise DataError("must be an integer of at least 1, or None for all", argument="shots", value=shots, hint=hint)
    rng = random.Random(seed)
    if tell_short:
        _warn_short_classes(train, shots)
    return FewShotSample(_draw(train, shots, rng), _draw(val, min(shots, VALIDATION_SHOTS), rng))


def train_test(labels: Sequence[Hashable], *, test: float, seed: int) -> tuple[list[int], list[int]]:
    """Split positions into training and test positions, each class in proportion to its images.

    A fraction applies to each class and is rounded half up; a number of images is met exactly. At least one image of
    each class is kept for training, and a logged warning names the classes without test images. Both parts keep the
    order of `labels`. The generator is seeded with a string made from the seed, so that the split and the few-shot draw
    of one seed do not share random numbers.

    >>> train_test(["cat", "cat", "dog", "dog"], test=0.5, seed=0)
    ([0, 3], [1, 2])
    """
    by_label = _by_label(labels)
    sizes = _test_sizes(list(map(len, by_label.values())), test)
    rng = random.Random(f"split {seed}")
    chosen: set[int] = set()
    untested: list[str] = []
    for (label, rows), size in zip(by_label.items(), sizes, strict=True):
        chosen.update(rng.sample(rows, size))
        if not size and label != NO_CLASS:
            untested.append(f"{label} ({len(rows)})")
    if labels and not chosen:
        fact = "must leave at least one class with a test image"
        hint = "raise it, or add images" if len(labels) > len(by_label) else "add images: each class has only one"
        raise DataError(fact, argument="test", value=test, hint=hint)
    if untested:
        logger.warning("too few images to test %s: %s", pluralize(len(untested), "class"), first_few(untested))
    everything = range(len(labels))
    return [row for row in everything if row not in chosen], [row for row in everything if row in chosen]


def _test_sizes(counts: Sequence[int], test: float) -> list[int]:
    """Return the number of test images of each class; at least one image of each class is left for training."""
    if isinstance(test, float) and 0 < test < 1:
        return [min(int(count * test + 0.5), count - 1) for count in counts]
    if isinstance(test, bool) or not isinstance(test, int) or test < 1:
        fact = "must be a fraction between 0 and 1 or a number of images"
        raise DataError(fact, argument="test", value=test, hint=Hint("for example {test}", test=0.5))
    total = sum(counts)
    if (most := total - len(counts)) < test:
        hint = f"pass {most} or less"
        raise DataError("must leave one training image per class", argument="test", value=test, hint=hint)
    sizes = [min(count * test // total, count - 1) for count in counts]
    for _ in range(test - sum(sizes)):
        open_classes = (at for at, size in enumerate(sizes) if size < counts[at] - 1)
        sizes[max(open_classes, key=lambda at: counts[at] * test - sizes[at] * total)] += 1
    return sizes


def select(
    labels: Sequence[Hashable], *, shots: int | None, test: float | None, seed: int
) -> tuple[list[int], list[int] | None]:
    """Split off the test part, None if `test` is, then draw `shots` per class from the rest for training."""
    train, held_out = list(range(len(labels))), None
    if test is not None:
        train, held_out = train_test(labels, test=test, seed=seed)
    if shots is not None:
        drawn = few_shot([labels[row] for row in train], shots=shots, seed=seed)
        train = [train[row] for row in drawn.train]
    return train, held_out


def split_classes(classes: Sequence[T]) -> tuple[tuple[T, ...], tuple[T, ...]]:
    """Return the base and novel classes: the first ceil(n/2) in label index order, and the rest.

    The protocol sorts label INDICES. Class names are expected in that order, and are not sorted by name.

    >>> split_classes(["cat", "dog", "ant"])
    (('cat', 'dog'), ('ant',))
    """
    middle = (len(classes) + 1) // 2
    return tuple(classes[:middle]), tuple(classes[middle:])


def _by_label(labels: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    rows: defaultdict[Hashable, list[int]] = defaultdict(list)
    for row, label in enumerate(labels):
        rows[label].append(row)
    return rows


def _draw(labels: Sequence[Hashable], shots: int, rng: random.Random) -> list[int]:
    drawn: list[int] = []
    for rows in _by_label(labels).values():
        drawn.extend(rng.sample(rows, shots) if len(rows) >= shots else rows)
    return drawn


def _warn_short_classes(labels: Sequence[Hashable], shots: int) -> None:
    by_class = {label: rows for label, rows in _by_label(labels).items() if label != NO_CLASS}
    short = [f"{label} ({len(rows)})" for label, rows in by_class.items() if len(rows) < shots]
    if short:
        fact = f"{pluralize(len(short), 'class')} {'has' if len(short) == 1 else 'have'} fewer than"
        logger.warning("%s %s; using all of them: %s", fact, pluralize(shots, "training image"), first_few(short))

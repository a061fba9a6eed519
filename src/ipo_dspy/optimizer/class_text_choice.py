"""Choose among texts for one class: those that are better on images that were not used to choose them.

The best of many texts on few images looks better than it is. So the images are divided into folds, and each fold judges
the texts chosen on all other folds: however many texts there are, the gain is measured on images not used to choose
them, and a paired test of it decides on the texts chosen on all images (cross-validation of a choice; Stone,
Cross-Validatory Choice and Assessment of Statistical Predictions, Journal of the Royal Statistical Society B 36, 1974).
That holds for given texts. A language model sees how its texts did on all images, so variations of the best ones have
an advantage.

Letters: C classes, M texts, the present ones first, F folds.
"""

import functools
import operator
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ipo_dspy.scoring.calibration_fit import folds_of
from ipo_dspy.scoring.class_columns import ColumnTally
from ipo_dspy.scoring.comparison import WITHIN_CLASSES, PairTally

BOUND = 2.4
"""Standard errors by which a gain in accuracy or loss is beyond chance: 1.96 for two tests at 2.5 %, and more because
the choices of two folds share images. Without any effect, 2 to 7 % of the choices exceed it in simulations."""

ROUNDING = 1e-5
"""Nats of the mean loss up to which texts are equal: what `class_columns` guarantees."""


def rows_of_folds(labels: NDArray[np.int64], *, seed: int = 0) -> list[NDArray[np.int64]]:
    """Return the rows of the images of each fold; see `folds_of`.

    >>> [len(rows) for rows in rows_of_folds(np.array([0, 0, 1, 1, 1, 0]))]
    [2, 1, 1, 1, 1]
    """
    folds = folds_of(labels, seed=seed)
    return [np.flatnonzero(folds == fold) for fold in np.unique(folds)]


def choose_texts(parts: Sequence[ColumnTally], least_correct: Tensor | None = None) -> tuple[int, list[int]]:
    """Return the position of the best texts on all images, and for each fold of the best ones on all other folds.

    The best ones are the most accurate, with the lowest loss if several are, of those whose loss is not higher than
    that of the present texts.

    Args:
        parts: tally of M texts on each of F folds.
        least_correct: [C] smallest number of correct images of each class, over all folds.
    """
    whole = _sum(parts)
    allowed = torch.ones(len(whole.loss), dtype=torch.bool)
    if least_correct is not None:
        allowed = (whole.correct >= least_correct - 1e-9).all(dim=1)
    others = [_sum([part for part in parts if part is not judge]) for judge in parts] if len(parts) > 1 else []
    return _best(whole, allowed), [_best(tally, allowed) for tally in others]


def is_beyond_chance(judged: PairTally) -> bool:
    """Return whether texts are more accurate, or have a lower loss, beyond chance, and are worse in neither.

    One text affects the images of only a few classes. New images have the same classes, so the error
    of the gain uses its variance within classes, but at least `WITHIN_CLASSES` of its total variance.

    Args:
        judged: the present texts and the chosen ones, on images that did not choose them.

    >>> right, labels = np.array([[0.0, 1.0]] * 15 + [[1.0, 1.0]] * 5), np.arange(20) % 2
    >>> is_beyond_chance(PairTally.of(np.hstack([right, 1 - right]), labels, classes=2))
    True
    """
    contrast = np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # to gains in accuracy and in loss
    images, sums = judged.images[judged.images > 0], judged.sums[judged.images > 0] @ contrast  # [c], [c, 2]
    count, gains = int(images.sum()), sums.sum(axis=0)
    squares = np.diag(contrast.T @ judged.products @ contrast)  # [2]
    variance = (squares - gains**2 / count) * count / max(count - 1, 1)
    if (freedom := count - len(images)) > 0:
        within = (squares - (sums**2 / images[:, None]).sum(axis=0)) * count / freedom
        variance = np.maximum(within, WITHIN_CLASSES * variance)
    errors = np.sqrt(np.maximum(variance, 0.0))
    is_real = gains > np.array([0.5, ROUNDING * count])
    return count > 1 and bool((gains >= -1e-9).all() and (is_real & (gains > BOUND * errors)).any())


def _best(tally: ColumnTally, allowed: Tensor) -> int:
    correct, loss = tally.correct.sum(dim=1), tally.loss  # [M] each
    usable = allowed & (correct >= correct[0]) & (loss <= loss[0])
    usable[0] = True
    best = usable & (correct == correct[usable].max())
    return int(torch.where(best, loss, float("inf")).argmin())


def _sum(parts: Sequence[ColumnTally]) -> ColumnTally:
    return functools.reduce(operator.add, parts)

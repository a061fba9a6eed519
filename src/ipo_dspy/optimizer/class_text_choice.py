"""Choose among texts for one class: those that a paired test tells apart from the present ones.

The best of many texts on few images looks better than it is. So a gain has to exceed what the best of as many texts
without any effect would reach by chance in 95 % of the cases: the largest of their standardized gains, with the
covariance of the outcomes. Texts that are clearly worse than the present ones do not count, because they cannot be the
best by chance (Hansen, A Test for Superior Predictive Ability, Journal of Business & Economic Statistics 23, 2005).

Letters: C classes, K compared texts, the present ones first, B draws.
"""

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from ipo_dspy.optimizer.selection import leaders
from ipo_dspy.scoring.comparison import CONFIDENCE, Comparison, Floats, PairTally

DRAWS = 2000


def choose_texts(tally: PairTally, least_correct: Floats, *, tried: int, seed: int = 0) -> int:
    """Return the position of the chosen texts, 0 for the present ones.

    They are better beyond chance in accuracy or loss, worse in neither, and no class falls below its floor. Of several,
    the most accurate ones win, then those with the lowest loss.

    Args:
        tally: outcomes of K texts on the images that decide.
        least_correct: [C] smallest number of correct images of each class.
        tried: number of texts that the compared ones were selected from by the same images.
        seed: seed of the draws of noise.

    >>> right, labels = np.array([[0.0, 1.0]] * 15 + [[1.0, 1.0]] * 5), np.arange(20) % 2
    >>> tally = PairTally.of(np.hstack([right, 1 - right]), labels, classes=2)
    >>> choose_texts(tally, np.zeros(2), tried=1), choose_texts(tally, np.array([0, 11]), tried=1)
    (1, 0)
    """
    compared = Comparison(tally, seed=seed)
    accuracy, loss = compared.accuracy, compared.loss
    floors = tally.sums[:, : len(accuracy)] >= least_correct[:, None] - 1e-9  # [C, K]
    usable = is_beyond_chance(compared, tried) & (accuracy >= accuracy[0] - 1e-9) & (loss <= loss[0] + 1e-9)
    usable &= floors.all(axis=0)
    if not usable.any():
        return 0
    return int(leaders(np.where(usable, accuracy, -np.inf)[None], np.where(usable, loss, np.inf)[None])[0])


def is_beyond_chance(compared: Comparison, tried: int) -> NDArray[np.bool_]:
    """Return which texts gain more accuracy, or more loss, than the best of texts without effect would: [K] bool."""
    accuracy_noise, loss_noise = compared.draws(DRAWS)  # [B, K] each
    with np.errstate(divide="ignore"):
        scale = 1 / np.concatenate([compared.accuracy_errors[0], compared.loss_errors[0]])  # [2K]
    scale[~np.isfinite(scale)] = 0.0  # outcomes that never differ
    gains = np.concatenate([compared.accuracy - compared.accuracy[0], compared.loss[0] - compared.loss]) * scale
    noise = np.hstack([accuracy_noise - accuracy_noise[:, [0]], loss_noise[:, [0]] - loss_noise]) * scale  # [B, 2K]
    count = len(compared.accuracy)
    if tried < count:
        is_hopeless = gains < -math.sqrt(2 * math.log(math.log(max(compared.images, 16))))
        bound = float(np.quantile(np.where(is_hopeless, -np.inf, noise).max(axis=1), CONFIDENCE))
    else:  # most of them are not compared: the bound of Bonferroni, whose tail no draw reaches
        bound = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / (2 * tried))
    beyond = gains > bound
    return np.asarray(beyond[:count] | beyond[count:])

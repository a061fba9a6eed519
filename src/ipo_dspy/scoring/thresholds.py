"""Find the score below which an image belongs to none of the classes, and rate how well scores separate such images.

The score is the confidence or the in-distribution score. A threshold is set by the share of images to answer, by the
share of answers that are right, or by unknown images: those of none of the classes.

Letters: N images, M unknown images, C classes.
"""

import math

import numpy as np

from ipo_dspy.errors import InputError
from ipo_dspy.scoring.calibration_error import Flags, Floats, accuracy_over_coverage


def in_distribution_scores(logits: Floats) -> Floats:
    """Return how much images with logits [N, C] look like one of the classes and no other, [N].

    It is the highest logit plus the log-odds of its probability. The highest logit (Hendrycks et al., Scaling
    Out-of-Distribution Detection for Real-World Settings, ICML 2022) is low if an image is like none of the classes,
    which a probability does not show; the log-odds are low if it is between two of them.

    >>> in_distribution_scores(np.array([[9.0, 8.0], [9.0, 1.0], [2.0, 1.0]])).tolist()
    [10.0, 17.0, 3.0]
    """
    highest, others = logits.max(axis=1), logits.copy()
    others[np.arange(len(logits)), logits.argmax(axis=1)] = -np.inf
    return np.asarray(2 * highest - np.logaddexp.reduce(others, axis=1))


def threshold_for_coverage(confidence: Floats, coverage: float) -> float:
    """Return the threshold at which at least this share of images is answered, and not one group of equals more.

    Like the thresholds below it is halfway to the next lower confidence. If there is none, it is 0: every image is
    answered.

    >>> threshold_for_coverage(np.array([0.2, 0.4, 0.6, 0.8]), 0.5)
    0.5
    """
    return _below(_least_answered(confidence, coverage), confidence)


def threshold_for_precision(confidence: Floats, correct: Flags, precision: float) -> float:
    """Return the lowest threshold at which at least this share of the answered images is right.

    Raises:
        InputError: no threshold reaches it.

    >>> threshold_for_precision(np.array([0.25, 0.5, 0.75, 1.0]), np.array([False, True, False, True]), 0.6)
    0.375
    """
    thresholds, _, accuracies = accuracy_over_coverage(confidence, correct)
    reached = np.flatnonzero(accuracies >= precision)
    if not len(reached):
        raise InputError(
            f"must be at most {math.floor(1000 * accuracies.max()) / 1000:g}, the highest on these images",
            argument="precision",
            value=precision,
            hint="pass a lower one, or more images",
        )
    return _below(thresholds[reached[-1]], confidence)


def threshold_for_unknown(known: Floats, unknown: Floats) -> float:
    """Return the threshold that separates confidences of known [N] and unknown [M] images best.

    It has the highest difference between the share of known and the share of unknown images that are answered (Youden,
    Index for Rating Diagnostic Tests, 1950); of several, the lowest.

    >>> threshold_for_unknown(np.array([0.5, 0.75, 1.0]), np.array([0.1, 0.2, 0.7, 0.5]))
    0.725
    """
    thresholds = np.unique(known)
    answered, accepted = (1 - np.searchsorted(np.sort(each), thresholds) / len(each) for each in (known, unknown))
    return _below(thresholds[np.argmax(answered - accepted)], np.append(known, unknown))


def _least_answered(confidence: Floats, coverage: float) -> float:
    """Return the lowest confidence of the share of images that have the highest ones."""
    return float(np.sort(confidence)[-max(1, math.ceil(coverage * len(confidence) - 1e-9))])


def _below(confidence: float, others: Floats) -> float:
    """Return the middle between a confidence and the next lower one, so that rounding moves no image across it.

    Without a lower one it is 0, which rejects no image. Otherwise it is never 0, not even between scores of -1 and 1.
    """
    lower = others[others < confidence]
    return float((confidence + lower.max()) / 2 or confidence / 2) if len(lower) else 0.0


def auroc(known: Floats, unknown: Floats) -> float:
    """Return the probability that a known image [N] has a higher confidence than an unknown one [M]; ties count half.

    >>> auroc(np.array([0.5, 0.9]), np.array([0.1, 0.5]))
    0.875
    """
    ranked = np.sort(unknown)
    below, not_above = (np.searchsorted(ranked, known, side=side) for side in ("left", "right"))
    return float((below + not_above).mean() / 2 / len(unknown))


def false_positive_rate(known: Floats, unknown: Floats, *, recall: float = 0.95) -> float:
    """Return the share of unknown images [M] that are answered if this share of known images [N] is.

    >>> false_positive_rate(np.array([0.5, 0.9]), np.array([0.1, 0.6, 0.2, 0.3]))
    0.25
    """
    return float((unknown >= _least_answered(known, recall)).mean())

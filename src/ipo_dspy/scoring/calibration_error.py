"""Compare confidences with accuracies: bins of a reliability diagram, calibration errors, accuracy over coverage.

Letters: N images, B bins.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ipo_dspy.scoring import tally
from ipo_dspy.scoring.tally import BINS

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The images whose confidence is in one bin; confidence and accuracy are their means, from 0 to 1."""

    images: int
    confidence: float
    accuracy: float


def reliability(confidence: Floats, correct: Flags, *, bins: int = BINS) -> tuple[ReliabilityBin, ...]:
    """Return the bins of a reliability diagram: equal in width, from 0 to 1, without the empty ones.

    Args:
        confidence: [N], from 0 to 1; a value on an edge belongs to the lower bin.
        correct: [N].
        bins: number of bins.

    >>> reliability(np.array([0.9, 0.7, 0.2]), np.array([True, False, False]), bins=2)[1]
    ReliabilityBin(images=2, confidence=0.8, accuracy=0.5)
    """
    return tuple(
        ReliabilityBin(int(count), total / count, right / count)
        for count, right, total in _bin_table(confidence, correct, bins).tolist()
        if count
    )


def expected_calibration_error(confidence: Floats, correct: Flags, *, bins: int = BINS) -> float:
    """Return by how many points confidence and accuracy differ in the bins of `reliability`, on average over images.

    The expected calibration error, ECE, of Guo et al., On Calibration of Modern Neural Networks, ICML 2017, in percent.
    It is above zero also for a calibrated classifier, see `calibration_error_by_chance`.

    >>> round(expected_calibration_error(np.array([0.9, 0.9, 0.9, 0.9]), np.array([True, True, True, False])), 6)
    15.0
    """
    return tally.calibration_error(_bin_table(confidence, correct, bins))


def calibration_error_by_chance(confidence: Floats, *, bins: int = BINS) -> float:
    """Return the expected calibration error of a classifier whose confidences are its probabilities to be right.

    With few images the accuracy of a bin is not its probability, so the error is that of chance; in the normal
    approximation, in percent.

    >>> [round(calibration_error_by_chance(np.full(images, 0.5)), 2) for images in (100, 10000)]
    [3.99, 0.4]
    """
    variances = np.bincount(_bins(confidence, bins), confidence * (1 - confidence), bins)
    return 100.0 * float(np.sqrt(2 / math.pi * variances).sum()) / len(confidence)


def _bin_table(confidence: Floats, correct: Flags, bins: int) -> Floats:
    """Return the images of each bin, the correct ones, and the sum of their confidences, [B, 3]."""
    index = _bins(confidence, bins)
    return np.stack([np.bincount(index, each, bins) for each in (None, correct, confidence)], axis=1)


def _bins(confidence: Floats, bins: int) -> Indices:
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)


def accuracy_over_coverage(confidence: Floats, correct: Flags) -> tuple[Floats, Floats, Floats]:
    """Return threshold, coverage, and accuracy for each distinct confidence, from the highest one; shares are 0 to 1.

    An image is answered if its confidence is at least the threshold; coverage is the share of images that are answered.

    >>> [each.tolist() for each in accuracy_over_coverage(np.array([0.9, 0.5, 0.5, 0.4]), np.array([1, 1, 0, 0]) == 1)]
    [[0.9, 0.5, 0.4], [0.25, 0.75, 1.0], [1.0, 0.6666666666666666, 0.5]]
    """
    order = np.argsort(-confidence, kind="stable")
    ranked = confidence[order]
    last = np.append(ranked[1:] != ranked[:-1], True)  # of images with the same confidence
    answered = np.arange(1, len(ranked) + 1)
    return ranked[last], (answered / len(ranked))[last], (np.cumsum(correct[order]) / answered)[last]

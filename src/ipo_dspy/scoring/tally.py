"""Counts of a template over a set of images; counts of disjoint sets add up, over blocks and over machines.

The score of a template and the other measures of a classifier follow from them. Classes without images have no recall,
so balanced accuracy and macro F1 are means over the classes that have some.

Letters: C classes, P pairs of a true and a predicted class, B bins of confidence.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ipo_dspy.errors import InputError
from ipo_dspy.scoring.score import Score

BINS = 15
"""Bins of equal width of the calibration error (Guo et al., On Calibration of Modern Neural Networks, ICML 2017)."""
TOP = 5
"""An image counts for the top-5 accuracy if fewer than this many classes have a higher logit than its label."""

Counts = NDArray[np.int64]


def balanced_accuracy(right: Counts, there: Counts) -> float:
    """Return the mean recall of the classes with images, in percent, from counts by class [C] as in `ClassCounts`."""
    seen = there > 0
    return 100.0 * float((right[seen] / there[seen]).mean())


def macro_f1(right: Counts, given: Counts, there: Counts) -> float:
    """Return the mean F1 of the classes with images, in percent: 2 right / (given + there)."""
    seen = there > 0
    return 200.0 * float((right[seen] / (given[seen] + there[seen])).mean())


def calibration_error(bins: NDArray[np.float64]) -> float:
    """Return the mean distance of confidence and accuracy over bins [B, 3], in percent, weighted by their images."""
    images, right, confidence = bins.T
    return 100.0 * float(np.abs(right - confidence).sum() / images.sum())


@dataclass(frozen=True, slots=True, eq=False)
class ClassCounts:
    """Counts of a template by class.

    Attributes:
        right: [C] images of each class that were predicted as it.
        given: [C] images that were predicted as each class.
        there: [C] images of each class.
        top5: images whose label is among the five classes with the highest logits.
        pairs: [P] images of each pair of a true and a predicted class that was asked for.
        bins: [B, 3] images of each bin of confidence, the correct ones, and the sum of their confidences, float64.
    """

    right: Counts
    given: Counts
    there: Counts
    top5: int
    pairs: Counts
    bins: NDArray[np.float64]

    def __add__(self, other: "ClassCounts") -> "ClassCounts":
        return ClassCounts(
            self.right + other.right,
            self.given + other.given,
            self.there + other.there,
            self.top5 + other.top5,
            self.pairs + other.pairs,
            self.bins + other.bins,
        )

    @property
    def recall(self) -> NDArray[np.float64]:
        """[C] recall of each class, 0 to 1; NaN for a class without images."""
        unknown = np.full(len(self.there), np.nan)
        return np.asarray(np.divide(self.right, self.there, out=unknown, where=self.there > 0))


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of a template over a set of images; tallies of disjoint sets add up.

    Attributes:
        images: number of images.
        correct: number of images whose predicted class is their label.
        loss: sum of their cross-entropies, in nats.
        classes: counts by class, if they were asked for.

    >>> (Tally(images=3, correct=1, loss=2.5) + Tally(images=1, correct=1, loss=0.5)).score
    Score(accuracy=50.00%, loss=0.7500)
    """

    images: int
    correct: int
    loss: float
    classes: ClassCounts | None = None

    def __add__(self, other: "Tally") -> "Tally":
        classes = None if self.classes is None or other.classes is None else self.classes + other.classes
        return Tally(self.images + other.images, self.correct + other.correct, self.loss + other.loss, classes)

    @property
    def score(self) -> Score:
        """Accuracy and mean loss.

        Raises:
            InputError: there are no images, or the features contain NaN.
        """
        if not self.images:
            raise InputError("images must not be empty; pass at least one image to score on")
        return Score(accuracy=100.0 * (self.correct / self.images), loss=self.loss / self.images)

    @property
    def measures(self) -> Mapping[str, float]:
        """All measures by name: the loss in nats, the others in percent; only the first two without counts by class."""
        measures = {"accuracy": self.score.accuracy, "loss": self.score.loss}
        if (counts := self.classes) is None:
            return measures
        return measures | {
            "top5": 100.0 * counts.top5 / self.images,
            "balanced_accuracy": balanced_accuracy(counts.right, counts.there),
            "macro_f1": macro_f1(counts.right, counts.given, counts.there),
            "calibration_error": calibration_error(counts.bins),
        }

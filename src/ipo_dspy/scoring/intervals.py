"""Confidence intervals of accuracies; needs no torch."""

import math
from dataclasses import dataclass

Z = 1.959964
"""Two-sided quantile of the normal distribution for a confidence of 95 %."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval of an accuracy, in percent."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:.1f} to {self.high:.1f}"


def wilson_interval(accuracy: float, images: float) -> Interval:
    """Return the confidence interval of an accuracy in percent that was measured on a number of images.

    Source: Wilson, Probable Inference, the Law of Succession, and Statistical Inference, Journal of the American
    Statistical Association 22, 1927.

    >>> str(wilson_interval(75.0, 100))
    '65.7 to 82.5'
    """
    share, square = accuracy / 100.0, Z * Z / images
    center = (share + square / 2) / (1 + square)
    half = math.sqrt(max(share * (1 - share), 0.0) * square + square * square / 4) / (1 + square)
    return Interval(100.0 * max(0.0, center - half), 100.0 * min(1.0, center + half))

"""Several labels of an image, or none: their text, and the average precision of a class. Needs no torch."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PRESENT = 0.5
"""Probability from which on a class is there."""
NO_LABEL = "(none)"
"""Text of the labels of an image without any."""


def label_text(labels: Sequence[str]) -> str:
    """Return the labels of an image as one text.

    >>> label_text(["cat", "dog"]), label_text([])
    ('cat, dog', '(none)')
    """
    return ", ".join(labels) or NO_LABEL


def average_precision(scores: NDArray[np.floating], there: NDArray[np.bool_]) -> float:
    """Return the area under the curve of precision over recall in steps, in percent; NaN if nothing is there.

    Images are ranked by their scores [N], highest first. At each rank k of an image that has the class, the precision
    is the share of such images among the first k; the average precision is the mean of these precisions. Images with
    the same score share the rank of the last of them. It is scikit-learn's `average_precision_score`, without the
    interpolation of PASCAL VOC.

    >>> average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True])).__round__(2)
    83.33
    """
    if not there.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.append(ranked[1:] != ranked[:-1], True)  # of images with the same score
    hits = np.cumsum(there[order])[last]
    precision = hits / (np.flatnonzero(last) + 1)
    return 100.0 * float(np.diff(hits, prepend=0) @ precision) / int(hits[-1])

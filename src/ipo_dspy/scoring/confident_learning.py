"""Find images whose label is suspicious, by the rule of confident learning.

The threshold of a class is the mean probability that images with its label are given for it. An image is counted for a
class whose probability reaches its threshold; if there are several, for the most probable one. If that is not its
label, the label is suspicious, unless it is the most probable class all the same. So a class that a model is seldom
sure of needs less probability than one that it always is.

Source: Northcutt, Jiang and Chuang, Confident Learning: Estimating Uncertainty in Dataset Labels, Journal of Artificial
Intelligence Research 70, 2021, section 3.1; the exception is
that of their package cleanlab. Probabilities must not come from a model that was fitted to these labels.

Letters: N images, C classes, S suspicious labels.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Indices = NDArray[np.int64]

TOLERANCE = 1e-6
"""A probability this far below a threshold still reaches it: all images of a class may have the same probability."""


def suspicious_labels(probabilities: Floats, labels: Indices) -> tuple[Indices, Indices]:
    """Return the images with suspicious labels [S], the least likely label first, and the class that each seems to be.

    Args:
        probabilities: [N, C], the probability of each class.
        labels: [N], an index into C; classes without an image are suggested for none.

    >>> probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.1, 0.9], [0.9, 0.1]])
    >>> images, suggested = suspicious_labels(probabilities, np.array([0, 0, 1, 1, 1]))
    >>> images.tolist(), suggested.tolist()
    ([4], [0])
    """
    given = probabilities[np.arange(len(labels)), labels].astype(np.float64)  # [N]
    counts = np.bincount(labels, minlength=probabilities.shape[1])  # [C]
    sums = np.bincount(labels, weights=given, minlength=probabilities.shape[1])
    thresholds = np.divide(sums, counts, out=np.full(len(counts), np.inf), where=counts > 0)
    confident = np.where(probabilities >= thresholds - TOLERANCE, probabilities, -1.0)  # [N, C]
    suggested = confident.argmax(axis=1)
    doubted = (suggested != labels) & (probabilities.argmax(axis=1) != labels)
    found = np.flatnonzero((confident.max(axis=1) >= 0) & doubted)
    found = found[np.argsort(given[found], kind="stable")]
    return found, suggested[found]

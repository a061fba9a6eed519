"""Exact one-sided tests of two accuracies; they need no large samples, and no torch."""

import math
from collections.abc import Iterable


def mcnemar_test(broken: int, fixed: int) -> float:
    """Return the probability of at least `broken` of the images with different outcomes, if neither is more likely.

    Both programs saw the same images. Only images that one of them gets right and the other wrong count.

    Args:
        broken: images that the reference gets right and the program wrong.
        fixed: images that the reference gets wrong and the program right.

    Source: McNemar, Note on the Sampling Error of the Difference Between Correlated Proportions or Percentages,
    Psychometrika 12, 1947, in its exact binomial form.

    >>> mcnemar_test(broken=4, fixed=0), mcnemar_test(broken=0, fixed=0)
    (0.0625, 1.0)
    """
    count = broken + fixed
    return _tail(_log_choose(count, k) - count * math.log(2) for k in range(broken, count + 1))


def fisher_test(correct: int, images: int, correct_before: int, images_before: int) -> float:
    """Return the probability of at most `correct` correct images, if both samples have the same accuracy.

    The images of the two samples are different ones; the total number of correct images is taken as given.

    Args:
        correct: correct images of the program.
        images: its images.
        correct_before: correct images of the reference.
        images_before: its images.

    Source: Fisher, The Design of Experiments, 1935, chapter 2.

    >>> round(fisher_test(1, 4, 3, 4), 4)
    0.2429
    """
    total = correct + correct_before
    least = max(0, total - images_before)
    whole = _log_choose(images + images_before, total)
    return _tail(
        _log_choose(images, k) + _log_choose(images_before, total - k) - whole for k in range(least, correct + 1)
    )


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _tail(logs: Iterable[float]) -> float:
    return min(1.0, math.fsum(map(math.exp, logs)))

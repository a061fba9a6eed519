"""Pair tallies for toy scorers, which have scores but no images."""

from collections.abc import Sequence

import numpy as np

from ipo_dspy.scoring.comparison import PairTally
from ipo_dspy.scoring.score import Score

IMAGES = 200


def pairs_of(scores: Sequence[Score]) -> PairTally:
    """Return the tally of templates that are right on the first images, with the same loss on each."""
    correct = np.array([[float(i < round(s.accuracy / 100 * IMAGES)) for s in scores] for i in range(IMAGES)])
    losses = np.array([[score.loss for score in scores]] * IMAGES)
    return PairTally.of(np.hstack([correct, losses]), np.arange(IMAGES) % 2, classes=2)

"""Thresholds, and figures of known and unknown images, against all pairs and simulated logits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.simulated_logits import confidences, world
from ipo_dspy.errors import InputError
from ipo_dspy.scoring.calibration_error import Floats
from ipo_dspy.scoring.thresholds import (
    auroc,
    false_positive_rate,
    threshold_for_coverage,
    threshold_for_precision,
    threshold_for_unknown,
)

GRID = st.lists(st.integers(0, 8).map(lambda eighths: eighths / 8), min_size=1, max_size=20).map(np.array)


@given(GRID, GRID)
def test_unknown_figures_are_those_of_all_pairs(known: Floats, unknown: Floats) -> None:
    pairs = [1.0 if k > u else 0.5 if k == u else 0.0 for k in known for u in unknown]
    assert auroc(known, unknown) == pytest.approx(np.mean(pairs))
    accepting = [t for t in known if (known >= t).mean() >= 0.95]
    assert false_positive_rate(known, unknown) == pytest.approx((unknown >= max(accepting)).mean())
    best = threshold_for_unknown(known, unknown)
    gains = [(known >= t).mean() - (unknown >= t).mean() for t in [*known, best]]
    assert gains[-1] == pytest.approx(max(gains))


@given(GRID, st.floats(0.01, 1))
def test_coverage_is_reached_by_the_highest_threshold(confidence: Floats, coverage: float) -> None:
    threshold = threshold_for_coverage(confidence, coverage)
    assert (confidence >= threshold).mean() >= coverage - 1e-9
    lowest = confidence[confidence >= threshold].min()
    assert (confidence > lowest).mean() < coverage
    assert threshold not in confidence or threshold == 0


def test_a_threshold_of_zero_rejects_nothing() -> None:
    """Scores of unknown images may be negative, so a threshold between two of them is never 0."""
    assert threshold_for_unknown(np.array([1.0, 3.0]), np.array([-1.0])) == 0.5
    assert threshold_for_coverage(np.array([-3.0, -1.0]), 1.0) == threshold_for_coverage(np.array([1.0]), 1.0) == 0


def test_precision_holds_on_new_images() -> None:
    """The threshold is chosen on few images, so new ones may be answered a little less precisely, but not much."""
    precisions = []
    for seed in range(100):
        confidence, correct = confidences(*world(seed, 300, 10))
        threshold = threshold_for_precision(confidence, correct, 0.8)
        answers, right = confidences(*world(1000 + seed, 2000, 10))
        precisions.append(right[answers >= threshold].mean())
    assert 0.78 < np.mean(precisions) < 0.82


def test_precision_that_no_threshold_reaches_is_an_error() -> None:
    with pytest.raises(
        InputError, match=r"precision must be at most 0\.5, the highest on these images, got 0\.9; pass"
    ):
        threshold_for_precision(np.array([0.2, 0.9, 0.9]), np.array([False, True, False]), 0.9)

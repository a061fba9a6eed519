"""Calibration errors, bins, and accuracy over coverage against simulated logits whose probabilities are known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.simulated_logits import confidences, world
from ipo_dspy.scoring.calibration_error import (
    Floats,
    accuracy_over_coverage,
    calibration_error_by_chance,
    expected_calibration_error,
    reliability,
)
from ipo_dspy.scoring.calibration_fit import fit_temperature


def test_calibration_error_of_calibrated_confidences_is_that_of_chance() -> None:
    errors, expected = [], []
    for seed in range(50):
        confidence, correct = confidences(*world(seed, 600, 10))
        errors.append(expected_calibration_error(confidence, correct))
        expected.append(calibration_error_by_chance(confidence))
    assert np.mean(errors) == pytest.approx(np.mean(expected), rel=0.05)
    assert expected_calibration_error(*confidences(*world(0, 200_000, 10))) < 0.5


def test_temperature_removes_the_calibration_error() -> None:
    logits, labels = world(0, 20_000, 10, temperature=1.0)
    overconfident = 4 * logits
    assert expected_calibration_error(*confidences(overconfident, labels)) > 15
    cooled = overconfident / fit_temperature(overconfident[:500], labels[:500])
    assert expected_calibration_error(*confidences(cooled, labels)) < 3


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50), st.integers(1, 20))
def test_bins_hold_every_image_once(rows: list[tuple[float, bool]], bins: int) -> None:
    confidence, correct = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    found = reliability(confidence, correct, bins=bins)
    assert sum(each.images for each in found) == len(rows)
    assert sum(each.images * each.accuracy for each in found) == pytest.approx(correct.sum())
    assert sum(each.images * each.confidence for each in found) == pytest.approx(confidence.sum())
    assert all(-1e-9 <= each.accuracy <= 1 + 1e-9 for each in found)


@given(
    st.lists(st.integers(0, 8).map(lambda eighths: eighths / 8), min_size=1, max_size=20).map(np.array),
    st.integers(0, 99),
)
def test_accuracy_over_coverage_is_that_of_each_threshold(confidence: Floats, seed: int) -> None:
    correct = np.random.default_rng(seed).random(len(confidence)) < 0.5
    thresholds, coverages, accuracies = accuracy_over_coverage(confidence, correct)
    assert thresholds.tolist() == sorted(set(confidence), reverse=True)
    for threshold, coverage, share in zip(thresholds, coverages, accuracies, strict=True):
        answered = confidence >= threshold
        assert (coverage, share) == pytest.approx((answered.mean(), correct[answered].mean()))

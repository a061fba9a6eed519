"""Calibration against a known truth: simulated logits whose probabilities are known."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ipo_dspy.errors import InputError
from ipo_dspy.scoring import calibration
from ipo_dspy.scoring.calibration import (
    Floats,
    Indices,
    accuracy_over_coverage,
    auroc,
    calibration_error_by_chance,
    expected_calibration_error,
    false_positive_rate,
    fit_scaling,
    fit_temperature,
    folds_of,
    log_softmax,
    reliability,
    threshold_for_coverage,
    threshold_for_precision,
    threshold_for_unknown,
)
from ipo_dspy.scoring.calibrator import Calibration, CalibrationSettings, calibrate_logits


def world(
    seed: int, images: int, classes: int, *, temperature: float = 1.0, log_weights: Any = 0.0
) -> tuple[Floats, Indices]:
    """Logits [N, C] and labels [N] that are drawn from the softmax of the logits after this scaling."""
    rng = np.random.default_rng(seed)
    logits = 2 * temperature * rng.standard_normal((images, classes))
    truth = np.exp(log_softmax(logits / temperature + log_weights))
    return logits, (truth.cumsum(axis=1) > rng.random((images, 1))).argmax(axis=1)


def balanced(logits: Floats, labels: Indices, shots: int) -> tuple[Floats, Indices]:
    kept = np.concatenate([np.flatnonzero(labels == label)[:shots] for label in np.unique(labels)])
    return logits[kept], labels[kept]


def confidences(logits: Floats, labels: Indices) -> tuple[Floats, Any]:
    log_probs = log_softmax(logits)
    return np.exp(log_probs.max(axis=1)), log_probs.argmax(axis=1) == labels


@pytest.mark.parametrize("temperature", [0.2, 1.0, 5.0])
def test_temperature_is_recovered(temperature: float) -> None:
    found = [fit_temperature(*world(seed, 400, 10, temperature=temperature)) for seed in range(20)]
    assert np.mean(found) == pytest.approx(temperature, rel=0.03)
    assert np.std(found) < 0.1 * temperature


def test_weights_are_recovered_and_improve_new_images() -> None:
    planted = np.linspace(-1.5, 1.5, 10)
    fit = fit_scaling(*world(0, 4000, 10, temperature=3.0, log_weights=planted))
    assert fit.has_weights
    assert fit.scaling.temperature == pytest.approx(3.0, rel=0.1)
    np.testing.assert_allclose(fit.scaling.log_weights, planted, atol=0.2)
    logits, labels = world(1, 4000, 10, temperature=3.0, log_weights=planted)
    assert ((fit.scaling.apply(logits).argmax(1) == labels).mean()) > (logits.argmax(1) == labels).mean() + 0.05


@pytest.mark.end_to_end
@pytest.mark.parametrize("shots", [None, 4])
@pytest.mark.parametrize(("images", "classes"), [(40, 2), (100, 5), (200, 25)])
def test_folds_reject_weights_without_an_effect(images: int, classes: int, shots: int | None) -> None:
    """Without an effect weights are kept in less than 5 % of samples, random or with equal counts of each class."""
    kept = []
    for seed in range(100):
        logits, labels = world(seed, images if shots is None else 8 * images, classes, temperature=2.0)
        kept.append(fit_scaling(*(balanced(logits, labels, shots) if shots else (logits, labels))).has_weights)
    assert np.mean(kept) <= 0.05


def test_folds_keep_weights_with_an_effect() -> None:
    planted = np.linspace(-1.5, 1.5, 10)
    assert all(fit_scaling(*world(seed, 200, 10, log_weights=planted)).has_weights for seed in range(20))


@given(st.integers(5, 30), st.integers(2, 5), st.booleans(), st.integers(0, 99))
def test_fit_is_the_minimum_of_the_loss(images: int, classes: int, with_weights: bool, seed: int) -> None:
    logits, labels = world(seed, images, classes, temperature=2.0)
    labels[:classes] = np.arange(classes)  # each has an image
    importance = np.random.default_rng(seed).uniform(0.5, 2.0, images)
    found = calibration._fit(logits, labels, importance, True, with_weights)
    table, targets = torch.tensor(logits), torch.tensor(labels)

    def loss(inverse: Any, weights: Any) -> Any:
        smoothed = torch.nn.functional.cross_entropy(
            inverse * table + weights, targets, label_smoothing=1 / (images + 2), reduction="none"
        )
        return torch.tensor(importance) @ smoothed + calibration.PENALTY / 2 * (weights**2).sum()

    inverse = torch.tensor(1 / found.temperature, dtype=torch.float64, requires_grad=True)
    weights = torch.tensor(found.log_weights, requires_grad=True)
    loss(inverse, weights).backward()
    at_bound = found.temperature >= calibration.TEMPERATURES[1]  # logits that say nothing
    assert at_bound or abs(float(inverse.grad or 0.0)) < 1e-3 * images
    if with_weights and not at_bound:
        assert weights.grad is not None
        assert float(weights.grad.abs().max()) < 1e-3 * images


def test_classifier_without_an_error_is_not_certain() -> None:
    logits = 10 * np.eye(4)[np.arange(8) % 4]
    fit = fit_scaling(logits, np.arange(8) % 4)
    assert not fit.has_weights  # nothing to gain
    assert 0.8 < np.exp(log_softmax(fit.scaling.apply(logits)).max()) < 0.99


@pytest.mark.parametrize("count", [1, 2, 6])
def test_few_images_give_a_finite_fit(count: int) -> None:
    fit = fit_scaling(np.random.default_rng(0).standard_normal((count, 3)), np.zeros(count, dtype=np.int64))
    assert np.isfinite(fit.held_out).all()
    assert 0 < fit.scaling.temperature < np.inf
    assert np.isfinite(fit.scaling.log_weights).all()


def test_earlier_parts_are_applied_while_the_others_are_fitted() -> None:
    logits, labels = world(0, 500, 4, temperature=3.0, log_weights=np.array([2.0, 0.0, 0.0, -2.0]))
    earlier = calibration.Scaling(2.0, np.array([1.0, 0.5, 0.0, -1.5]))
    only_temperature = fit_scaling(logits, labels, weights=False, start=earlier)
    assert only_temperature.scaling.log_weights.tolist() == earlier.log_weights.tolist()
    assert only_temperature.has_weights
    best = only_temperature.scaling
    for temperature in (0.9 * best.temperature, 1.1 * best.temperature):
        other = calibration.Scaling(temperature, earlier.log_weights)
        assert (
            calibration.losses(best.apply(logits), labels).mean()
            < calibration.losses(other.apply(logits), labels).mean()
        )
    only_weights = fit_scaling(logits, labels, temperature=False, start=earlier)
    assert only_weights.scaling.temperature == 2.0
    expected = fit_scaling(logits / 2.0, labels, temperature=False).scaling.log_weights
    assert only_weights.scaling.log_weights == pytest.approx(expected, abs=1e-4)
    nothing = fit_scaling(logits, labels, temperature=False, weights=False, start=earlier)
    assert np.array_equal(nothing.held_out, earlier.apply(logits))


def test_parts_that_are_not_wanted_are_left_alone() -> None:
    logits, labels = world(0, 500, 4, temperature=3.0, log_weights=np.array([2.0, 0.0, 0.0, -2.0]))
    nothing = fit_scaling(logits, labels, temperature=False, weights=False)
    assert nothing.scaling.temperature == 1.0
    assert not nothing.scaling.log_weights.any()
    assert np.array_equal(nothing.held_out, logits)
    assert not fit_scaling(logits, labels, weights=False).scaling.log_weights.any()
    only_weights = fit_scaling(logits, labels, temperature=False)
    assert only_weights.has_weights
    assert only_weights.scaling.temperature == 1.0


def test_value_decides_on_weights() -> None:
    logits, labels = world(0, 500, 4, log_weights=np.array([2.0, 0.0, 0.0, -2.0]))
    assert fit_scaling(logits, labels).has_weights
    assert not fit_scaling(logits, labels, value=lambda predicted, _: float((predicted == 3).mean())).has_weights


def test_classes_count_the_same_whatever_their_number_of_images() -> None:
    logits, labels = world(0, 3000, 3)
    rare = np.flatnonzero((labels > 0) | (np.arange(3000) % 10 == 0))  # a tenth of the first class
    usual, equal = (
        fit_scaling(logits[rare], labels[rare], equal_classes=equal).scaling.log_weights[0] for equal in (False, True)
    )
    assert usual < -1
    assert equal == pytest.approx(0, abs=0.3)


def test_class_without_an_image_keeps_its_weight() -> None:
    logits, labels = world(0, 3000, 4, log_weights=np.array([1.0, 0.0, -1.0, 0.0]))
    fit = fit_scaling(logits[labels < 3], labels[labels < 3])
    np.testing.assert_allclose(fit.scaling.log_weights, [1.0, 0.0, -1.0, 0.0], atol=0.2)
    assert fit.scaling.log_weights[3] == 0


def test_folds_are_even_and_have_all_classes_if_counts_are_equal() -> None:
    labels = np.arange(100) % 10
    folds = folds_of(labels)
    assert np.bincount(folds).tolist() == [20] * calibration.FOLDS
    assert all(np.bincount(labels[folds == fold]).tolist() == [2] * 10 for fold in range(calibration.FOLDS))
    assert np.bincount(folds_of(labels[:99])).tolist() == [20, 20, 20, 20, 19]


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
    logits, labels = world(0, 60, 3)
    settings = CalibrationSettings(coverage=1.0, threshold_score="in_distribution")
    report = calibrate_logits(logits - 50, labels, logits - 60, ["a", "b", "c"], settings)
    assert (report.threshold, report.coverage, report.unknown_answered) == (0, 100, 100)
    calibration = Calibration("a <CLASS>.", threshold=0.0, threshold_score="in_distribution")
    assert calibration == Calibration("a <CLASS>.")


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


@given(GRID, st.integers(0, 99))
def test_accuracy_over_coverage_is_that_of_each_threshold(confidence: Floats, seed: int) -> None:
    correct = np.random.default_rng(seed).random(len(confidence)) < 0.5
    thresholds, coverages, accuracies = accuracy_over_coverage(confidence, correct)
    assert thresholds.tolist() == sorted(set(confidence), reverse=True)
    for threshold, coverage, share in zip(thresholds, coverages, accuracies, strict=True):
        answered = confidence >= threshold
        assert (coverage, share) == pytest.approx((answered.mean(), correct[answered].mean()))

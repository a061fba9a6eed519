"""Temperature and class weights against a known truth: simulated logits whose probabilities are known."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.simulated_logits import world
from ipo_dspy.scoring import calibration_fit
from ipo_dspy.scoring.calibration_fit import Floats, Indices, fit_scaling, fit_temperature, folds_of, log_softmax


def balanced(logits: Floats, labels: Indices, shots: int) -> tuple[Floats, Indices]:
    kept = np.concatenate([np.flatnonzero(labels == label)[:shots] for label in np.unique(labels)])
    return logits[kept], labels[kept]


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
    found = calibration_fit._fit(logits, labels, importance, True, with_weights)
    table, targets = torch.tensor(logits), torch.tensor(labels)

    def loss(inverse: Any, weights: Any) -> Any:
        smoothed = torch.nn.functional.cross_entropy(
            inverse * table + weights, targets, label_smoothing=1 / (images + 2), reduction="none"
        )
        return torch.tensor(importance) @ smoothed + calibration_fit.PENALTY / 2 * (weights**2).sum()

    inverse = torch.tensor(1 / found.temperature, dtype=torch.float64, requires_grad=True)
    weights = torch.tensor(found.log_weights, requires_grad=True)
    loss(inverse, weights).backward()
    at_bound = found.temperature >= calibration_fit.TEMPERATURES[1]  # logits that say nothing
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
    earlier = calibration_fit.Scaling(2.0, np.array([1.0, 0.5, 0.0, -1.5]))
    only_temperature = fit_scaling(logits, labels, weights=False, start=earlier)
    assert only_temperature.scaling.log_weights.tolist() == earlier.log_weights.tolist()
    assert only_temperature.has_weights
    best = only_temperature.scaling
    for temperature in (0.9 * best.temperature, 1.1 * best.temperature):
        other = calibration_fit.Scaling(temperature, earlier.log_weights)
        assert (
            calibration_fit.losses(best.apply(logits), labels).mean()
            < calibration_fit.losses(other.apply(logits), labels).mean()
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
    assert np.bincount(folds).tolist() == [20] * calibration_fit.FOLDS
    assert all(np.bincount(labels[folds == fold]).tolist() == [2] * 10 for fold in range(calibration_fit.FOLDS))
    assert np.bincount(folds_of(labels[:99])).tolist() == [20, 20, 20, 20, 19]

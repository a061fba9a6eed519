"""Class weights for costs and floors: what the search finds on toy logits, and that chance does not pass the folds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipo_dspy.scoring.calibration import Calibration, CalibrationSettings, calibrate_logits
from ipo_dspy.scoring.calibration_fit import accuracy
from ipo_dspy.scoring.decision_shifts import DecisionRule, fit_shifts, search_shifts

NAMES = ["a", "b", "c"]


def world(seed: int, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits [N, 3] that are those of calibrated probabilities, and labels [N]."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (images, 3))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return logits, (rng.random((images, 1)) > shares.cumsum(axis=1)).sum(axis=1)


def cost(rule: DecisionRule, logits: np.ndarray, labels: np.ndarray) -> float:
    return -rule.rank(logits.argmax(axis=1), labels)[1]


@given(st.integers(0, 1000), st.floats(0, 20), st.floats(0, 1))
def test_a_search_is_never_worse_on_its_images_and_moves_named_classes_only(
    seed: int, price: float, floor: float
) -> None:
    logits, labels = world(seed, 40)
    rule = DecisionRule.of({("a", "b"): price}, {"b": floor}, None, NAMES)
    shifts = search_shifts(logits, labels, rule)
    assert rule.rank((logits + shifts).argmax(axis=1), labels) >= rule.rank(logits.argmax(axis=1), labels)
    assert shifts[2] == 0


def test_a_costly_error_is_avoided_on_new_images() -> None:
    rule = DecisionRule.of({("a", "b"): 10.0, ("a", "c"): 10.0}, {}, accuracy, NAMES)
    found = fit_shifts(*world(0, 600), rule)
    assert found is not None
    logits, labels = world(1, 20000)
    assert found[0][0] > 1
    assert cost(rule, logits + found[0], labels) < 0.7 * cost(rule, logits, labels)


def test_a_floor_is_reached_on_new_images() -> None:
    rule = DecisionRule.of({}, {"c": 0.9}, accuracy, NAMES)
    found = fit_shifts(*world(0, 600), rule)
    assert found is not None
    logits, labels = world(1, 20000)
    assert DecisionRule.recall(2, logits.argmax(axis=1), labels) < 0.75
    assert DecisionRule.recall(2, (logits + found[0]).argmax(axis=1), labels) == pytest.approx(0.9, abs=0.04)


@pytest.mark.end_to_end
def test_costs_without_effect_seldom_pass() -> None:
    """Plain decisions by calibrated probabilities are the best ones if all errors cost the same."""
    rule = DecisionRule.of({("a", "b"): 1.0}, {}, accuracy, NAMES)
    assert sum(fit_shifts(*world(seed, 150), rule) is not None for seed in range(100)) <= 5


@pytest.mark.end_to_end
def test_floors_that_are_met_or_compete_seldom_pass() -> None:
    """Without a better decision to be found, a class gains images only by chance, or at the expense of another one."""
    met = DecisionRule.of({}, {"c": 0.1}, accuracy, NAMES)
    assert not any(fit_shifts(*world(seed, 150), met) for seed in range(20))
    all_classes = DecisionRule.of({}, dict.fromkeys(NAMES, 0.95), accuracy, NAMES)
    assert sum(fit_shifts(*world(seed, 150), all_classes) is not None for seed in range(40)) <= 4


@pytest.mark.end_to_end
@pytest.mark.parametrize("scale", [1e-3, 1e-2, 1e3])
def test_temperatures_stay_within_their_limits(scale: float) -> None:
    """Small logits need a temperature at its limit, which weights and shifts, fitted after it, would cross."""
    for seed in range(15):
        logits, labels = world(seed, 60)
        logits = scale * (logits + np.array([2, 0, 0]))
        for goals in ({}, {"costs": {("a", "b"): 10.0, ("a", "c"): 10.0}}, {"min_recall": {"c": 0.95}}):
            report = calibrate_logits(logits, labels, None, NAMES, CalibrationSettings(**goals))
            Calibration("a <CLASS>.", report.temperature)
            assert report.temperature <= 100
            assert np.isfinite([*report.weights.values()]).all()


def test_a_report_has_cost_and_recalls() -> None:
    logits, labels = world(0, 600)
    settings = CalibrationSettings(costs={("a", "b"): 10.0, ("a", "c"): 10.0}, min_recall={"c": 0.5})
    report = calibrate_logits(logits, labels, None, NAMES, settings)
    assert report.objective == "cost"
    assert report.mean_cost is not None
    assert report.mean_cost[0] > report.mean_cost[1]
    assert report.recalls["c"][1] >= 50
    assert report.weights["a"] > 1.5
    plain = calibrate_logits(logits, labels, None, NAMES, CalibrationSettings())
    assert (plain.mean_cost, plain.recalls) == (None, {})

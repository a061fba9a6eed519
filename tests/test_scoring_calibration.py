"""Calibrations of simulated logits; `test_scoring_decision_shifts` has those with costs and floors."""

from helpers.simulated_logits import world
from ipo_dspy.scoring.calibration import Calibration, CalibrationSettings, calibrate_logits


def test_a_threshold_of_zero_answers_every_image_by_either_score() -> None:
    logits, labels = world(0, 60, 3)
    settings = CalibrationSettings(coverage=1.0, threshold_score="in_distribution")
    report = calibrate_logits(logits - 50, labels, logits - 60, ["a", "b", "c"], settings)
    assert (report.threshold, report.coverage, report.unknown_answered) == (0, 100, 100)
    calibration = Calibration("a <CLASS>.", threshold=0.0, threshold_score="in_distribution")
    assert calibration == Calibration("a <CLASS>.")

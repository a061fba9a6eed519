"""Calibrate a classifier on the logits of labeled images, and report what that changes.

The order is temperature, weights, threshold: `scaling.apply` gives the logits of the final probabilities, whose highest
one is the label and its confidence; below the threshold the image belongs to none of the classes. A threshold that
unknown images set is for their in-distribution score; any other one is for the confidence, which separates right
answers from wrong ones.

Letters: N images, M images of none of the classes, C classes.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np

from ipo_dspy._internal.counts import pluralize
from ipo_dspy.argument_checks import flag, invalid, one_of, require_number
from ipo_dspy.errors import Argument, Hint, InputError
from ipo_dspy.scoring.calibration_error import (
    Flags,
    ReliabilityBin,
    accuracy_over_coverage,
    calibration_error_by_chance,
    expected_calibration_error,
    reliability,
)
from ipo_dspy.scoring.calibration_fit import (
    TEMPERATURES,
    Floats,
    Indices,
    Scaling,
    ScalingFit,
    Value,
    accuracy,
    balanced_accuracy,
    fit_scaling,
    fit_temperature,
    log_softmax,
    losses,
    macro_f1,
)
from ipo_dspy.scoring.decision_shifts import DecisionRule, fit_shifts
from ipo_dspy.scoring.objectives import COST, build_objective
from ipo_dspy.scoring.thresholds import (
    auroc,
    false_positive_rate,
    in_distribution_scores,
    threshold_for_coverage,
    threshold_for_precision,
    threshold_for_unknown,
)

COSTS_OR_FLOORS = ("costs", "min_recall")
CalibrationObjective = Literal["accuracy", "balanced_accuracy", "macro_f1", "loss"]
VALUES: Mapping[str, Value | None] = MappingProxyType(
    {"accuracy": accuracy, "balanced_accuracy": balanced_accuracy, "macro_f1": macro_f1, "loss": None}
)
ThresholdScore = Literal["confidence", "in_distribution"]
EQUAL_CLASSES = ("balanced_accuracy", "macro_f1")
"""Objectives for which every class counts the same."""
SEPARATED_AUROC, SEPARATED_COVERAGE = 0.7, 50.0
"""AUROC, and percent of labeled images answered, below which a threshold found by unknown images is of little use."""
CURVE_POINTS = 200
"""Maximum number of points of the curve of accuracy over coverage."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Temperature and threshold; they hold for the template that they were fitted with.

    Attributes:
        template: text of the template.
        temperature: divides the logits.
        threshold: an image with a lower score belongs to none of the classes; 0 rejects no image, by either score.
        unknown_label: label of such an image.
        threshold_score: the score that is compared with the threshold: the confidence, or the in-distribution score,
            which may be negative. With a threshold of 0 it is the confidence, which is never lower.

    Raises:
        InputError: a number that is not finite or out of range, or another type.
    """

    template: str
    temperature: float = 1.0
    threshold: float = 0.0
    unknown_label: str | None = None
    threshold_score: ThresholdScore = "confidence"

    def __post_init__(self) -> None:
        if not isinstance(self.template, str):
            raise invalid("template", "a text", self.template, "for example 'a photo of a <CLASS>.'")
        require_number("temperature", self.temperature, TEMPERATURES[0])
        one_of("threshold_score", self.threshold_score, get_args(ThresholdScore))
        if self.threshold_score == "confidence":
            require_share("threshold", self.threshold)
        elif not require_number("threshold", self.threshold, -sys.float_info.max):
            object.__setattr__(self, "threshold_score", "confidence")
        if not isinstance(self.unknown_label, str | None) or self.unknown_label == "":
            raise invalid("unknown_label", "a text or None", self.unknown_label, "for example unknown_label='other'")


@dataclass(frozen=True, slots=True)
class CalibrationFigures:
    """Figures of a classifier on images; shares are in percent.

    Attributes:
        accuracy: share of images whose most probable class is their label.
        loss: mean cross-entropy in nats.
        calibration_error: expected calibration error, with 15 bins of equal width.
        error_by_chance: the calibration error that a calibrated classifier would show on as many images.
        auroc: probability that a known image has a higher score than an unknown one, by the score that the threshold is
            for; None without unknown images.
        unknown_at_95: share of unknown images that are answered if 95 % of the known ones are.
        bins: the reliability diagram.
    """

    accuracy: float
    loss: float
    calibration_error: float
    error_by_chance: float
    auroc: float | None
    unknown_at_95: float | None
    bins: tuple[ReliabilityBin, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """The changes by calibration on the images that it was fitted to.

    The figures after it are honest: each image is judged by a fit to the four folds without it.

    Attributes:
        images, unknown: number of images.
        objective: the weights were judged by it: a name, or `cost`.
        before, after: figures without and with calibration, before any threshold.
        temperature: that of an earlier calibration if none was fitted, or 1.
        weights: factor of the probability of each class; empty if there are none.
        weights_rejected: True if weights were fitted, but did not prove better.
        threshold: 0 if every image is answered.
        threshold_score: the score that is compared with it.
        coverage: share of images that are answered, in percent.
        answered_accuracy: share of these that are correct, in percent; None if there are none.
        unknown_answered: share of unknown images that are answered, in percent; None without unknown images.
        poorly_separated: True if the threshold was found by unknown images that cannot be separated well: the AUROC
            is below 0.7, or less than half of the labeled images are answered.
        curve: coverage and accuracy in percent at falling thresholds.
        mean_cost: cost of an image without and with calibration, if costs were passed.
        chose_template: share of images, in percent, of which it is known that a search chose the template on them;
            0 below 1 %.
        recalls: recall in percent without and with calibration of the classes with a floor.
    """

    images: int
    unknown: int
    objective: str
    before: CalibrationFigures
    after: CalibrationFigures
    temperature: float
    weights: Mapping[str, float] = field(repr=False)
    weights_rejected: bool
    threshold: float
    threshold_score: ThresholdScore
    coverage: float
    answered_accuracy: float | None
    unknown_answered: float | None
    poorly_separated: bool
    curve: tuple[tuple[float, float], ...] = field(repr=False)
    mean_cost: tuple[float, float] | None = None
    recalls: Mapping[str, tuple[float, float]] = field(default_factory=dict, repr=False)
    chose_template: float = 0.0

    @property
    def caution(self) -> str:
        """The reason why the loss rose although every image is recognized; empty if that is not so."""
        if min(self.before.accuracy, self.after.accuracy) < 100 or self.after.loss <= self.before.loss:
            return ""
        return (
            f"all {pluralize(self.images, 'image')} are recognized, which does not prove that others will be: "
            "probabilities are deliberately less certain, so the loss on these images is higher"
        )

    def plain(self) -> dict[str, Any]:
        """Return the same as values that `json.dumps` takes."""
        return asdict(self) | {"weights": dict(self.weights), "recalls": dict(self.recalls)}


def require_share(name: str, value: float) -> float:
    """Return a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise invalid(name, "a number from 0 to 1", value, f"for example {name}=0.9")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSettings:
    """Arguments of a calibration; `ClipClassifier.calibrate` documents each field.

    Raises:
        InputError: an unknown objective, a share that is none, or several rules for the threshold.
    """

    objective: CalibrationObjective = "accuracy"
    temperature: bool = True
    weights: bool = True
    threshold: float | None = None
    coverage: float | None = None
    precision: float | None = None
    threshold_score: ThresholdScore = "confidence"
    costs: Mapping[tuple[str, str], float] | None = None
    min_recall: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        one_of("objective", self.objective, get_args(CalibrationObjective))
        build_objective(self.objective, self.costs, self.min_recall, None)
        if goals := [name for name in COSTS_OR_FLOORS if getattr(self, name) and not self.weights]:
            hint = Hint("remove {weights}", weights=False)
            raise InputError("needs class weights, because only they shift decisions", argument=goals[0], hint=hint)
        flag("temperature", self.temperature)
        flag("weights", self.weights)
        rules = {name: getattr(self, name) for name in ("threshold", "coverage", "precision")}
        passed = {name: value for name, value in rules.items() if value is not None}
        for name, value in passed.items():
            if self.threshold_score == "confidence" or name != "threshold":  # else it is that of an earlier calibration
                require_share(name, value)
        if len(passed) > 1:
            first, second, *_ = passed
            hint = Hint("{rule} already sets the threshold", rule=Argument(first, passed[first]))
            raise InputError("must be left out", argument=second, value=passed[second], hint=hint)

    def find_threshold(self, known: Floats, correct: Flags, unknown: Floats | None) -> float:
        """Return the threshold for scores of known images [N] and of unknown ones [M]."""
        if self.threshold is not None:
            return self.threshold
        if self.coverage is not None:
            return threshold_for_coverage(known, self.coverage)
        if self.precision is not None:
            return threshold_for_precision(known, correct, self.precision)
        return 0.0 if unknown is None else threshold_for_unknown(known, unknown)


def calibrate_logits(
    logits: Floats,
    labels: Indices,
    unknown: Floats | None,
    classes: Sequence[str],
    settings: CalibrationSettings,
    start: Scaling | None = None,
) -> CalibrationReport:
    """Fit what the settings ask for, and return it with its figures.

    Args:
        logits: [N, C] of labeled images.
        labels: [N] indices into C.
        unknown: [M, C] logits of images that belong to none of the classes, if there are some.
        classes: C names.
        settings: what is fitted.
        start: an earlier scaling, whose parts are kept unless they are fitted.

    Raises:
        InputError: no threshold reaches the wanted precision.
    """
    fit = fit_scaling(
        logits,
        labels,
        temperature=settings.temperature,
        weights=settings.weights,
        value=VALUES[settings.objective],
        equal_classes=settings.objective in EQUAL_CLASSES,
        start=start,
    )
    rule = DecisionRule.of(settings.costs or {}, settings.min_recall or {}, VALUES[settings.objective], classes)
    if rule.classes:
        fit = _with_shifts(fit, labels, rule, with_temperature=settings.temperature)
    decided = [each.argmax(axis=1) for each in (logits, fit.held_out)]
    correct, score = fit.held_out.argmax(axis=1) == labels, settings.threshold_score
    known = _ratings(score, logits, fit.held_out)
    doubts_before, doubts = None, None
    if unknown is not None:
        doubts_before = _ratings(score, unknown, unknown)
        doubts = _ratings(score, unknown, fit.scaling.apply(unknown))
    threshold = settings.find_threshold(known, correct, doubts)
    answered = known >= threshold if threshold else np.ones(len(known), dtype=bool)
    _, coverages, accuracies = accuracy_over_coverage(known, correct)
    points = np.unique(np.linspace(0, len(coverages) - 1, CURVE_POINTS).round().astype(int))
    factors = np.exp(fit.scaling.log_weights).tolist()
    after, coverage = _figures(fit.held_out, labels, known, doubts), 100.0 * float(answered.mean())
    is_found = settings.threshold is settings.coverage is settings.precision is None
    is_poor = after.auroc is not None and (after.auroc < SEPARATED_AUROC or coverage < SEPARATED_COVERAGE)
    return CalibrationReport(
        images=len(labels),
        unknown=0 if unknown is None else len(unknown),
        objective=COST if settings.costs else settings.objective,
        before=_figures(logits, labels, _ratings(score, logits, logits), doubts_before),
        after=after,
        temperature=fit.scaling.temperature,
        weights=dict(zip(classes, factors, strict=True)) if fit.has_weights else {},
        weights_rejected=settings.weights and not fit.has_weights,
        threshold=threshold,
        threshold_score=score if threshold else "confidence",
        coverage=coverage,
        answered_accuracy=100.0 * float(correct[answered].mean()) if answered.any() else None,
        unknown_answered=None if doubts is None else 100.0 * float((doubts >= threshold).mean() if threshold else 1.0),
        poorly_separated=is_found and is_poor,
        curve=tuple(zip((100 * coverages[points]).tolist(), (100 * accuracies[points]).tolist(), strict=True)),
        mean_cost=None if rule.costs is None else _pair([-rule.rank(each, labels)[1] for each in decided]),
        recalls={classes[k]: _pair([100 * rule.recall(k, each, labels) for each in decided]) for k in rule.floors},
    )


def _with_shifts(fit: ScalingFit, labels: Indices, rule: DecisionRule, *, with_temperature: bool) -> ScalingFit:
    """Return a fit with class weights for costs and floors, or the same fit if they do not prove better."""
    if (found := fit_shifts(fit.held_out, labels, rule)) is None:
        return fit
    shifts, held_out = found
    scaling = Scaling(fit.scaling.temperature, fit.scaling.log_weights + shifts)
    if not with_temperature:
        return ScalingFit(scaling, held_out, True)
    return scaling.corrected(fit_temperature(held_out, labels), held_out)


def _pair(values: Sequence[float]) -> tuple[float, float]:
    before, after = values
    return before, after


def _confidence(logits: Floats) -> Floats:
    return np.asarray(np.exp(log_softmax(logits).max(axis=1)))


def _ratings(score: ThresholdScore, logits: Floats, scaled: Floats) -> Floats:
    """Return what a threshold is compared with, [N], of logits of the model and scaled ones, [N, C].

    Weights of classes say nothing about how much an image is like one of them.
    """
    return in_distribution_scores(logits) if score == "in_distribution" else _confidence(scaled)


def _figures(logits: Floats, labels: Indices, known: Floats, doubts: Floats | None) -> CalibrationFigures:
    """Return the figures of logits [N, C]; `known` [N] and `doubts` [M] are what a threshold is compared with."""
    confidence, correct = _confidence(logits), logits.argmax(axis=1) == labels
    return CalibrationFigures(
        accuracy=100.0 * float(correct.mean()),
        loss=float(losses(logits, labels).mean()),
        calibration_error=expected_calibration_error(confidence, correct),
        error_by_chance=calibration_error_by_chance(confidence),
        auroc=None if doubts is None else auroc(known, doubts),
        unknown_at_95=None if doubts is None else 100.0 * false_positive_rate(known, doubts),
        bins=reliability(confidence, correct),
    )

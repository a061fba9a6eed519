"""Probabilities that mean something: temperature, class weights, a threshold for unknown images, and their figures.

Logits are divided by a temperature, and the logarithm of a weight is added to those of each class (Alexandari, Kundaje
and Shrikumar, Maximum Likelihood with Bias-Corrected Calibration is Hard-To-Beat at Label Shift Adaptation, ICML 2020).
The loss is convex in the inverse temperature and in the logarithms of the weights, so a few Newton steps find its
minimum. Two guards are for few images. The logarithms of the weights are penalized like draws from a normal
distribution. Targets are smoothed as by Platt (Probabilistic Outputs for Support Vector Machines, 1999), so that a
classifier without an error is not certain of everything.

Weights that are judged on the images they were fitted on look better than they are. So images are divided into five
folds, and each fold is judged by a fit to the other four. These logits decide whether weights are kept, and give the
final temperature, the threshold, and all figures.

Letters: N images, C classes, B bins.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ipo_dspy.errors import InputError
from ipo_dspy.scoring import tally
from ipo_dspy.scoring.tally import BINS

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Flags = NDArray[np.bool_]
Value = Callable[[Indices, Indices], float]
"""Rates the predicted classes [N] of images, given their labels [N]; higher is better."""

FOLDS = 5
PENALTY = 1.0
"""Inverse variance of the prior of a weight's logarithm: few weights are above e or below 1/e."""
SIGNIFICANT = 1.645
"""Standard errors that a gain must exceed: one-sided, 5 %."""
TEMPERATURES = (0.01, 100.0)
NEWTON_STEPS = 50
"""Maximum number of steps; ten are usual."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """The temperature that divides logits, and the factor of the probability of each class.

    Attributes:
        temperature: above 1 it makes probabilities less extreme.
        log_weights: [C] logarithms of the factors; their mean is 0, and so is that of a class without images.

    >>> Scaling(2.0, np.array([0.5, -0.5])).apply(np.array([[0.0, 2.0]])).tolist()
    [[0.5, 0.5]]
    """

    temperature: float
    log_weights: Floats

    def apply(self, logits: Floats) -> Floats:
        """Return scaled logits [N, C]."""
        return np.asarray(logits / self.temperature + self.log_weights)

    def corrected(self, factor: float, held_out: Floats) -> "ScalingFit":
        """Return this scaling and the scaled logits [N, C] divided by a factor, within the limits of a temperature."""
        temperature = float(np.clip(self.temperature * factor, *TEMPERATURES))
        factor = temperature / self.temperature
        return ScalingFit(Scaling(temperature, self.log_weights / factor), held_out / factor, True)


@dataclass(frozen=True, slots=True)
class ScalingFit:
    """A scaling that was fitted to images.

    Attributes:
        scaling: the fit to all images.
        held_out: [N, C] scaled logits of the same images, each by a fit to the folds without it.
        has_weights: True if weights were wanted and proved better in the folds, or were kept.
    """

    scaling: Scaling
    held_out: Floats
    has_weights: bool


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The images whose confidence is in one bin; confidence and accuracy are their means, from 0 to 1."""

    images: int
    confidence: float
    accuracy: float


def log_softmax(logits: Floats) -> Floats:
    """Return the log-probabilities of logits [N, C]."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def losses(logits: Floats, labels: Indices) -> Floats:
    """Return the cross-entropy in nats of each row of logits [N, C] against its label, [N]."""
    return -log_softmax(logits)[np.arange(len(labels)), labels]


def accuracy(predicted: Indices, labels: Indices) -> float:
    """Return the share of images whose predicted class is their label, in percent."""
    return 100.0 * float((predicted == labels).mean())


def balanced_accuracy(predicted: Indices, labels: Indices) -> float:
    """Return the mean over classes with images of the share of images that are predicted as it, in percent.

    >>> balanced_accuracy(np.array([0, 0, 0, 0]), np.array([0, 0, 0, 1]))
    50.0
    """
    there = np.bincount(labels)
    return tally.balanced_accuracy(np.bincount(labels[predicted == labels], minlength=len(there)), there)


def macro_f1(predicted: Indices, labels: Indices) -> float:
    """Return the mean over classes with images of the F1 score, in percent.

    >>> macro_f1(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])).__round__(2)
    73.33
    """
    size = max(labels.max(), predicted.max()) + 1
    counts = (np.bincount(each, minlength=size) for each in (labels[predicted == labels], predicted, labels))
    return tally.macro_f1(*counts)


def fit_temperature(logits: Floats, labels: Indices) -> float:
    """Return the temperature with the lowest loss.

    Args:
        logits: [N, C], at least one image.
        labels: [N], indices into C.

    >>> eye = np.eye(2)  # right on three of four images
    >>> round(fit_temperature(eye[[0, 0, 0, 1]], np.array([0, 0, 0, 0])), 2)
    1.13
    """
    return _fit(logits, labels, np.ones(len(labels)), True, False).temperature


def fit_scaling(
    logits: Floats,
    labels: Indices,
    *,
    temperature: bool = True,
    weights: bool = True,
    value: Value | None = accuracy,
    equal_classes: bool = False,
    start: Scaling | None = None,
) -> ScalingFit:
    """Fit temperature and class weights to the logits of images.

    Weights are kept if they are better in the folds: the loss is significantly lower, and `value` higher.

    Args:
        logits: [N, C], at least one image.
        labels: [N], indices into C.
        temperature: fit a temperature; without, it is that of `start`.
        weights: fit class weights; without, they are those of `start`.
        value: rates predicted classes; without, the loss alone decides.
        equal_classes: every class counts the same in the loss, whatever its number of images.
        start: an earlier scaling, whose parts are kept unless they are fitted; by default temperature and weights of 1.
    """
    fresh, start = _unscaled(logits), start or _unscaled(logits)
    start = Scaling(
        fresh.temperature if temperature else start.temperature, fresh.log_weights if weights else start.log_weights
    )
    counts = np.bincount(labels)[labels]  # [N]
    importance = len(labels) / len(np.unique(labels)) / counts if equal_classes else np.ones(len(labels))
    plain = _cross_fit(logits, labels, importance, temperature, False, start)
    has_weights = bool(start.log_weights.any())
    if weights:
        weighted = _cross_fit(logits, labels, importance, temperature, True, start)
        gains = importance * (losses(plain, labels) - losses(weighted, labels))  # [N]
        has_weights = bool(gains.mean() > SIGNIFICANT * gains.std() / math.sqrt(len(labels))) and (
            value is None or value(weighted.argmax(axis=1), labels) > value(plain.argmax(axis=1), labels)
        )
    if not (weights and has_weights):
        return ScalingFit(_fit(logits, labels, importance, temperature, False, start), plain, has_weights)
    scaling = _fit(logits, labels, importance, temperature, True, start)
    if not temperature:
        return ScalingFit(scaling, weighted, True)
    # The penalty of the weights makes the joint temperature too high, and fitted weights make it too low.
    return scaling.corrected(_fit(weighted, labels, importance, True, False).temperature, weighted)


def folds_of(labels: Indices, *, seed: int = 0) -> Indices:
    """Draw the fold of each image, [N].

    If all classes have the same number of images, which is by design, each fold has its share of them. Otherwise folds
    do not look at labels: each would have the class frequencies of the others, chance included, and weights that
    learned only these would pass.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    counts = np.unique(labels, return_counts=True)[1]
    if (counts == counts[0]).all():
        order = order[np.argsort(labels[order], kind="stable")]
    folds = np.empty(len(labels), dtype=np.int64)
    folds[order] = np.arange(len(labels)) % FOLDS
    return folds


def _unscaled(logits: Floats) -> Scaling:
    return Scaling(1.0, np.zeros(logits.shape[1]))


def _cross_fit(
    logits: Floats, labels: Indices, importance: Floats, with_temperature: bool, with_weights: bool, start: Scaling
) -> Floats:
    """Return the logits of each fold, scaled by the fit to the others, [N, C]."""
    if not (with_temperature or with_weights) or len(labels) == 1:
        return start.apply(logits)
    folds, scaled = folds_of(labels), np.empty_like(logits)
    for fold in np.unique(folds):
        inside = folds == fold
        fit = _fit(logits[~inside], labels[~inside], importance[~inside], with_temperature, with_weights, start)
        scaled[inside] = fit.apply(logits[inside])
    return scaled


def _fit(
    logits: Floats,
    labels: Indices,
    importance: Floats,
    with_temperature: bool,
    with_weights: bool,
    start: Scaling | None = None,
) -> Scaling:
    """Minimize the loss by Newton's method; parameters are the inverse temperature and the logarithms of weights.

    Those that are not fitted remain as in `start`, which is 1 for all by default.
    """
    images, classes = logits.shape
    start = start or _unscaled(logits)
    seen = np.unique(labels)
    if with_weights and len(seen) < classes:  # nothing is known of the other classes, so their weights stay 1
        among = Scaling(start.temperature, start.log_weights[seen])
        fit = _fit(logits[:, seen], np.searchsorted(seen, labels), importance, with_temperature, True, among)
        log_weights = np.zeros(classes)
        log_weights[seen] = fit.log_weights
        return Scaling(fit.temperature, log_weights)
    logits = logits - logits.max(axis=1, keepdims=True)  # changes no probability
    smoothing = 1 / (images + 2)
    targets = np.full((images, classes), smoothing / classes)  # [N, C]
    targets[np.arange(images), labels] += 1 - smoothing
    counts = importance[:, None]  # [N, 1]
    free = np.repeat([with_temperature, with_weights], [1, classes])  # [1 + C]
    parameters = np.concatenate([[1 / start.temperature], start.log_weights])

    def loss(parameters: Floats) -> tuple[float, Floats]:
        log_probs = log_softmax(parameters[0] * logits + parameters[1:])  # [N, C]
        penalty = PENALTY / 2 * float(parameters[1:] @ parameters[1:])
        return penalty - float((counts * targets * log_probs).sum()), log_probs

    current, log_probs = loss(parameters)
    for _ in range(NEWTON_STEPS):
        probs = np.exp(log_probs)
        counted = counts * probs  # [N, C]
        excess = counted - counts * targets  # [N, C]
        spread = logits - (probs * logits).sum(axis=1, keepdims=True)  # [N, C]
        gradient = np.concatenate([[(excess * logits).sum()], excess.sum(axis=0) + PENALTY * parameters[1:]])
        hessian = np.zeros((1 + classes, 1 + classes))
        hessian[0, 0] = (counted * spread**2).sum() + 1e-9
        if with_weights:
            hessian[0, 1:] = hessian[1:, 0] = (counted * spread).sum(axis=0)
            hessian[1:, 1:] = np.diag(counted.sum(axis=0) + PENALTY) - counted.T @ probs
        step = np.zeros_like(parameters)
        step[free] = -np.linalg.solve(hessian[np.ix_(free, free)], gradient[free])
        decrement, size = -float(gradient @ step), 1.0
        if decrement < 1e-9 * images:
            break
        while True:
            proposed = parameters + size * step
            proposed[0] = np.clip(proposed[0], 1 / TEMPERATURES[1], 1 / TEMPERATURES[0])
            lower, log_probs = loss(proposed)
            if lower <= current - 1e-4 * size * decrement or size < 1e-6:
                break
            size /= 2
        if lower >= current:
            break
        parameters, current = proposed, lower
    weights = parameters[1:]
    temperature = float(1 / parameters[0]) if with_temperature else start.temperature
    return Scaling(temperature, weights - weights.mean() if with_weights else weights)


def in_distribution_scores(logits: Floats) -> Floats:
    """Return how much images with logits [N, C] look like one of the classes and no other, [N].

    It is the highest logit plus the log-odds of its probability. The highest logit (Hendrycks et al., Scaling
    Out-of-Distribution Detection for Real-World Settings, ICML 2022) is low if an image is like none of the classes,
    which a probability does not show; the log-odds are low if it is between two of them.

    >>> in_distribution_scores(np.array([[9.0, 8.0], [9.0, 1.0], [2.0, 1.0]])).tolist()
    [10.0, 17.0, 3.0]
    """
    highest, others = logits.max(axis=1), logits.copy()
    others[np.arange(len(logits)), logits.argmax(axis=1)] = -np.inf
    return np.asarray(2 * highest - np.logaddexp.reduce(others, axis=1))


def reliability(confidence: Floats, correct: Flags, *, bins: int = BINS) -> tuple[ReliabilityBin, ...]:
    """Return the bins of a reliability diagram: equal in width, from 0 to 1, without the empty ones.

    Args:
        confidence: [N], from 0 to 1; a value on an edge belongs to the lower bin.
        correct: [N].
        bins: number of bins.

    >>> reliability(np.array([0.9, 0.7, 0.2]), np.array([True, False, False]), bins=2)[1]
    ReliabilityBin(images=2, confidence=0.8, accuracy=0.5)
    """
    return tuple(
        ReliabilityBin(int(count), total / count, right / count)
        for count, right, total in _bin_table(confidence, correct, bins).tolist()
        if count
    )


def expected_calibration_error(confidence: Floats, correct: Flags, *, bins: int = BINS) -> float:
    """Return by how many points confidence and accuracy differ in the bins of `reliability`, on average over images.

    The expected calibration error, ECE, of Guo et al., On Calibration of Modern Neural Networks, ICML 2017, in percent.
    It is above zero also for a calibrated classifier, see `calibration_error_by_chance`.

    >>> round(expected_calibration_error(np.array([0.9, 0.9, 0.9, 0.9]), np.array([True, True, True, False])), 6)
    15.0
    """
    return tally.calibration_error(_bin_table(confidence, correct, bins))


def calibration_error_by_chance(confidence: Floats, *, bins: int = BINS) -> float:
    """Return the expected calibration error of a classifier whose confidences are its probabilities to be right.

    With few images the accuracy of a bin is not its probability, so the error is that of chance; in the normal
    approximation, in percent.

    >>> [round(calibration_error_by_chance(np.full(images, 0.5)), 2) for images in (100, 10000)]
    [3.99, 0.4]
    """
    variances = np.bincount(_bins(confidence, bins), confidence * (1 - confidence), bins)
    return 100.0 * float(np.sqrt(2 / math.pi * variances).sum()) / len(confidence)


def _bin_table(confidence: Floats, correct: Flags, bins: int) -> Floats:
    """Return the images of each bin, the correct ones, and the sum of their confidences, [B, 3]."""
    index = _bins(confidence, bins)
    return np.stack([np.bincount(index, each, bins) for each in (None, correct, confidence)], axis=1)


def _bins(confidence: Floats, bins: int) -> Indices:
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)


def accuracy_over_coverage(confidence: Floats, correct: Flags) -> tuple[Floats, Floats, Floats]:
    """Return threshold, coverage, and accuracy for each distinct confidence, from the highest one; shares are 0 to 1.

    An image is answered if its confidence is at least the threshold; coverage is the share of images that are answered.

    >>> [each.tolist() for each in accuracy_over_coverage(np.array([0.9, 0.5, 0.5, 0.4]), np.array([1, 1, 0, 0]) == 1)]
    [[0.9, 0.5, 0.4], [0.25, 0.75, 1.0], [1.0, 0.6666666666666666, 0.5]]
    """
    order = np.argsort(-confidence, kind="stable")
    ranked = confidence[order]
    last = np.append(ranked[1:] != ranked[:-1], True)  # of images with the same confidence
    answered = np.arange(1, len(ranked) + 1)
    return ranked[last], (answered / len(ranked))[last], (np.cumsum(correct[order]) / answered)[last]


def threshold_for_coverage(confidence: Floats, coverage: float) -> float:
    """Return the threshold at which at least this share of images is answered, and not one group of equals more.

    Like the thresholds below it is halfway to the next lower confidence. If there is none, it is 0: every image is
    answered.

    >>> threshold_for_coverage(np.array([0.2, 0.4, 0.6, 0.8]), 0.5)
    0.5
    """
    return _below(_least_answered(confidence, coverage), confidence)


def threshold_for_precision(confidence: Floats, correct: Flags, precision: float) -> float:
    """Return the lowest threshold at which at least this share of the answered images is right.

    Raises:
        InputError: no threshold reaches it.

    >>> threshold_for_precision(np.array([0.25, 0.5, 0.75, 1.0]), np.array([False, True, False, True]), 0.6)
    0.375
    """
    thresholds, _, accuracies = accuracy_over_coverage(confidence, correct)
    reached = np.flatnonzero(accuracies >= precision)
    if not len(reached):
        raise InputError(
            f"must be at most {math.floor(1000 * accuracies.max()) / 1000:g}, the highest on these images",
            argument="precision",
            value=precision,
            hint="pass a lower one, or more images",
        )
    return _below(thresholds[reached[-1]], confidence)


def threshold_for_unknown(known: Floats, unknown: Floats) -> float:
    """Return the threshold that separates confidences of known [N] and unknown [M] images best.

    It has the highest difference between the share of known and the share of unknown images that are answered (Youden,
    Index for Rating Diagnostic Tests, 1950); of several, the lowest.

    >>> threshold_for_unknown(np.array([0.5, 0.75, 1.0]), np.array([0.1, 0.2, 0.7, 0.5]))
    0.725
    """
    thresholds = np.unique(known)
    answered, accepted = (1 - np.searchsorted(np.sort(each), thresholds) / len(each) for each in (known, unknown))
    return _below(thresholds[np.argmax(answered - accepted)], np.append(known, unknown))


def _least_answered(confidence: Floats, coverage: float) -> float:
    """Return the lowest confidence of the share of images that have the highest ones."""
    return float(np.sort(confidence)[-max(1, math.ceil(coverage * len(confidence) - 1e-9))])


def _below(confidence: float, others: Floats) -> float:
    """Return the middle between a confidence and the next lower one, so that rounding moves no image across it.

    Without a lower one it is 0, which rejects no image. Otherwise it is never 0, not even between scores of -1 and 1.
    """
    lower = others[others < confidence]
    return float((confidence + lower.max()) / 2 or confidence / 2) if len(lower) else 0.0


def auroc(known: Floats, unknown: Floats) -> float:
    """Return the probability that a known image [N] has a higher confidence than an unknown one [M]; ties count half.

    >>> auroc(np.array([0.5, 0.9]), np.array([0.1, 0.5]))
    0.875
    """
    ranked = np.sort(unknown)
    below, not_above = (np.searchsorted(ranked, known, side=side) for side in ("left", "right"))
    return float((below + not_above).mean() / 2 / len(unknown))


def false_positive_rate(known: Floats, unknown: Floats, *, recall: float = 0.95) -> float:
    """Return the share of unknown images [M] that are answered if this share of known images [N] is.

    >>> false_positive_rate(np.array([0.5, 0.9]), np.array([0.1, 0.6, 0.2, 0.3]))
    0.25
    """
    return float((unknown >= _least_answered(known, recall)).mean())

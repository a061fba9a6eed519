"""Fit the temperature and the class weights that turn logits into calibrated probabilities.

Logits are divided by a temperature, and the logarithm of a weight is added to those of each class (Alexandari, Kundaje
and Shrikumar, Maximum Likelihood with Bias-Corrected Calibration is Hard-To-Beat at Label Shift Adaptation, ICML 2020).
The loss is convex in the inverse temperature and in the logarithms of the weights, so a few Newton steps find its
minimum. Two guards are for few images. The logarithms of the weights are penalized like draws from a normal
distribution. Targets are smoothed as by Platt (Probabilistic Outputs for Support Vector Machines, 1999), so that a
classifier without an error is not certain of everything.

Weights that are judged on the images they were fitted on look better than they are. So images are divided into five
folds, and each fold is judged by a fit to the other four. These logits decide whether weights are kept, and give the
final temperature, the threshold, and all figures.

Letters: N images, C classes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ipo_dspy.scoring import tally

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
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

"""Metrics of the user as objectives: of the labels and probabilities of all images, or of one example as in DSPy.

`scoring.objectives` says how they are told apart. Both are bound to a set of images, whose probabilities they get.

Letters: N images, C classes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ipo_dspy.argument_checks import invalid
from ipo_dspy.classifier import Classification, ClipClassifier
from ipo_dspy.decision_types import decode_choices
from ipo_dspy.errors import Hint, InputError
from ipo_dspy.optimizer.decision_outputs import DecisionOutput
from ipo_dspy.optimizer.trainset import TrainingImages
from ipo_dspy.scoring.class_objectives import Floats, ImageMetric, jackknife_groups
from ipo_dspy.scoring.objectives import Objective, arguments_needed, finite, is_of_all_images, metric_name

MANY_PROBABILITIES = 200_000_000
"""Images times classes from which on their probabilities are not kept for a metric: 1.6 GB."""


def bind_metric(metric: Callable[..., Any], images: TrainingImages, classifier: ClipClassifier) -> ImageMetric:
    """Return a metric of the images, called with predictions as the classifier returns them."""
    if is_of_all_images(metric):
        index = {name: i for i, name in enumerate(images.classes)}
        return MetricOfAll(metric, np.array([index[label] for label in images.labels]))
    return MetricOfExamples(metric, images, classifier)


def check_objective(
    objective: Objective, images: TrainingImages, classifier: ClipClassifier, name: str, classes: Sequence[str]
) -> None:
    """Check that an objective can be measured on images, before anything slow is done.

    A metric is called with predictions that are right: on all images, or on the first example.

    Args:
        objective: the objective.
        images: the images of a classifier.
        classifier: the classifier.
        name: name of the images for messages.
        classes: classes of all classifiers of the program.

    Raises:
        InputError: it names other classes, or classes without images; or the metric fails, does not return finite
            numbers, or needs more probabilities than are kept; or images have several labels, and it is neither the
            accuracy nor the loss.
    """
    if images.label_sets is not None:
        if (argument := objective.argument) != "objective":
            condition = "None for images with several labels"
            raise invalid(argument, condition, getattr(objective, argument), "omit it")
        if objective.name not in ("accuracy", "loss"):
            condition = "'accuracy' or 'loss' for images with several labels"
            raise invalid("objective", condition, objective.name, Hint("for example {objective}", objective="loss"))
        return
    own = set(images.classes)
    labels = {*images.labels, *(label for label in classes if label not in own)}
    objective.check(classes, labels, name, options=images.options)
    if objective.metric is None:
        return
    count = len(images.labels) * len(own)
    if count > MANY_PROBABILITIES:
        condition = f"None with {len(images.labels)} images of {len(own)} classes, whose probabilities are not kept"
        raise invalid("metric", condition, objective.metric, "pass objective='balanced_accuracy', or fewer images")
    checked = images if is_of_all_images(objective.metric) else images.keep([0])
    index = {name: i for i, name in enumerate(images.classes)}
    right = np.eye(len(index))[[index[label] for label in checked.labels]]  # [N, C]
    _ = bind_metric(objective.metric, checked, classifier).outcomes(0.1 / len(index) + 0.9 * right)


@dataclass(frozen=True, slots=True, eq=False)
class MetricOfAll:
    """A metric of the labels [N], as indices of classes, and the probabilities [N, C] of all images."""

    metric: Callable[..., Any]
    labels: NDArray[np.int64]

    def value(self, probabilities: Floats) -> float:
        """Return the metric."""
        return _call(self.metric, self.labels, probabilities)

    def outcomes(self, probabilities: Floats) -> Floats:
        """Return the metric plus the deviation of each image's pseudo-value, so that the spread is the jackknife's."""
        value, groups = self.value(probabilities), jackknife_groups(len(self.labels))
        count = int(groups.max()) + 1
        if count == 1:
            return np.full(len(groups), value)
        rest = [_call(self.metric, self.labels[groups != g], probabilities[groups != g]) for g in range(count)]
        deviations = (count - 1) * (np.mean(rest) - np.array(rest))
        scaled = deviations * np.sqrt((len(groups) - 1) / (count - 1))  # a mean over images has the error of groups
        centered = scaled[groups] - scaled[groups].mean()
        return np.asarray(value + centered)


@dataclass(frozen=True, slots=True, eq=False)
class MetricOfExamples:
    """A metric of an example and its prediction, averaged over the images."""

    metric: Callable[..., Any]
    images: TrainingImages
    classifier: ClipClassifier

    def value(self, probabilities: Floats) -> float:
        """Return the mean over the images."""
        return float(self.outcomes(probabilities).mean())

    def outcomes(self, probabilities: Floats) -> Floats:
        """Return the metric of each image."""
        rest = (None,) * (arguments_needed(self.metric) - 2)
        pairs = zip(self.images.examples, self._predictions(probabilities), strict=True)
        return np.array([_call(self.metric, *pair, *rest) for pair in pairs])

    def _predictions(self, probabilities: Floats) -> Iterator[Classification]:
        """Yield the predictions of the classifier, as a call of it without class weights returns them.

        A decision of a predictor is what the predictor returns: a `Choice`, or a value of its type.
        """
        names, choices, classifier = self.images.classes, self.images.choices, self.classifier
        output, decided = "label", None
        if isinstance(classifier, DecisionOutput):
            output, rows = classifier.output, np.minimum(probabilities, 1.0).tolist()  # a rounding error above 1
            decided = decode_choices(classifier.predictor, output, (dict(zip(names, row, strict=True)) for row in rows))
        ranked = np.argsort(-probabilities, axis=1, kind="stable")[:, : classifier.top_k]
        for i, order in enumerate(ranked.tolist()):
            shown = order if choices is None else order[: len(choices[i])]
            scores = {names[j]: float(probabilities[i, j]) for j in shown}
            label, confidence = next(iter(scores.items()))
            value = label if decided is None else decided[i]
            prediction = Classification(confidence=confidence, scores=scores, **{output: value})
            prediction._classes, prediction._shares = names, probabilities[i]
            yield prediction


def _call(metric: Callable[..., Any], *arguments: Any) -> float:
    """Return the value of a metric.

    Raises:
        InputError: it failed, or its value is not a finite number.
    """
    try:
        value = metric(*arguments)
    except Exception as error:
        called = "labels and probabilities" if isinstance(arguments[0], np.ndarray) else "an example and a prediction"
        fault = f"{type(error).__name__}: {error}"
        raise InputError(
            f"metric {metric_name(metric)} must take {called}, got {fault:.300}; it may also be called with a part of "
            "the images"
        ) from error
    return finite(value, metric_name(metric))

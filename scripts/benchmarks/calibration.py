"""Calibration

`ClipClassifier.calibrate` with 16 images per class of the bundled tasks, `demo-vit`, and the template that 20 steps of
the built-in search found on the same images. Figures are those on test images.

The calibration error (ECE, 15 bins, in points) is never zero: "by chance" is what a classifier would show on as many
test images if each confidence were exactly its probability to be right, the mean of 500 simulations, and "at most" what
95 % of them show. "Best temperature" is the error with the temperature that fits the test images best, after the class
weights: no way to fit a temperature to training images could be expected to do better.

Class weights are compared with those of `dspy.experimental.ReAnchor`, fitted to the same images of the base classes by
their accuracy. ReAnchor scores the images a thousand times, one by one. Here most of these passes are a product of
matrices, which gives the same scores. Its time is the number of passes times that of the fastest of its own, with a
decision client that looks probabilities up.
"""

import contextlib
import itertools
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import dspy
import numpy as np
from dspy.experimental import ReAnchor
from dspy.teleprompt.reanchor import calibrate as reanchor

from benchmarks.common import Size, seconds, table
from ipo_dspy import IPO, ClipClassifier, demo
from ipo_dspy.clip.bundled import DEMO_VIT
from ipo_dspy.clip.image_features import encode_images
from ipo_dspy.demo import DemoTask
from ipo_dspy.scoring.calibration_error import expected_calibration_error
from ipo_dspy.scoring.calibration_fit import Floats, Indices, accuracy, fit_temperature, log_softmax

SHOTS, STEPS = 16, 20
SIMULATIONS = 500


@dataclass(frozen=True)
class Setting:
    """A task with its searched template, and the probabilities and labels of its images."""

    task: DemoTask
    program: ClipClassifier

    @classmethod
    def of(cls, name: str, seed: int, classes: Literal["base", "all"]) -> "Setting":
        """Search a template on the training images."""
        task = demo.load(name, shots=SHOTS, seed=seed, classes=classes, model=DEMO_VIT)
        optimizer = IPO(proposer="evolution", steps=STEPS, seed=seed, progress=False)
        return cls(task, optimizer.compile(task.program, task.trainset))

    def log_probs(self, examples: Sequence[Any]) -> tuple[Floats, Indices]:
        """Return CLIP's own log-probabilities [N, C] of images, and their labels [N]."""
        encoded = encode_images(self.program.backbone, [example.image for example in examples])
        probs = self.program.probabilities(encoded.features, self.program.template, self.task.classes)
        labels = np.array([self.task.classes.index(example.label) for example in examples])
        return probs.double().log().numpy(), labels


def figures(logits: Floats, labels: Indices) -> tuple[float, float, float, float]:
    """Return accuracy, calibration error, its mean by chance, and what it is at most in 95 % of cases by chance."""
    confidence, predicted = np.exp(log_softmax(logits).max(axis=1)), logits.argmax(axis=1)
    rng = np.random.default_rng(0)
    outcomes = (rng.random(len(labels)) < confidence for _ in range(SIMULATIONS))
    draws = [expected_calibration_error(confidence, correct) for correct in outcomes]
    error = expected_calibration_error(confidence, predicted == labels)
    return accuracy(predicted, labels), error, statistics.fmean(draws), float(np.quantile(draws, 0.95))


class Lookup(dspy.BaseLM):
    """A decision client with the probabilities of every image."""

    supports_decision_requests = True

    def __init__(self, rows: list[dict[str, float]]) -> None:
        super().__init__("lookup", cache=True)
        self.rows = rows

    def __call__(self, state: Any = None, questions: Any = None, **request: Any) -> dict[str, Any]:
        """Answer all questions with the probabilities of the image whose number is the input."""
        row = self.rows[int(state["inputs"]["image"])]
        return {name: {"probabilities": row, "confidence": max(row.values())} for name in questions}


@dataclass
class Shortcut:
    """ReAnchor's function that scores all images, as one product of matrices where nobody records the evidence.

    Attributes:
        probs: [N, C], and labels [N].
        plain: ReAnchor's own function, which takes some milliseconds per image.
        passes, seconds: number of passes over the images, and the shortest time of one with the plain function.
    """

    probs: Floats
    labels: Indices
    classes: Sequence[str]
    plain: Callable[..., list[float]] = reanchor.scores
    passes: int = 0
    seconds: float = math.inf

    def __call__(self, program: Any, examples: Any, *arguments: Any, **options: Any) -> list[float]:
        """Return the score of each image."""
        self.passes += 1
        weights = program.fields.get("label", {}).get("weights")
        if weights is None or dspy.settings.get("_decision_evidence") is not None:
            took, scores = seconds(partial(self.plain, program, examples, *arguments, **options))
            self.seconds = min(self.seconds, took)
            return scores
        factors = np.array([weights.get(name, 1.0) for name in self.classes])
        return list(map(float, (self.probs * factors).argmax(axis=1) == self.labels))


def reanchored(logits: Floats, labels: Indices, classes: Sequence[str]) -> tuple[Floats, float]:
    """Return the logarithms of the class weights that ReAnchor fits, [C], and the seconds that it would take."""
    probs = np.exp(log_softmax(logits))
    decision = dspy.experimental.Choice[tuple((name, name) for name in classes)]
    fields = {"image": (str, dspy.InputField()), "label": (decision, dspy.OutputField(desc="the class"))}
    predict = dspy.Predict(dspy.Signature(fields, "Classify the image."))
    predict.lm = Lookup([dict(zip(classes, row, strict=True)) for row in probs.tolist()])
    examples = [dspy.Example(image=str(i), label=classes[label]).with_inputs("image") for i, label in enumerate(labels)]
    shortcut = Shortcut(probs, labels, classes)
    reanchor.scores = shortcut
    try:
        optimizer = ReAnchor(lambda example, prediction: float(prediction.label.value == example.label), num_threads=1)
        with contextlib.redirect_stdout(sys.stderr):  # its progress
            best = optimizer.compile(predict, trainset=examples)
    finally:
        reanchor.scores = shortcut.plain
    weights = best.fields.get("label", {}).get("weights", {})
    return np.log([weights.get(name, 1.0) for name in classes]), shortcut.passes * shortcut.seconds


def calibration_errors(name: str, seeds: Sequence[int]) -> Iterator[tuple[str, ...]]:
    """Yield a row for each seed, and one with their means."""
    rows = []
    for seed in seeds:
        setting = Setting.of(name, seed, "all")
        heated = setting.program.calibrate(setting.task.trainset, weights=False)
        calibrated = setting.program.calibrate(setting.task.trainset)
        logits, labels = setting.log_probs(setting.task.testset)
        before, warm, after = (
            figures(each.scaling_of(each.template, setting.task.classes).apply(logits), labels)
            for each in (setting.program, heated, calibrated)
        )
        scaled = calibrated.scaling_of(calibrated.template, setting.task.classes).apply(logits)
        best = figures(scaled / fit_temperature(scaled, labels), labels)[1]
        rows.append((before[0], after[0], before[1], warm[1], after[1], *after[2:], after[1] - after[2], best))
        yield (f"{name}, seed {seed}", *(f"{value:.1f}" for value in rows[-1]))
    yield (f"**{name}**", *(f"{statistics.fmean(column):.1f}" for column in zip(*rows, strict=True)))


def class_weights(name: str, seed: int) -> tuple[float, ...]:
    """Return accuracies before and after, milliseconds, and the same of ReAnchor, with the ratio of times."""
    setting = Setting.of(name, seed, "base")
    classes, (test, labels) = setting.task.classes, setting.log_probs(setting.task.testset)
    took, calibrated = seconds(partial(setting.program.calibrate, setting.task.trainset))
    log_weights, slow = reanchored(*setting.log_probs(setting.task.trainset), classes)
    ours = calibrated.scaling_of(calibrated.template, classes).apply(test)
    before, after, theirs = (accuracy(each.argmax(axis=1), labels) for each in (test, ours, test + log_weights))
    return before, after, theirs, after - theirs, 1000 * took, slow, slow / took


def all_weights(seeds: Sequence[int]) -> Iterator[tuple[str, ...]]:
    """Yield a row for each task and seed, and one with their means."""
    forms = (".1f", ".1f", ".1f", "+.1f", ".0f", ".0f", ".0f")
    rows = []
    for name, seed in itertools.product(demo.names(), seeds):
        rows.append(class_weights(name, seed))
        yield (f"{name}, seed {seed}", *map(format, rows[-1], forms))
    yield ("**mean**", *map(format, map(statistics.fmean, zip(*rows, strict=True)), forms))


def run(size: Size, seed: int) -> None:
    """Print calibration errors, and accuracies with class weights."""
    seeds = range(seed + 1, seed + 4)
    print("**Calibration error, all classes**\n")
    errors = ("ECE before", "ECE with temperature", "ECE after", "by chance", "at most", "less chance")
    columns = ("accuracy before", "after", *errors, "best temperature")
    table(("", *columns), (row for name in demo.names() for row in calibration_errors(name, seeds)))
    print("\n**Accuracy with class weights, base classes**\n")
    table(
        ("", "before", "calibrate", "ReAnchor", "difference", "ms", "s of ReAnchor", "times as long"),
        all_weights(seeds),
    )

"""Calibration

`ClipClassifier.calibrate` with 16 images a class of the bundled tasks, `demo-vit`, and the template of 20 steps of the
embedded search on the same images. Figures are those on test images.

The calibration error (ECE, 15 bins, in points) is never zero: "by chance" is what a classifier would show on as many
test images if each confidence were exactly its probability to be right. `--size full` also compares class weights
with those of `dspy.experimental.ReAnchor`, fitted to the same images of the base classes by the accuracy, on the
first seed. Its decision client looks the probabilities up, so its time is that of DSPy and the fit alone; that of
`calibrate` includes the logits.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import dspy
import numpy as np
from dspy.experimental import ReAnchor

from benchmarks.common import Size, seconds, table
from ipo_dspy import IPO, ClipClassifier, demo
from ipo_dspy.clip.bundled import DEMO_VIT
from ipo_dspy.clip.image_features import encode_images
from ipo_dspy.demo import DemoTask
from ipo_dspy.scoring.calibration import (
    Floats,
    Indices,
    accuracy,
    calibration_error_by_chance,
    expected_calibration_error,
    log_softmax,
)

SHOTS, STEPS = 16, 20


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


def figures(logits: Floats, labels: Indices) -> tuple[float, float, float]:
    """Return accuracy, calibration error, and the part of it that is due to chance."""
    confidence, predicted = np.exp(log_softmax(logits).max(axis=1)), logits.argmax(axis=1)
    error = expected_calibration_error(confidence, predicted == labels)
    return accuracy(predicted, labels), error, calibration_error_by_chance(confidence)


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


def reanchored(logits: Floats, labels: Indices, classes: Sequence[str]) -> Floats:
    """Return the logarithms of the class weights that ReAnchor fits, [C]."""
    rows = [dict(zip(classes, probs, strict=True)) for probs in np.exp(log_softmax(logits)).tolist()]
    decision = dspy.experimental.Choice[tuple((name, name) for name in classes)]
    fields = {"image": (str, dspy.InputField()), "label": (decision, dspy.OutputField(desc="the class"))}
    predict = dspy.Predict(dspy.Signature(fields, "Classify the image."))
    predict.lm = Lookup(rows)
    examples = [dspy.Example(image=str(i), label=classes[label]).with_inputs("image") for i, label in enumerate(labels)]
    fitted = ReAnchor(lambda example, prediction: float(prediction.label.value == example.label), num_threads=1)
    best = fitted.compile(predict, trainset=examples)
    weights = best.fields.get("label", {}).get("weights", {})
    return np.log([weights.get(name, 1.0) for name in classes])


def calibration_errors(name: str, seeds: Sequence[int]) -> Iterator[tuple[str, ...]]:
    """Yield a row for each seed, and one with their means."""
    rows = []
    for seed in seeds:
        setting = Setting.of(name, seed, "all")
        heated = setting.program.calibrate(setting.task.trainset, weights=False)
        calibrated = setting.program.calibrate(setting.task.trainset)
        logits, labels = setting.log_probs(setting.task.testset)
        before, warm, after = (
            figures(each.scaling_of(each.template, setting.task.classes)[0].apply(logits), labels)
            for each in (setting.program, heated, calibrated)
        )
        rows.append((before[0], after[0], before[1], before[2], warm[1], after[1], after[2]))
        yield (f"{name}, seed {seed}", *(f"{value:.1f}" for value in rows[-1]))
    yield (f"**{name}**", *(f"{statistics.fmean(column):.1f}" for column in zip(*rows, strict=True)))


def class_weights(name: str, seed: int, *, with_reanchor: bool) -> tuple[str, ...]:
    """Return the row of a task and seed."""
    setting = Setting.of(name, seed, "base")
    classes, (test, labels) = setting.task.classes, setting.log_probs(setting.task.testset)
    took, calibrated = seconds(partial(setting.program.calibrate, setting.task.trainset))
    ours = calibrated.scaling_of(calibrated.template, classes)[0].apply(test)
    before, after = (accuracy(each.argmax(axis=1), labels) for each in (test, ours))
    row = (f"{name}, seed {seed}", f"{before:.1f}", f"{after:.1f}", f"{1000 * took:.0f}")
    if not with_reanchor:
        return row
    slow, log_weights = seconds(partial(reanchored, *setting.log_probs(setting.task.trainset), classes))
    theirs = accuracy((test + log_weights).argmax(axis=1), labels)
    return (*row, f"{theirs:.1f}", f"{after - theirs:+.1f}", f"{slow:.0f}", f"{slow / took:.0f}")


def run(size: Size, seed: int) -> None:
    """Print calibration errors, and accuracies with class weights."""
    seeds = range(seed + 1, seed + 4)
    print("**Calibration error, all classes**\n")
    columns = ("accuracy before", "after", "ECE before", "by chance", "ECE with temperature", "ECE after", "by chance")
    table(("", *columns), (row for name in demo.names() for row in calibration_errors(name, seeds)))
    print("\n**Accuracy with class weights, base classes**\n")
    cells = [(name, number) for name in demo.names() for number in seeds]
    header = ("", "before", "calibrate", "ms", "ReAnchor", "difference", "s", "times as long")
    full = size == "full"
    rows = (class_weights(*cell, with_reanchor=full and cell[1] == seeds[0]) for cell in cells)
    table(header if full else header[:4], rows)

"""Classifiers with the bundled CLIP, and a metric for them."""

from typing import Any

import dspy

from ipo_dspy import demo
from ipo_dspy.classifier import ClipClassifier


def fresh(task: demo.DemoTask, **options: Any) -> ClipClassifier:
    return ClipClassifier(task.classes, model=f"local-dir:{demo.model_path()}", **options)


def correct(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    return bool(example.label == prediction.label)

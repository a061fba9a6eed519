"""Simulated logits whose probabilities are known."""

from typing import Any

import numpy as np

from ipo_dspy.scoring.calibration_fit import Floats, Indices, log_softmax


def world(
    seed: int, images: int, classes: int, *, temperature: float = 1.0, log_weights: Any = 0.0
) -> tuple[Floats, Indices]:
    """Logits [N, C] and labels [N] that are drawn from the softmax of the logits after this scaling."""
    rng = np.random.default_rng(seed)
    logits = 2 * temperature * rng.standard_normal((images, classes))
    truth = np.exp(log_softmax(logits / temperature + log_weights))
    return logits, (truth.cumsum(axis=1) > rng.random((images, 1))).argmax(axis=1)


def confidences(logits: Floats, labels: Indices) -> tuple[Floats, Any]:
    log_probs = log_softmax(logits)
    return np.exp(log_probs.max(axis=1)), log_probs.argmax(axis=1) == labels

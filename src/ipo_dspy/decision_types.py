"""The one door to DSPy's decision types, which are experimental: everything else works without them."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import dspy

try:
    from dspy.experimental import Choice
except ImportError:
    Choice = None


def label_type(labels: Sequence[str]) -> Any:
    """Return the annotation of an output that is one of these labels: a plain string, and a decision for DSPy.

    >>> label_type(["cat", "dog"]).__args__[0].__args__
    ('cat', 'dog')
    """
    return Literal[*labels] if Choice is None else Annotated[Literal[*labels], Choice]


def record_evidence(predictor: dspy.Predict, output: str, labels: Sequence[str], shares: Sequence[float]) -> None:
    """Give the probabilities of the labels to whoever records the evidence of decisions, such as `ReAnchor`."""
    recorder = dspy.settings.get("_decision_evidence")
    if recorder is not None:
        log, lock = recorder
        evidence = {"probabilities": dict(zip(labels, shares, strict=True)), "confidence": max(shares)}
        with lock:
            log.append((predictor, output, evidence))

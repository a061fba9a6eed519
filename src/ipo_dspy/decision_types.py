"""The one door to DSPy's decision types, which are experimental: everything else works without them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import dspy

try:
    from dspy.adapters.decision_state import DecisionState
    from dspy.experimental import Choice
except ImportError:
    Choice = DecisionState = None


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


def decode_choices(predictor: dspy.Predict, output: str, probabilities: Iterable[Mapping[str, float]]) -> list[Any]:
    """Return what a predictor returns as a `Choice` output: a `Choice`, or a bare value if it is annotated so.

    Args:
        predictor: the predictor.
        output: name of the output.
        probabilities: those of the options, by their text, for each answer.
    """
    state = DecisionState(predictor.signature, {}, system_one=True)
    state.types = {output: state.types[output]}
    answers = ({"probabilities": shares, "confidence": max(shares.values())} for shares in probabilities)
    return [state._decode({output: answer})[output] for answer in answers]


def decision_questions(predictor: dspy.Predict) -> dict[str, dict[str, Any]]:
    """Return the question that DSPy asks a decision client for each output of a predictor.

    Raises:
        ValueError: an output without a description, or one that is not a decision.
    """
    if DecisionState is None:
        raise ValueError("this version of DSPy has no decisions; use a ClipClassifier")
    state = DecisionState(predictor.signature, predictor.fields, system_one=True)
    return {
        name: state._question(name, predictor.signature.output_fields[name], kind) for name, kind in state.types.items()
    }

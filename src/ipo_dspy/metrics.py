"""Metrics of a `ClipClassifier` for DSPy's optimizers: a score, and feedback as text for GEPA."""

from typing import Any

import dspy

from ipo_dspy._internal.untrusted import one_line

_LONGEST_NAME = 80


def feedback(gold: Any, pred: Any, trace: Any = None, pred_name: Any = None, pred_trace: Any = None) -> Any:
    """Return 1.0 for a correct label, else 0.0, with a sentence that names the closest other class, for `dspy.GEPA`.

    Args:
        gold: an example with `label`.
        pred: the prediction of a `ClipClassifier`, or of a program that returns one.
        trace: ignored, like the two below; GEPA passes all five.
        pred_name: ignored.
        pred_trace: ignored.

    Returns:
        A `dspy.Prediction` with `score` and `feedback`. Probabilities have two digits. That of a class which is not
        among the classifier's `top_k` is bounded by the lowest one there.

    >>> wolf = dspy.Prediction(label="wolf", scores={"wolf": 0.412, "husky": 0.379, "fox": 0.1})
    >>> feedback(dspy.Example(label="husky"), wolf).toDict()
    {'score': 0.0, 'feedback': 'An image of husky was taken for wolf, 0.41 against 0.38.'}
    >>> feedback(dspy.Example(label="wolf"), wolf).feedback
    'An image of wolf was classified correctly, 0.41 against 0.38 for husky.'
    >>> feedback(dspy.Example(label="cat"), wolf).feedback
    'An image of cat was taken for wolf, 0.41 against at most 0.10.'
    >>> feedback(dspy.Example(label="cat"), dspy.Prediction(label=None, scores=wolf.scores)).feedback
    'An image of cat was not classified: it is below the threshold, with 0.41 for wolf.'
    """
    scores, label = pred.scores, pred.label
    correct = gold.label == label
    image = f"An image of {_shown(gold.label)} was"
    if scores and label not in scores:  # None, or the label of unknown images
        best = next(iter(scores))
        outcome = "classified correctly" if correct else "not classified"
        text = f"{image} {outcome}: it is below the threshold, with {scores[best]:.2f} for {_shown(best)}."
    elif label is None:
        text = f"{image} not classified: every line of the instructions must contain <CLASS>."
    elif correct:
        others = (f" against {p:.2f} for {_shown(name)}" for name, p in scores.items() if name != label)
        text = f"{image} classified correctly, {scores[label]:.2f}{next(others, '')}."
    else:
        share = f"{scores[gold.label]:.2f}" if gold.label in scores else f"at most {min(scores.values()):.2f}"
        text = f"{image} taken for {_shown(label)}, {scores[label]:.2f} against {share}."
    return dspy.Prediction(score=float(correct), feedback=text)


def _shown(class_name: Any) -> str:
    return one_line(str(class_name), _LONGEST_NAME)

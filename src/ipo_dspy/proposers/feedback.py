"""Limit the scores that a proposer sees to loss, accuracy (or objective), or both, for an ablation of the paper.

The choice affects the history of a proposer and its ranking. It does not affect the result of a search, which is
selected by `Trial.rank`.
"""

from collections.abc import Sequence
from typing import Literal

from ipo_dspy.history import Trial
from ipo_dspy.proposers.base import ProposalRequest

Feedback = Literal["both", "accuracy", "loss"]


def rank(trial: Trial, feedback: Feedback) -> tuple[float, ...]:
    """Return a sort key, best first: `Trial.rank` without the hidden score."""
    missed, goal, loss, tokens, index = trial.rank
    keys = {"both": trial.rank, "accuracy": (missed, goal, tokens, index), "loss": (loss, tokens, index)}
    return keys[feedback]


def history_for_prompt(ask: ProposalRequest, feedback: Feedback) -> Sequence[Trial]:
    """Return as many trials as `ask.shown` has: the best by the visible scores and the start template, best last."""
    if feedback == "both":
        return ask.shown
    start = min(ask.trials, key=lambda trial: trial.index)
    best = sorted((t for t in ask.trials if t is not start), key=lambda trial: rank(trial, feedback))
    selected = [start, *best[: max(0, len(ask.shown) - 1)]]
    return sorted(selected, key=lambda trial: rank(trial, feedback), reverse=True)

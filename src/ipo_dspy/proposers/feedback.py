"""Which scores a proposer is told of, for an ablation of the paper: loss and accuracy, or one of them alone.

It decides what a proposer sees and how it ranks what it sees. What a search chooses in the end is not its business:
that stays the order of `Trial.rank`.
"""

from collections.abc import Sequence
from typing import Literal, get_args

from ipo_dspy.errors import InputError
from ipo_dspy.history import Trial
from ipo_dspy.proposers.base import ProposalRequest

Feedback = Literal["both", "accuracy", "loss"]


def check_feedback(feedback: str) -> Feedback:
    """Itself, if it is one.

    Raises:
        InputError: it is unknown.
    """
    for known in get_args(Feedback):
        if feedback == known:
            return known  # type: ignore[no-any-return]  # get_args gives Any
    raise InputError(f"must be one of {', '.join(map(repr, get_args(Feedback)))}", argument="feedback", value=feedback)


def rank(trial: Trial, feedback: Feedback) -> tuple[float, ...]:
    """Sort key, best first, from what is told: `Trial.rank` without the score that is not."""
    accuracy, loss, tokens, index = trial.rank
    return {"both": trial.rank, "accuracy": (accuracy, tokens, index), "loss": (loss, tokens, index)}[feedback]


def history_for_prompt(ask: ProposalRequest, feedback: Feedback) -> Sequence[Trial]:
    """As many trials as `ask.shown` has: the best by what is told and the start template, best last."""
    if feedback == "both":
        return ask.shown
    start = min(ask.trials, key=lambda trial: trial.index)
    best = sorted((t for t in ask.trials if t is not start), key=lambda trial: rank(trial, feedback))
    kept = [start, *best[: max(0, len(ask.shown) - 1)]]
    return sorted(kept, key=lambda trial: rank(trial, feedback), reverse=True)

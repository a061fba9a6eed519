"""Proposers that receive one score see and use nothing of the other."""

import dspy
import pytest

from helpers.openai_server import OpenAIServer, Reply
from ipo_dspy.errors import InputError
from ipo_dspy.history import Trial
from ipo_dspy.proposers import EvolutionProposer, Feedback, LMProposer, ProposalRequest
from ipo_dspy.proposers.feedback import history_for_prompt
from ipo_dspy.scoring.score import Score
from ipo_dspy.template import Template

FIGURES = [(10.0, 4.0), (90.0, 3.0), (50.0, 1.0), (70.0, 2.0)]
"""Accuracy and loss: the best by the one is not the best by the other."""


def ask(figures: list[tuple[float, float]] = FIGURES, history: int = 2) -> ProposalRequest:
    texts = ["a photo of a <CLASS>.", "art of a <CLASS>.", "a toy <CLASS>.", "a blurry <CLASS>."]
    trials = tuple(
        Trial(Template.parse(text), Score(*pair), index=i, step=0, tokens=6, key=str(i))
        for i, (text, pair) in enumerate(zip(texts, figures, strict=True))
    )
    best = sorted(trials, key=lambda trial: trial.rank)[:history]
    kept = sorted({t.index: t for t in (*best, trials[0])}.values(), key=lambda trial: trial.rank, reverse=True)
    return ProposalRequest(step=1, count=4, shown=tuple(kept), trials=trials)


@pytest.mark.parametrize(("feedback", "order"), [("both", [0, 3, 1]), ("accuracy", [0, 3, 1]), ("loss", [0, 3, 2])])
def test_the_shown_templates_are_the_best_by_the_score_shown(feedback: Feedback, order: list[int]) -> None:
    assert [trial.index for trial in history_for_prompt(ask(), feedback)] == order


@pytest.mark.parametrize("feedback", ["accuracy", "loss"])
def test_evolution_does_not_see_the_other_score(feedback: Feedback) -> None:
    other = [(a, 9.0 - i) if feedback == "accuracy" else (20.0 * i, b) for i, (a, b) in enumerate(FIGURES)]
    proposer = EvolutionProposer(feedback=feedback)
    assert proposer.propose(ask()).texts == proposer.propose(ask(other)).texts
    assert EvolutionProposer().propose(ask()).texts != EvolutionProposer().propose(ask(other)).texts
    assert proposer.settings == {"feedback": feedback, "history_only": False}


def test_evolution_with_a_window_sees_the_shown_history_only() -> None:
    proposer = EvolutionProposer(history_only=True)
    unseen = [FIGURES[0], FIGURES[1], (1.0, 8.0), FIGURES[3]]
    assert proposer.propose(ask()).texts == proposer.propose(ask(unseen)).texts
    assert EvolutionProposer().propose(ask()).texts != EvolutionProposer().propose(ask(unseen)).texts
    assert EvolutionProposer().settings is None


@pytest.mark.parametrize(
    ("feedback", "included", "excluded"),
    [
        ("both", ["(90.00 %, loss 3.000)", "(by accuracy, then loss)"], []),
        ("loss", ["(loss 1.000)", "(by loss)"], ["accuracy", "90"]),
        ("accuracy", ["(90.00 %)", "(by accuracy)"], ["loss", "entropy"]),
    ],
)
def test_a_language_model_receives_only_the_chosen_scores(
    feedback: Feedback, included: list[str], excluded: list[str], no_cache: None
) -> None:
    with OpenAIServer(
        {"Write 4 new": Reply("\n".join(f"<INS>a {word} <CLASS>.</INS>" for word in ("dim", "red", "soft")))}
    ) as server:
        lm = dspy.LM("openai/toy", api_base=server.url, api_key="none", engine="litellm", num_retries=0)
        LMProposer(lm, feedback=feedback).propose(ask())
        prompt = server.requests[0]["messages"][-1]["content"]
    assert all(text in prompt for text in included)
    assert not any(text in prompt for text in excluded)


def test_an_unknown_feedback_lists_the_known() -> None:
    with pytest.raises(InputError, match="feedback must be one of 'both', 'accuracy', 'loss', got 'x'"):
        EvolutionProposer(feedback="x")  # type: ignore[arg-type]

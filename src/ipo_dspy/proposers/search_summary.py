"""Say in few words what a search has found so far: the inputs of `ProposeTemplates`.

The best templates are soon one template in many variants, and what failed is forgotten. So the best are shown as far as
they are unlike each other, with the worst, and with what each phrase seems to add over all trials.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ipo_dspy._internal.counts import pluralize
from ipo_dspy.history import Trial
from ipo_dspy.lms.signatures import ScoredTemplate
from ipo_dspy.phrase_bank import BANK
from ipo_dspy.proposers.base import ProposalRequest
from ipo_dspy.proposers.feedback import Feedback, rank
from ipo_dspy.proposers.phrase_values import PhraseValueModel
from ipo_dspy.scoring.objectives import ObjectiveText
from ipo_dspy.template import PLACEHOLDER
from ipo_dspy.template_phrases import FUNCTION_WORDS, WORD, phrase_key, phrases

BEST, WORST = 0.3, 0.1
"""Number of best templates that are shown, and of worst ones, relative to the history size."""
UNLIKE = 0.6
"""Largest share of common words of two of the best that are shown."""
LOOKS, EFFECTS, UNTRIED = 16, 10, 8
"""Maximum number of phrases of descriptions, of phrases with their effect, and of phrases that were not tried."""
LEAST_TRIALS, LEAST_SHARE = 3, 0.1
"""Smallest number of trials with a phrase whose effect is shown, and share of images with one that was not tried."""
LEAST_EFFECT = 0.5
"""Smallest effect that is shown, in points of accuracy or hundredths of a nat."""


def briefing(ask: ProposalRequest, count: int, descriptions: Sequence[str], feedback: Feedback) -> dict[str, object]:
    """Return the inputs of `ProposeTemplates`, or of `ProposeTemplatesFromImages` if there are mistakes to show.

    Args:
        ask: the request.
        count: number of templates to ask for.
        descriptions: those of `ask.descriptions` that fit the prompt.
        feedback: the scores that are shown.
    """
    first: Feedback = "accuracy" if feedback == "both" else feedback  # enough for those that are not the best
    looks = described_phrases(ask.descriptions, guessed=ask.guessed)
    ranked = sorted(ask.trials, key=lambda trial: rank(trial, feedback))
    best = unlike(ranked, _share(BEST, ask))
    worst = ranked[len(best) :][::-1][: _share(WORST, ask)]
    last = max((trial.step for trial in ask.trials), default=0)
    latest = [trial for trial in ranked[::-1] if trial.step == last > 0 and trial not in (*best, *worst)]
    tried = {word for trial in ask.trials for word in _words(str(trial.template))}
    common = [phrase for phrase, share in looks.items() if share >= LEAST_SHARE]
    untried = [phrase for phrase in common if not _words(phrase) <= tried] if len(ask.trials) > 1 else []
    return {
        "task": ask.task,
        "look": [f"{phrase} {share:.0%}" for phrase, share in list(looks.items())[:LOOKS]],
        "guessed": ask.guessed,
        "descriptions": [] if ask.guessed else list(descriptions),
        "progress": _progress(ask),
        "best": [scored(trial, feedback, ask.objective) for trial in reversed(best)],
        "worst": [scored(trial, first, ask.objective) for trial in worst],
        "latest": [scored(trial, first, ask.objective) for trial in latest],
        "effects": phrase_effects(ask.trials, feedback, ask.objective),
        "untried": untried[:UNTRIED],
        **({"mistakes": list(ask.mistakes)} if ask.mistakes else {}),
        "pending": list(ask.pending),
        "rejected": list(ask.rejected),
        "count": count,
    }


def scored(trial: Trial, feedback: Feedback, objective: str) -> ScoredTemplate:
    """Return a trial with the scores that are shown; the value of another objective takes the place of the accuracy."""
    score, shows_goal = trial.score, feedback != "loss" and objective != "loss"
    return ScoredTemplate(
        template=str(trial.template),
        loss=None if feedback == "accuracy" and objective != "loss" else score.loss,
        accuracy=score.accuracy if shows_goal and objective == "accuracy" else None,
        objective=objective if shows_goal and objective != "accuracy" else None,
        value=score.goal if shows_goal and objective != "accuracy" else None,
        missed=score.missed,
    )


def described_phrases(descriptions: Sequence[str], *, guessed: bool) -> dict[str, float]:
    """Return the phrases of descriptions with the share of descriptions that have them, most frequent first.

    Guesses are lists of phrases. In sentences only the phrases of the bank are counted.

    >>> described_phrases(["blurry, in color", "blurry"], guessed=True)
    {'blurry': 1.0, 'in color': 0.5}
    """
    known = {phrase_key(phrase.text) for phrase in BANK}
    counts: Counter[str] = Counter()
    for text in descriptions:
        found = text.split(", ") if guessed else [key for p in phrases(text) if (key := phrase_key(p)) in known]
        counts.update(list(dict.fromkeys(found)))  # in order: ties must not depend on hashes
    return {phrase: number / len(descriptions) for phrase, number in counts.most_common()}


def unlike(ranked: Sequence[Trial], count: int) -> list[Trial]:
    """Return the first trials that share few words with those before them; if there are not enough, the next ones."""
    chosen: list[Trial] = []
    words = {trial.key: _words(str(trial.template)) for trial in ranked}
    for trial in ranked:
        if len(chosen) < count and all(_overlap(words[trial.key], words[other.key]) <= UNLIKE for other in chosen):
            chosen.append(trial)
    others = [trial for trial in ranked if trial not in chosen]
    return sorted([*chosen, *others[: count - len(chosen)]], key=ranked.index)


def phrase_effects(trials: Sequence[Trial], feedback: Feedback, objective: str) -> list[str]:
    """Return by how much phrases seem to raise the objective (the loss if only that is shown), with their trials.

    Estimated for all phrases together, by a ridge regression over the trials; phrases of few trials are left out.
    """
    sets = [frozenset(phrase_key(p) for line in t.template.lines for p in phrases(line)) for t in trials]
    counts = Counter(phrase for phrases_of in sets for phrase in phrases_of)
    text = ObjectiveText.of("loss" if feedback == "loss" else objective)
    scores = np.array([t.score.loss if text.label == "loss" else text.sign * t.score.goal for t in trials])
    if len(trials) < 2 or (spread := scores.std()) < 1e-12:
        return []
    model = PhraseValueModel(sets, (scores - scores.mean()) / spread, {})
    least = LEAST_EFFECT / (1 if text.is_share else 100)
    effects = {name: spread * value for name, value in zip(model.names, model.mean, strict=True)}
    shown = [name for name in effects if LEAST_TRIALS <= counts[name] < len(trials) and abs(effects[name]) >= least]
    largest = sorted(shown, key=lambda name: -abs(effects[name]))[:EFFECTS]
    digits = 1 if text.is_share else 3
    return [
        f"{name} {effects[name]:+.{digits}f} ({counts[name]})" for name in sorted(largest, key=lambda n: -effects[n])
    ]


def _progress(ask: ProposalRequest) -> str:
    """Return step, number of images, noise, and token limit."""
    step = f"Step {ask.step} of {ask.steps}" if ask.steps else f"Step {ask.step}"
    images = f" on {ask.images} images" if ask.images else ""
    least = 2 * (ask.error or 0.0)
    smallest = f"{least:.1f} points" if ObjectiveText.of(ask.objective).is_share else f"{least:.3f}"
    noise = "" if ask.error is None else f"; differences below {smallest} are mostly chance"
    limit = f" A filled template has at most {ask.max_tokens} tokens." if ask.max_tokens else ""
    return f"{step}, {pluralize(len(ask.trials), 'template')} tried{images}{noise}.{limit}"


def _share(part: float, ask: ProposalRequest) -> int:
    return max(1, round(part * len(ask.shown)))


def _words(text: str) -> frozenset[str]:
    return frozenset(WORD.findall(text.lower())) - FUNCTION_WORDS - {PLACEHOLDER.lower()}


def _overlap(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / max(1, len(one | other))

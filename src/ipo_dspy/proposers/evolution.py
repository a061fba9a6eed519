"""Propose templates without a language model, by mutation and crossover guided by the scores so far.

Each step creates a pool of children of the best trials, read as captions (`proposers.captions`): it swaps, adds, or
drops a phrase, takes the clauses of another trial, or changes the form of the sentence. The children with the highest
predicted value are proposed. The prediction is the value of the parent plus the learned values of the phrases that
differ. These come from a Bayesian linear model over phrases and words, fitted to all trials. Its weights are sampled
again for each child (Thompson sampling), so that untested phrases are explored. Image descriptions shift the prior:
phrases that occur in them are tried first.

It starts from any template, including those of a user or a language model. Unlike a language model, it knows no words
outside the bank (`phrase_bank.BANK`); more phrases can be passed in.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ipo_dspy._internal.renames import renamed_arguments
from ipo_dspy.argument_checks import one_of
from ipo_dspy.errors import InputError
from ipo_dspy.history import Trial
from ipo_dspy.phrase_bank import BANK, PLAIN_WORDS, Phrase, Position
from ipo_dspy.proposers.base import ProposalRequest, Proposals
from ipo_dspy.proposers.captions import DETERMINERS, Caption, CaptionReader
from ipo_dspy.proposers.feedback import Feedback, history_for_prompt, rank
from ipo_dspy.proposers.phrase_values import PhraseValueModel, indicators
from ipo_dspy.template import PLACEHOLDER
from ipo_dspy.template_phrases import phrase_key, phrase_pattern

Floats = NDArray[np.float64]
Pool = Sequence[tuple[str, int]]
"""Texts of children, and the index of the parent trial of each."""

PARENTS = 16
POOL_PER_CHILD = 40
MAX_PHRASES = 3
PRUNED_SHARE = 4
"""One in this many proposals is the best template with one phrase removed."""
LENGTH_COST = 0.02
"""Penalty per word, all else equal: short templates read better and transfer better."""

_WORD = re.compile(r"<CLASS>|[^\W_]+(?:[-'][^\W_]+)*")


class EvolutionProposer:
    """A seeded evolutionary search over templates with a learned model of phrase values.

    Args:
        phrases: the bank to sample from; extend it for a domain, e.g. `(*BANK, Phrase("mammogram", "medium", "noun"))`.
        feedback: the scores that it uses: `both`, `accuracy`, or `loss`.
        history_only: learn from the shown history only, as a language model does, instead of from all trials.

    >>> from ipo_dspy.scoring.score import Score
    >>> from ipo_dspy.template import Template
    >>> start = Trial(Template.parse("a photo of a <CLASS>."), Score(50.0, 1.0), index=0, step=0, tokens=7, key="0")
    >>> ask = ProposalRequest(step=1, count=3, shown=(start,), trials=(start,), descriptions=("pixel art, blurry",) * 4)
    >>> texts = EvolutionProposer().propose(ask).texts
    >>> len(texts), all("<CLASS>" in text for text in texts), texts == EvolutionProposer().propose(ask).texts
    (3, True, True)
    """

    @renamed_arguments(window="history_only")
    def __init__(
        self, *, phrases: Sequence[Phrase] = BANK, feedback: Feedback = "both", history_only: bool = False
    ) -> None:
        one_of("feedback", feedback, get_args(Feedback))
        self.phrases, self.feedback, self.history_only = tuple(phrases), feedback, history_only
        self._find, self._reader = phrase_pattern(self.phrases), CaptionReader(self.phrases)
        self._by_position: dict[Position, list[Phrase]] = {"noun": [], "adjective": [], "after": []}
        for phrase in self.phrases:
            self._by_position[phrase.position].append(phrase)
        for position, known in self._by_position.items():
            if not known:
                raise InputError(f"phrases has no {position!r} phrase; extend the bank: (*BANK, Phrase(...))")

    @property
    def settings(self) -> dict[str, object] | None:
        """Non-default settings that affect the search, for the journal of a run."""
        default = self.feedback == "both" and not self.history_only
        return None if default else {"feedback": self.feedback, "history_only": self.history_only}

    def propose(self, ask: ProposalRequest) -> Proposals:
        """Return `ask.count` texts that were not tried before, most promising first."""
        rng = np.random.default_rng([ask.seed, ask.step])
        if self.history_only:  # the search rejects texts that are proposed twice
            ask = replace(ask, trials=tuple(history_for_prompt(ask, self.feedback)))
        described = self._described(ask.descriptions)
        values = _standardized(ask.trials, self.feedback)
        model = PhraseValueModel([self.features(_text(t)) for t in ask.trials], values, described)
        pruned = self._pruned(ask)[: ask.count // PRUNED_SHARE]
        pool = [(text, parent) for text, parent in self._pool(ask, rng, model) if text not in pruned]
        selected = self._select(pool, ask.count - len(pruned), ask, values, model, rng)
        return Proposals((*pruned, *selected))

    def polish(self, ask: ProposalRequest) -> Proposals:
        """Return the templates in `ask.shown` in fewer words (`phrase_bank.PLAIN_WORDS`), at most `ask.count` texts."""
        plain = {phrase.text: phrase for phrase in self.phrases if phrase.text in PLAIN_WORDS.values()}
        texts: list[str] = []
        for caption in (self._reader.read(_text(trial)) for trial in ask.shown):
            shorter = caption
            for phrase in caption.phrases:
                if word := plain.get(PLAIN_WORDS.get(phrase.text, "")):
                    texts.append(str(caption.without([phrase]).add(word)))
                    shorter = shorter.without([phrase]).add(word)
            texts.append(str(shorter))
        return Proposals(tuple(dict.fromkeys(texts))[: ask.count])

    def features(self, text: str) -> frozenset[str]:
        """Return the phrases of the bank in a text, and its other words."""
        rest = text.replace(PLACEHOLDER, " ")
        words = _WORD.findall(self._find.sub(" ", rest).lower())
        return frozenset({*self._phrases_in(rest), *words, "." if text.endswith(".") else "no full stop"})

    def _phrases_in(self, text: str) -> list[str]:
        return [phrase_key(phrase) for phrase in self._find.findall(text)]

    def _described(self, descriptions: Sequence[str]) -> dict[str, float]:
        """Return the fraction of descriptions that contain each phrase."""
        counts = Counter(phrase for text in descriptions for phrase in set(self._phrases_in(text)))
        return {phrase: n / len(descriptions) for phrase, n in counts.items()}

    def _pruned(self, ask: ProposalRequest) -> list[str]:
        """Return untried variants of the best template with one phrase removed (backward elimination)."""
        best = self._reader.read(_text(min(ask.trials, key=lambda trial: rank(trial, self.feedback))))
        tried = {_text(trial).casefold() for trial in ask.trials}
        texts = [str(best.without([phrase])) for phrase in best.phrases]
        return [text for text in dict.fromkeys(texts) if text.casefold() not in tried]

    def _pool(self, ask: ProposalRequest, rng: Generator, model: "PhraseValueModel") -> Pool:
        order = sorted(range(len(ask.trials)), key=lambda i: rank(ask.trials[i], self.feedback))[:PARENTS]
        captions = {i: self._reader.read(_text(ask.trials[i])) for i in order}
        weights = 1.0 / (1.0 + np.arange(len(order)))
        weights /= weights.sum()
        tried = {_text(trial).casefold() for trial in ask.trials}
        pool: dict[str, tuple[str, int]] = {}
        for _ in range(POOL_PER_CHILD * ask.count):
            mother, father = (order[i] for i in rng.choice(len(order), size=2, p=weights))
            child = self._breed(captions[mother], captions[father], rng, model)
            text = str(child)
            if text.casefold() not in tried and len(child.phrases) <= MAX_PHRASES:
                pool.setdefault(text.casefold(), (text, mother))
        return list(pool.values())

    def _breed(self, mother: Caption, father: Caption, rng: Generator, model: "PhraseValueModel") -> Caption:
        """Return a child by one random operator, or sometimes two in a row."""
        child = mother
        for _ in range(1 + int(rng.random() < 0.35)):
            operator = rng.choice(5, p=(0.3, 0.3, 0.15, 0.1, 0.15))
            if operator == 0 and child.phrases:
                child = self._swap(child, rng, model)
            elif operator <= 1:
                child = self._add(child, rng, model)
            elif operator == 2 and child.phrases:
                child = child.without([child.phrases[int(rng.integers(len(child.phrases)))]])
            elif operator == 3:
                for phrase in father.after:
                    child = child.add(phrase)
            else:
                child = _reframe(child, rng)
        return child

    def _draw(self, position: Position, rng: Generator, model: "PhraseValueModel") -> Phrase:
        """Draw a phrase for a position: half the time by learned value, half the time uniformly."""
        choices = self._by_position[position]
        if rng.random() < 0.5:
            return choices[int(rng.integers(len(choices)))]
        return choices[int(np.argmax(model.draw([phrase_key(phrase.text) for phrase in choices], rng)))]

    def _swap(self, caption: Caption, rng: Generator, model: "PhraseValueModel") -> Caption:
        """Replace a phrase by another one for the same position."""
        old = caption.phrases[int(rng.integers(len(caption.phrases)))]
        rest = caption if old.position == "noun" else caption.without([old])
        return rest.add(self._draw(old.position, rng, model), to_object=old in caption.object)

    def _add(self, caption: Caption, rng: Generator, model: "PhraseValueModel") -> Caption:
        """Add an adjective to the medium or to the object, a clause, or a medium."""
        place = rng.choice(4, p=(0.35, 0.2, 0.3, 0.15))
        position: Position = "adjective" if place <= 1 else "after" if place == 2 else "noun"
        return caption.add(self._draw(position, rng, model), to_object=place == 1)

    def _select(
        self, pool: Pool, count: int, ask: ProposalRequest, values: Floats, model: "PhraseValueModel", rng: Generator
    ) -> list[str]:
        """Return the most promising children, each by a separate sample of the model weights."""
        children = [self.features(text) for text, _ in pool]
        parents = [self.features(_text(ask.trials[parent])) for _, parent in pool]
        names = sorted(frozenset().union(*(child ^ parent for child, parent in zip(children, parents, strict=True))))
        change = indicators(children, names) - indicators(parents, names)  # added 1, lost -1
        base = np.array([values[parent] - LENGTH_COST * len(_WORD.findall(text)) for text, parent in pool])
        chosen: list[int] = []
        for _ in range(min(count, len(pool))):
            promise = base + change @ model.draw(names, rng)
            promise[chosen] = -np.inf
            chosen.append(int(np.argmax(promise)))
        return [pool[i][0] for i in chosen]


def _standardized(trials: Sequence[Trial], feedback: Feedback) -> Floats:
    """Return the average of standardized accuracy and negated loss; the loss separates trials of equal accuracy.

    Another objective replaces the accuracy, and missed recall floors are subtracted.
    """
    missed = _zscore(np.array([trial.score.missed for trial in trials]))
    accuracy = _zscore(np.array([trial.score.goal for trial in trials])) - missed
    loss = _zscore(np.minimum(np.array([trial.score.loss for trial in trials]), 1e6))
    return {"both": 0.5 * accuracy - 0.5 * loss, "accuracy": accuracy, "loss": -loss}[feedback]


def _reframe(caption: Caption, rng: Generator) -> Caption:
    """Change the determiner of the class name, or put the class name first."""
    form = int(rng.integers(len(DETERMINERS) + (caption.medium is not None)))
    if form == len(DETERMINERS):
        return replace(caption, look=(*caption.look, *caption.object), object=(), is_label=True)
    return replace(caption, determiner=DETERMINERS[form], is_label=False)


def _text(trial: Trial) -> str:
    """Return the first line of the template of a trial, which represents an ensemble."""
    return trial.template.lines[0]


def _zscore(values: Floats) -> Floats:
    spread = values.std()
    return (values - values.mean()) / spread if spread > 1e-12 else np.zeros_like(values)

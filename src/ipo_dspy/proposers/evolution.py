"""Propose templates without a language model, by mutation and crossover guided by the scores so far.

Each step creates a pool of children of the best trials: it swaps, adds, or drops a phrase, recombines the text before
and after `<CLASS>`, or changes the sentence frame. The children with the highest predicted value are proposed. The
prediction is the value of the parent plus the learned values of the phrases that differ. These come from a Bayesian
linear model over phrases and words, fitted to all trials. Its weights are sampled again for each child (Thompson
sampling), so that untested phrases are explored. Image descriptions shift the prior: phrases that occur in them are
tried first.

The proposer works on the text of any template, including those of a user or a language model. It lacks what a language
model knows about words outside the bank (`vocabulary.BANK`); more phrases can be passed in.
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
from ipo_dspy.proposers.base import ProposalRequest, Proposals
from ipo_dspy.proposers.feedback import Feedback, history_for_prompt, rank
from ipo_dspy.template import PLACEHOLDER
from ipo_dspy.vocabulary import BANK, Phrase, Position

Floats = NDArray[np.float64]
Pool = Sequence[tuple[str, int]]
"""Texts of children, and the index of the parent trial of each."""

PARENTS = 16
POOL_PER_CHILD = 40
MAX_WORDS = 16
MAX_PHRASES = 5
PRUNED_SHARE = 4
"""One in this many proposals is the best template with one phrase removed."""
NOISE = 0.25
"""Variance of the standardized value of a trial around the linear model."""
PRIOR = 0.35
"""Prior variance of the value of a phrase, in standardized units."""
DESCRIBED = 1.2
"""Prior mean of a phrase that occurs in every description."""
LENGTH_COST = 0.02
"""Penalty per word, all else equal: short templates read better and transfer better."""

_WORD = re.compile(r"<CLASS>|[^\W_]+(?:[-'][^\W_]+)*")
_MASS = re.compile(
    r"\ban? ((?:(?!of )[\w-]+ ){0,2}(?:pixel art|clip art|vector art|graffiti|embroidery|origami)\b)", re.IGNORECASE
)
"""Media without a plural, which take no article."""
_ARTICLE = re.compile(r"\ban? (?=\S)", re.IGNORECASE)
_VOWEL_SOUND = re.compile(
    r"(?-i:[AEFHILMNORSX][A-Z]+\b)|x-|hour|hono|honest|heir|"
    r"(?!(?-i:U[A-Z]+\b)|uni(?![dmn])|us[aeu]|eu|one\b|once\b|one-)[aeiou]",
    re.IGNORECASE,
)
"""Words that take `an`; abbreviations that are spelled out count by the sound of their first letter."""
_KEPT = frozenset({PLACEHOLDER.lower(), "a", "an", "the", "of", "in", "on", "with", "at"})
"""Words that are never removed on their own because the sentence would break."""
_ALONE = re.compile(r", (?:an? )?$")
_FRAMES = (
    "{look} of a <CLASS>{after}.",
    "{look} of the <CLASS>{after}.",
    "{look} of <CLASS>{after}.",
    "a <CLASS>{after}, {look}.",
    "<CLASS>, {look}{after}.",
    "{look}: a <CLASS>{after}.",
)


class EvolutionProposer:
    """A seeded evolutionary search over templates with a learned model of phrase values.

    Args:
        phrases: the bank to draw from; extend it for a domain, e.g. `(*BANK, Phrase("mammogram", "medium", "noun"))`.
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
        longest_first = sorted({re.escape(p.text) for p in self.phrases}, key=lambda text: (-len(text), text))
        self._find = re.compile(rf"(?<![\w-])(?:{'|'.join(longest_first)})(?![\w-])", re.IGNORECASE)
        self._by_position: dict[Position, list[str]] = {"noun": [], "adjective": [], "after": []}
        for phrase in self.phrases:
            self._by_position[phrase.position].append(phrase.text)
        for position, texts in self._by_position.items():
            if not texts:
                raise InputError(f"phrases has no {position!r} phrase; extend the bank: (*BANK, Phrase(...))")
        self._position = {phrase.text.lower(): phrase.position for phrase in reversed(self.phrases)}

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

    def features(self, text: str) -> frozenset[str]:
        """Return the phrases of the bank in a text, and its other words."""
        rest = text.replace(PLACEHOLDER, " ")
        words = _WORD.findall(self._find.sub(" ", rest).lower())
        return frozenset({*self._phrases_in(rest), *words, "." if text.endswith(".") else "no full stop"})

    def _phrases_in(self, text: str) -> list[str]:
        return [phrase.lower() for phrase in self._find.findall(text)]

    def _described(self, descriptions: Sequence[str]) -> dict[str, float]:
        """Return the fraction of descriptions that contain each phrase."""
        counts = Counter(phrase for text in descriptions for phrase in set(self._phrases_in(text)))
        return {phrase: n / len(descriptions) for phrase, n in counts.items()}

    def _pruned(self, ask: ProposalRequest) -> list[str]:
        """Return untried variants of the best template with one phrase removed (backward elimination)."""
        best = _text(min(ask.trials, key=lambda trial: rank(trial, self.feedback)))
        tried = {_text(trial).casefold() for trial in ask.trials}
        texts = [fix_grammar(best[:start] + best[end:]) for start, end in self._spans(best)]
        return [text for text in dict.fromkeys(texts) if text.casefold() not in tried and self._readable(text)]

    def _pool(self, ask: ProposalRequest, rng: Generator, model: "PhraseValueModel") -> Pool:
        order = sorted(range(len(ask.trials)), key=lambda i: rank(ask.trials[i], self.feedback))[:PARENTS]
        weights = 1.0 / (1.0 + np.arange(len(order)))
        weights /= weights.sum()
        tried = {_text(trial).casefold() for trial in ask.trials}
        pool: dict[str, tuple[str, int]] = {}
        for _ in range(POOL_PER_CHILD * ask.count):
            mother, father = (order[i] for i in rng.choice(len(order), size=2, p=weights))
            text = self._breed(_text(ask.trials[mother]), _text(ask.trials[father]), rng, model)
            if text.casefold() not in tried and self._readable(text):
                pool.setdefault(text.casefold(), (text, mother))
        return list(pool.values())

    def _breed(self, mother: str, father: str, rng: Generator, model: "PhraseValueModel") -> str:
        """Return a child by one random operator, or sometimes two in a row."""
        text = mother
        for _ in range(1 + int(rng.random() < 0.35)):
            operator = rng.choice(5, p=(0.3, 0.3, 0.15, 0.1, 0.15))
            if operator == 0:
                text = self._swap(text, rng, model)
            elif operator == 1:
                text = self._add(text, rng, model)
            elif operator == 2:
                text = self._drop(text, rng)
            elif operator == 3:
                text = _crossover(text, father)
            else:
                text = self._reframe(text, rng)
        return fix_grammar(text)

    def _draw(self, position: Position, rng: Generator, model: "PhraseValueModel") -> str:
        """Draw a phrase for a position: half the time by learned value, half the time uniformly."""
        choices = self._by_position[position]
        if rng.random() < 0.5:
            return str(rng.choice(choices))
        return choices[int(np.argmax(model.draw([text.lower() for text in choices], rng)))]

    def _swap(self, text: str, rng: Generator, model: "PhraseValueModel") -> str:
        """Replace a phrase of the bank by another one for the same position."""
        matches = list(self._find.finditer(text))
        if not matches:
            return self._add(text, rng, model)
        match = matches[int(rng.integers(len(matches)))]
        new = self._draw(self._position[match.group().lower()], rng, model)
        return text[: match.start()] + new + text[match.end() :]

    def _add(self, text: str, rng: Generator, model: "PhraseValueModel") -> str:
        """Add an adjective before the medium or the class name, a clause after it, or a second medium."""
        before, after = text.split(PLACEHOLDER, 1)
        place = rng.choice(4, p=(0.35, 0.2, 0.3, 0.15))
        nouns = [m for m in self._find.finditer(before) if self._position[m.group().lower()] == "noun"]
        if place == 0 and nouns:
            at = nouns[-1].start()
            return f"{before[:at]}{self._draw('adjective', rng, model)} {before[at:]}{PLACEHOLDER}{after}"
        if place <= 1:
            return f"{before}{self._draw('adjective', rng, model)} {PLACEHOLDER}{after}"
        body, stop = (after[:-1], ".") if after.endswith(".") else (after, "")
        if place == 2:
            return f"{before}{PLACEHOLDER}{body} {self._draw('after', rng, model)}{stop}"
        return f"{before}{PLACEHOLDER}{body}, {self._draw('noun', rng, model)}{stop}"

    def _spans(self, text: str) -> list[tuple[int, int]]:
        """Return the spans of removable phrases; a medium is removable only on its own after a comma."""
        return [
            m.span()
            for m in self._find.finditer(text)
            if self._position[m.group().lower()] != "noun" or _ALONE.search(text[: m.start()])
        ]

    def _drop(self, text: str, rng: Generator) -> str:
        """Remove one phrase, or else one word."""
        spans, phrases = self._spans(text), [m.span() for m in self._find.finditer(text)]
        candidates = [m.span() for m in _WORD.finditer(text) if m.group().lower() not in _KEPT]
        words = [span for span in candidates if not any(a <= span[0] < b for a, b in phrases)]
        if words and (not spans or rng.random() < 0.3):
            spans = words
        if not spans:
            return text
        start, end = spans[int(rng.integers(len(spans)))]
        return text[:start] + text[end:]

    def _reframe(self, text: str, rng: Generator) -> str:
        """Put the same phrases into another sentence frame."""
        by_position: dict[Position, list[str]] = {"noun": [], "adjective": [], "after": []}
        for phrase in self._phrases_in(text):
            by_position[self._position[phrase]].append(phrase)
        medium, *others = by_position["noun"] or ["photo"]
        look = " ".join(["a", *by_position["adjective"], medium])
        after = "".join(f" {phrase}" for phrase in by_position["after"]) + "".join(f", {noun}" for noun in others)
        return _FRAMES[int(rng.integers(len(_FRAMES)))].format(look=look, after=after)

    def _readable(self, text: str) -> bool:
        phrases = self._phrases_in(text)
        fits = len(_WORD.findall(text)) <= MAX_WORDS and len(phrases) <= MAX_PHRASES
        return fits and text.count(PLACEHOLDER) == 1 and len(phrases) == len(set(phrases))

    def _select(
        self, pool: Pool, count: int, ask: ProposalRequest, values: Floats, model: "PhraseValueModel", rng: Generator
    ) -> list[str]:
        """Return the most promising children, each by a separate sample of the model weights."""
        children = [self.features(text) for text, _ in pool]
        parents = [self.features(_text(ask.trials[parent])) for _, parent in pool]
        names = sorted(frozenset().union(*(child ^ parent for child, parent in zip(children, parents, strict=True))))
        change = _indicators(children, names) - _indicators(parents, names)  # added 1, lost -1
        base = np.array([values[parent] - LENGTH_COST * len(_WORD.findall(text)) for text, parent in pool])
        chosen: list[int] = []
        for _ in range(min(count, len(pool))):
            promise = base + change @ model.draw(names, rng)
            promise[chosen] = -np.inf
            chosen.append(int(np.argmax(promise)))
        return [pool[i][0] for i in chosen]


class PhraseValueModel:
    """Bayesian linear regression of the value of a trial on its phrases and words.

    Args:
        sets: features of each trial.
        values: their standardized values.
        described: fraction of descriptions that contain a phrase, which shifts its prior mean.
    """

    def __init__(self, sets: Sequence[frozenset[str]], values: Floats, described: dict[str, float]) -> None:
        self.described = described
        self.names = sorted(frozenset().union(*sets))
        self.column = {name: i for i, name in enumerate(self.names)}
        design = _indicators(sets, self.names)  # [trials, features]
        prior_mean = np.array([self._prior(name) for name in self.names])
        precision = design.T @ design / NOISE + np.eye(len(self.names)) / PRIOR
        self.covariance = np.linalg.inv(precision)
        self.mean = self.covariance @ (design.T @ values / NOISE + prior_mean / PRIOR)
        self._root = np.linalg.cholesky(self.covariance + 1e-9 * np.eye(len(self.names)))

    def draw(self, names: Sequence[str], rng: Generator) -> Floats:
        """Sample the value of each name from the posterior; unknown names are sampled from the prior."""
        known = self.mean + self._root @ rng.standard_normal(len(self.mean))
        fresh = rng.standard_normal(len(names)) * np.sqrt(PRIOR)
        values: Floats = fresh + [self._prior(name) for name in names]
        for i, name in enumerate(names):
            if name in self.column:
                values[i] = known[self.column[name]]
        return values

    def _prior(self, name: str) -> float:
        return DESCRIBED * self.described.get(name, 0.0)


def _indicators(sets: Sequence[frozenset[str]], names: Sequence[str]) -> Floats:
    """Return a table [sets, names]: 1 where a set has the name, else 0."""
    column = {name: i for i, name in enumerate(names)}
    table = np.zeros((len(sets), len(names)))
    for row, features in enumerate(sets):
        table[row, [column[name] for name in features if name in column]] = 1.0
    return table


def _standardized(trials: Sequence[Trial], feedback: Feedback) -> Floats:
    """Return the average of standardized accuracy and negated loss; the loss separates trials of equal accuracy."""
    accuracy = _zscore(np.array([trial.score.accuracy for trial in trials]))
    loss = _zscore(np.minimum(np.array([trial.score.loss for trial in trials]), 1e6))
    return {"both": 0.5 * accuracy - 0.5 * loss, "accuracy": accuracy, "loss": -loss}[feedback]


def fix_grammar(text: str) -> str:
    """Correct spaces, commas, and articles after words were moved.

    >>> fix_grammar("a  inked drawing of an  <CLASS> , .")
    'an inked drawing of a <CLASS>.'
    >>> fix_grammar("a RGB photo of an uniform, an hour-old <CLASS>.")
    'an RGB photo of a uniform, an hour-old <CLASS>.'
    >>> fix_grammar("an of a <CLASS>."), fix_grammar("a grainy pixel art of a <CLASS>.")
    ('a <CLASS>.', 'grainy pixel art of a <CLASS>.')
    """
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"\s+([,.:])", r"\1", text)
    text = re.sub(r"[,:]+(?=[,.:])|^[\s,.:]+", "", text)
    text = re.sub(r"\b(?:a|an|the) (?=(?:a|an|the) )", "", text)
    text = re.sub(r"\b(?:of|a|an|the)(?=[,.:]|$)", "", text).strip()
    text = re.sub(r"\b(?:(?:a|an|the) )?of (?=of\b)|^(?:(?:a|an|the) )?of ", "", text)
    text = _MASS.sub(r"\1", text)
    text = re.sub(r"\s+([,.:])", r"\1", text)
    return _ARTICLE.sub(
        lambda article: article[0][0] + ("n " if _VOWEL_SOUND.match(text, article.end()) else " "), text
    )


def _text(trial: Trial) -> str:
    """Return the first line of the template of a trial, which represents an ensemble."""
    return trial.template.lines[0]


def _crossover(mother: str, father: str) -> str:
    return mother.split(PLACEHOLDER, 1)[0] + PLACEHOLDER + father.split(PLACEHOLDER, 1)[1]


def _zscore(values: Floats) -> Floats:
    spread = values.std()
    return (values - values.mean()) / spread if spread > 1e-12 else np.zeros_like(values)

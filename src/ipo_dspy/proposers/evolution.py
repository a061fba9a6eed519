"""Proposals without a language model: templates are mutated and recombined, guided by what has helped so far.

Each step breeds a pool of children from the best trials (swap, add or drop a phrase, exchange what stands
before and behind `<CLASS>`, rephrase the frame) and keeps those that promise most. The promise is the parent's
value plus the learned worth of the phrases that differ: a Bayesian linear model over phrases and words, fitted
to all trials, from which weights are drawn anew for each child (Thompson sampling), so that phrases of unknown
worth get their chance. Image descriptions shift the prior: phrases that occur in them are tried first.

It works on the text of any template, also those of a user or a language model. It gives up what a language
model knows about words outside the bank (`phrases.BANK`); more phrases can be passed in.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ipo_dspy._internal.renames import renamed_arguments
from ipo_dspy.errors import InputError
from ipo_dspy.history import Trial
from ipo_dspy.proposers.base import ProposalRequest, Proposals
from ipo_dspy.proposers.feedback import Feedback, check_feedback, history_for_prompt, rank
from ipo_dspy.template import PLACEHOLDER
from ipo_dspy.vocabulary import BANK, Phrase, Position

Floats = NDArray[np.float64]

PARENTS = 16
POOL_PER_CHILD = 40
MAX_WORDS = 16
MAX_PHRASES = 5
PRUNED_SHARE = 4
"""One in so many proposals is the best template with a phrase less."""
NOISE = 0.25
"""Variance of a trial's standardised value around the linear model."""
PRIOR = 0.35
"""Prior variance of a phrase's worth, in standardised value."""
DESCRIBED = 1.2
"""Prior mean of a phrase that every description holds."""
LENGTH_COST = 0.02
"""Worth of a word less, all else equal: short templates read better and transfer better."""

_WORD = re.compile(r"<CLASS>|[^\W_]+(?:[-'][^\W_]+)*")
_MASS = re.compile(
    r"\ban? ((?:(?!of )[\w-]+ ){0,2}(?:pixel art|clip art|vector art|graffiti|embroidery|origami)\b)", re.IGNORECASE
)
"""Media without a plural take no article."""
_ARTICLE = re.compile(r"\ban? (?=\S)", re.IGNORECASE)
_VOWEL_SOUND = re.compile(
    r"(?-i:[AEFHILMNORSX][A-Z]+\b)|x-|hour|hono|honest|heir|"
    r"(?!(?-i:U[A-Z]+\b)|uni(?![dmn])|us[aeu]|eu|one\b|once\b|one-)[aeiou]",
    re.IGNORECASE,
)
"""What `an` stands before; letters that are read one by one count by their names."""
_KEPT = frozenset({PLACEHOLDER.lower(), "a", "an", "the", "of", "in", "on", "with", "at"})
"""Words whose loss alone would break a sentence."""
_ALONE = re.compile(r", (?:an? )?$")
_FRAMES = (
    "{look} of a <CLASS>{after}.",
    "{look} of the <CLASS>{after}.",
    "{look} of <CLASS>{after}.",
    "a <CLASS>{after}, {look}.",
    "<CLASS>, {look}{after}.",
    "{look}: a <CLASS>{after}.",
)


@dataclass(frozen=True, slots=True)
class Offspring:
    """A candidate text and the trial that it came from."""

    text: str
    parent: int


class EvolutionProposer:
    """A seeded evolutionary search over templates with a learned model of what helps.

    Args:
        phrases: the bank to draw from; give more for a domain, e.g. `(*BANK, Phrase("mammogram", "medium", "noun"))`.
        feedback: which scores it goes by: `both`, `accuracy` or `loss`.
        history_only: learn from the shown history only, as a language model has to, instead of from all trials.

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
        self.phrases = tuple(phrases)
        self.feedback, self.history_only = check_feedback(feedback), history_only
        self._find = _phrase_pattern(self.phrases)
        self._by_position: dict[Position, list[str]] = {"noun": [], "adjective": [], "after": []}
        for phrase in self.phrases:
            self._by_position[phrase.position].append(phrase.text)
        for position, texts in self._by_position.items():
            if not texts:
                raise InputError(f"phrases holds no {position!r} phrase; add to the bank: (*BANK, Phrase(...))")
        self._position = {phrase.text.lower(): phrase.position for phrase in reversed(self.phrases)}

    @property
    def settings(self) -> dict[str, object] | None:
        """What decides which way a search goes and is not as usual, for the journal of a run."""
        usual = self.feedback == "both" and not self.history_only
        return None if usual else {"feedback": self.feedback, "history_only": self.history_only}

    def propose(self, ask: ProposalRequest) -> Proposals:
        """`ask.count` texts that were not tried before, most promising first."""
        rng = np.random.default_rng([ask.seed, ask.step])
        if self.history_only:  # what is proposed a second time the search turns down
            ask = replace(ask, trials=tuple(history_for_prompt(ask, self.feedback)))
        described = self._described(ask.descriptions)
        values = standardise(ask.trials, self.feedback)
        model = PhraseValueModel([self.features(_text(t)) for t in ask.trials], values, described)
        pruned = self._pruned(ask)[: ask.count // PRUNED_SHARE]
        pool = [child for child in self._pool(ask, rng, model) if child.text not in pruned]
        bred = self._select(pool, ask.count - len(pruned), ask, values, model, rng)
        return Proposals((*pruned, *bred))

    def features(self, text: str) -> frozenset[str]:
        """The phrases of the bank in a text, and its other words."""
        rest, found = text.replace(PLACEHOLDER, " "), set()
        for match in self._find.finditer(rest):
            found.add(match.group().lower())
        words = _WORD.findall(self._find.sub(" ", rest).lower())
        return frozenset(found | set(words) | {"." if text.endswith(".") else "no full stop"})

    def _rank(self, trial: Trial) -> tuple[float, ...]:
        return rank(trial, self.feedback)

    def _described(self, descriptions: Sequence[str]) -> dict[str, float]:
        """How often each phrase occurs in the descriptions, 0 to 1."""
        counts: dict[str, int] = {}
        for text in descriptions:
            for phrase in {match.group().lower() for match in self._find.finditer(text)}:
                counts[phrase] = counts.get(phrase, 0) + 1
        return {phrase: n / len(descriptions) for phrase, n in counts.items()}

    def _pruned(self, ask: ProposalRequest) -> list[str]:
        """The best template with one of its phrases left out, unless that was tried: what stays must earn its place."""
        best = _text(min(ask.trials, key=self._rank))
        tried = {_text(trial).casefold() for trial in ask.trials}
        texts = [fix_grammar(best[:start] + best[end:]) for start, end in self._spans(best)]
        return [text for text in dict.fromkeys(texts) if text.casefold() not in tried and self._readable(text)]

    def _pool(self, ask: ProposalRequest, rng: Generator, model: "PhraseValueModel") -> list[Offspring]:
        order = sorted(range(len(ask.trials)), key=lambda i: self._rank(ask.trials[i]))[:PARENTS]
        weights = 1.0 / (1.0 + np.arange(len(order)))
        weights /= weights.sum()
        tried = {_text(trial).casefold() for trial in ask.trials}
        pool: dict[str, Offspring] = {}
        for _ in range(POOL_PER_CHILD * ask.count):
            mother, father = (order[i] for i in rng.choice(len(order), size=2, p=weights))
            text = self._breed(_text(ask.trials[mother]), _text(ask.trials[father]), rng, model)
            if text.casefold() not in tried and self._readable(text):
                pool.setdefault(text.casefold(), Offspring(text, mother))
        return list(pool.values())

    def _breed(self, mother: str, father: str, rng: Generator, model: "PhraseValueModel") -> str:
        """One child by a random operator, sometimes two in a row."""
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
        """A phrase for a position: half by its learned worth, half at random."""
        choices = self._by_position[position]
        if rng.random() < 0.5:
            return str(rng.choice(choices))
        return choices[int(np.argmax(model.draw([text.lower() for text in choices], rng)))]

    def _swap(self, text: str, rng: Generator, model: "PhraseValueModel") -> str:
        """Replace a phrase of the bank by another one that can stand in its place."""
        found = list(self._find.finditer(text))
        if not found:
            return self._add(text, rng, model)
        match = found[int(rng.integers(len(found)))]
        new = self._draw(self._position[match.group().lower()], rng, model)
        return text[: match.start()] + new + text[match.end() :]

    def _add(self, text: str, rng: Generator, model: "PhraseValueModel") -> str:
        """An adjective before the medium or the class name, a clause behind it, or a second medium."""
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
        """Where the phrases stand that can be left out; a medium only where it stands alone behind a comma."""
        return [
            m.span()
            for m in self._find.finditer(text)
            if self._position[m.group().lower()] != "noun" or _ALONE.search(text[: m.start()])
        ]

    def _drop(self, text: str, rng: Generator) -> str:
        """Leave out one phrase, or else one word."""
        phrases = [m.span() for m in self._find.finditer(text)]
        spans = self._spans(text)
        words = [m.span() for m in _WORD.finditer(text) if m.group().lower() not in _KEPT]
        words = [(start, end) for start, end in words if not any(a <= start < b for a, b in phrases)]
        if words and (not spans or rng.random() < 0.3):
            spans = words
        if not spans:
            return text
        start, end = spans[int(rng.integers(len(spans)))]
        return text[:start] + text[end:]

    def _reframe(self, text: str, rng: Generator) -> str:
        """The same phrases in another sentence."""
        found = [m.group().lower() for m in self._find.finditer(text)]
        nouns = [p for p in found if self._position[p] == "noun"] or ["photo"]
        adjectives = [p for p in found if self._position[p] == "adjective"]
        afters = [p for p in found if self._position[p] == "after"]
        look = " ".join(["a", *adjectives, nouns[0]])
        frame = _FRAMES[int(rng.integers(len(_FRAMES)))]
        after = "".join(f" {phrase}" for phrase in afters) + "".join(f", {noun}" for noun in nouns[1:])
        return frame.format(look=look, after=after)

    def _readable(self, text: str) -> bool:
        words = _WORD.findall(text)
        phrases = [m.group().lower() for m in self._find.finditer(text)]
        return (
            text.count(PLACEHOLDER) == 1
            and len(words) <= MAX_WORDS
            and len(phrases) == len(set(phrases)) <= MAX_PHRASES
        )

    def _select(
        self,
        pool: list[Offspring],
        count: int,
        ask: ProposalRequest,
        values: Floats,
        model: "PhraseValueModel",
        rng: Generator,
    ) -> Iterable[str]:
        """Children that promise most, each under its own draw of the model's weights."""
        sets = [self.features(child.text) for child in pool]
        parents = [self.features(_text(ask.trials[child.parent])) for child in pool]
        base = np.array([values[child.parent] - LENGTH_COST * len(_WORD.findall(child.text)) for child in pool])
        names, change = _changes(sets, parents)
        chosen: list[int] = []
        for _ in range(min(count, len(pool))):
            promise = base + change @ model.draw(names, rng)
            promise[chosen] = -np.inf
            chosen.append(int(np.argmax(promise)))
        return [pool[i].text for i in chosen]


class PhraseValueModel:
    """Bayesian linear regression of a trial's value on the phrases and words that it holds.

    Args:
        sets: features of each trial.
        values: their standardised values.
        described: share of descriptions that hold a phrase, which shifts its prior mean.
    """

    def __init__(self, sets: Sequence[frozenset[str]], values: Floats, described: dict[str, float]) -> None:
        self.described = described
        self.names = sorted(frozenset().union(*sets))
        self.column = {name: i for i, name in enumerate(self.names)}
        design = np.zeros((len(sets), len(self.names)))  # [trials, features]
        for row, features in enumerate(sets):
            design[row, [self.column[name] for name in features]] = 1.0
        prior_mean = np.array([self._prior(name) for name in self.names])
        precision = design.T @ design / NOISE + np.eye(len(self.names)) / PRIOR
        self.covariance = np.linalg.inv(precision)
        self.mean = self.covariance @ (design.T @ values / NOISE + prior_mean / PRIOR)
        self._root = np.linalg.cholesky(self.covariance + 1e-9 * np.eye(len(self.names)))

    def draw(self, names: Sequence[str], rng: Generator) -> Floats:
        """One posterior draw of the worth of each name; unknown ones from the prior."""
        known = self.mean + self._root @ rng.standard_normal(len(self.mean))
        fresh = rng.standard_normal(len(names)) * np.sqrt(PRIOR)
        return np.array(
            [
                known[self.column[name]] if name in self.column else self._prior(name) + fresh[i]
                for i, name in enumerate(names)
            ]
        )

    def _prior(self, name: str) -> float:
        return DESCRIBED * self.described.get(name, 0.0)


def _changes(children: Sequence[frozenset[str]], parents: Sequence[frozenset[str]]) -> tuple[list[str], Floats]:
    """Which features each child adds (1) or loses (-1): their names, and a table [children, names]."""
    changed = [child ^ parent for child, parent in zip(children, parents, strict=True)]
    names = sorted(frozenset().union(*changed))
    column = {name: i for i, name in enumerate(names)}
    table = np.zeros((len(children), len(names)))
    for row, (child, features) in enumerate(zip(children, changed, strict=True)):
        for name in features:
            table[row, column[name]] = 1.0 if name in child else -1.0
    return names, table


def standardise(trials: Sequence[Trial], feedback: Feedback = "both") -> Floats:
    """Accuracy and negative loss, each to zero mean and unit spread, averaged: loss tells apart what ties."""
    accuracy = _zscore(np.array([trial.score.accuracy for trial in trials]))
    loss = _zscore(np.minimum(np.array([trial.score.loss for trial in trials]), 1e6))
    return {"both": 0.5 * accuracy - 0.5 * loss, "accuracy": accuracy, "loss": -loss}[feedback]


def fix_grammar(text: str) -> str:
    """Spaces, commas and articles put right after words were moved.

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
    """A trial's first prompt; an ensemble breeds by its first line."""
    return trial.template.lines[0]


def _crossover(mother: str, father: str) -> str:
    return mother.split(PLACEHOLDER, 1)[0] + PLACEHOLDER + father.split(PLACEHOLDER, 1)[1]


def _zscore(values: Floats) -> Floats:
    spread = values.std()
    return (values - values.mean()) / spread if spread > 1e-12 else np.zeros_like(values)


def _phrase_pattern(phrases: Sequence[Phrase]) -> re.Pattern[str]:
    """Finds phrases in text, the longest first."""
    longest_first = sorted({re.escape(p.text) for p in phrases}, key=lambda t: (-len(t), t))
    return re.compile(rf"(?<![\w-])(?:{'|'.join(longest_first)})(?![\w-])", re.IGNORECASE)

"""Select a template among the trials of a search: the plainest of those that cannot be told apart from the best.

The most accurate of hundreds of templates on few images is partly so by chance, and contains words that do nothing. The
loss, to which every image contributes, is less subject to chance. So the template with the lowest loss leads, and among
those whose accuracy and loss are within a tolerance of the leader's, the one with the fewest words wins. The tolerance
is in standard errors of the difference, which is small for templates that are right on the same images; differences in
loss that are too small to justify words are always within it, however many images there are.

A strategy sees many draws at once, because the optimism of a choice is that of the whole rule (`scoring.comparison`).

Letters: K candidates, B draws.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import ClassVar, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from ipo_dspy.history import Trial
from ipo_dspy.optimizer.config import ChoiceRule
from ipo_dspy.run.events import CandidateFields, ChoiceFields, PhraseFields
from ipo_dspy.scoring.comparison import Comparison, Floats
from ipo_dspy.scoring.intervals import Interval, Z
from ipo_dspy.scoring.objectives import ObjectiveText
from ipo_dspy.scoring.part_worth import Worth
from ipo_dspy.scoring.score import DECIMALS, Score
from ipo_dspy.template import Template
from ipo_dspy.template_phrases import shorter_texts

SMALLEST_SHARE = 0.03
"""Difference in loss, relative to the better one, that counts as one standard error if that is less. With many images
every difference is larger than its standard error, but not every one is worth more words."""


class Choice(Protocol):
    """A rule that chooses among candidates."""

    @property
    def rounds(self) -> int:
        """Number of choices, the first one around the leader, each other one around the candidate chosen before."""

    def first(self, accuracy: Floats, loss: Floats) -> NDArray[np.int64]:
        """Return the best candidate of each draw [B], all else equal, of accuracies and losses as in `tied`."""

    def tied(
        self, candidates: "Candidates", accuracy: Floats, loss: Floats, scale: float, around: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Return the candidates among which plainness decides, in each of B draws: [B, K].

        Args:
            candidates: the candidates with their standard errors.
            accuracy: [B, K] in percent.
            loss: [B, K] in nats.
            scale: factor by which standard errors are larger than those of the candidates.
            around: [B] the candidate that the others must not be worse than.
        """


@dataclass(frozen=True, slots=True)
class Best:
    """The most accurate candidate, with the lowest loss to four decimals in a tie: the paper's choice."""

    rounds: ClassVar[int] = 1

    def first(self, accuracy: Floats, loss: Floats) -> NDArray[np.int64]:
        """Return the most accurate of each draw, with the lowest loss if several are."""
        return leaders(accuracy, loss)

    def tied(
        self, candidates: "Candidates", accuracy: Floats, loss: Floats, scale: float, around: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Return the first candidate of each draw in the order of `Trial.rank`."""
        rows = np.arange(len(accuracy))
        near_loss = np.round(loss, DECIMALS) <= np.round(loss[rows, around][:, None], DECIMALS)
        leading = (accuracy >= accuracy[rows, around][:, None] - 1e-9) & near_loss
        tokens = np.where(leading, [trial.tokens for trial in candidates.trials], np.inf)
        only = np.zeros(leading.shape, dtype=bool)
        only[rows, tokens.argmin(axis=1)] = True
        return only


@dataclass(frozen=True, slots=True)
class Plainest:
    """The candidates whose accuracy and loss are within a tolerance of those of the one with the lowest loss.

    The tolerance is in standard errors, for the loss in `SMALLEST_SHARE` of it if that is more. From the chosen one on,
    more phrases may go that are worth less than the tolerance, as long as the result stays within twice the tolerance
    of the leader.
    """

    tolerance: float = 1.0
    rounds: ClassVar[int] = 4

    def first(self, accuracy: Floats, loss: Floats) -> NDArray[np.int64]:
        """Return that with the lowest loss to four decimals of each draw, with the highest accuracy if several have."""
        return leaders(-np.round(loss, DECIMALS), -accuracy)

    def tied(
        self, candidates: "Candidates", accuracy: Floats, loss: Floats, scale: float, around: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Return the candidates near `around` that are not worse than the start template."""
        compared, rows = candidates.comparison, np.arange(len(accuracy))

        def near(reference: NDArray[np.int64], tolerance: float) -> NDArray[np.bool_]:
            behind = accuracy[rows, reference][:, None] - accuracy  # [B, K]
            lower = loss[rows, reference][:, None]  # [B, 1]
            loss_errors = np.maximum(scale * compared.loss_errors[reference], SMALLEST_SHARE * lower)
            return np.asarray(
                (behind <= tolerance * scale * compared.accuracy_errors[reference] + 1e-9)
                & (loss - lower <= tolerance * loss_errors + 1e-9)
            )

        leader = candidates.leader(self, accuracy, loss)
        tied = near(around, self.tolerance) & near(leader, 2 * self.tolerance)
        tied &= candidates.not_worse_than_start(accuracy, loss)
        tied[rows, around] = True
        return tied


def build_choice(rule: ChoiceRule, tolerance: float) -> Choice:
    """Return the strategy of a rule."""
    strategies: Mapping[ChoiceRule, Choice] = {"plainest": Plainest(tolerance), "best": Best()}
    return strategies[rule]


@dataclass(frozen=True, slots=True)
class Candidates:
    """Trials compared in pairs on the images that decide.

    Attributes:
        trials: K trials.
        comparison: their outcomes.
        start: position of the start template among them.
        words: [K] number of words, over all lines.
    """

    trials: Sequence[Trial]
    comparison: Comparison
    start: int
    words: NDArray[np.int64]

    @classmethod
    def of(cls, trials: Sequence[Trial], comparison: Comparison, start: Trial) -> "Candidates":
        """Return the candidates with their number of words."""
        position = next(i for i, trial in enumerate(trials) if trial.key == start.key)
        return cls(trials, comparison, position, np.array([len(str(trial.template).split()) for trial in trials]))

    @property
    def scores(self) -> list[Score]:
        """The score of each candidate on these images."""
        return self.comparison.scores

    def choose(self, rule: Choice, accuracy: Floats, loss: Floats, scale: float) -> NDArray[np.int64]:
        """Return the chosen candidate of each draw [B]: the tied one with the fewest words, then the better one.

        Only candidates that miss recall floors by the least can be chosen; floors are not resampled.
        """
        accuracy = np.where(self.comparison.eligible, accuracy, -np.inf)
        chosen = self.leader(rule, accuracy, loss)
        for _ in range(rule.rounds):
            tied = rule.tied(self, accuracy, loss, scale, chosen)
            words = np.where(tied, self.words, np.iinfo(np.int64).max)
            plainest = words == words.min(axis=1, keepdims=True)  # [B, K]
            chosen = self._first(rule, plainest, accuracy, loss)
        return chosen

    def leader(self, rule: Choice, accuracy: Floats, loss: Floats) -> NDArray[np.int64]:
        """Return the best candidate of each draw [B] by a rule, of those that are not worse than the start template."""
        allowed = self.not_worse_than_start(accuracy, loss) & self.comparison.eligible
        return self._first(rule, allowed, accuracy, loss)

    def _first(self, rule: Choice, among: NDArray[np.bool_], accuracy: Floats, loss: Floats) -> NDArray[np.int64]:
        """Return the best of some candidates; another objective than the accuracy comes before the loss."""
        first = rule.first if self.comparison.is_accuracy else leaders
        return first(np.where(among, accuracy, -np.inf), np.where(among, loss, np.inf))

    def not_worse_than_start(self, accuracy: Floats, loss: Floats) -> NDArray[np.bool_]:
        """Return the candidates that are as good as the start template by accuracy, then by loss: [B, K]."""
        start_accuracy, start_loss = accuracy[:, [self.start]], loss[:, [self.start]]
        return np.asarray(
            (accuracy > start_accuracy + 1e-9) | ((accuracy >= start_accuracy - 1e-9) & (loss <= start_loss + 1e-9))
        )

    def select(self, rule: Choice) -> "Selection":
        """Apply a rule to the scores themselves."""
        compared = self.comparison
        accuracy, loss = np.where(compared.eligible, compared.accuracy, -np.inf)[None], compared.loss[None]
        winner = int(self.choose(rule, accuracy, loss, 1.0)[0])
        tied = np.flatnonzero(rule.tied(self, accuracy, loss, 1.0, self.leader(rule, accuracy, loss))[0])
        ranked = sorted(
            {winner, *tied.tolist()}, key=lambda k: (self.words[k], compared.loss[k], -compared.accuracy[k])
        )
        return Selection(self, rule, winner, tuple(ranked))


@dataclass(frozen=True, slots=True)
class ChoiceReport:
    """Expected accuracy of a chosen template on new images of the same classes; accuracies in percent.

    With another objective, its values replace accuracies: higher is better, so losses and costs are negative.

    Attributes:
        images: number of images that decided.
        accuracy: accuracy on these images.
        optimism: points by which it is too high because the template was chosen on them.
        expected: accuracy to expect on new images.
        interval: its 95 % confidence interval.
        gain: expected accuracy minus that of the start template.
        gain_error: standard error of the gain.
        leader: accuracy of the most accurate template on these images.
        compared: number of templates that were compared.
        tied: number of them that the rule could not distinguish from the leader.
        possibly_best: size of the 95 % confidence set of the most accurate one.
        is_spread_known: False if no class has two images; optimism and interval then rest on an assumption.
        objective: name of the objective; see `scoring.objectives`.
    """

    images: int
    accuracy: float
    optimism: float
    expected: float
    interval: Interval
    gain: float
    gain_error: float
    leader: float
    compared: int
    tied: int
    possibly_best: int
    is_spread_known: bool = True
    objective: str = "accuracy"

    @property
    def beats_start(self) -> bool:
        """True if the gain is larger than chance would make it (two-sided, 5 %)."""
        return self.gain > Z * self.gain_error

    def of_ensemble(self, accuracy: float) -> "ChoiceReport":
        """Return the report of an ensemble that begins with the chosen template, with its accuracy on these images.

        Its optimism is taken to be that of the template.
        """
        low, high = ObjectiveText.of(self.objective).bounds
        expected = max(low, accuracy - self.optimism)
        shift = expected - self.expected
        interval = Interval(max(low, self.interval.low + shift), min(high, self.interval.high + shift))
        return replace(self, accuracy=accuracy, expected=expected, interval=interval, gain=self.gain + shift)

    @property
    def fields(self) -> ChoiceFields:
        """Plain values for the journal."""
        values = asdict(self)
        interval = values.pop("interval")
        return cast(ChoiceFields, {**values, **interval})


@dataclass(frozen=True, slots=True)
class PhraseWorth(Worth):
    """The worth of a phrase on the images that decided."""

    phrase: str

    @property
    def fields(self) -> PhraseFields:
        """Plain values for the journal."""
        return cast(PhraseFields, asdict(self))


@dataclass(frozen=True, slots=True)
class Selection:
    """The outcome of a choice.

    Attributes:
        candidates: what was chosen from.
        rule: how.
        winner: position of the chosen candidate.
        tied: positions of the candidates that cannot be told apart from the leader, the plainest first.
    """

    candidates: Candidates
    rule: Choice
    winner: int
    tied: tuple[int, ...]

    @property
    def trial(self) -> Trial:
        """The chosen trial."""
        return self.candidates.trials[self.winner]

    def candidate_fields(self, count: int) -> list[CandidateFields]:
        """Return the most accurate candidates, best first, as plain values for the journal."""
        compared = self.candidates.comparison
        ranked = np.lexsort((compared.loss, -compared.accuracy, compared.missed))[:count].tolist()
        return [
            {
                "index": self.candidates.trials[k].index,
                "accuracy": float(compared.accuracy[k]),
                "error": float(compared.accuracy_errors[ranked[0], k]),
                "tied": k in self.tied,
            }
            for k in ranked
        ]

    def phrase_worths(self) -> tuple[PhraseWorth, ...]:
        """Return what each phrase of the chosen template is worth, as far as the template without it was scored."""
        compared = self.candidates.comparison
        positions = {str(trial.template): k for k, trial in enumerate(self.candidates.trials)}
        text, worths = str(self.trial.template), []
        for shorter, phrase in ({} if len(self.trial.template.lines) > 1 else shorter_texts(text)).items():
            k = positions.get(str(Template.parse(shorter)))
            if k is not None:
                worths.append(PhraseWorth(*compared.difference(self.winner, k), phrase))
        return tuple(worths)

    def report(self, objective: str = "accuracy") -> ChoiceReport:
        """Return what is known about the accuracy, or another objective, of the chosen template on new images."""
        candidates, compared = self.candidates, self.candidates.comparison
        optimism = compared.optimism(lambda *draws: candidates.choose(self.rule, *draws))
        accuracy = float(compared.accuracy[self.winner])
        lowest, highest = ObjectiveText.of(objective).bounds
        expected = max(lowest, accuracy - optimism)
        interval = compared.interval(expected, self.winner)
        gain = expected - float(compared.accuracy[candidates.start])
        error = float(compared.accuracy_errors[self.winner, candidates.start])
        return ChoiceReport(
            images=compared.images,
            accuracy=accuracy,
            optimism=optimism,
            expected=expected,
            interval=Interval(max(lowest, interval.low), min(highest, interval.high)),
            gain=gain,
            gain_error=error,
            leader=float(compared.accuracy[compared.eligible].max()),
            compared=len(candidates.trials),
            tied=len(self.tied),
            possibly_best=int(compared.best_set().sum()),
            is_spread_known=compared.is_spread_known,
            objective=objective,
        )


def compared_trials(trials: Iterable[Trial], start: Trial, limit: int, also: Collection[str] = ()) -> list[Trial]:
    """Return the trials that are compared in pairs, in the order of proposal.

    They are the `limit` best of the search by training images, the start template, all that refined a winner, and those
    with the token keys `also`.
    """
    ranked = sorted(trials, key=lambda trial: trial.rank)
    best = [trial for trial in ranked if trial.stage == "search"][:limit]
    refined = [trial for trial in ranked if trial.stage != "search" or trial.key in also]
    return sorted({trial.key: trial for trial in (*best, *refined, start)}.values(), key=lambda trial: trial.index)


def leaders(accuracy: Floats, loss: Floats) -> NDArray[np.int64]:
    """Return the most accurate of each row, with the lowest loss if several are; the first one if all is equal."""
    best = accuracy.max(axis=1, keepdims=True)
    return np.asarray(np.where(accuracy >= best - 1e-9, loss, np.inf).argmin(axis=1))

"""Objectives by the indices of classes: scores from counts, and the outcomes of images that give standard errors.

Named objectives are functions of counts by class (`scoring.tally`), which add up over blocks and machines. To compare
templates on the same images, the standard error of a difference is needed, too. A mean over images has it from its
outcomes. Balanced accuracy and macro F1 are no such means, so they are linearized (the delta method): each image gets
the derivative of the objective by its own counts, times the number of images. These outcomes have the objective as
their mean, and their spread is that of the objective to first order (Huber, Robust Statistics, 1981, chapter 1.5).

A metric of all images is not a mean either. It has the outcomes of a jackknife: the metric is computed without each of
`GROUPS` random groups of images, and an image gets the pseudo-value of its group (Miller, The Jackknife - a Review,
1974). The spread within classes is not told apart by groups, so optimism and interval of a metric are rather large.

Needs no torch. Letters: N images, C classes, K templates, P pairs of a true and a predicted class.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ipo_dspy.scoring.objectives import COST, METRIC, SHARES, Objective
from ipo_dspy.scoring.score import DECIMALS, Score
from ipo_dspy.scoring.tally import Counts, Tally

Floats = NDArray[np.float64]

GROUPS = 20
"""Groups of images that a metric of all images is computed without, for its standard error."""


class ImageMetric(Protocol):
    """A metric of the user, bound to a set of images; `probabilities` are [N, C], in their order."""

    def value(self, probabilities: Floats) -> float:
        """Return the metric of all images, higher is better."""

    def outcomes(self, probabilities: Floats) -> Floats:
        """Return a number for each image, [N], whose mean is the metric, and whose spread gives its standard error."""


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """The outcome of an image under each of K templates, as a function of its label and its predicted class.

    It is `right[k, label]` if the prediction is correct, plus `given[k, predicted]` and `there[k, label]`, plus the
    value of the pair of both, if it is listed.

    Attributes:
        right, given, there: [K, C], or [1, C] if all templates have the same.
        pairs: [P, 2] listed pairs of a label and a predicted class.
        pair_values: [P] their values.
    """

    right: Floats
    given: Floats
    there: Floats
    pairs: Counts
    pair_values: Floats


OutcomeRule: TypeAlias = Outcomes | Literal["top5", "loss"] | None
"""The rule for the first outcome of an image: None for the correct prediction; see `metrics.outcome_tables`."""


@dataclass(frozen=True, slots=True, eq=False)
class ClassObjective:
    """An objective by the indices of classes, as a scorer needs it.

    Attributes:
        name: as in `Objective`.
        pairs: [P, 2] true and predicted class of each listed error.
        costs: [P] its cost.
        floors: index and lowest recall of classes.
    """

    name: str
    pairs: Counts
    costs: Floats
    floors: tuple[tuple[int, float], ...]

    @classmethod
    def of(cls, objective: Objective, classes: Sequence[str]) -> "ClassObjective":
        """Return an objective for these classes; what it says of other classes, such as novel ones, does not apply."""
        index = {name: i for i, name in enumerate(classes)}
        costs = {pair: cost for pair, cost in objective.costs.items() if index.keys() >= set(pair)}
        return cls(
            objective.name,
            np.array([[index[true], index[predicted]] for true, predicted in costs], dtype=np.int64).reshape(-1, 2),
            np.array(list(costs.values()), dtype=np.float64),
            tuple((index[name], floor) for name, floor in objective.min_recall.items() if name in index),
        )

    @property
    def needs_classes(self) -> bool:
        """True if a score needs counts by class."""
        return self.name in ("balanced_accuracy", "macro_f1", "top5", COST) or bool(self.floors)

    @property
    def is_default(self) -> bool:
        """True if a score is accuracy and loss alone."""
        return self.name == "accuracy" and not self.floors

    @property
    def unit(self) -> float:
        """Factor from outcomes to values: 100 for shares, which are in percent."""
        return 100.0 if self.name in SHARES else 1.0

    def score(self, tally: Tally, metric: float | None = None) -> Score:
        """Return the score of a template from its counts, and from the value of the metric if the objective is one."""
        score, counts = tally.score, tally.classes
        missed = extra = 0.0
        if counts is not None:
            recall, extra = counts.recall, float((self.costs - 1.0) @ counts.pairs)
            missed = sum(max(0.0, 100.0 * (floor - recall[i])) for i, floor in self.floors if counts.there[i])
        if self.name == "accuracy" or self.name.startswith(METRIC):
            value = metric
        elif self.name == "loss":
            value = -round(score.loss, DECIMALS)
        elif self.name == COST:
            value = -(tally.images - tally.correct + extra) / tally.images
        else:
            value = round(tally.measures[self.name], 9)  # the last bits depend on the order of sums
        return Score(score.accuracy, score.loss, value, round(missed, 9))

    def outcomes(self, tallies: Sequence[Tally]) -> OutcomeRule:
        """Return the outcomes of templates with these tallies, as `metrics.tally_pairs` takes them."""
        if self.name == "top5":
            return "top5"
        if self.name == "loss":
            return "loss"
        counts = [tally.classes for tally in tallies if tally.classes is not None]
        if self.name == "accuracy" or not counts:
            return None
        there = counts[0].there.astype(np.float64)  # [C]
        seen = there > 0
        images, zero = there.sum(), np.zeros((1, len(there)))
        right, given, label = zero, zero, zero
        pairs, values = self.pairs[:0], self.costs[:0]
        if self.name == COST:
            right, label, pairs, values = zero + 1.0, zero - 1.0, self.pairs, 1.0 - self.costs
        elif self.name == "balanced_accuracy":
            right = np.divide(images / seen.sum(), there, out=zero.copy(), where=seen[None])
        else:
            correct = np.array([one.right for one in counts], dtype=np.float64)  # [K, C]
            total = np.array([one.given for one in counts]) + there
            per_class = np.divide(images / seen.sum(), total, out=np.zeros_like(total), where=seen)
            f1 = np.divide(2 * correct, total, out=np.zeros_like(total), where=seen)
            right, given = 2 * per_class, -f1 * per_class
            label = given + f1[:, seen].mean(axis=1, keepdims=True)
        return Outcomes(right, given, label, pairs, values)


def jackknife_groups(images: int) -> NDArray[np.int64]:
    """Return the group of each image, [N], for the jackknife: at most `GROUPS`, drawn without regard to classes.

    With each class spread over the groups, the error would lack the variance between classes.

    >>> sorted(jackknife_groups(3).tolist())
    [0, 1, 2]
    """
    return np.random.default_rng(0).permutation(np.arange(images) % GROUPS)

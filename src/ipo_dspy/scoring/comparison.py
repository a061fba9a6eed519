"""Compare many templates on the same images: errors of differences, the best ones, and the optimism of a choice.

All templates see the same images, so differences between them are known far better than the accuracies themselves. And
the best of many templates looks better than it is, because it was chosen on these images. Both follow from a
`PairTally`: sums and products of the outcomes of all pairs, which add up over blocks of images and over machines.

The optimism is estimated by repeated splits in halves: half of the images chooses, the other half judges. Halves are
drawn from the normal distribution with the covariance of the tally (Oliveira, Lei and Tibshirani, Unbiased Risk
Estimation in the Normal Means Problem via Coupled Bootstrap Techniques, 2021), so that no image is needed again. The
confidence set of the best is Hsu's multiple comparison with the best (Hsu, Multiple Comparisons: Theory and Methods,
1996, chapter 4), with quantiles simulated from the same distribution.

Letters: N images, C classes, K templates, B draws.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ipo_dspy.errors import InputError
from ipo_dspy.scoring.intervals import Interval, Z, wilson_interval
from ipo_dspy.scoring.score import Score

Floats = NDArray[np.float64]

DRAWS = 200
"""Draws of the noise; twice as many change the optimism by less than a tenth of a point."""
CONFIDENCE = 0.95
WITHIN_CLASSES = 0.5
"""Share of the variance of outcomes within classes, assumed if no class has two images; `choice_truth` of
`scripts/bench.py` prints it for the bundled tasks."""
CHOICE_VARIANCE = 1.25
"""Variance of the corrected accuracy of a choice, relative to that of a template that was not chosen: the optimism
is an estimate, too; docs/choice.md has the share of intervals that hold the truth."""


@dataclass(frozen=True, slots=True)
class PairTally:
    """Sums of the outcomes of K templates, and of products of two outcomes; tallies of disjoint images add up.

    The outcomes of an image are K zeros and ones (one if the class is correct) and K losses in nats. If the objective
    is not the accuracy, the first K are numbers whose mean over images is its value; see `scoring.objectives`.

    Attributes:
        images: [C] number of images of each class.
        sums: [C, 2K] sum of each outcome over the images of each class, float64.
        products: [2K, 2K] sum of the products of each pair of outcomes over all images, float64.
        unit: factor from the first K outcomes to values: 100 for shares, which are in percent.
        scores: scores of the templates on all images, if the objective is not the accuracy; parts have none.
        decisions: number of decisions on an image whose mean is its first outcome: more than one with several labels.
    """

    images: NDArray[np.int64]
    sums: Floats
    products: Floats
    unit: float = 100.0
    scores: tuple[Score, ...] = ()
    decisions: int = 1

    def __add__(self, other: "PairTally") -> "PairTally":
        sums, products = self.sums + other.sums, self.products + other.products
        return PairTally(self.images + other.images, sums, products, self.unit, decisions=self.decisions)

    @classmethod
    def of(cls, table: Floats, labels: NDArray[np.int64], classes: int) -> "PairTally":
        """Return the tally of a table of outcomes [N, 2K] of images with these labels [N]."""
        members = np.eye(classes)[labels]  # [N, C]
        return cls(members.sum(axis=0).astype(np.int64), members.T @ table, table.T @ table)


NO_SPREAD = 1e-9
"""Variance, relative to the largest one of all directions, that is a rounding error."""

Chooser = Callable[[Floats, Floats, float], NDArray[np.int64]]
"""Chooses a template in each of B draws: a function of accuracies [B, K] and losses [B, K], and of the factor by which
standard errors are larger than those of the comparison. It returns the indices [B]."""


class Comparison:
    """K templates compared on the same images; accuracies are in percent, losses in nats.

    If the objective is not the accuracy, its values take the place of accuracies everywhere: higher is better, and
    shares are in percent.

    Two kinds of errors are told apart. A template has to hold for other images and other classes, so the standard error
    of a difference counts all of its spread over images. The accuracy to expect is that on new images of the same
    classes, so optimism and intervals count the spread within classes only, which is less than half of it.

    Args:
        tally: the pair tally of the templates.
        seed: seed of the draws of noise, for optimism and confidence set.

    Attributes:
        images: number of images.
        accuracy, loss: [K] mean outcome of each template.
        accuracy_errors, loss_errors: [K, K] standard error of the difference of each pair; a very large number with
            one image.
        is_spread_known: False if no class has two images, so that the spread within classes is assumed.
        missed: [K] points by which each template misses floors of recall.
        is_share: True if accuracies, or values, are in percent.
        is_accuracy: True if the objective is the accuracy, without floors of recall.

    Raises:
        InputError: there are no images, or a loss is not finite.

    >>> correct = np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    >>> table, labels = np.hstack([correct, 1 - correct]), np.array([0, 0, 1, 1])
    >>> compared = Comparison(PairTally.of(table, labels, classes=2))
    >>> compared.accuracy.tolist(), round(float(compared.accuracy_errors[0, 1]), 1)
    ([50.0, 75.0], 47.9)
    """

    def __init__(self, tally: PairTally, *, seed: int = 0) -> None:
        self.seed, self.images = seed, int(tally.images.sum())
        if self.images < 1:
            raise InputError("images must not be empty; pass at least one image to compare templates on")
        if not np.isfinite(tally.sums).all():
            raise InputError("losses must be finite; check the features for NaN and infinity")
        counts, sums, products = tally.images, tally.sums, tally.products
        count = sums.shape[1] // 2
        self.is_share = tally.unit == 100.0
        self._decisions = self.images * tally.decisions
        units = np.repeat([tally.unit, 1.0], count)  # percent, nats
        mean = sums.sum(axis=0) / self.images  # [2K]
        scale = np.outer(units, units) / self.images
        spread = products - self.images * np.outer(mean, mean)
        self._variance: Floats = spread * scale / max(self.images - 1, 1)  # of the means over images, [2K, 2K]
        seen = counts > 0
        within = products - (sums[seen].T / counts[seen]) @ sums[seen]
        freedom = self.images - int(seen.sum())
        self.is_spread_known = freedom > 0
        self._covariance = within * scale / freedom if freedom else self._variance * WITHIN_CLASSES  # [2K, 2K]
        self.accuracy: Floats = mean[:count] * tally.unit
        self.loss: Floats = mean[count:]
        self._scores, self.missed, self.is_accuracy = tally.scores, np.zeros(count), not tally.scores
        if tally.scores:
            self.accuracy = np.array([score.goal for score in tally.scores])
            self.missed = np.array([score.missed for score in tally.scores])
        if (
            freedom and self.is_share
        ):  # a template that is right on all of few images is not certain to be right on others
            moderate = (self._decisions * mean[:count] + 2) / (self._decisions + 4)
            least = WITHIN_CLASSES * moderate * (1 - moderate) * 1e4 / self._decisions
            accuracies = np.arange(count)
            self._covariance[accuracies, accuracies] = np.maximum(np.diag(self._covariance)[:count], least)
        self.accuracy_errors = self._errors(slice(0, count))
        self.loss_errors = self._errors(slice(count, None))

    def _errors(self, part: slice) -> Floats:
        """Return the standard error of the difference of each pair, [K, K]."""
        covariance = self._variance[part, part]
        variance = np.diag(covariance)
        if self.images == 1:
            return np.full_like(covariance, 1e9)
        squares = np.maximum(variance[:, None] + variance - 2 * covariance, 0.0)
        # Two equal columns leave a rounding error of 1e-16 of their variance.
        squares[squares < 1e-12 * (variance[:, None] + variance)] = 0.0
        return np.sqrt(squares)

    @property
    def eligible(self) -> NDArray[np.bool_]:
        """[K], True for the templates that miss floors by least: those that meet all of them, if any does."""
        return np.asarray(self.missed <= self.missed.min())

    @property
    def scores(self) -> list[Score]:
        """The score of each template."""
        if self._scores:
            return list(self._scores)
        return [Score(min(a, 100.0), b) for a, b in zip(self.accuracy.tolist(), self.loss.tolist(), strict=True)]

    def difference(self, template: int, other: int) -> tuple[float, float, float, float]:
        """Return by how many points accuracy is higher, and by how many nats the loss is lower, than the other's.

        Each is followed by its standard error, as in `Worth`.
        """
        return (
            float(self.accuracy[template] - self.accuracy[other]),
            float(self.accuracy_errors[template, other]),
            float(self.loss[other] - self.loss[template]),
            float(self.loss_errors[template, other]),
        )

    @cached_property
    def _root(self) -> Floats:
        """A square root of the covariance, [2K, 2K]: the symmetric one of the correlations, times the deviations.

        Other roots change with the last digits of the losses. So do directions without spread, of which there are
        2K - N or more: a rounding error of 1e-16 of their variance is one of 1e-8 of their deviation, and templates
        that are right on the same images would differ.
        """
        deviations = np.sqrt(np.maximum(np.diag(self._covariance), 0.0))  # [2K]
        scale = np.divide(1.0, deviations, out=np.zeros_like(deviations), where=deviations > 0)
        values, vectors = np.linalg.eigh(self._covariance * np.outer(scale, scale))
        values[values < NO_SPREAD * values.max()] = 0.0
        return np.asarray((vectors * np.sqrt(values)) @ vectors.T * deviations)

    def draws(self, count: int) -> tuple[Floats, Floats]:
        """Return `count` draws of the noise of the accuracies [B, K] and of the losses [B, K]; their mean is zero."""
        normal = np.random.default_rng(self.seed).standard_normal((count // 2, self._root.shape[1]))
        noise = normal @ self._root
        noise = np.concatenate([noise, -noise])  # [B, 2K]
        return noise[:, : len(self.accuracy)], noise[:, len(self.accuracy) :]

    @cached_property
    def _noise(self) -> tuple[Floats, Floats]:
        return self.draws(DRAWS)

    def optimism(self, choose: Chooser) -> float:
        """Return by how many points the accuracy of a choice on these images exceeds that on new ones, on average.

        Part of the images chooses and the rest judges, `DRAWS` times with a half and with a quarter of them. From both
        the optimism with all images is extrapolated: with N images it falls like N^-1/2 among templates that are
        equally good, and up to N^-1 among templates that are clearly different.

        Args:
            choose: the rule of the choice.
        """
        half, quarter = (self._optimism_of_part(choose, parts) for parts in (2, 4))
        if half <= 0:
            return 0.0
        power = min(1.0, max(0.5, math.log2(max(quarter, half) / half)))
        return half * math.pow(2.0, -power)

    def _optimism_of_part(self, choose: Chooser, parts: int) -> float:
        """Return the optimism of a choice on 1/parts of the images, judged by the rest."""
        accuracy, loss = self._noise
        # Accuracies of the part are accuracy + a * noise, those of the rest accuracy - noise / a. Both are independent.
        a = math.sqrt(parts - 1)
        chosen = choose(self.accuracy + a * accuracy, self.loss + a * loss, math.sqrt(parts))
        return float((a + 1 / a) * accuracy[np.arange(DRAWS), chosen].mean())

    def best_set(self) -> NDArray[np.bool_]:
        """Return the confidence set of the highest accuracy: [K], True if the template may be the best one.

        The truly most accurate of the K templates is in it with a probability of at least `CONFIDENCE`. Templates that
        are not `eligible` are left out.
        """
        members = self.eligible
        if self.images == 1:
            return members
        noise = self._noise[0].astype(np.float32)[:, members]  # [B, K], like all below of the eligible ones
        accuracy = self.accuracy[members]
        with np.errstate(divide="ignore"):
            scale = 1 / self.accuracy_errors[np.ix_(members, members)]  # [K, K]
        scale[~np.isfinite(scale)] = 0.0  # templates that never differ
        behind = ((accuracy - accuracy[:, None]) * scale).max(axis=1)  # [K]
        largest = np.array(
            [((noise - noise[:, [i]]) * weights).max(axis=1) for i, weights in enumerate(scale.astype(np.float32))]
        )  # [K, B]
        members[members] = behind <= np.quantile(largest, CONFIDENCE, axis=1)
        return members

    def interval(self, accuracy: float, template: int) -> Interval:
        """Return the confidence interval of a chosen template's accuracy on new images, around the corrected one."""
        if not self.is_share:
            half = Z * math.sqrt(CHOICE_VARIANCE * max(float(self._covariance[template, template]), 0.0))
            return Interval(accuracy - half, accuracy + half)
        share = accuracy / 100.0
        binomial = max(share * (1 - share), 1 / self._decisions / 4) * 1e4
        variance = max(float(self._covariance[template, template]), WITHIN_CLASSES * binomial / self._decisions)
        return wilson_interval(accuracy, binomial / (CHOICE_VARIANCE * variance))

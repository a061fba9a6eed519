"""Class weights for costs of errors and for floors of recall: they move decisions, where the loss does not say how.

A weight of a class adds to its logits. For the classes that costs or floors name, each of a few such shifts is tried,
one class after another, and kept if the objective on the images gets better. That fits chance as well, so shifts are
judged in five folds, like all weights: each image is decided by shifts that were searched without it.

Letters: N images, C classes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ipo_dspy.scoring.calibration_fit import SIGNIFICANT, Floats, Indices, Value, folds_of

SHIFTS = sorted(np.linspace(-8, 8, 65).tolist(), key=abs)
"""Summands of a class's logits in nats, the smallest first: of equally good ones, the smallest is taken."""
PASSES = 3
"""Maximum number of times that each class is shifted."""


@dataclass(frozen=True, slots=True, eq=False)
class DecisionRule:
    """The goals of decisions: first floors of recall, then costs, or another value.

    Attributes:
        costs: [C, C] cost of an image of a class that is predicted as another; None if there are none.
        floors: lowest recall of classes by their index, 0 to 1.
        value: rates predicted classes where there are no costs; without, only the floors count.
        classes: indices of the classes that are shifted.
    """

    costs: Floats | None
    floors: Mapping[int, float]
    value: Value | None
    classes: tuple[int, ...]

    @classmethod
    def of(
        cls,
        costs: Mapping[tuple[str, str], float],
        min_recall: Mapping[str, float],
        value: Value | None,
        classes: Sequence[str],
    ) -> "DecisionRule":
        """Return the rule for costs and floors by the names of classes."""
        index, table = {name: i for i, name in enumerate(classes)}, None
        if costs:
            table = 1.0 - np.eye(len(classes))
            for (true, predicted), cost in costs.items():
                table[index[true], index[predicted]] = cost
        named = dict.fromkeys([*(name for pair in costs for name in pair), *min_recall])
        floors = {index[name]: floor for name, floor in min_recall.items()}
        return cls(table, floors, value, tuple(index[name] for name in named))

    def rank(self, predicted: Indices, labels: Indices) -> tuple[float, float]:
        """Rate predicted classes [N], given the labels [N]; higher is better, and floors come first."""
        missed = sum(max(0.0, floor - self.recall(k, predicted, labels)) for k, floor in self.floors.items())
        if self.costs is not None:
            return -missed, -float(self.costs[labels, predicted].mean())
        return -missed, 0.0 if self.value is None else self.value(predicted, labels)

    @staticmethod
    def recall(k: int, predicted: Indices, labels: Indices) -> float:
        """Return the share of the images of class k that are predicted as it; 1 if there are none."""
        inside = labels == k
        return float((predicted[inside] == k).mean()) if inside.any() else 1.0

    def is_better(self, new: Indices, old: Indices, labels: Indices) -> bool:
        """Return True if predictions of images that nothing was fitted to clearly miss floors by less, or cost less."""
        missed, missed_before = (self.rank(each, labels)[0] for each in (new, old))
        if missed < missed_before:
            return False
        gains = np.zeros(len(labels))  # [N]
        if missed > missed_before:
            hits = (new == labels) * 1.0 - (old == labels)
            for k, floor in self.floors.items():
                if min(self.recall(k, each, labels) for each in (new, old)) < floor:
                    inside = labels == k
                    gains[inside] = hits[inside] / inside.sum()
            if gains.min() >= 0:  # not by chance: higher logits of a class lose none of its images
                return True
        elif self.costs is not None:
            gains = self.costs[labels, old] - self.costs[labels, new]
        return bool(gains.mean() > SIGNIFICANT * gains.std() / math.sqrt(len(labels)))


def search_shifts(logits: Floats, labels: Indices, rule: DecisionRule) -> Floats:
    """Return what to add to the logits of each class, [C], so that the decisions on these images are best.

    >>> rule = DecisionRule.of({}, {"b": 1.0}, None, ["a", "b"])
    >>> search_shifts(np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([1, 1]), rule).tolist()
    [0.0, 1.25]
    """
    shifts = np.zeros(logits.shape[1])
    best = rule.rank(logits.argmax(axis=1), labels)
    for _ in range(PASSES):
        before = best
        for k in rule.classes:
            others = logits + shifts
            others[:, k] = -np.inf
            second, highest = others.argmax(axis=1), others.max(axis=1)
            for shift in SHIFTS:
                rank = rule.rank(np.where(logits[:, k] + shift > highest, k, second), labels)
                if rank > best:
                    best, shifts[k] = rank, shift
        if best == before:
            break
    return shifts


def fit_shifts(logits: Floats, labels: Indices, rule: DecisionRule) -> tuple[Floats, Floats] | None:
    """Return the shifts [C] for all images, and their logits with shifts that were searched without them, [N, C].

    None if the decisions by the latter are not better than without shifts.

    Args:
        logits: [N, C], each by a fit to images without it.
        labels: [N].
        rule: rates decisions.
    """
    folds, shifted = folds_of(labels), logits.copy()
    for fold in np.unique(folds):
        inside = folds == fold
        shifted[inside] += search_shifts(logits[~inside], labels[~inside], rule)
    if not rule.is_better(shifted.argmax(axis=1), logits.argmax(axis=1), labels):
        return None
    return search_shifts(logits, labels, rule), shifted

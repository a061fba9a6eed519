"""The score of a template on a set of images: accuracy, loss, another objective, and the order of scores."""

import math
from dataclasses import asdict, dataclass
from typing import NotRequired, TypedDict, cast

from ipo_dspy.errors import DataError, InputError

DECIMALS = 4
"""Decimals of a loss that are shown to people and language models; rankings use no more than these.

A different processor, number of threads or batch size changes a mean loss by about 1e-6 nats, a hundredth of the last
decimal, and a shorter template is worth more than 1e-4 nats.
"""


class ScoreFields(TypedDict):
    """A score as plain values; see `Score`."""

    accuracy: float
    loss: float
    value: NotRequired[float]
    missed: NotRequired[float]


@dataclass(frozen=True, slots=True)
class Score:
    """Accuracy and loss of a template on a set of images.

    Attributes:
        accuracy: top-1 accuracy in percent, 0 to 100.
        loss: mean cross-entropy in nats at the model's own logit scale, over the same images.
        value: what is optimized if that is not the accuracy, higher is better: percent of a share, minus the loss or
            the mean cost, or what a metric returned; see `scoring.objectives`.
        missed: points by which recalls are below their floors (`IPO(min_recall=...)`), summed over classes.

    >>> Score(accuracy=81.25, loss=0.5)
    Score(accuracy=81.25%, loss=0.5000)
    """

    accuracy: float
    loss: float
    value: float | None = None
    missed: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.accuracy <= 100.0:
            raise InputError(
                f"accuracy must be between 0 and 100 (percent), got {self.accuracy!r}; for example Score(81.2, 0.5)"
            )
        if not math.isfinite(self.loss):
            raise InputError(f"loss must be finite, got {self.loss!r}; check the features for NaN and infinity")

    @property
    def goal(self) -> float:
        """The value of the objective, higher is better: `value`, or the accuracy in percent."""
        return self.accuracy if self.value is None else self.value

    @property
    def rank(self) -> tuple[float, float, float]:
        """Sort key, best first: smaller miss of floors, better objective, then lower loss to `DECIMALS` decimals.

        >>> Score(81.25, 0.50004).rank == Score(81.25, 0.50001).rank < Score(81.25, 0.5002).rank < Score(80.0, 0.1).rank
        True
        >>> Score(80.0, 0.5).rank < Score(99.0, 0.1, missed=2.5).rank < Score(99.0, 0.1, missed=3.0).rank
        True
        """
        return (self.missed, -self.goal, round(self.loss, DECIMALS))

    @property
    def fields(self) -> ScoreFields:
        """Plain values for the journal; `value` and `missed` only if they differ from their defaults."""
        defaults = {"value": None, "missed": 0.0}
        fields = {name: value for name, value in asdict(self).items() if defaults.get(name, ...) != value}
        return cast(ScoreFields, fields)

    def __repr__(self) -> str:
        value = "" if self.value is None else f", value={self.value:.4f}"
        missed = f", missed={self.missed:.2f}" if self.missed else ""
        return f"Score(accuracy={self.accuracy:.2f}%, loss={self.loss:.4f}{value}{missed})"


def harmonic_mean(base: float, novel: float) -> float:
    """Return 2ab/(a+b) of two accuracies in percent, the figure by which base-to-novel methods are ranked.

    >>> harmonic_mean(80.0, 60.0)
    68.57142857142857
    >>> harmonic_mean(0, 0)
    0.0
    """
    for value in (base, novel):
        if not 0 <= value <= 100:
            raise DataError(f"accuracy {value!r} is not a percentage; pass a number from 0 to 100")
    return 2 * base * novel / (base + novel) if base + novel else 0.0

"""The worth of a part of a template: its scores compared with those of the template without that part."""

from dataclasses import dataclass

from ipo_dspy.scoring.intervals import Z
from ipo_dspy.scoring.score import DECIMALS


@dataclass(frozen=True, slots=True)
class Worth:
    """The difference that a phrase, a word, or a line makes on a set of images; see `Comparison.difference`.

    Attributes:
        accuracy: by how many points accuracy falls without it.
        accuracy_error: standard error of that difference.
        loss: by how many nats the loss rises without it.
        loss_error: standard error of that difference.

    >>> Worth(1.5, 0.5, 0.01, 0.02).is_noise, Worth(0.5, 0.5, 0.01, 0.02).is_noise
    (False, True)
    """

    accuracy: float
    accuracy_error: float
    loss: float
    loss_error: float

    @property
    def is_noise(self) -> bool:
        """True if neither difference is larger than chance would make it (two-sided, 5 % each)."""
        loss = round(self.loss, DECIMALS)  # smaller ones may be rounding errors
        return abs(self.accuracy) <= Z * self.accuracy_error and abs(loss) <= Z * self.loss_error

"""Build an ensemble from the trials of a search, one line after the other.

Greedy forward selection (Caruana et al., Ensemble Selection from Libraries of Models, ICML 2004): the template that
lowers the loss most is added, as long as the loss falls by more than the tolerance in standard errors of the paired
difference. The features of a line are at hand, so an ensemble costs no pass of the text tower.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, cast

from ipo_dspy.run.events import EnsembleLineFields
from ipo_dspy.scoring.comparison import Comparison
from ipo_dspy.template import Template

if TYPE_CHECKING:
    from ipo_dspy.scoring.scorers import Scorer

POOL = 100
"""Number of trials that lines are taken from, the best by accuracy and loss."""


@dataclass(frozen=True, slots=True)
class EnsembleLine:
    """A line of an ensemble, and what it adds to the lines before it on the images that decided.

    Attributes:
        text: the line.
        accuracy: by how many points accuracy rises.
        accuracy_error: standard error of that difference.
        loss: by how many nats the loss falls.
        loss_error: standard error of that difference.
    """

    text: str
    accuracy: float
    accuracy_error: float
    loss: float
    loss_error: float

    @property
    def fields(self) -> EnsembleLineFields:
        """Plain values for the journal."""
        return cast(EnsembleLineFields, asdict(self))


@dataclass(frozen=True, slots=True)
class Ensemble:
    """A template, and what was added to the one that it began with."""

    template: Template
    added: tuple[EnsembleLine, ...]


def grow_ensemble(
    scorer: "Scorer", first: Template, pool: Sequence[Template], *, size: int, tolerance: float
) -> Ensemble:
    """Return an ensemble of at most `size` lines that begins with a template.

    Args:
        scorer: scores on the images that decide.
        first: the first lines.
        pool: templates of one line that may be added; they fit the model.
        size: maximum number of lines.
        tolerance: standard errors of the difference that a line has to lower the loss by.
    """
    ensemble, gains = first, []
    while len(ensemble.lines) < size:
        candidates = [
            Template((*ensemble.lines, *other.lines)) for other in pool if other.lines[0] not in ensemble.lines
        ]
        if not candidates:
            break
        scores = scorer.score(candidates)
        best = candidates[min(range(len(scores)), key=lambda i: (scores[i].loss, -scores[i].accuracy))]
        compared = Comparison(scorer.tally_pairs([ensemble, best]))
        loss, loss_error = float(compared.loss[0] - compared.loss[1]), float(compared.loss_errors[0, 1])
        if loss <= tolerance * loss_error:
            break
        accuracy = float(compared.accuracy[1] - compared.accuracy[0])
        added = best.lines[len(ensemble.lines) :]
        gains.append(EnsembleLine(" / ".join(added), accuracy, float(compared.accuracy_errors[0, 1]), loss, loss_error))
        ensemble = best
    return Ensemble(ensemble, tuple(gains))

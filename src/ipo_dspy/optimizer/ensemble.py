"""Build an ensemble from the trials of a search, one line after the other.

Greedy forward selection (Caruana et al., Ensemble Selection from Libraries of Models, ICML 2004): the template that
lowers the loss most is added, as long as the loss falls by more than the tolerance in standard errors of the paired
difference. The features of each line already exist, so an ensemble needs no pass of the text tower.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, cast

from ipo_dspy.run.events import EnsembleLineFields
from ipo_dspy.scoring.comparison import Comparison
from ipo_dspy.scoring.part_worth import Worth
from ipo_dspy.template import Template

if TYPE_CHECKING:
    from ipo_dspy.scoring.scorers import Scorer

POOL = 100
"""Number of trials that lines are taken from, the best by accuracy and loss."""


@dataclass(frozen=True, slots=True)
class EnsembleLine(Worth):
    """A line of an ensemble, and its worth with only the lines before it on the images that decided."""

    text: str

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
        tolerance: standard errors of the difference by which a line must lower the loss.
    """
    ensemble, gains = first, []
    while len(ensemble.lines) < size:
        candidates = [
            Template((*ensemble.lines, *other.lines)) for other in pool if other.lines[0] not in ensemble.lines
        ]
        if not candidates:
            break
        scores = scorer.score(candidates)
        best = candidates[min(range(len(scores)), key=lambda i: (scores[i].loss, -scores[i].goal))]
        compared, added = Comparison(scorer.tally_pairs([ensemble, best])), best.lines[len(ensemble.lines) :]
        gain = EnsembleLine(*compared.difference(1, 0), " / ".join(added))
        if gain.loss <= tolerance * gain.loss_error:
            break
        gains.append(gain)
        ensemble = best
    return Ensemble(ensemble, tuple(gains))

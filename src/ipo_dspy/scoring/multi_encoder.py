"""Score templates with several CLIP models at once, for programs whose model is not decided, or will be replaced.

The outcome of an image is combined over the models before anything is summed over images. The same image under two
models is one image: counting it twice would make the standard errors of differences too small by up to a factor of
the square root of two. The models are taken as given, so standard errors say nothing about a further model.

Letters: N images, n images of a block, K templates, E encoders.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from ipo_dspy.errors import TemplateError
from ipo_dspy.scoring.comparison import Floats, PairTally
from ipo_dspy.scoring.score import Score
from ipo_dspy.template import Template

if TYPE_CHECKING:
    from ipo_dspy.clip.template_tokens import TemplateTokens
    from ipo_dspy.scoring.scorers import ClipScorer

TABLE_ELEMENTS = 2**22
"""Elements of a table of outcomes, 32 MB."""


class MultiEncoderScorer:
    """Scores templates on the same images with several encoders; see `scoring.scorers.Scorer`.

    Args:
        scorers: E scorers of the same images, labels and classes, by name of the encoder.
        across: `mean` scores a template by the mean over the encoders, `worst` by the encoder with its lowest accuracy,
            or with the highest loss if several have that.
    """

    def __init__(self, scorers: "Mapping[str, ClipScorer]", across: Literal["mean", "worst"]) -> None:
        self.scorers, self.across = dict(scorers), across
        self._first = next(iter(self.scorers.values()))

    def check(self, template: Template) -> "TemplateTokens":
        """Return identity and length of a template; its length is the largest of all encoders.

        Templates are the same only if all encoders read the same tokens.

        Raises:
            TemplateError: it is too long for one of the encoders, which is named.
        """
        checked = []
        for name, scorer in self.scorers.items():
            try:
                checked.append(scorer.check(template))
            except TemplateError as error:
                raise TemplateError(f"{error} (model {name})", reason=error.reason) from error
        keys = dict.fromkeys(tokens.key for tokens in checked)
        return replace(checked[0], key="+".join(keys), longest=max(tokens.longest for tokens in checked))

    def score(self, templates: Sequence[Template]) -> list[Score]:
        """Return loss and accuracy of each template over all images, combined over the encoders."""
        return self._combined(self.score_each(templates))

    def score_each(self, templates: Sequence[Template]) -> dict[str, list[Score]]:
        """Return the scores of each template under each encoder."""
        return {name: scorer.score(templates) for name, scorer in self.scorers.items()}

    def tally_pairs(self, templates: Sequence[Template]) -> PairTally:
        """Return the sums and products of the outcomes of templates, each combined over the encoders per image."""
        each = self.score_each(templates)
        weights = np.tile(self._weights(each), 2)  # [E, 2K]
        rules = [scorer.outcome_rule(templates) for scorer in self.scorers.values()]
        index = {name: i for i, name in enumerate(self._first.classes)}
        labels = np.array([index[label] for label in self._first.labels])  # [N]
        block = max(1, TABLE_ELEMENTS // weights.shape[1])
        tally = PairTally.of(np.empty((0, weights.shape[1])), labels[:0], len(index))
        for start in range(0, len(labels), block):
            rows = slice(start, start + block)
            table = np.zeros((len(labels[rows]), weights.shape[1]))  # [n, 2K]
            for weight, scorer, rule in zip(weights, self.scorers.values(), rules, strict=True):
                table += weight * scorer.outcomes(templates, rows, rule)
            tally += PairTally.of(table, labels[rows], len(index))
        objective = self._first.objective
        scores = () if objective.is_default else tuple(self._combined(each))
        return replace(tally, unit=objective.unit, scores=scores)

    def _combined(self, each: Mapping[str, Sequence[Score]]) -> list[Score]:
        weights = self._weights(each)  # [E, K]
        accuracy, loss, goal, missed = (
            (weights * [[getattr(score, name) for score in scores] for scores in each.values()]).sum(axis=0).tolist()
            for name in ("accuracy", "loss", "goal", "missed")
        )
        has_value = next(iter(each.values()))[0].value is not None
        values = goal if has_value else [None] * len(goal)
        return [Score(min(a, 100.0), *others) for a, *others in zip(accuracy, loss, values, missed, strict=True)]

    def _weights(self, each: Mapping[str, Sequence[Score]]) -> Floats:
        """Return the weight of each encoder in the outcomes of each template, [E, K]."""
        count = len(next(iter(each.values())))
        if self.across == "mean":
            return np.full((len(each), count), 1 / len(each))
        ranks = [[score.rank for score in scores] for scores in each.values()]
        worst = [max(range(len(ranks)), key=lambda e: ranks[e][k]) for k in range(count)]
        return np.eye(len(each))[worst].T

"""`MultiLabelScorer`: scores templates on images with several labels or none, like `ClipScorer` on those with one."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.template_tokens import ClassTexts
from ipo_dspy.scoring.comparison import PairTally
from ipo_dspy.scoring.label_sets import label_text
from ipo_dspy.scoring.multi_label import (
    present_classes,
    ranked_precisions,
    tally_decision_pairs,
    tally_decisions,
    targets_of,
)
from ipo_dspy.scoring.objectives import DEFAULT, Objective
from ipo_dspy.scoring.score import Score
from ipo_dspy.scoring.scorers import LocalScorer
from ipo_dspy.scoring.tally import Tally
from ipo_dspy.template import Template


class MultiLabelScorer(LocalScorer):
    """Scores templates with one CLIP model that has a sigmoid head, in blocks; see `scoring.multi_label`.

    Args:
        backbone: the loaded model.
        image_features: [N, D] normalized.
        label_sets: N lists of class names.
        classes: C class names.
        texts: what is filled into templates for each class.
        objective: what scores are by: the accuracy or the loss.
    """

    def __init__(
        self,
        backbone: Backbone,
        image_features: Tensor,
        label_sets: Sequence[Sequence[str]],
        classes: Sequence[str],
        *,
        texts: ClassTexts,
        objective: Objective = DEFAULT,
    ) -> None:
        super().__init__(backbone, image_features, classes, texts, objective)
        self.targets = targets_of(label_sets, self.classes)  # [N, C]
        self._logits: dict[str, Any] = {"logit_scale": backbone.logit_scale, "logit_bias": backbone.logit_bias}

    def score(self, templates: Sequence[Template]) -> list[Score]:
        """Return the score of each template over all images and classes."""
        return [self.objective.score(tally) for tally in self.tally(templates)]

    def tally(self, templates: Sequence[Template], *, by_class: bool = False) -> list[Tally]:
        """Return the tally of each template, over all decisions; there are no other counts by class."""
        with self._on_features(templates) as features:
            return tally_decisions(self._features, self.targets, features, **self._logits)

    def tally_pairs(self, templates: Sequence[Template]) -> PairTally:
        """Return the sums and products of the outcomes of templates; those of disjoint image sets add up."""
        is_loss = not self.objective.is_default
        with self._on_features(templates) as features:
            pairs = tally_decision_pairs(
                self._features, self.targets, features, objective_is_loss=is_loss, **self._logits
            )
        return replace(pairs, unit=self.objective.unit, scores=tuple(self.score(templates))) if is_loss else pairs

    def predict(self, template: Template) -> list[str]:
        """Return the labels that are found in each image, as one text."""
        return [label_text([self.classes[i] for i in row.nonzero()[:, 0]]) for row in self.present(template)]

    def present(self, template: Template) -> Tensor:
        """Return the classes that are found in each image, [N, C] bool."""
        with self._on_features([template]) as features:
            return present_classes(self._features, features[0], **self._logits)

    def average_precisions(self, template: Template) -> dict[str, float]:
        """Return the average precision in percent of each class that has images."""
        with self._on_features([template]) as features:
            values = ranked_precisions(self._features, self.targets, features[0]).tolist()
        return {name: value for name, value in zip(self.classes, values, strict=True) if not math.isnan(value)}

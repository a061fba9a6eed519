"""Scorers: what turns templates into scores, behind one Protocol.

The search only asks a scorer; whether that is one model on this machine or many on a cluster is not its
concern. A scorer holds the images' features, so a candidate costs one pass of the text tower.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch

from ipo_dspy.clip.text import TemplateTokens, class_features, template_tokens
from ipo_dspy.errors import DataError
from ipo_dspy.history import Score
from ipo_dspy.metric import logits, score_templates
from ipo_dspy.template import Template

if TYPE_CHECKING:
    from torch import Tensor

    from ipo_dspy.clip.backbone import Backbone


class Checked(Protocol):
    """What a scorer knows of a template before it is scored."""

    @property
    def key(self) -> str:
        """Equal for templates that the model cannot tell apart."""

    @property
    def longest(self) -> int:
        """Tokens of the longest filled prompt, end marks included."""


class Scorer(Protocol):
    """Checks and scores templates against a fixed set of images."""

    def check(self, template: Template) -> Checked:
        """Identity and length of a template.

        Raises:
            TemplateError: filled with the longest class name it does not fit the model.
        """

    def score(self, templates: Sequence[Template]) -> list[Score]:
        """One score a template, in order, over all images."""


class ClipScorer:
    """Scores templates with one CLIP model on this machine.

    Args:
        backbone: the loaded model.
        image_features: [N, D] normalised.
        labels: N class names.
        classes: C class names; the text side of the classifier.
        choices: for each image the classes that it may be given, where they differ from image to image.
    """

    def __init__(
        self,
        backbone: "Backbone",
        image_features: "Tensor",
        labels: Sequence[str],
        classes: Sequence[str],
        *,
        choices: Sequence[Sequence[str]] | None = None,
    ) -> None:
        self.backbone = backbone
        self.classes = tuple(classes)
        self.labels = tuple(labels)
        self.image_features = image_features
        index = {name: i for i, name in enumerate(self.classes)}
        self._targets = torch.tensor([_known(label, index) for label in self.labels], dtype=torch.long)  # [N]
        self._allowed = None if choices is None else _mask(choices, index)  # [N, C]

    def check(self, template: Template) -> TemplateTokens:
        """Token key and length; raises TemplateError where the context is too short."""
        return template_tokens(self.backbone, template, self.classes)

    def score(self, templates: Sequence[Template]) -> list[Score]:
        """Loss and accuracy of each template over all images."""
        text = class_features(self.backbone, templates, self.classes)  # [T, C, D]
        return score_templates(
            self.image_features,
            self._targets,
            text,
            logit_scale=self.backbone.logit_scale,
            logit_bias=self.backbone.logit_bias,
            allowed=self._allowed,
        )

    def predict(self, template: Template) -> list[str]:
        """The class given to each image."""
        text = class_features(self.backbone, [template], self.classes)[0]  # [C, D]
        scores = logits(self.image_features, text, logit_scale=self.backbone.logit_scale, allowed=self._allowed)
        return [self.classes[i] for i in scores.argmax(dim=1).tolist()]


def _known(label: str, index: dict[str, int]) -> int:
    if label not in index:
        raise DataError(
            f"label {label!r} is not among the {len(index)} classes ({', '.join(list(index)[:5])}, ...); "
            "mend the label or add it: ClipClassifier(classes=[...])"
        )
    return index[label]


def _mask(choices: Sequence[Sequence[str]], index: dict[str, int]) -> "Tensor":
    mask = torch.zeros(len(choices), len(index), dtype=torch.bool)
    for row, names in enumerate(choices):
        mask[row, [_known(name, index) for name in names]] = True
    return mask

"""Zero-shot CLIP without learned parameters: a hand-written template, or the 80 published for ImageNet.

All methods here return a `TemplateClassifier`, which also represents the template of an IPO run in the same tables.

Letters: N images, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ipo_dspy.baselines.base import FewShotTask, Progress, Tower, clip_logits
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.image_features import ImageSource, encode_images
from ipo_dspy.clip.text_features import class_features
from ipo_dspy.scoring.imagenet_prompts import best_line, imagenet_templates
from ipo_dspy.scoring.scorers import ClipScorer
from ipo_dspy.template import Template


@dataclass(frozen=True, slots=True)
class TemplateClassifier:
    """CLIP with a template of any number of lines; several form an ensemble (`clip.text_features.class_features`).

    >>> from ipo_dspy import demo
    >>> task = demo.load("pixel-animals", shots=1)
    >>> classifier = TemplateClassifier(task.program.backbone, Template.parse("pixel art of a <CLASS>."))
    >>> classifier.logits([task.testset[0].image], ["bat", "bear", "boar"]).shape
    torch.Size([1, 3])
    """

    backbone: Backbone = field(repr=False)
    template: Template

    @torch.no_grad()
    def logits(self, images: Sequence[ImageSource], classes: Sequence[str]) -> Tensor:
        """Return logits [N, C]; see `FittedClassifier`."""
        features = encode_images(self.backbone, images).features.float()  # [N, D]
        return clip_logits(self.backbone, features, class_features(self.backbone, [self.template], classes)[0])


class ZeroShotClip:
    """Zero-shot CLIP with the hand-written template of the data set (Radford et al. 2021, section 3.1)."""

    towers: tuple[Tower, ...] = ()

    def fit(self, task: FewShotTask, *, seed: int = 0, progress: Progress | None = None) -> TemplateClassifier:
        """Return a classifier with the template of the task; its images are not used."""
        return TemplateClassifier(task.backbone, task.template)


class ClipEnsemble:
    """Zero-shot CLIP with the 80 prompts for ImageNet, for any data set (Radford et al. 2021, section 3.1.4)."""

    towers: tuple[Tower, ...] = ()

    def fit(self, task: FewShotTask, *, seed: int = 0, progress: Progress | None = None) -> TemplateClassifier:
        """Return the ensemble; images and template of the task are not used."""
        return TemplateClassifier(task.backbone, imagenet_templates())


class BestTemplate:
    """Zero-shot CLIP with the one of the 80 prompts for ImageNet that scores best on the images of the task.

    It shows how far trying a published list gets. `scoring.imagenet_prompts.best_line` has the rule.
    """

    towers: tuple[Tower, ...] = ()

    def fit(self, task: FewShotTask, *, seed: int = 0, progress: Progress | None = None) -> TemplateClassifier:
        """Return a classifier with one template, selected on all images of the task."""
        features = encode_images(task.backbone, task.images).features  # [N, D]
        scorer = ClipScorer(task.backbone, features, task.labels, task.classes)
        return TemplateClassifier(task.backbone, best_line(scorer, imagenet_templates()))

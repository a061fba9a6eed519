"""VPT: prompts in the image tower only; texts come from a template.

Jia, Tang, Chen, Cardie, Belongie, Hariharan, Lim: Visual Prompt Tuning, ECCV 2022. This is VPT-Deep as
in the code of MaPLe: prompts are appended after the patches, and classes are compared by their texts, so that novel
classes work. A template can still be optimized on the adapted image features (`PromptedClassifier.features`).

Letters: N images, C classes, P prompt tokens, W width of the image tower, D width of the features.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from ipo_dspy._internal.renames import renamed_fields
from ipo_dspy.baselines.base import FewShotTask, Progress, Tower, clip_logits, validate_field_types
from ipo_dspy.baselines.deep_prompts import PromptedClassifier, Prompts, check_prompts, init_prompts
from ipo_dspy.baselines.towers import ImageTower
from ipo_dspy.baselines.training import build_recipe, train
from ipo_dspy.baselines.training_views import Views, crops
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.text_features import class_features
from ipo_dspy.template import DEFAULT_TEMPLATE, Template


@dataclass(frozen=True, slots=True, eq=False)
class VisualPrompts:
    """A CLIP with prompts in its image tower, and a template of the texts."""

    backbone: Backbone = field(repr=False)
    template: Template
    prompts: Prompts = field(repr=False)

    @property
    def parameters(self) -> list[Tensor]:
        """Return all learned parameters."""
        return self.prompts.parameters

    def text_features(self, classes: Sequence[str]) -> Tensor:
        """Return normalized features of the filled template [C, D], on the CPU; see `PromptedModel`."""
        return class_features(self.backbone, [self.template], classes)[0]

    def image_features(self, pixels: Tensor) -> Tensor:
        """Encode preprocessed images [N, 3, H, W]; see `PromptedModel`."""
        return ImageTower(self.backbone).encode(pixels, self.prompts.first, self.prompts.deep)


@renamed_fields
@dataclass(frozen=True, slots=True)
class VPT:
    """Deep visual prompt tuning; defaults of the VPT in the code of MaPLe.

    Args:
        template: template of the texts; None for the hand-written one of the data set.
        n_ctx: P, number of tokens of a prompt.
        depth: number of blocks with separate prompts, including the first; at most all blocks. 1 is VPT-Shallow.
        epochs, batch_size, lr: passes over the images, images per step, and peak learning rate of SGD.
        augment: train on random crops and flips, drawn again in each epoch, as in the published configurations.
    """

    template: str | None = DEFAULT_TEMPLATE
    n_ctx: int = 8
    depth: int = 12
    epochs: int = 5
    batch_size: int = 4
    lr: float = 0.0025
    augment: bool = False

    towers: ClassVar[tuple[Tower, ...]] = ("image",)
    recipe = build_recipe

    def __post_init__(self) -> None:
        validate_field_types(self)
        check_prompts(self.n_ctx, self.depth)
        if self.template is not None:
            Template.parse(self.template)
        self.recipe()

    def fit(
        self, task: FewShotTask, *, seed: int = 0, progress: Progress | None = None
    ) -> PromptedClassifier[VisualPrompts]:
        """Learn the prompts by cross-entropy over the classes of the task; see `FewShotMethod`."""
        backbone, generator = task.backbone, torch.Generator().manual_seed(seed)
        prompts = init_prompts(backbone, ImageTower(backbone), self.n_ctx, self.depth, generator)
        template = task.template if self.template is None else Template.parse(self.template)
        model = VisualPrompts(backbone, template, prompts)
        text, targets = (x.to(backbone.device) for x in (model.text_features(task.classes), task.targets))
        views = Views(task, crops(self.augment), generator)

        def loss(indices: Tensor) -> Tensor:
            logits = clip_logits(backbone, model.image_features(views(indices)), text)
            return F.cross_entropy(logits, targets[indices])

        count, recipe = len(task.images), self.recipe()
        losses = train(model.parameters, loss, count, recipe=recipe, generator=generator, progress=progress)
        return PromptedClassifier(backbone, model, losses)

"""CoCoOp: CoOp's context plus an offset for each image, which a small network computes from the image's feature.

Zhou, Yang, Loy, Liu: Conditional Prompt Learning for Vision-Language Models, CVPR 2022. Every image has its own text
features, so N images and C classes need N x C texts. The text tower encodes at most `TEXTS` of them at a time.

Letters: N images, C classes, M context vectors, W width of the text tower, D width of the features, H hidden units.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from ipo_dspy._internal.renames import renamed_fields
from ipo_dspy.baselines.base import FewShotTask, LatestClasses, Progress, Tower, validate_field_types
from ipo_dspy.baselines.context_tokens import PromptedClassTexts, check_context, init_context
from ipo_dspy.baselines.seeded_linear import init_linear
from ipo_dspy.baselines.training import build_recipe, train
from ipo_dspy.baselines.training_views import training_features
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.image_features import ImageSource, encode_images

TEXTS = 2048
"""Batch size of the text tower without gradients."""

REDUCTION = 16
"""H = D / 16, as in the code of CoCoOp."""


class CoCoOpParams(NamedTuple):
    """The learned parameters: a context, and the meta-net that shifts it."""

    context: Tensor  # [M, W]
    in_weight: Tensor  # [H, D]
    in_bias: Tensor  # [H]
    out_weight: Tensor  # [W, H]
    out_bias: Tensor  # [W]

    def contexts(self, features: Tensor) -> Tensor:
        """Return the context of each image, v_m + pi: [N, D] to [N, M, W]."""
        hidden = F.relu(F.linear(features, self.in_weight, self.in_bias))  # [N, H]
        shift = F.linear(hidden, self.out_weight, self.out_bias)  # [N, W]
        return self.context + shift[:, None]

    def logits(self, texts: PromptedClassTexts, features: Tensor, backbone: Backbone) -> Tensor:
        """Return logits of each image against the texts of its context: [N, D] to [N, C]."""
        text = texts.features(self.contexts(features))  # [N, C, D]
        return backbone.logit_scale * (text @ features[:, :, None])[:, :, 0] + backbone.logit_bias


@dataclass(frozen=True, slots=True, eq=False)
class ConditionalClassifier:
    """CLIP with a context that depends on the image; `losses` are means of the training epochs."""

    backbone: Backbone = field(repr=False)
    learned: CoCoOpParams = field(repr=False)
    losses: tuple[float, ...] = field(default=(), repr=False)
    _texts: LatestClasses[PromptedClassTexts] = field(default_factory=LatestClasses, init=False, repr=False)

    @torch.no_grad()
    def logits(self, images: Sequence[ImageSource], classes: Sequence[str]) -> Tensor:
        """Return logits [N, C]; see `FittedClassifier`."""
        backbone = self.backbone
        features = encode_images(backbone, images).features.to(backbone.device, torch.float32)  # [N, D]
        texts = self._texts.get(classes, lambda names: PromptedClassTexts(backbone, names, len(self.learned.context)))
        parts = torch.split(features, max(1, TEXTS // len(classes)))
        return torch.cat([self.learned.logits(texts, part, backbone).cpu() for part in parts])


@renamed_fields
@dataclass(frozen=True, slots=True)
class CoCoOp:
    """Conditional context optimization; defaults are those of the base-to-novel experiments.

    Args:
        n_ctx: M random vectors, e.g. 4, instead of the words.
        ctx_init: initial words of the context, one vector per token.
        epochs, batch_size, lr: passes over the images, images per step, and peak learning rate of SGD. Each image of a
            step needs a text for every class.
        augment: train on random crops and flips, drawn again in each epoch, as in the published configurations.
    """

    n_ctx: int | None = None
    ctx_init: str = "a photo of a"
    epochs: int = 10
    batch_size: int = 1
    lr: float = 0.002
    augment: bool = False

    towers: ClassVar[tuple[Tower, ...]] = ("text",)
    recipe = build_recipe

    def __post_init__(self) -> None:
        validate_field_types(self)
        check_context(self.n_ctx, self.ctx_init)
        self.recipe()

    def fit(self, task: FewShotTask, *, seed: int = 0, progress: Progress | None = None) -> ConditionalClassifier:
        """Learn context and meta-net by cross-entropy over the classes of the task; see `FewShotMethod`."""
        backbone, generator = task.backbone, torch.Generator().manual_seed(seed)
        context = init_context(backbone, self.n_ctx, self.ctx_init, generator)  # [M, W]
        texts = PromptedClassTexts(backbone, task.classes, len(context))
        features = training_features(task, self.augment, generator)
        width = features(torch.tensor([0])).shape[1]  # D
        learned = CoCoOpParams(context, *meta_net(width, context.shape[1], backbone.device, generator))
        targets = task.targets.to(backbone.device)  # [N]

        def loss(indices: Tensor) -> Tensor:
            return F.cross_entropy(learned.logits(texts, features(indices), backbone), targets[indices])

        losses = train(learned, loss, len(task.images), recipe=self.recipe(), generator=generator, progress=progress)
        return ConditionalClassifier(backbone, learned, losses)


def meta_net(features: int, width: int, device: torch.device, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Return weights and biases of both layers, in order."""
    hidden = max(1, features // REDUCTION)
    return *init_linear(features, hidden, device, generator), *init_linear(hidden, width, device, generator)

"""PromptSRC: prompts in both towers, self-regularized toward the frozen CLIP, with Gaussian prompt aggregation.

Khattak, Wasim, Naseer, Khan, Yang, Khan: Self-regulating Prompts: Foundational Model Adaptation without Forgetting,
ICCV 2023. The prompts of the two towers are independent. Features and logits are regularized toward those of the same
CLIP without prompts, whose text features are a mean over many templates. Frozen image features never change, so they
are computed once, unless training uses random crops.

Letters: N images, n images of a batch, C classes, D width of the features, E epochs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from ipo_dspy._internal.renames import renamed_fields
from ipo_dspy.baselines.base import FewShotTask, Progress, Tower, clip_logits, validate_field_types
from ipo_dspy.baselines.deep_prompts import (
    PromptedClassifier,
    Prompts,
    TextPrompted,
    check_prompts,
    init_prompts,
    init_text_prompts,
)
from ipo_dspy.baselines.towers import ImageTower, TextTower
from ipo_dspy.baselines.training import build_recipe, train
from ipo_dspy.baselines.training_views import Views, crops, training_features
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.template_tokens import template_tokens
from ipo_dspy.errors import InputError
from ipo_dspy.scoring.imagenet_prompts import imagenet_templates
from ipo_dspy.template import Template

TEMPLATES = 60
"""Number of ImageNet templates in the official code: the first 60 of 80."""


@dataclass(frozen=True, slots=True, eq=False)
class IndependentPrompts(TextPrompted):
    """A CLIP with independent prompts in both towers."""

    image: Prompts = field(repr=False)

    @property
    def parameters(self) -> list[Tensor]:
        """Return all learned parameters."""
        return [*self.text.parameters, *self.image.parameters]

    def image_features(self, pixels: Tensor) -> Tensor:
        """Encode preprocessed images [N, 3, H, W]; see `PromptedModel`."""
        return ImageTower(self.backbone).encode(pixels, self.image.first, self.image.deep)


def init_independent(
    backbone: Backbone, ctx_init: str, n_ctx: int, depth: int, generator: torch.Generator
) -> IndependentPrompts:
    """Return the initial prompts: words for the first block of the text tower, random vectors everywhere else."""
    text = init_text_prompts(backbone, ctx_init, n_ctx, depth, generator)
    image = init_prompts(backbone, ImageTower(backbone), n_ctx, depth, generator)
    return IndependentPrompts(backbone, ctx_init, text, image)


class ModelOutputs(NamedTuple):
    """Model outputs: normalized features and logits."""

    image: Tensor  # [n, D]
    text: Tensor  # [C, D]
    logits: Tensor  # [n, C]


def compute_outputs(backbone: Backbone, image: Tensor, text: Tensor) -> ModelOutputs:
    """Return features with their logits at the scale of a model."""
    return ModelOutputs(image, text, clip_logits(backbone, image, text))


@torch.no_grad()
def frozen_text(backbone: Backbone, classes: Sequence[str]) -> Tensor:
    """Return normalized text features of the model without prompts, a mean over many templates: [C, D].

    The templates are the first 60 of the 80 for ImageNet, and features are averaged before normalization, both as in
    the official code.
    """
    tower, template = TextTower(backbone), Template.parse("\n".join(imagenet_templates().lines[:TEMPLATES]))
    template_tokens(backbone, template, classes)  # checks the lengths
    means = []
    for name in classes:
        texts = tower.embed(backbone.token_ids(template.fill(name)))  # 60 of them
        means.append(tower.encode(texts.tokens, texts.ends, normalize=False).mean(dim=0))  # [D]
    return F.normalize(torch.stack(means), dim=-1)


def regularized_loss(
    learned: ModelOutputs, kept: ModelOutputs, targets: Tensor, *, text_weight: float, image_weight: float
) -> Tensor:
    """Return the cross-entropy plus three terms that regularize a model toward a frozen one.

    Features are compared by their mean absolute difference. Logits are compared by the KL divergence of their
    distributions, divided by the number of logits, not of images, as in the official code; this term has weight 1.
    `targets` are class indices [n].
    """
    learned_log_probs, frozen_log_probs = learned.logits.log_softmax(dim=1), kept.logits.log_softmax(dim=1)  # [n, C]
    return (
        F.cross_entropy(learned.logits, targets)
        + text_weight * F.l1_loss(learned.text, kept.text)
        + image_weight * F.l1_loss(learned.image, kept.image)
        + F.kl_div(learned_log_probs, frozen_log_probs, reduction="sum", log_target=True) / learned_log_probs.numel()
    )


def epoch_weights(epochs: int, mean: float, std: float) -> Tensor:
    """Return a Gaussian over the epochs 1 to E that sums to 1: [E].

    It is computed as a softmax, so that a mean far from all epochs does not underflow to zero weights.
    """
    numbers = torch.arange(1, epochs + 1, dtype=torch.float64)
    return torch.softmax(-((numbers - mean) / std).square() / 2, dim=0)


class WeightedMean:
    """Mean of parameters over the training epochs, with weights [E]."""

    def __init__(self, parameters: Sequence[Tensor], weights: Tensor) -> None:
        self._parameters, self._weights = parameters, weights.tolist()
        self._sums = [torch.zeros_like(parameter, requires_grad=False) for parameter in parameters]

    @torch.no_grad()
    def add(self, epoch: int) -> None:
        """Add the parameters after an epoch, counted from 1."""
        for total, parameter in zip(self._sums, self._parameters, strict=True):
            total.add_(parameter, alpha=self._weights[epoch - 1])

    @torch.no_grad()
    def put(self) -> None:
        """Set the parameters to their means."""
        for total, parameter in zip(self._sums, self._parameters, strict=True):
            parameter.copy_(total)


@renamed_fields
@dataclass(frozen=True, slots=True)
class PromptSRC:
    """Self-regulating prompts; defaults are from the base-to-novel experiments.

    Args:
        n_ctx: number of tokens of every prompt, in both towers.
        ctx_init: first words of a text, whose first `n_ctx` tokens initialize the first prompt.
        depth: number of blocks with separate prompts, in both towers; at most all blocks of a tower.
        text_weight, image_weight: weights of the terms that keep text and image features close to the frozen ones.
        gpa_mean, gpa_std: mean and standard deviation, in epochs, of the Gaussian weights of prompt averaging.
        epochs, batch_size, lr: passes over the images, images per step, and peak learning rate of SGD.
        augment: train on random crops and flips, drawn again in each epoch, as in the published configurations.
    """

    n_ctx: int = 4
    ctx_init: str = "a photo of a"
    depth: int = 9
    text_weight: float = 25.0
    image_weight: float = 10.0
    gpa_mean: float = 15.0
    gpa_std: float = 1.0
    epochs: int = 20
    batch_size: int = 4
    lr: float = 0.0025
    augment: bool = False

    towers: ClassVar[tuple[Tower, ...]] = ("text", "image")
    recipe = build_recipe

    def __post_init__(self) -> None:
        validate_field_types(self)
        check_prompts(self.n_ctx, self.depth)
        for name in ("text_weight", "image_weight"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be >= 0, got {getattr(self, name)!r}; for example 10")
        if self.gpa_std <= 0:
            raise InputError(f"gpa_std must be positive, got {self.gpa_std!r}; for example 1")
        self.recipe()

    def fit(
        self, task: FewShotTask, *, seed: int = 0, progress: Progress | None = None
    ) -> PromptedClassifier[IndependentPrompts]:
        """Learn the prompts of both towers by the regularized cross-entropy; see `FewShotMethod`."""
        backbone, generator = task.backbone, torch.Generator().manual_seed(seed)
        model = init_independent(backbone, self.ctx_init, self.n_ctx, self.depth, generator)
        texts, targets = model.texts(task.classes), task.targets.to(backbone.device)  # [N]
        frozen, views = frozen_text(backbone, task.classes), Views(task, crops(self.augment), generator)
        tower = ImageTower(backbone)
        fixed_features = None if self.augment else training_features(task, False, generator)
        mean = WeightedMean(model.parameters, epoch_weights(self.epochs, self.gpa_mean, self.gpa_std))

        def loss(indices: Tensor) -> Tensor:
            pixels = views(indices)
            with torch.no_grad():
                image = tower.encode(pixels) if fixed_features is None else fixed_features(indices)  # [n, D]
            learned = compute_outputs(backbone, model.image_features(pixels), model.features(texts))
            weights = {"text_weight": self.text_weight, "image_weight": self.image_weight}
            return regularized_loss(learned, compute_outputs(backbone, image, frozen), targets[indices], **weights)

        count, recipe = len(task.images), self.recipe()
        losses = train(
            model.parameters, loss, count, recipe=recipe, generator=generator, progress=progress, after_epoch=mean.add
        )
        mean.put()
        return PromptedClassifier(backbone, model, losses)

"""MaPLe: prompts in both towers; learned linear layers map the text prompts to the image prompts.

Khattak, Rasheed, Maaz, Khan, Khan: MaPLe: Multi-modal Prompt Learning, CVPR 2023. The first J blocks of both towers
have prompts. Each of these blocks has a separate coupling, and gradients of both towers add up in the text prompts.

Letters: N images, C classes, P prompt tokens, W and V widths of the text and the image tower, D width of the features.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from ipo_dspy._internal.renames import renamed_fields
from ipo_dspy.baselines.base import FewShotTask, Progress, Tower, clip_logits, validate_field_types
from ipo_dspy.baselines.deep_prompts import PromptedClassifier, Prompts, TextPrompted, check_prompts, init_text_prompts
from ipo_dspy.baselines.seeded_linear import Linear, init_linear
from ipo_dspy.baselines.towers import ImageTower, TextTower
from ipo_dspy.baselines.training import build_recipe, train
from ipo_dspy.baselines.training_views import Views, crops
from ipo_dspy.clip.backbone import Backbone


@dataclass(frozen=True, slots=True, eq=False)
class CoupledPrompts(TextPrompted):
    """A CLIP with text prompts and the couplings that map them to image prompts."""

    couplings: tuple[Linear, ...] = field(repr=False)  # from W to V, for the first prompts and for each deep prompt

    @property
    def parameters(self) -> list[Tensor]:
        """Return all learned parameters."""
        return [*self.text.parameters, *(tensor for layer in self.couplings for tensor in layer)]

    @property
    def image(self) -> Prompts:
        """Return the prompts of the image tower, [P, V] per block, from the coupling functions."""
        first, *deep = (layer(prompt) for layer, prompt in zip(self.couplings, self.text.parameters, strict=True))
        return Prompts(first, tuple(deep))

    def image_features(self, pixels: Tensor) -> Tensor:
        """Encode preprocessed images [N, 3, H, W]; see `PromptedModel`."""
        image = self.image
        return ImageTower(self.backbone).encode(pixels, image.first, image.deep)


@renamed_fields
@dataclass(frozen=True, slots=True)
class MaPLe:
    """Multi-modal prompt learning; defaults are from the base-to-novel experiments.

    Args:
        n_ctx: P, number of tokens of a prompt.
        ctx_init: first words of a text, whose first P tokens initialize the first prompts. If it has fewer tokens, it
            is left out and the prompts start from random vectors.
        depth: J, number of blocks with separate prompts, including the first; at most all blocks of a tower.
        epochs, batch_size, lr: passes over the images, images per step, and peak learning rate of SGD.
        augment: train on random crops and flips, drawn again in each epoch, as in the published configurations.
    """

    n_ctx: int = 2
    ctx_init: str = "a photo of a"
    depth: int = 9
    epochs: int = 5
    batch_size: int = 4
    lr: float = 0.0035
    augment: bool = False

    towers: ClassVar[tuple[Tower, ...]] = ("text", "image")
    recipe = build_recipe

    def __post_init__(self) -> None:
        validate_field_types(self)
        check_prompts(self.n_ctx, self.depth)
        self.recipe()

    def fit(
        self, task: FewShotTask, *, seed: int = 0, progress: Progress | None = None
    ) -> PromptedClassifier[CoupledPrompts]:
        """Learn prompts and couplings by cross-entropy over the classes of the task; see `FewShotMethod`."""
        backbone, generator = task.backbone, torch.Generator().manual_seed(seed)
        model = init_coupled(backbone, self.ctx_init, self.n_ctx, self.depth, generator)
        texts, targets = model.texts(task.classes), task.targets.to(backbone.device)  # [N]
        views = Views(task, crops(self.augment), generator)

        def loss(indices: Tensor) -> Tensor:
            logits = clip_logits(backbone, model.image_features(views(indices)), model.features(texts))
            return F.cross_entropy(logits, targets[indices])

        count, recipe = len(task.images), self.recipe()
        losses = train(model.parameters, loss, count, recipe=recipe, generator=generator, progress=progress)
        return PromptedClassifier(backbone, model, losses)


def init_coupled(
    backbone: Backbone, ctx_init: str, n_ctx: int, depth: int, generator: torch.Generator
) -> CoupledPrompts:
    """Initialize the first prompts from words, random deep prompts, and couplings as in `torch.nn.Linear`.

    All deep couplings start from the same weights, as in the code of MaPLe. The smaller tower limits the depth.
    """
    tower, image = TextTower(backbone), ImageTower(backbone)
    prompts = init_text_prompts(backbone, ctx_init, n_ctx, min(depth, image.depth), generator)
    shallow, deep = (init_linear(tower.width, image.width, backbone.device, generator) for _ in range(2))
    return CoupledPrompts(backbone, ctx_init, prompts, (shallow, *(deep.copied() for _ in prompts.deep)))

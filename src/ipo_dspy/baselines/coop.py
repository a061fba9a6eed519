"""CoOp: the words around the class name become vectors that are learned from a few images.

Zhou, Yang, Loy, Liu: Learning to Prompt for Vision-Language Models, IJCV 2022. One context for all classes ("unified"),
as in base-to-novel tables; class-specific contexts do not extend to novel classes. Image features never change, so
every image is encoded once, unless training uses random crops (`augment=True`).

Letters: N images, C classes, M context vectors, W width of the text tower, D width of the features.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from ipo_dspy._internal.renames import renamed_fields
from ipo_dspy.baselines.base import FewShotTask, LatestClasses, Progress, Tower, clip_logits, validate_field_types
from ipo_dspy.baselines.context_tokens import Position, PromptedClassTexts, check_context, init_context
from ipo_dspy.baselines.training import SGDConfig, train
from ipo_dspy.baselines.training_views import training_features
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.image_features import ImageSource, encode_images


@dataclass(frozen=True, slots=True, eq=False)
class ContextClassifier:
    """CLIP with a learned context around the class name; `losses` are means of the training epochs."""

    backbone: Backbone = field(repr=False)
    context: Tensor = field(repr=False)  # [M, W]
    position: Position = "end"
    losses: tuple[float, ...] = field(default=(), repr=False)
    _texts: LatestClasses[Tensor] = field(default_factory=LatestClasses, init=False, repr=False)

    @torch.no_grad()
    def logits(self, images: Sequence[ImageSource], classes: Sequence[str]) -> Tensor:
        """Return logits [N, C]; see `FittedClassifier`."""
        features = encode_images(self.backbone, images).features.float()  # [N, D]
        return clip_logits(self.backbone, features, self._texts.get(classes, self._text_features))

    def _text_features(self, classes: tuple[str, ...]) -> Tensor:
        texts = PromptedClassTexts(self.backbone, classes, len(self.context), self.position)
        return texts.features(self.context[None])[0].cpu()  # [C, D]


@renamed_fields
@dataclass(frozen=True, slots=True)
class CoOp:
    """Context optimization: the text is a learned context with the class name after, within, or before it.

    Defaults are from the base-to-novel experiments (Zhou et al. 2022, "CoCoOp").

    Args:
        n_ctx: M random vectors, e.g. 16, instead of the words.
        ctx_init: initial words of the context, one vector per token.
        position: position of the class name.
        epochs: passes over the images; None for 200 with at least 8 shots, 100 with at least 2, and 50 with 1, as in
            CoOp's paper.
        batch_size: images per step.
        lr: peak learning rate of SGD.
        augment: train on random crops and flips, drawn again in each epoch, as in the published configurations.

    >>> CoOp().recipe(["cat", "dog", "dog"]).epochs
    100
    """

    n_ctx: int | None = None
    ctx_init: str = "a photo of a"
    position: Position = "end"
    epochs: int | None = None
    batch_size: int = 32
    lr: float = 0.002
    augment: bool = False

    towers: ClassVar[tuple[Tower, ...]] = ("text",)

    def __post_init__(self) -> None:
        validate_field_types(self)
        check_context(self.n_ctx, self.ctx_init, self.position)
        self.recipe([])

    def recipe(self, labels: Sequence[str]) -> SGDConfig:
        """Return the optimization hyper-parameters for training images with these labels."""
        shots = max(Counter(labels).values(), default=0)
        usual = 200 if shots >= 8 else 100 if shots >= 2 else 50
        epochs = usual if self.epochs is None else self.epochs
        return SGDConfig(epochs=epochs, batch_size=self.batch_size, lr=self.lr)

    def fit(self, task: FewShotTask, *, seed: int = 0, progress: Progress | None = None) -> ContextClassifier:
        """Learn the context by cross-entropy over the classes of the task; see `FewShotMethod`."""
        backbone, generator = task.backbone, torch.Generator().manual_seed(seed)
        context = init_context(backbone, self.n_ctx, self.ctx_init, generator)  # [M, W]
        texts = PromptedClassTexts(backbone, task.classes, len(context), self.position)
        features = training_features(task, self.augment, generator)
        targets = task.targets.to(backbone.device)  # [N]

        def loss(indices: Tensor) -> Tensor:
            text = texts.features(context[None])[0]  # [C, D]
            return F.cross_entropy(clip_logits(backbone, features(indices), text), targets[indices])

        recipe = self.recipe(task.labels)
        losses = train([context], loss, len(task.images), recipe=recipe, generator=generator, progress=progress)
        return ContextClassifier(backbone, context, self.position, losses)

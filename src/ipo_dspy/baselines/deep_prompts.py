"""Shared code of methods with learned prompts in the image tower: prompts, texts, classifier.

The image tower runs in every epoch and for every classifier, so image features are not cached. A method consists of a
model (`PromptedModel`) and a loss for `training.train`; fitting returns a `PromptedClassifier` of that model.

Letters: N images, C classes, P prompt tokens, L tokens, W width of a tower, D width of the features.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from ipo_dspy.baselines.base import LatestClasses, clip_logits
from ipo_dspy.baselines.context_tokens import STD, PromptedClassTexts, init_context, spelled
from ipo_dspy.baselines.towers import ImageTower, TextTower
from ipo_dspy.baselines.training_views import preprocess
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.image_features import ImageSource
from ipo_dspy.errors import InputError

BLOCK = 64
"""Batch size of the image tower without gradients."""


class Prompts(NamedTuple):
    """The learned tokens of one tower."""

    first: Tensor  # of the first block, [P, W]
    deep: tuple[Tensor, ...] = ()  # replace them before the second block, the third, and so on, each [P, W]

    @property
    def parameters(self) -> list[Tensor]:
        """Return all prompts in the order of the blocks."""
        return [self.first, *self.deep]


class PromptedModel(Protocol):
    """A frozen CLIP with learned parameters, the only ones that receive gradients."""

    @property
    def parameters(self) -> list[Tensor]:
        """Return all learned parameters."""
        ...

    def image_features(self, pixels: Tensor) -> Tensor:
        """Encode preprocessed images [N, 3, H, W] to normalized float32 features [N, D]."""
        ...

    def text_features(self, classes: Sequence[str]) -> Tensor:
        """Return normalized float32 features [C, D]; raise `InputError` for a name that does not fit the model."""
        ...


Model = TypeVar("Model", bound=PromptedModel)


@dataclass(frozen=True, slots=True, eq=False)
class PromptedClassifier(Generic[Model]):
    """CLIP with learned prompts in its towers; `losses` are means of the training epochs."""

    backbone: Backbone = field(repr=False)
    model: Model = field(repr=False)
    losses: tuple[float, ...] = field(default=(), repr=False)
    _texts: LatestClasses[Tensor] = field(default_factory=LatestClasses, init=False, repr=False)

    def logits(self, images: Sequence[ImageSource], classes: Sequence[str]) -> Tensor:
        """Return logits [N, C]; see `FittedClassifier`."""
        text = self.text_features(classes)  # [C, D]
        return clip_logits(self.backbone, self.features(images), text)

    @torch.no_grad()
    def features(self, images: Sequence[ImageSource]) -> Tensor:
        """Return normalized features of the images [N, D], float32, on the CPU; they are not cached."""
        blocks = [images[start : start + BLOCK] for start in range(0, max(len(images), 1), BLOCK)]
        return torch.cat([self.model.image_features(preprocess(self.backbone, block)).cpu() for block in blocks])

    @torch.no_grad()
    def text_features(self, classes: Sequence[str]) -> Tensor:
        """Return the normalized features of the classes [C, D], on the CPU."""
        return self._texts.get(classes, lambda names: self.model.text_features(names).cpu())


@dataclass(frozen=True, slots=True, eq=False)
class TextPrompted:
    """A CLIP with prompts in its text tower: the common part of models with prompts in both towers."""

    backbone: Backbone = field(repr=False)
    ctx_init: str  # first words of a text; prompts replace its first tokens
    text: Prompts = field(repr=False)

    def texts(self, classes: Sequence[str]) -> PromptedClassTexts:
        """Prepare the texts of the classes, for repeated encoding."""
        return PromptedClassTexts(self.backbone, classes, len(self.text.first), ctx_init=self.ctx_init)

    def features(self, texts: PromptedClassTexts) -> Tensor:
        """Return normalized features of prepared texts, with gradients to the prompts: [C, D]."""
        return texts.features(self.text.first[None], self.text.deep)[0]

    def text_features(self, classes: Sequence[str]) -> Tensor:
        """Return normalized features [C, D]; see `PromptedModel`."""
        return self.features(self.texts(classes))


def init_prompts(
    backbone: Backbone, tower: TextTower | ImageTower, n_ctx: int, depth: int, generator: torch.Generator
) -> Prompts:
    """Return random normal prompts (std 0.02, as in the code of MaPLe), leaves that require gradients.

    The first `depth` blocks of the tower have `n_ctx` prompts each, or all blocks if it has fewer.
    """
    shape = (min(depth, tower.depth), n_ctx, tower.width)
    stacked = (torch.randn(shape, generator=generator) * STD).to(backbone.device)
    first, *deep = (prompt.clone().requires_grad_() for prompt in stacked)
    return Prompts(first, tuple(deep))


def init_from_words(backbone: Backbone, ctx_init: str, n_ctx: int, generator: torch.Generator) -> Tensor:
    """Return the embeddings of the first tokens of the words, or random ones if there are fewer: [P, W], a leaf."""
    if n_ctx > len(spelled(backbone, ctx_init)):
        return init_context(backbone, n_ctx, ctx_init, generator)
    return init_context(backbone, None, ctx_init, generator).detach()[:n_ctx].clone().requires_grad_()


def init_text_prompts(backbone: Backbone, ctx_init: str, n_ctx: int, depth: int, generator: torch.Generator) -> Prompts:
    """Return prompts of the text tower as by `init_prompts`, but the first ones from words."""
    first = init_from_words(backbone, ctx_init, n_ctx, generator)  # [P, W]
    return init_prompts(backbone, TextTower(backbone), n_ctx, depth, generator)._replace(first=first)


def check_prompts(n_ctx: int, depth: int) -> None:
    """Raise `InputError` for a negative number of tokens, or no block with prompts."""
    if n_ctx < 0:
        raise InputError(f"n_ctx must be >= 0, got {n_ctx}; for example n_ctx=2")
    if depth < 1:
        raise InputError(f"depth must be >= 1 (1 = shallow prompts), got {depth}")

"""Parts of the methods whose image features depend on what is learned: prompts, texts, training, classifier.

An image then goes through the tower in every epoch and for every classifier, so no feature of it is remembered. Images
that are classified pass in blocks; `views` has those that are learned from.

A method is a model (`PromptedModel`) with its parameters and a loss of some images for `descent.train`; fitting gives a
`PromptedClassifier` of that model.

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
"""Images that go through the tower at a time where no gradients are kept."""


class Prompts(NamedTuple):
    """The learned tokens of one tower.

    Attributes:
        first: those of the first block, [P, W].
        deep: those that take their places before the second block, the third, and so on, each [P, W].
    """

    first: Tensor
    deep: tuple[Tensor, ...] = ()

    @property
    def parameters(self) -> list[Tensor]:
        """All of them, the first ones first."""
        return [self.first, *self.deep]


class PromptedModel(Protocol):
    """A frozen CLIP with something learned in it; gradients reach what is learned and nothing else."""

    @property
    def parameters(self) -> list[Tensor]:
        """All that is learned."""
        ...

    def image_features(self, pixels: Tensor) -> Tensor:
        """Preprocessed images [N, 3, H, W] to normalized float32 features [N, D]."""
        ...

    def text_features(self, classes: Sequence[str]) -> Tensor:
        """Normalized float32 features [C, D].

        Raises:
            InputError: no classes, or a name that does not fit the model.
        """
        ...


Model = TypeVar("Model", bound=PromptedModel)


@dataclass(frozen=True, slots=True, eq=False)
class PromptedClassifier(Generic[Model]):
    """CLIP with what was learned in its towers.

    Attributes:
        backbone: the CLIP that it was learned with.
        model: the same CLIP with what was learned.
        losses: mean training loss of each epoch.
    """

    backbone: Backbone = field(repr=False)
    model: Model = field(repr=False)
    losses: tuple[float, ...] = field(default=(), repr=False)
    _texts: LatestClasses[Tensor] = field(default_factory=LatestClasses, init=False, repr=False)

    def logits(self, images: Sequence[ImageSource], classes: Sequence[str]) -> Tensor:
        """Logits [N, C], float32, on the CPU.

        Raises:
            InputError: no classes, or a name that does not fit the model. ImageError: an image cannot be read.
        """
        text = self.text_features(classes)  # [C, D]
        return clip_logits(self.backbone, self.features(images), text)

    @torch.no_grad()
    def features(self, images: Sequence[ImageSource]) -> Tensor:
        """Normalized features of the images [N, D], float32, on the CPU; nothing is remembered.

        Raises:
            DataError: no images. ImageError: one cannot be read.
        """
        parts = [images[start : start + BLOCK] for start in range(0, max(len(images), 1), BLOCK)]
        return torch.cat([self.model.image_features(preprocess(self.backbone, part)).cpu() for part in parts])

    @torch.no_grad()
    def text_features(self, classes: Sequence[str]) -> Tensor:
        """Return the normalized features of the classes [C, D], on the CPU.

        Raises:
            InputError: no classes, or a name that does not fit the model.
        """
        return self._texts.get(classes, lambda names: self.model.text_features(names).cpu())


class PromptedTexts:
    """The texts of some classes, such as `a photo of a NAME.`, whose first tokens give way to learned ones.

    See `PromptedClassTexts` for the arguments, and for what is raised.
    """

    def __init__(self, backbone: Backbone, classes: Sequence[str], ctx_init: str, n_ctx: int) -> None:
        self._texts = PromptedClassTexts(backbone, classes, n_ctx, ctx_init=ctx_init)

    def features(self, prompts: Prompts) -> Tensor:
        """Normalized features of every class, with gradients to the prompts: [C, D]."""
        return self._texts.features(prompts.first[None], prompts.deep)[0]


@dataclass(frozen=True, slots=True, eq=False)
class TextPrompted:
    """A CLIP with prompts in its text tower: the common part of models with prompts in both towers.

    Attributes:
        backbone: the frozen CLIP.
        ctx_init: first words of a text; prompts take the places of the first of its tokens.
        text: prompts of the text tower, [P, W] a block.
    """

    backbone: Backbone = field(repr=False)
    ctx_init: str
    text: Prompts = field(repr=False)

    def texts(self, classes: Sequence[str]) -> PromptedTexts:
        """The texts of some classes, ready for many passes."""
        return PromptedTexts(self.backbone, classes, self.ctx_init, len(self.text.first))

    def text_features(self, classes: Sequence[str]) -> Tensor:
        """Normalized features [C, D]; see `PromptedModel`."""
        return self.texts(classes).features(self.text)


def init_prompts(
    backbone: Backbone, tower: TextTower | ImageTower, n_ctx: int, depth: int, generator: torch.Generator
) -> Prompts:
    """Random prompts, normal with 0.02, as in the code of MaPLe; leaves that require gradients.

    Args:
        backbone: the model of the tower.
        tower: where they will stand.
        n_ctx: P.
        depth: how many blocks get prompts of their own, the first included; at most all that there are.
        generator: on the CPU.
    """
    shape = (min(depth, tower.depth), n_ctx, tower.width)
    drawn = (torch.randn(shape, generator=generator) * STD).to(backbone.device)
    first, *deep = (one.clone().requires_grad_() for one in drawn)
    return Prompts(first, tuple(deep))


def init_from_words(backbone: Backbone, ctx_init: str, n_ctx: int, generator: torch.Generator) -> Tensor:
    """The first tokens of the words, or random ones where the words have fewer: [P, W], a leaf with gradients."""
    if n_ctx > len(spelled(backbone, ctx_init)):
        return init_context(backbone, n_ctx, ctx_init, generator)
    return init_context(backbone, None, ctx_init, generator).detach()[:n_ctx].clone().requires_grad_()


def check_prompts(n_ctx: int, depth: int) -> None:
    """Refuse prompts that cannot be.

    Raises:
        InputError: a negative number of tokens, or no block to put them in.
    """
    if n_ctx < 0:
        raise InputError(f"n_ctx must be >= 0, got {n_ctx}; for example n_ctx=2")
    if depth < 1:
        raise InputError(f"depth must be >= 1 (1 = shallow prompts), got {depth}")

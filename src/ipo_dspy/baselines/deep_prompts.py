"""Parts of the methods whose image features depend on what is learned: prompts, texts, training, classifier.

An image then goes through the tower in every epoch and for every classifier, so no feature of it is remembered. Images
that are classified pass in blocks; `views` has those that are learned from.

A method is a model (`Prompted`) with its parameters, a loss of some images, and `learn`; what it gives is a
`PromptedClassifier` of that model.

Letters: N images, C classes, P prompt tokens, L tokens, W width of a tower, D width of the features.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from ipo_dspy.baselines.base import FewShot, Progress
from ipo_dspy.baselines.context_tokens import STD, check_lengths, first_context
from ipo_dspy.baselines.towers import ImageTower, TextTower
from ipo_dspy.baselines.training import Recipe, train
from ipo_dspy.baselines.training_views import preprocess
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.image_features import ImageSource
from ipo_dspy.clip.prefix_trie import TokenList
from ipo_dspy.errors import InputError
from ipo_dspy.scoring.metrics import logits
from ipo_dspy.template import spoken

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


class Prompted(Protocol):
    """A frozen CLIP with something learned in it; gradients reach what is learned and nothing else."""

    @property
    def parameters(self) -> list[Tensor]:
        """All that is learned."""
        ...

    def image_features(self, pixels: Tensor) -> Tensor:
        """Preprocessed images [N, 3, H, W] to normalised float32 features [N, D]."""
        ...

    def text_features(self, classes: Sequence[str]) -> Tensor:
        """Normalised float32 features [C, D].

        Raises:
            InputError: no classes, or a name that does not fit the model.
        """
        ...


Model = TypeVar("Model", bound=Prompted)


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
    _known: dict[tuple[str, ...], Tensor] = field(default_factory=dict, init=False, repr=False)

    def logits(self, images: Sequence[ImageSource], classes: Sequence[str]) -> Tensor:
        """Logits [N, C], float32, on the CPU.

        Raises:
            InputError: no classes, or a name that does not fit the model. ImageError: an image cannot be read.
        """
        scale, bias = self.backbone.logit_scale, self.backbone.logit_bias
        text = self.text_features(classes)  # [C, D]
        return logits(self.features(images), text, logit_scale=scale, logit_bias=bias)

    @torch.no_grad()
    def features(self, images: Sequence[ImageSource]) -> Tensor:
        """Normalised features of the images [N, D], float32, on the CPU; nothing is remembered.

        Raises:
            DataError: no images. ImageError: one cannot be read.
        """
        parts = [images[start : start + BLOCK] for start in range(0, max(len(images), 1), BLOCK)]
        return torch.cat([self.model.image_features(preprocess(self.backbone, part)).cpu() for part in parts])

    @torch.no_grad()
    def text_features(self, classes: Sequence[str]) -> Tensor:
        """Normalised features of the classes [C, D] on the CPU; those of the latest are kept, as images come in blocks.

        Raises:
            InputError: no classes, or a name that does not fit the model.
        """
        names = tuple(classes)
        found = self._known.get(names)
        if found is None:
            found = self.model.text_features(names).cpu()
            self._known.clear()
            self._known[names] = found
        return found


class PromptedTexts:
    """The texts of some classes, such as `a photo of a NAME.`, whose first words give way to learned tokens.

    Args:
        backbone: a CLIP whose text tower takes learned tokens.
        classes: C names.
        words: what a text begins with.
        count: P. Where the words have fewer tokens than that, they go and P tokens stand before the name.

    Raises:
        InputError: another kind of text tower, no classes, or a class whose text does not fit.
    """

    def __init__(self, backbone: Backbone, classes: Sequence[str], words: str, count: int) -> None:
        self._tower, self._count = TextTower(backbone), count
        rows = _rows(backbone, classes, words, count)
        check_lengths(rows, classes, count, backbone.context_length)
        embedded = self._tower.embed(rows)
        self._tokens, self._ends = embedded.tokens, embedded.ends  # [C, L, W], [C]

    def features(self, prompts: Prompts) -> Tensor:
        """Normalised features of every class, with gradients to the prompts: [C, D]."""
        first = prompts.first.expand(len(self._tokens), -1, -1)  # [C, P, W]
        tokens = torch.cat([self._tokens[:, :1], first, self._tokens[:, 1 + self._count :]], dim=1)  # [C, L, W]
        return self._tower.encode(tokens, self._ends, prompts.deep)


def draw_prompts(
    backbone: Backbone, tower: TextTower | ImageTower, count: int, depth: int, generator: torch.Generator
) -> Prompts:
    """Random prompts, normal with 0.02, as in the code of MaPLe; leaves that require gradients.

    Args:
        backbone: the model of the tower.
        tower: where they will stand.
        count: P.
        depth: how many blocks get prompts of their own, the first included; at most all that there are.
        generator: on the CPU.
    """
    shape = (min(depth, tower.depth), count, tower.width)
    drawn = (torch.randn(shape, generator=generator) * STD).to(backbone.device)
    first, *deep = (one.clone().requires_grad_() for one in drawn)
    return Prompts(first, tuple(deep))


def first_words(backbone: Backbone, words: str, count: int, generator: torch.Generator) -> Tensor:
    """The first tokens of the words, or random ones where the words have fewer: [P, W], a leaf with gradients."""
    spelled = _spelled(backbone, words)
    if count > len(spelled):
        return first_context(backbone, count, words, generator)
    return first_context(backbone, None, words, generator).detach()[:count].clone().requires_grad_()


def check_prompts(n_ctx: int, depth: int) -> None:
    """Refuse prompts that cannot be.

    Raises:
        InputError: a negative number of tokens, or no block to put them in.
    """
    if n_ctx < 0:
        raise InputError(f"n_ctx={n_ctx} is no number of prompt tokens; write e.g. n_ctx=2")
    if depth < 1:
        raise InputError(f"depth={depth} leaves no block for prompts; write depth=1 for the first alone, or more")


def learn(
    task: FewShot,
    parameters: Sequence[Tensor],
    loss_of_batch: Callable[[Tensor], Tensor],
    *,
    recipe: Recipe,
    generator: torch.Generator,
    progress: Progress | None = None,
    after_epoch: Callable[[int], None] | None = None,
) -> tuple[float, ...]:
    """Learn parameters in place from the training images; afterwards they take no gradients any more.

    See `descent.train` for the arguments.

    Returns:
        The mean loss of an image in each epoch.
    """
    losses = train(
        parameters,
        loss_of_batch,
        len(task.images),
        recipe=recipe,
        generator=generator,
        progress=progress,
        after_epoch=after_epoch,
    )
    for one in parameters:
        one.requires_grad_(False).grad = None
    return tuple(losses)


def _spelled(backbone: Backbone, words: str) -> TokenList:
    """The tokens of the words, without start and end."""
    return backbone.token_ids([words])[0][1:-1]


def _rows(backbone: Backbone, classes: Sequence[str], words: str, count: int) -> list[TokenList]:
    """Token lists of all classes; tokens 1 to P give way."""
    names = [spoken(name) for name in classes]
    if count <= len(_spelled(backbone, words)):
        return backbone.token_ids([f"{words} {name}." for name in names])
    rows = backbone.token_ids([f"{name}." for name in names])
    return [(*row[:1], *row[1:2] * count, *row[1:]) for row in rows]  # any token but an end keeps a place

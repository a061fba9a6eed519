"""CoPrompt: MaPLe's prompts and an adapter on either feature, held near to the frozen CLIP on perturbed inputs.

Roy, Etemad: Consistency-guided Prompt Learning for Vision-Language Models, ICLR 2024. What is learned sees an image,
perturbed by RandAugment, and the class name; the frozen model sees the image perturbed by another draw and another text
of the class, and features of both have to point the same way. The texts are the user's, as of a language model, or else
templates; see docs/baselines.md.

Letters: N images, n images of a batch, C classes, D width of the features, H hidden units of an adapter.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from ipo_dspy.baselines.augmentation import rand_augment
from ipo_dspy.baselines.base import FewShotTask, Progress, Tower, clip_logits, validate_field_types
from ipo_dspy.baselines.class_sentences import SentenceFeatures, Sentences, check_sentences
from ipo_dspy.baselines.deep_prompts import PromptedClassifier, PromptedTexts, check_prompts
from ipo_dspy.baselines.linear import init_linear
from ipo_dspy.baselines.maple import CoupledPrompts, init_coupled
from ipo_dspy.baselines.old_names import takes_old_names
from ipo_dspy.baselines.towers import ImageTower
from ipo_dspy.baselines.training import build_recipe, train
from ipo_dspy.baselines.training_views import Views
from ipo_dspy.errors import InputError

REDUCTION = 4
"""H = D / 4, as in the code of CoPrompt."""


class Adapter(NamedTuple):
    """Two linear layers without biases, a ReLU after each, mixed with what goes in, as in the code of CoPrompt.

    That code feeds features before they are normalized. Without biases only their direction counts, so normalized ones
    do as well.
    """

    down: Tensor  # [H, D]
    up: Tensor  # [D, H]

    def __call__(self, features: Tensor, share: float) -> Tensor:
        """Features [N, D] with a share of the adapter's in them, normalized: [N, D]."""
        own = F.relu(F.linear(F.relu(F.linear(features, self.down)), self.up))  # [N, D]
        return F.normalize(share * own + (1 - share) * features, dim=-1)


@dataclass(frozen=True, slots=True, eq=False)
class CoPromptModel:
    """A CLIP with coupled prompts and adapters.

    Attributes:
        prompted: the CLIP with prompts.
        image, text: the adapters.
        image_adapter_ratio, text_adapter_ratio: mixing ratio of an adapter's output.
    """

    prompted: CoupledPrompts = field(repr=False)
    image: Adapter = field(repr=False)
    text: Adapter = field(repr=False)
    image_adapter_ratio: float
    text_adapter_ratio: float

    @property
    def parameters(self) -> list[Tensor]:
        """All that is learned."""
        return [*self.prompted.parameters, *self.image, *self.text]

    def image_features(self, pixels: Tensor) -> Tensor:
        """Preprocessed images [N, 3, H, W] to normalized features [N, D]."""
        return self.image(self.prompted.image_features(pixels), self.image_adapter_ratio)

    def text_features(self, classes: Sequence[str]) -> Tensor:
        """Normalized features [C, D]; see `Prompted`."""
        return self.features(self.prompted.texts(classes))

    def features(self, texts: PromptedTexts) -> Tensor:
        """Normalized features of texts that are ready for many passes: [C, D]."""
        return self.text(texts.features(self.prompted.text), self.text_adapter_ratio)


def consistency_loss(learned: Tensor, frozen: Tensor) -> Tensor:
    """One minus the mean cosine of features [N, D] with those beside them (CoPrompt's consistency loss): [].

    >>> consistency_loss(torch.eye(2), torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    tensor(0.5000)
    """
    return 1 - F.cosine_similarity(learned, frozen, dim=-1).mean()


@takes_old_names
@dataclass(frozen=True, slots=True)
class CoPrompt:
    """Consistency-guided prompt learning; defaults are those of the official code for data sets that it does not know.

    That code sets `consistency_weight`, `n_ctx`, and `depth` for each data set of the paper; see docs/baselines.md.

    Args:
        n_ctx: tokens of a prompt.
        ctx_init: what a text begins with; its first tokens are where the first prompts start from.
        depth: blocks with prompts of their own, the first included; of smaller towers, all.
        consistency_weight: of both consistency losses.
        image_adapter_ratio: mixing ratio of the image adapter's output in a feature.
        text_adapter_ratio: of the text adapter's output.
        sentences: texts of each training class, of which the frozen model sees one at a time, e.g. descriptions by a
            language model; the 80 templates for ImageNet if None. Names are compared as they are spoken, underscores as
            spaces; `read_sentences` reads a file of them.
        augment: perturb images by RandAugment, for the learned and the frozen model apart; else both see the image by
            the evaluation transform.
        epochs: passes over the images.
        batch_size: images a step.
        lr: the highest rate of SGD.

    Raises:
        InputError: a setting with which nothing can be learned.
    """

    n_ctx: int = 2
    ctx_init: str = "a photo of a"
    depth: int = 9
    consistency_weight: float = 1.0
    image_adapter_ratio: float = 0.1
    text_adapter_ratio: float = 0.2
    sentences: Sentences | None = field(default=None, repr=False)
    augment: bool = True
    epochs: int = 8
    batch_size: int = 4
    lr: float = 0.0035

    towers: ClassVar[tuple[Tower, ...]] = ("text", "image")
    recipe = build_recipe

    def __post_init__(self) -> None:
        validate_field_types(self)
        check_prompts(self.n_ctx, self.depth)
        if self.consistency_weight < 0:
            raise InputError(f"consistency_weight must be >= 0, got {self.consistency_weight!r}; for example 8")
        for name in ("image_adapter_ratio", "text_adapter_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must be between 0 and 1, got {getattr(self, name)!r}; for example 0.1")
        check_sentences(self.sentences)
        self.recipe()

    def start(self, task: FewShotTask, generator: torch.Generator) -> CoPromptModel:
        """Initialize prompts and couplings as in MaPLe, and two adapters.

        Raises:
            InputError: a tower does not support learned tokens.
        """
        prompted = init_coupled(task.backbone, self.ctx_init, self.n_ctx, self.depth, generator)
        width = prompted.text_features(task.classes[:1]).shape[1]  # D
        image, text = (init_adapter(width, task.backbone.device, generator) for _ in range(2))
        return CoPromptModel(prompted, image, text, self.image_adapter_ratio, self.text_adapter_ratio)

    def fit(
        self, task: FewShotTask, *, seed: int = 0, progress: Progress | None = None
    ) -> PromptedClassifier[CoPromptModel]:
        """Learn prompts, couplings and adapters by cross-entropy and consistency over the classes of the task.

        Raises:
            InputError: a tower does not support learned tokens, a class name does not fit beside the prompts, or a
                class has no sentences.
            ImageError: an image cannot be read.
        """
        backbone, generator = task.backbone, torch.Generator().manual_seed(seed)
        model = self.start(task, generator)
        texts, targets = model.prompted.texts(task.classes), task.targets.to(backbone.device)  # [N]
        tower, sentences = ImageTower(backbone), SentenceFeatures(backbone, task.classes, self.sentences)
        views = Views(task, rand_augment if self.augment else None, generator)

        def loss(indices: Tensor) -> Tensor:
            image, text = model.image_features(views(indices)), model.features(texts)  # [n, D], [C, D]
            with torch.no_grad():
                seen = tower.encode(views(indices))  # [n, D]
            found = clip_logits(backbone, image, text)  # [n, C]
            apart = consistency_loss(text, sentences.draw(generator)) + consistency_loss(image, seen)
            return F.cross_entropy(found, targets[indices]) + self.consistency_weight * apart

        count, recipe = len(task.images), self.recipe()
        losses = train(model.parameters, loss, count, recipe=recipe, generator=generator, progress=progress)
        return PromptedClassifier(backbone, model, losses)


def init_adapter(width: int, device: torch.device, generator: torch.Generator) -> Adapter:
    """First weights as `torch.nn.Linear` has them, but from a generator of ours."""
    hidden = max(1, width // REDUCTION)
    down, up = (init_linear(*sizes, device, generator).weight for sizes in ((width, hidden), (hidden, width)))
    return Adapter(down, up)

"""CoPrompt: MaPLe's prompts and an adapter per tower, kept consistent with the frozen CLIP on perturbed inputs.

Roy, Etemad: Consistency-guided Prompt Learning for Vision-Language Models, ICLR 2024. The learned model gets an
image, perturbed by RandAugment, and the class name. The frozen model gets another perturbation of the image and another
text of the class, and a loss aligns the features of both. The texts come from the user, e.g. from a language model, or
else from templates; see docs/baselines.md.

Letters: N images, n images of a batch, C classes, D width of the features, H hidden units of an adapter.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from ipo_dspy._internal.renames import renamed_fields
from ipo_dspy.baselines.augmentation import rand_augment
from ipo_dspy.baselines.base import FewShotTask, Progress, Tower, clip_logits, validate_field_types
from ipo_dspy.baselines.class_sentences import SentenceFeatures, Sentences, check_sentences
from ipo_dspy.baselines.context_tokens import PromptedClassTexts
from ipo_dspy.baselines.deep_prompts import PromptedClassifier, check_prompts
from ipo_dspy.baselines.maple import CoupledPrompts, init_coupled
from ipo_dspy.baselines.seeded_linear import init_linear
from ipo_dspy.baselines.towers import ImageTower
from ipo_dspy.baselines.training import build_recipe, train
from ipo_dspy.baselines.training_views import Views
from ipo_dspy.errors import InputError

REDUCTION = 4
"""H = D / 4, as in the code of CoPrompt."""


class Adapter(NamedTuple):
    """Two linear layers without biases, a ReLU after each, and a residual mix, as in the code of CoPrompt.

    That code passes unnormalized features. Without biases only their direction matters, so normalized features give the
    same result.
    """

    down: Tensor  # [H, D]
    up: Tensor  # [D, H]

    def __call__(self, features: Tensor, share: float) -> Tensor:
        """Mix a share of the adapter's output into features [N, D] and normalize: [N, D]."""
        adapted = F.relu(F.linear(F.relu(F.linear(features, self.down)), self.up))  # [N, D]
        return F.normalize(share * adapted + (1 - share) * features, dim=-1)


@dataclass(frozen=True, slots=True, eq=False)
class CoPromptModel:
    """A CLIP with coupled prompts and adapters, whose outputs are mixed in by a ratio."""

    prompted: CoupledPrompts = field(repr=False)
    image: Adapter = field(repr=False)
    text: Adapter = field(repr=False)
    image_adapter_ratio: float
    text_adapter_ratio: float

    @property
    def parameters(self) -> list[Tensor]:
        """Return all learned parameters."""
        return [*self.prompted.parameters, *self.image, *self.text]

    def image_features(self, pixels: Tensor) -> Tensor:
        """Encode preprocessed images [N, 3, H, W]; see `PromptedModel`."""
        return self.image(self.prompted.image_features(pixels), self.image_adapter_ratio)

    def text_features(self, classes: Sequence[str]) -> Tensor:
        """Return normalized features [C, D]; see `PromptedModel`."""
        return self.features(self.prompted.texts(classes))

    def features(self, texts: PromptedClassTexts) -> Tensor:
        """Return normalized features of prepared texts: [C, D]."""
        return self.text(self.prompted.features(texts), self.text_adapter_ratio)


def consistency_loss(learned: Tensor, frozen: Tensor) -> Tensor:
    """Return one minus the mean cosine similarity of paired features [N, D] (CoPrompt's consistency loss): []."""
    return 1 - F.cosine_similarity(learned, frozen, dim=-1).mean()


@renamed_fields
@dataclass(frozen=True, slots=True)
class CoPrompt:
    """Consistency-guided prompt learning; defaults are those of the official code for unknown data sets.

    That code sets `consistency_weight`, `n_ctx`, and `depth` for each data set of the paper; see docs/baselines.md.

    Args:
        n_ctx: number of tokens of a prompt.
        ctx_init: first words of a text, whose first tokens initialize the first prompts.
        depth: number of blocks with separate prompts, including the first; at most all blocks of a tower.
        consistency_weight: weight of both consistency losses.
        image_adapter_ratio: mixing ratio of the image adapter's output in a feature.
        text_adapter_ratio: mixing ratio of the text adapter's output.
        sentences: texts of each training class, e.g. descriptions by a language model; the frozen model gets one at a
            time. None for the 80 ImageNet templates. Names are compared with underscores as spaces; `read_sentences`
            reads a file.
        augment: perturb images by RandAugment, separately for the learned and the frozen model; otherwise both get the
            image after the evaluation transform.
        epochs, batch_size, lr: passes over the images, images per step, and peak learning rate of SGD.
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
        """Initialize prompts and couplings as in MaPLe, and two adapters."""
        prompted = init_coupled(task.backbone, self.ctx_init, self.n_ctx, self.depth, generator)
        width = prompted.text_features(task.classes[:1]).shape[1]  # D
        image, text = (init_adapter(width, task.backbone.device, generator) for _ in range(2))
        return CoPromptModel(prompted, image, text, self.image_adapter_ratio, self.text_adapter_ratio)

    def fit(
        self, task: FewShotTask, *, seed: int = 0, progress: Progress | None = None
    ) -> PromptedClassifier[CoPromptModel]:
        """Learn prompts, couplings and adapters by cross-entropy and consistency; see `FewShotMethod`."""
        backbone, generator = task.backbone, torch.Generator().manual_seed(seed)
        model = self.start(task, generator)
        texts, targets = model.prompted.texts(task.classes), task.targets.to(backbone.device)  # [N]
        tower, sentences = ImageTower(backbone), SentenceFeatures(backbone, task.classes, self.sentences)
        views = Views(task, rand_augment if self.augment else None, generator)

        def loss(indices: Tensor) -> Tensor:
            image, text = model.image_features(views(indices)), model.features(texts)  # [n, D], [C, D]
            with torch.no_grad():
                frozen = tower.encode(views(indices))  # [n, D]
            logits = clip_logits(backbone, image, text)  # [n, C]
            consistency = consistency_loss(text, sentences.draw(generator)) + consistency_loss(image, frozen)
            return F.cross_entropy(logits, targets[indices]) + self.consistency_weight * consistency

        count, recipe = len(task.images), self.recipe()
        losses = train(model.parameters, loss, count, recipe=recipe, generator=generator, progress=progress)
        return PromptedClassifier(backbone, model, losses)


def init_adapter(width: int, device: torch.device, generator: torch.Generator) -> Adapter:
    """Return an adapter initialized by `init_linear`."""
    hidden = max(1, width // REDUCTION)
    down, up = (init_linear(*sizes, device, generator).weight for sizes in ((width, hidden), (hidden, width)))
    return Adapter(down, up)

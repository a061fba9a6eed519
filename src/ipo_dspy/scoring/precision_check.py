"""Whether a model in half precision classifies as it does in float32, measured on the user's own images.

Half precision changes every feature a little, and how much that matters depends on how close the classes are to one
another: it cannot be told from the model alone. So the float32 weights are read once more, some images go through
both, and the classes that are given and the losses are compared over several plain templates. It costs a second model
in memory for as long as that takes, and up to a thousand images through it.

Letters: N images, C classes, T templates, D feature width.
"""

import logging
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ipo_dspy._internal.sequences import evenly_spaced
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.image_features import ImageSource, encode_images
from ipo_dspy.clip.loading import with_dtype
from ipo_dspy.clip.text_features import class_features
from ipo_dspy.errors import IPOError
from ipo_dspy.scoring.metrics import predict, score_templates
from ipo_dspy.template import Template

SAME = 0.999
"""Of the classes that are given, at least so many have to be those that float32 gives."""

LOSS = 1e-3
"""Nats by which half precision may move the mean loss of a template."""

IMAGES = 1000
"""At most so many are compared, taken evenly: one in a thousand is what `SAME` is about."""

TEMPLATES = tuple(
    map(
        Template.parse,
        (
            *("a photo of a <CLASS>.", "<CLASS>", "a blurry photo of a <CLASS>.", "a drawing of the <CLASS>."),
            *("a close-up of one <CLASS>.", "many <CLASS>", "a dark picture of the <CLASS>.", "art of a <CLASS>."),
        ),
    )
)

logger = logging.getLogger(__name__)

_compared: "weakref.WeakSet[Backbone]" = weakref.WeakSet()
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far a model in half precision agrees with itself in float32.

    Attributes:
        dtype: of the model in half precision.
        images: how many were classified, under each of several templates.
        same: part of the given classes that are those of float32, 0 to 1.
        loss: largest difference of a template's mean loss, in nats.

    >>> print(Agreement("float16", 1000, same=0.9985, loss=0.0004))
    float16 gives 99.850% of 1000 images float32's class (99.9% wanted) and moves the loss by 0.0004 (at most 0.0010)
    """

    dtype: str
    images: int
    same: float
    loss: float

    @property
    def passes(self) -> bool:
        """Whether half precision is as good as float32 here: `SAME` and `LOSS`."""
        return self.same >= SAME and self.loss <= LOSS

    def __str__(self) -> str:
        return (
            f"{self.dtype} gives {self.same:.3%} of {self.images} images float32's class ({SAME:.1%} wanted) "
            f"and moves the loss by {self.loss:.4f} (at most {LOSS:.4f})"
        )


def compare(
    low: Backbone,
    full: Backbone,
    images: Sequence[ImageSource],
    labels: Sequence[str],
    classes: Sequence[str],
    *,
    templates: Sequence[Template] = TEMPLATES,
    allow_url: bool = False,
) -> Agreement:
    """Compare a model with its float32 weights on labelled images.

    Raises:
        ImageError: an image cannot be read.
        TemplateError: a class name does not fit the model.
    """
    index = {name: i for i, name in enumerate(classes)}
    targets = torch.tensor([index[label] for label in labels])  # [N]
    scale, bias = full.logit_scale, full.logit_bias
    given, losses = [], []
    for backbone in (low, full):
        features = encode_images(backbone, images, allow_url=allow_url).features  # [N, D]
        text = class_features(backbone, templates, classes)  # [T, C, D]
        given.append(
            torch.stack([predict(features, one, logit_scale=scale, logit_bias=bias) for one in text])
        )  # [T, N]
        scores = score_templates(features, targets, text, logit_scale=scale, logit_bias=bias)
        losses.append([score.loss for score in scores])  # T
    same = (given[0] == given[1]).double().mean().item()
    dtype = str(low.dtype).removeprefix("torch.")
    return Agreement(dtype, len(images), same, max(abs(mine - theirs) for mine, theirs in zip(*losses, strict=True)))


def check_precision(
    backbone: Backbone,
    images: Sequence[ImageSource],
    labels: Sequence[str],
    classes: Sequence[str],
    *,
    allow_url: bool = False,
) -> Agreement | None:
    """Compare a model in half precision with float32, the first time that it is met; say so if it falls short.

    None where there is nothing to compare, or no float32 weights to compare with; that too is said.
    """
    with _lock:
        if backbone.dtype == torch.float32 or backbone in _compared:
            return None
        _compared.add(backbone)
    dtype = str(backbone.dtype).removeprefix("torch.")
    chosen = evenly_spaced(range(len(images)), IMAGES)
    sample_images, sample_labels = [images[i] for i in chosen], [labels[i] for i in chosen]
    try:
        full = with_dtype(backbone, "float32")
        agreement = compare(backbone, full, sample_images, sample_labels, classes, allow_url=allow_url)
    except IPOError as error:
        logger.warning("cannot compare %s with float32: %s", dtype, error)
        return None
    if agreement.passes:
        logger.info("%s", agreement)
    else:
        logger.warning("%s: template ranking may change; use dtype='float32' for exact scores", agreement)
    return agreement

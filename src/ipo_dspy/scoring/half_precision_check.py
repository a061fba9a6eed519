"""Compare a model in half precision with its float32 weights on the user's own images.

Half precision changes every feature slightly, and the effect depends on how similar the classes are, not on the model
alone. So the float32 weights are loaded as well, some images are encoded with both, and predicted classes and losses
are compared over several plain templates. This temporarily takes a second model in memory and up to a thousand extra
image passes.

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
from ipo_dspy.clip.template_tokens import ClassTexts
from ipo_dspy.clip.text_features import class_features
from ipo_dspy.errors import IPOError
from ipo_dspy.scoring.metrics import predict, tally_templates
from ipo_dspy.template import Template

SAME = 0.999
"""Minimum fraction of predicted classes that agree with float32."""

LOSS = 1e-3
"""Maximum difference of a template's mean loss, in nats."""

IMAGES = 1000
"""Maximum number of images to compare, evenly spaced; `SAME` allows one in a thousand to differ."""

_PLAIN_TEMPLATES = (
    "a photo of a <CLASS>. | <CLASS> | a blurry photo of a <CLASS>. | a drawing of the <CLASS>. | "
    "a close-up of one <CLASS>. | many <CLASS> | a dark picture of the <CLASS>. | art of a <CLASS>."
)
TEMPLATES = tuple(map(Template.parse, _PLAIN_TEMPLATES.split("|")))

logger = logging.getLogger(__name__)

_compared: "weakref.WeakSet[Backbone]" = weakref.WeakSet()
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement of a model in half precision with itself in float32.

    Attributes:
        dtype: dtype of the model in half precision.
        images: number of images that were classified with each of several templates.
        same: fraction of predicted classes that agree with float32, 0 to 1.
        loss: largest difference of a template's mean loss, in nats.

    >>> str(Agreement("float16", 1000, same=0.9985, loss=0.0004)).split(", ")[1]
    'loss differs by 0.0004 (maximum 0.0010)'
    """

    dtype: str
    images: int
    same: float
    loss: float

    @property
    def passes(self) -> bool:
        """True if half precision is as good as float32 on these images, by `SAME` and `LOSS`."""
        return self.same >= SAME and self.loss <= LOSS

    def __str__(self) -> str:
        return (
            f"{self.dtype} predicts the class of float32 for {self.same:.3%} of {self.images} images "
            f"(minimum {SAME:.1%}), loss differs by {self.loss:.4f} (maximum {LOSS:.4f})"
        )


def compare(
    low: Backbone,
    full: Backbone,
    images: Sequence[ImageSource],
    labels: Sequence[str],
    classes: Sequence[str],
    *,
    texts: ClassTexts | None = None,
    templates: Sequence[Template] = TEMPLATES,
    allow_url: bool = False,
    on_disk: bool = True,
) -> Agreement:
    """Compare a model with its float32 weights on labeled images.

    Raises:
        ImageError: an image cannot be read.
        TemplateError: a class name does not fit the model.
    """
    index = {name: i for i, name in enumerate(classes)}
    targets = torch.tensor([index[label] for label in labels])  # [N]
    scale, bias = full.logit_scale, full.logit_bias
    predictions, losses = [], []
    for backbone in (low, full):
        features = encode_images(backbone, images, allow_url=allow_url, on_disk=on_disk).features  # [N, D]
        text = class_features(backbone, templates, texts or classes)  # [T, C, D]
        predicted = [predict(features, one, logit_scale=scale, logit_bias=bias)[0] for one in text]
        predictions.append(torch.stack(predicted))  # [T, N]
        tallies = tally_templates(features, targets, text, logit_scale=scale, logit_bias=bias)
        losses.append([tally.score.loss for tally in tallies])  # T
    same = (predictions[0] == predictions[1]).double().mean().item()
    loss = max(abs(mine - theirs) for mine, theirs in zip(*losses, strict=True))
    return Agreement(str(low.dtype).removeprefix("torch."), len(images), same, loss)


def check_precision(
    backbone: Backbone,
    images: Sequence[ImageSource],
    labels: Sequence[str],
    classes: Sequence[str],
    *,
    texts: ClassTexts | None = None,
    allow_url: bool = False,
    on_disk: bool = True,
) -> Agreement | None:
    """Compare a model in half precision with float32 once per process; log a warning if it falls short.

    Returns None for a float32 model, a model that was already compared, or one without float32 weights (which is
    logged).
    """
    with _lock:
        if backbone.dtype == torch.float32 or backbone in _compared:
            return None
        _compared.add(backbone)
    chosen, chosen_labels = evenly_spaced(images, IMAGES), evenly_spaced(labels, IMAGES)
    try:
        full = with_dtype(backbone, "float32")
        agreement = compare(
            backbone, full, chosen, chosen_labels, classes, texts=texts, allow_url=allow_url, on_disk=on_disk
        )
    except IPOError as error:
        logger.warning("cannot compare %s with float32: %s", str(backbone.dtype).removeprefix("torch."), error)
        return None
    if agreement.passes:
        logger.info("%s", agreement)
    else:
        logger.warning("%s: template ranking may change; use dtype='float32' for exact scores", agreement)
    return agreement

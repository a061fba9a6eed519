"""Loss and accuracy of templates from features and labels: pure functions on tensors.

All given images count, each once, for both figures: no random crops, no dropped last batch. What the
official code of the paper reports as loss is that of its last batch only; see docs/decisions.md.

Letters: N images, C classes, T templates, D feature width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ipo_dspy.history import Score


def logits(
    image_features: Tensor,  # [N, D] normalised
    text_features: Tensor,  # [C, D] normalised
    *,
    logit_scale: float,
    logit_bias: float = 0.0,
    allowed: Tensor | None = None,  # [N, C] bool
) -> Tensor:  # [N, C]
    """Cosine similarities at the model's own logit scale; classes that are not allowed get -inf."""
    scores = logit_scale * (image_features @ text_features.T) + logit_bias  # [N, C]
    return scores if allowed is None else scores.masked_fill(~allowed, float("-inf"))


def score_templates(
    image_features: Tensor,  # [N, D] normalised
    labels: Tensor,  # [N] int64, an index into C
    text_features: Tensor,  # [T, C, D] normalised
    *,
    logit_scale: float,
    logit_bias: float = 0.0,
    allowed: Tensor | None = None,  # [N, C] bool
) -> list[Score]:
    """Mean cross-entropy (nats) and top-1 accuracy (percent) of each template over all images.

    `allowed` marks, for each image, the classes that it may be given: all of them by default. Losses are
    accumulated in double precision, so the order of the images does not show in the first ten digits.

    >>> eye = torch.eye(2)
    >>> score_templates(eye, torch.tensor([0, 1]), eye[None], logit_scale=1.0)
    [Score(accuracy=100.00%, loss=0.3133)]
    """
    return [
        _score(
            logits(image_features, one, logit_scale=logit_scale, logit_bias=logit_bias, allowed=allowed),
            labels,
        )
        for one in text_features
    ]


def per_class(predicted: Sequence[str], labels: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Correct and total images of each class that occurs in `labels`, in order of first appearance.

    >>> per_class(["cat", "cat"], ["cat", "dog"])
    {'cat': (1, 1), 'dog': (0, 1)}
    """
    counts: dict[str, tuple[int, int]] = {}
    for guess, label in zip(predicted, labels, strict=True):
        correct, total = counts.get(label, (0, 0))
        counts[label] = (correct + (guess == label), total + 1)
    return counts


def _score(scores: Tensor, labels: Tensor) -> Score:
    losses = torch.nn.functional.cross_entropy(scores.double(), labels, reduction="none")  # [N]
    correct = (scores.argmax(dim=1) == labels).double().mean()
    return Score(accuracy=100.0 * correct.item(), loss=losses.mean().item())

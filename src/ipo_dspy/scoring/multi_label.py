"""Figures of templates on images with several labels or none: each class of an image is a separate yes or no.

The model gives independent probabilities, the sigmoids of its logits; a class is there from a probability of 0.5 on,
that is from a logit of 0 on. Two figures add up over images, blocks and machines: the share of correct decisions, over
images and classes, and the mean binary cross-entropy. So the classes of all images must be the same.

The average precision of a class ranks all images, so it does not add up, and is computed for a few classes at a time.

Letters: N images, n images of a block, C classes, T templates, D feature width.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from numpy.typing import NDArray
from torch import Tensor

from ipo_dspy.scoring.comparison import PairTally
from ipo_dspy.scoring.image_blocks import BLOCK_ELEMENTS, block_logits, blocks
from ipo_dspy.scoring.label_sets import average_precision
from ipo_dspy.scoring.tally import Tally

Floats = NDArray[np.float64]


def targets_of(label_sets: Sequence[Sequence[str]], classes: Sequence[str]) -> Tensor:  # [N, C] bool
    """Return the classes of each image, whose labels are among the classes.

    >>> targets_of([["cat", "dog"], [], ["dog"]], ["cat", "dog"]).tolist()
    [[True, True], [False, False], [False, True]]
    """
    index = {name: i for i, name in enumerate(classes)}
    targets = torch.zeros(len(label_sets), len(classes), dtype=torch.bool)
    for row, labels in zip(targets, label_sets, strict=True):
        row[[index[label] for label in labels]] = True
    return targets


def tally_decisions(
    image_features: Tensor,  # [N, D] normalized
    targets: Tensor,  # [N, C] bool
    text_features: Tensor,  # [T, C, D] normalized
    *,
    logit_scale: float,
    logit_bias: float,
    block: int | None = None,
) -> list[Tally]:
    """Count the correct decisions and sum the binary cross-entropies of each template, over all images and classes.

    The `images` of these tallies are decisions, so that scores are means over images and classes.

    >>> eye = torch.eye(2)
    >>> [tally.score for tally in tally_decisions(eye, eye == 1, eye[None], logit_scale=8.0, logit_bias=-4.0)]
    [Score(accuracy=100.00%, loss=0.0181)]
    """
    correct, loss = [0] * len(text_features), [0.0] * len(text_features)
    for _, t, right, nats in _decisions(image_features, targets, text_features, logit_scale, logit_bias, block):
        correct[t] += int(right.sum())
        loss[t] += float(nats.sum())
    return [Tally(targets.numel(), *counts) for counts in zip(correct, loss, strict=True)]


def tally_decision_pairs(
    image_features: Tensor,
    targets: Tensor,
    text_features: Tensor,
    *,
    logit_scale: float,
    logit_bias: float,
    block: int | None = None,
    objective_is_loss: bool = False,
) -> PairTally:
    """Return the pair tally of templates; the first outcome of an image is its share of correct decisions.

    With `objective_is_loss` it is minus the loss. All images are in one class of the tally: new images are like these,
    and not of the same label sets, so that the whole spread over images counts.
    """
    count, classes = text_features.shape[:2]
    sums, products = np.zeros(2 * count), np.zeros((2 * count, 2 * count))
    table: Floats = np.empty((0, 2 * count))
    for rows, t, right, nats in _decisions(image_features, targets, text_features, logit_scale, logit_bias, block):
        if t == 0:
            table = np.empty((rows.stop - rows.start, 2 * count))  # [n, 2T]
        table[:, count + t] = nats.cpu().numpy() / classes
        table[:, t] = -table[:, count + t] if objective_is_loss else right.cpu().numpy() / classes
        if t == count - 1:
            sums += table.sum(axis=0)
            products += table.T @ table
    return PairTally(np.array([len(image_features)]), sums[None], products, decisions=classes)


def _decisions(
    image_features: Tensor, targets: Tensor, text_features: Tensor, scale: float, bias: float, block: int | None
) -> Iterator[tuple[slice, int, Tensor, Tensor]]:
    """Yield the number of correct decisions [n] and the sum of the losses [n] of each block and each template."""
    for images in blocks(image_features, text_features, None, block):
        there = targets[images.rows].to(text_features.device)  # [n, C]
        for t, classes in enumerate(text_features):
            logits = block_logits(images, classes, scale, bias)  # [n, C]
            right = ((logits >= 0) == there).sum(dim=1)
            losses = F.binary_cross_entropy_with_logits(logits, there.to(logits.dtype), reduction="none")
            yield images.rows, t, right, losses.sum(dim=1, dtype=torch.float64)


def ranked_precisions(
    image_features: Tensor,  # [N, D] normalized
    targets: Tensor,  # [N, C] bool
    text_features: Tensor,  # [C, D] normalized
) -> Floats:  # [C]
    """Return the `average_precision` of each class in percent; NaN for a class without images.

    Images are ranked by their cosine similarities, which are in the order of the probabilities.
    """
    images = image_features.to(text_features.device, text_features.dtype)
    together = max(1, BLOCK_ELEMENTS["cpu"] // max(1, len(images)))
    values = []
    for first in range(0, len(text_features), together):
        columns = slice(first, first + together)
        scores = (images @ text_features[columns].T).cpu().numpy()  # [N, c]
        values += [average_precision(*pair) for pair in zip(scores.T, targets[:, columns].T.numpy(), strict=True)]
    return np.array(values)


def present_classes(
    image_features: Tensor,
    text_features: Tensor,  # [C, D]
    *,
    logit_scale: float,
    logit_bias: float,
) -> Tensor:  # [N, C] bool, on the CPU
    """Return the classes that are found in each image."""
    found = torch.empty(len(image_features), len(text_features), dtype=torch.bool)
    for images in blocks(image_features, text_features):
        found[images.rows] = (block_logits(images, text_features, logit_scale, logit_bias) >= 0).cpu()
    return found

"""Loss and accuracy of templates from features and labels: pure functions on tensors, block by block.

All given images count, each once, for both figures: no random crops, no dropped last batch. What the
official code of the paper reports as loss is that of its last batch only; see docs/decisions.md.

A million images and a thousand classes are 4 GB of logits for one template, so no such table is ever made: images pass
in blocks, and what is kept of a block is a `Tally`. Tallies add up, over blocks as over machines. Each template has its
own matrix product: one over all of them is no faster (measured at C = 1000) and takes more memory.

Letters: N images, n images of a block, C classes, T templates, D feature width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ipo_dspy.errors import InputError
from ipo_dspy.scoring.candidate_classes import CandidateClasses
from ipo_dspy.scoring.image_blocks import ImageBlock, blocks
from ipo_dspy.scoring.score import Score


@dataclass(frozen=True, slots=True)
class Tally:
    """What a template came to on some images; tallies of parts of the images add up to that of all.

    Attributes:
        images: how many.
        correct: how many were given their own class.
        loss: sum of their cross-entropies, in nats.

    >>> (Tally(images=3, correct=1, loss=2.5) + Tally(images=1, correct=1, loss=0.5)).score
    Score(accuracy=50.00%, loss=0.7500)
    """

    images: int
    correct: int
    loss: float

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.images + other.images, self.correct + other.correct, self.loss + other.loss)

    @property
    def score(self) -> Score:
        """Accuracy and mean loss.

        Raises:
            InputError: there were no images, or features that are no numbers.
        """
        if not self.images:
            raise InputError("a score needs images and there are none; pass at least one")
        return Score(accuracy=100.0 * (self.correct / self.images), loss=self.loss / self.images)


def class_logits(
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


def count_correct_by_template(
    image_features: Tensor,  # [N, D] normalised
    labels: Tensor,  # [N] int64, an index into C
    text_features: Tensor,  # [T, C, D] normalised
    *,
    logit_scale: float,
    logit_bias: float = 0.0,
    allowed: Tensor | CandidateClasses | None = None,  # [N, C] bool
    block: int | None = None,
) -> list[Tally]:
    """What each template comes to on all images.

    The computation is in the number format and on the device of the text features, to which each block of images is
    brought. Losses are taken in that format image by image and added in double precision, so tallies of parts add up to
    that of the whole as closely as the logits are known: about 1e-6 nats of the mean in float32.

    Args:
        image_features: in any floating format.
        labels: the right class of each image.
        text_features: of every class under every template.
        logit_scale: what cosine similarities are multiplied by.
        logit_bias: what is added to them.
        allowed: for each image, the classes that it may be given; all by default.
        block: images at a time; by default what `blocks.block_size` says.
    """
    device = text_features.device
    loss = torch.zeros(len(text_features), dtype=torch.float64, device=device)  # [T]
    correct = torch.zeros(len(text_features), dtype=torch.int64, device=device)  # [T]
    for some in blocks(image_features, text_features, allowed, block):
        right = labels[some.part].to(device, non_blocking=True)  # [n]
        for t, one in enumerate(text_features):
            scores = _logits(some, one, logit_scale, logit_bias)  # [n, C]
            right_ones, nats = _sums(scores, right, some.more_room)
            correct[t] += right_ones
            loss[t] += nats
    count = len(image_features)
    return [Tally(count, *pair) for pair in zip(correct.tolist(), loss.tolist(), strict=True)]


def tally_logits(scores: Tensor, labels: Tensor) -> Tally:
    """What logits [N, C] come to for the labels [N] of their images, as `count_correct_by_template` counts.

    >>> tally_logits(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1])).score
    Score(accuracy=50.00%, loss=0.8133)
    """
    correct, loss = _sums(scores, labels)
    return Tally(len(scores), int(correct), float(loss))


def score_templates(
    image_features: Tensor,  # [N, D] normalised
    labels: Tensor,  # [N] int64, an index into C
    text_features: Tensor,  # [T, C, D] normalised
    *,
    logit_scale: float,
    logit_bias: float = 0.0,
    allowed: Tensor | CandidateClasses | None = None,  # [N, C] bool
    block: int | None = None,
) -> list[Score]:
    """Mean cross-entropy (nats) and top-1 accuracy (percent) of each template over all images.

    See `count_correct_by_template` for the arguments.

    >>> eye = torch.eye(2)
    >>> score_templates(eye, torch.tensor([0, 1]), eye[None], logit_scale=1.0)
    [Score(accuracy=100.00%, loss=0.3133)]
    """
    tallies = count_correct_by_template(
        image_features,
        labels,
        text_features,
        logit_scale=logit_scale,
        logit_bias=logit_bias,
        allowed=allowed,
        block=block,
    )
    return [tally.score for tally in tallies]


def predict(
    image_features: Tensor,  # [N, D] normalised
    text_features: Tensor,  # [C, D] normalised
    *,
    logit_scale: float,
    logit_bias: float = 0.0,
    allowed: Tensor | CandidateClasses | None = None,  # [N, C] bool
    block: int | None = None,
) -> Tensor:  # [N] int64, on the CPU
    """The class with the highest logit for each image, the first of several that are equal.

    These are the predictions that `count_correct_by_template` counts; see there for the arguments.
    """
    given = torch.empty(len(image_features), dtype=torch.int64)
    for some in blocks(image_features, text_features, allowed, block):
        given[some.part] = _logits(some, text_features, logit_scale, logit_bias).argmax(dim=1).cpu()
    return given


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


def _sums(scores: Tensor, right: Tensor, room: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Count the logits [n, C] that are highest at the right class [n], and sum the losses in double precision."""
    likely = torch.log_softmax(scores, dim=1, out=room).gather(1, right[:, None])  # [n, 1]
    return (scores.argmax(dim=1) == right).sum(), -likely.sum(dtype=torch.float64)


def _logits(block: ImageBlock, text_features: Tensor, scale: float, bias: float) -> Tensor:
    """`class_logits` of a block, in its room: [n, C]."""
    # Few passes over the table: after each the threads of PyTorch wait for one another.
    nothing = text_features.new_zeros(())
    scores = torch.addmm(nothing, block.images, text_features.T, beta=0, alpha=scale, out=block.room)
    scores = scores.add_(bias) if bias else scores
    return scores if block.forbidden is None else scores.masked_fill_(block.forbidden, float("-inf"))

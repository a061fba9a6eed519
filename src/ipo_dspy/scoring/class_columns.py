"""Loss and accuracy of a classifier when the text of one class changes: pure functions on tensors.

A candidate text for one class changes one column of the logits, so of the other classes only two numbers of each image
are needed: the log-sum-exp of their logits and the highest of them. A candidate then costs one product of N x D,
whatever the number of classes, where scoring the whole table again costs N x D x C.

Images are processed class by class in blocks that stay in a core's cache, and blocks are shared between threads. Counts
per class are kept, so that a candidate that helps its own class at the cost of another one can be told apart.

Letters: N images, n images of a block, C classes, M candidate texts, D feature width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ipo_dspy._internal.threads import in_threads
from ipo_dspy.clip.cpu_threads import limited_to
from ipo_dspy.scoring.metrics import Tally, class_logits

ROWS = 120
"""Maximum number of images of a block; below 128, so that a product of as many factors of at most two fits float32."""
CELLS = 2**17
"""Images times candidates that are processed at once: half a megabyte, so that all buffers fit the cache of a core."""


@dataclass(frozen=True, slots=True)
class ColumnTally:
    """Counts of M candidate texts for one class over a set of images; tallies of disjoint sets add up.

    Attributes:
        images: [C] int64, number of images of each class.
        correct: [M, C] int64, number of correct images of each class.
        loss: [M] float64, sum of the cross-entropies, in nats.
    """

    images: Tensor
    correct: Tensor
    loss: Tensor

    def __add__(self, other: "ColumnTally") -> "ColumnTally":
        return ColumnTally(self.images + other.images, self.correct + other.correct, self.loss + other.loss)

    def of(self, candidate: int) -> Tally:
        """Return the tally of one candidate, as `tally_templates` counts it."""
        return Tally(int(self.images.sum()), int(self.correct[candidate].sum()), float(self.loss[candidate]))


def tally_column(
    image_features: Tensor,  # [N, D] normalized, any floating dtype
    labels: Tensor,  # [N] int64, an index into C
    text_features: Tensor,  # [C, D] normalized, of the present texts
    column: int,  # the class whose text changes
    candidates: Tensor,  # [M, D] normalized, dtype and device of the text features
    *,
    logit_scale: float,
    logit_bias: float = 0.0,
) -> ColumnTally:
    """Count what `tally_templates` counts, for each of M texts of one class, with the other classes as they are.

    Losses agree with those of the whole table of logits to 1e-5 nats of the mean in float32. Counts are the same,
    except for images that two classes tie for to within that precision.

    >>> eye, last = torch.eye(3), torch.tensor([[0.0, 0.0, 1.0]])
    >>> tally = tally_column(eye, torch.tensor([0, 1, 2]), eye, 2, torch.cat([last, -last]), logit_scale=1.0)
    >>> tally.correct.tolist()
    [[1, 1, 1], [1, 1, 0]]
    """
    counts = torch.bincount(labels, minlength=len(text_features))  # [C]
    members = torch.split(torch.argsort(labels, stable=True), counts.tolist())  # rows of each class

    def tally_class(k: int) -> tuple[Tensor, Tensor]:
        correct = torch.zeros(len(candidates), dtype=torch.int64)
        loss = torch.zeros(len(candidates), dtype=torch.float64)
        with limited_to(1):  # a thread for each class: in shared operations, threads would wait for each other
            for rows in torch.split(members[k], ROWS):
                images = image_features[rows.to(image_features.device)].to(text_features)  # [n, D]
                others = class_logits(images, text_features, logit_scale=logit_scale, logit_bias=logit_bias)  # [n, C]
                target = others[:, k].sum(dtype=torch.float64)
                others[:, column] = float("-inf")
                rest = others.logsumexp(dim=1, keepdim=True)  # [n, 1]
                highest, first = others.max(dim=1, keepdim=True)
                wins_above = highest - rest
                if k != column:  # images that the others get wrong stay wrong
                    wins_above[first != k] = float("inf")
                    correct += (first == k).sum().cpu()
                    loss += (rest.sum(dtype=torch.float64) - target).cpu()
                logits = partial(torch.addmm, logit_bias - rest, images, alpha=logit_scale)
                _add(correct, loss, logits, candidates, wins_above, is_own=k == column)
        return correct, loss

    tallies = in_threads(tally_class, range(len(counts)), num_threads=torch.get_num_threads())
    correct, loss = (torch.stack(of_classes) for of_classes in zip(*tallies, strict=True))  # [C, M] each
    return ColumnTally(counts, correct.T, loss.sum(dim=0))


def _add(
    correct: Tensor,  # [M], changed in place
    loss: Tensor,  # [M], changed in place
    logits: Callable[..., Tensor],  # of the transposed features of m candidates: [n, m], relative to the other classes
    candidates: Tensor,  # [M, D]
    wins_above: Tensor,  # [n, 1]
    *,
    is_own: bool,
) -> None:
    """Add what the logits z of each candidate decide about n images of one class.

    The candidate wins the image, or takes it from its class. The loss is log(1 + exp(z)), or log(1 + exp(-z)) for
    images of its own class, and a constant.
    """
    count, sign = len(wins_above), 1 if is_own else -1
    size = max(1, CELLS // max(1, count))
    buffer = wins_above.new_empty(2, count * min(size, len(candidates)))
    for start in range(0, len(candidates), size):
        part = candidates[start : start + size]
        z, other = buffer[:, : count * len(part)].view(2, count, len(part))
        logits(part.T, out=z)
        correct[start : start + size] += sign * torch.gt(z, wins_above, out=other).sum(dim=0).long().cpu()
        positive = torch.clamp(z.neg_() if is_own else z, min=0, out=other)
        total = positive.sum(dim=0)
        torch.sub(z, positive, alpha=2, out=z)  # -|z|
        # A product of factors between one and two, because a logarithm of each takes ten times as long.
        loss[start : start + size] += (total + z.exp_().add_(1).prod(dim=0).log_()).double().cpu()

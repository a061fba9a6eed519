"""Loss and accuracy of templates from features and labels: pure functions on tensors, block by block.

Both figures are over all given images, each counted once: no random crops, no dropped last batch. The loss that the
paper's official code reports is that of its last batch only; see docs/decisions.md.

A million images and a thousand classes are 4 GB of logits for one template, so images are processed in blocks, and each
block is reduced to a `Tally`. Tallies add up, over blocks and over machines. Each template has its own matrix product:
a single one for all templates is not faster (measured at C = 1000) and takes more memory.

Letters: N images, n images of a block, C classes, T or K templates, D feature width.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Required, TypedDict, Unpack

import torch
from torch import Tensor

from ipo_dspy.scoring.candidate_classes import CandidateClasses
from ipo_dspy.scoring.class_objectives import OutcomeRule, Outcomes
from ipo_dspy.scoring.comparison import PairTally
from ipo_dspy.scoring.image_blocks import BLOCK_ELEMENTS, ImageBlock, block_logits, blocks
from ipo_dspy.scoring.tally import BINS, TOP, ClassCounts, Counts
from ipo_dspy.scoring.tally import Tally as Tally


class LogitOptions(TypedDict, total=False):
    """Keyword arguments of the functions that compute logits block by block.

    Attributes:
        logit_scale: factor of the cosine similarities.
        logit_bias: what is added to the logits, for all classes or [C]; 0 by default.
        allowed: the candidate classes of N images; all classes by default.
        block: images per block; see `image_blocks.block_size`.
    """

    logit_scale: Required[float]
    logit_bias: float | Tensor
    allowed: CandidateClasses | None
    block: int | None


def class_logits(
    image_features: Tensor,  # [N, D] normalized
    text_features: Tensor,  # [C, D] normalized
    *,
    logit_scale: float,
    logit_bias: float = 0.0,
) -> Tensor:  # [N, C]
    """Return cosine similarities at the model's own logit scale."""
    return logit_scale * (image_features @ text_features.T) + logit_bias


def tally_templates(
    image_features: Tensor,  # [N, D] normalized, any floating dtype
    labels: Tensor,  # [N] int64, an index into C
    text_features: Tensor,  # [T, C, D] normalized
    *,
    pairs: Counts | None = None,  # [P, 2] true and predicted classes
    **options: Unpack[LogitOptions],
) -> list[Tally]:
    """Count the correct images and sum the loss of each of T templates over all images.

    With `pairs`, which may be empty, images are also counted by class, and those of each pair.

    Computed on the device and in the dtype of the text features; each block of images is moved there. The loss of an
    image has that dtype, and losses are summed in double precision, so tallies of subsets add up to the tally of all
    images to within the precision of the logits: about 1e-6 nats of the mean in float32.

    >>> eye = torch.eye(2)
    >>> [tally.score for tally in tally_templates(eye, torch.tensor([0, 1]), eye[None], logit_scale=1.0)]
    [Score(accuracy=100.00%, loss=0.3133)]
    """
    device = text_features.device
    loss = torch.zeros(len(text_features), dtype=torch.float64, device=device)  # [T]
    correct = torch.zeros(len(text_features), dtype=torch.int64, device=device)  # [T]
    empty = None if pairs is None else _count_classes(torch.zeros(0, text_features.shape[1]), labels[:0], pairs)
    by_class = [empty] * len(text_features)
    for images, logits in _logits_of_blocks(image_features, text_features, options):
        targets = labels[images.rows].to(device, non_blocking=True)  # [n]
        for t, classes in enumerate(text_features):  # [C, D]
            scores = logits(classes)  # [n, C]
            hits, nats = _sums(scores, targets, images.log_probs_buffer)
            correct[t] += hits
            loss[t] += nats
            if pairs is not None and (before := by_class[t]) is not None:
                by_class[t] = before + _count_classes(scores, targets, pairs, images.log_probs_buffer)
    count = len(image_features)
    return [Tally(count, *counts) for counts in zip(correct.tolist(), loss.tolist(), by_class, strict=True)]


def tally_pairs(
    image_features: Tensor,  # [N, D] normalized
    labels: Tensor,  # [N] int64, an index into C
    text_features: Tensor,  # [K, C, D] normalized
    *,
    outcomes: OutcomeRule = None,
    **options: Unpack[LogitOptions],
) -> PairTally:
    """Return the pair tally of K templates over all images, in one pass; see `tally_templates` for the arguments.

    In addition to the blocks of `tally_templates` it takes 16 bytes for each template and image of a block, and logits
    of the size of a block.
    """
    device, (count, class_count) = text_features.device, text_features.shape[:2]
    sums = torch.zeros(class_count, 2 * count, dtype=torch.float64, device=device)
    products = torch.zeros(2 * count, 2 * count, dtype=torch.float64, device=device)
    for rows, table in outcome_tables(image_features, labels, text_features, outcomes=outcomes, **options):
        sums.index_add_(0, labels[rows].to(device, non_blocking=True), table)
        products.addmm_(table.T, table)
    counts = torch.bincount(labels, minlength=class_count)
    return PairTally(counts.numpy(), sums.cpu().numpy(), products.cpu().numpy())


def outcome_tables(
    image_features: Tensor,  # [N, D] normalized
    labels: Tensor,  # [N] int64, an index into C
    text_features: Tensor,  # [K, C, D] normalized
    *,
    outcomes: OutcomeRule = None,
    **options: Unpack[LogitOptions],
) -> Iterator[tuple[slice, Tensor]]:
    """Yield the rows of each block of images, and their outcomes [n, 2K] as in `PairTally`, in double precision.

    The first outcome of an image is 1 if it is classified correctly, or what `outcomes` says: 1 if its label is among
    the five highest, minus its loss, or a value by its label and its predicted class.

    Templates of few classes share a matrix product, because there are many of them.
    """
    device, (count, class_count) = text_features.device, text_features.shape[:2]
    buffer = text_features.new_empty(0)
    evaluate = _outcome_function(outcomes, device) if isinstance(outcomes, Outcomes) else None
    scale, bias = options["logit_scale"], options.get("logit_bias", 0.0)
    for images in blocks(image_features, text_features, options.get("allowed"), options.get("block")):
        targets = labels[images.rows].to(device, non_blocking=True)  # [n]
        table = torch.empty(len(targets), 2 * count, dtype=torch.float64, device=device)  # [n, 2K]
        together = max(1, BLOCK_ELEMENTS["cpu"] // (len(targets) * class_count))
        for first in range(0, count, together):
            texts = text_features[first : first + together]  # [k, C, D]
            size = len(targets) * len(texts) * class_count
            buffer = buffer if len(buffer) >= size else text_features.new_empty(size)
            cosines = torch.mm(images.images, texts.flatten(0, 1).T, out=buffer[:size].view(len(targets), -1))
            logits = cosines.view(len(targets), len(texts), class_count).mul_(scale).add_(bias)  # [n, k, C]
            if images.forbidden is not None:
                logits.masked_fill_(images.forbidden[:, None], float("-inf"))
            chosen = targets[:, None, None].expand(-1, len(texts), 1)  # [n, k, 1]
            top = logits.argmax(dim=2, keepdim=True)
            peak, target = logits.gather(2, top), logits.gather(2, chosen)
            hits = (logits > target).sum(dim=2) < TOP if outcomes == "top5" else (top == chosen)[..., 0]  # [n, k]
            # In place, because logits are large.
            losses = logits.sub_(peak).exp_().sum(dim=2, keepdim=True).log_() + peak - target
            if outcomes == "loss":
                values = -losses[..., 0]
            else:
                values = hits if evaluate is None else evaluate(hits, targets, top[..., 0], first)
            table[:, first : first + len(texts)] = values
            table[:, count + first : count + first + len(texts)] = losses[..., 0]
        yield images.rows, table


def probabilities(
    image_features: Tensor,  # [N, D] normalized
    text_features: Tensor,  # [C, D] normalized
    **options: Unpack[LogitOptions],
) -> Tensor:  # [N, C] float64, on the CPU
    """Return the probability of each class for each image: the one function here whose result is not small."""
    table = torch.empty(len(image_features), len(text_features), dtype=torch.float64)
    for images, logits in _logits_of_blocks(image_features, text_features, options):
        table[images.rows] = torch.softmax(logits(text_features), dim=1, out=images.log_probs_buffer).cpu()
    return table


def tally_logits(scores: Tensor, labels: Tensor) -> Tally:
    """Return the tally of logits [N, C] against labels [N], counted as in `tally_templates`.

    >>> tally_logits(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1])).score
    Score(accuracy=50.00%, loss=0.8133)
    """
    correct, loss = _sums(scores, labels)
    return Tally(len(scores), int(correct), float(loss))


def predict(
    image_features: Tensor,  # [N, D] normalized
    text_features: Tensor,  # [C, D] normalized
    **options: Unpack[LogitOptions],
) -> tuple[Tensor, Tensor]:  # [N] int64 and [N], on the CPU
    """Return the index of the highest logit of each image, the first one on ties, and its probability.

    These are the predictions that `tally_templates` counts.
    """
    predicted = torch.empty(len(image_features), dtype=torch.int64)
    probabilities = torch.empty(len(image_features), dtype=text_features.dtype)
    for images, logits in _logits_of_blocks(image_features, text_features, options):
        scores = logits(text_features)  # [n, C]
        top = scores.argmax(dim=1, keepdim=True)  # [n, 1]
        shares = torch.softmax(scores, dim=1, out=images.log_probs_buffer)
        predicted[images.rows] = top[:, 0].cpu()
        probabilities[images.rows] = shares.gather(1, top)[:, 0].cpu()
    return predicted, probabilities


def per_class(predicted: Sequence[str], labels: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Count the correct and all images of each class in `labels`, in order of first appearance.

    >>> per_class(["cat", "cat"], ["cat", "dog"])
    {'cat': (1, 1), 'dog': (0, 1)}
    """
    counts: dict[str, tuple[int, int]] = {}
    for guess, label in zip(predicted, labels, strict=True):
        correct, total = counts.get(label, (0, 0))
        counts[label] = (correct + (guess == label), total + 1)
    return counts


def _logits_of_blocks(
    image_features: Tensor, text_features: Tensor, options: LogitOptions
) -> Iterator[tuple[ImageBlock, Callable[[Tensor], Tensor]]]:
    """Yield each block of images, and the function from the features of the classes [C, D] to its logits [n, C]."""
    scale, bias = options["logit_scale"], options.get("logit_bias", 0.0)
    for images in blocks(image_features, text_features, options.get("allowed"), options.get("block")):
        yield images, partial(block_logits, images, scale=scale, bias=bias)


def _sums(scores: Tensor, targets: Tensor, buffer: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Count the logits [n, C] that are highest at the target class [n], and sum the losses in double precision."""
    log_probs = torch.log_softmax(scores, dim=1, out=buffer).gather(1, targets[:, None])  # [n, 1]
    return (scores.argmax(dim=1) == targets).sum(), -log_probs.sum(dtype=torch.float64)


def _count_classes(scores: Tensor, targets: Tensor, pairs: Counts, log_probs: Tensor | None = None) -> ClassCounts:
    """Count the logits [n, C] by class, with the log-probabilities [n, C] that `_sums` left in its buffer."""
    classes = scores.shape[1]
    predicted = scores.argmax(dim=1)  # [n]
    hits = predicted == targets
    confidence = (scores if log_probs is None else log_probs).gather(1, predicted[:, None])[:, 0].double().exp()
    bins = (confidence * BINS).ceil().long().sub_(1).clamp_(0, BINS - 1)
    weights = torch.stack([torch.ones_like(confidence), hits.double(), confidence], dim=1)  # [n, 3]
    positions = _pair_positions(pairs, targets, predicted, classes)
    right, given, there, of_pairs = (
        torch.bincount(indices, minlength=size).cpu().numpy()
        for indices, size in (
            (targets[hits], classes),
            (predicted, classes),
            (targets, classes),
            (positions, len(pairs) + 1),
        )
    )
    top = (scores > scores.gather(1, targets[:, None])).sum(dim=1) < TOP
    table = torch.zeros(BINS, 3, dtype=torch.float64, device=scores.device).index_add_(0, bins, weights)
    return ClassCounts(right, given, there, int(top.sum()), of_pairs[: len(pairs)], table.cpu().numpy())


def _pair_positions(pairs: Counts, targets: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Return the position of each (target, predicted) among pairs [P, 2], or P if it is not one of them."""
    codes = targets * classes + predicted
    if not len(pairs):
        return torch.zeros_like(codes)
    listed, order = torch.from_numpy(pairs[:, 0] * classes + pairs[:, 1]).to(codes.device).sort()
    at = torch.searchsorted(listed, codes).clamp_(max=len(pairs) - 1)
    return torch.where(listed[at] == codes, order[at], len(pairs))


def _outcome_function(outcomes: Outcomes, device: torch.device) -> Callable[[Tensor, Tensor, Tensor, int], Tensor]:
    """Return a function of hits [n, k], targets [n], predicted [n, k] and the first template, to outcomes [n, k]."""
    tables = [torch.from_numpy(table).to(device) for table in (outcomes.right, outcomes.given, outcomes.there)]
    pair_values = torch.tensor([*outcomes.pair_values, 0.0], dtype=torch.float64, device=device)  # [P + 1]

    def evaluate(hits: Tensor, targets: Tensor, predicted: Tensor, first: int) -> Tensor:
        rows = slice(first, first + hits.shape[1])
        right, given, there = (
            (table if len(table) == 1 else table[rows]).expand(hits.shape[1], -1) for table in tables
        )  # [k, C]
        positions = _pair_positions(outcomes.pairs, targets[:, None], predicted, right.shape[1])
        linear = right[:, targets].T * hits + given.T.gather(0, predicted) + there[:, targets].T
        return linear + pair_values[positions]

    return evaluate

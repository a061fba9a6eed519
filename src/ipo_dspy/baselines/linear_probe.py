"""A linear probe: multinomial logistic regression on the frozen image features, without any text.

Radford et al. 2021, appendix A.3: L-BFGS with at most 1,000 iterations, and an L2 penalty whose strength is searched on
validation images. Zhou et al. 2022 (CoOp) did the same with as many validation images per class as shots, at most four.
It learns a weight vector per class, so it cannot classify classes that it was not fitted to.

Letters: N images, C classes, D width of the features.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from ipo_dspy.baselines.base import FewShotTask, Progress, Tower, targets_of
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.image_features import ImageSource, encode_images
from ipo_dspy.errors import InputError

MAX_ITERATIONS = 1000
TOLERANCE = 1e-4
"""The fit ends at a summed gradient whose largest entry is this, as in the scikit-learn that both papers used."""
FOLDS = 4
"""Maximum number of folds of the cross-validation, which replaces missing validation images."""
COARSE = tuple(float(exponent) for exponent in range(-6, 7, 2))
"""Exponents of the first strengths that are tried."""
RESOLUTION = 1 / 8
"""Distance of the last ones, in decades."""

Split = tuple[Tensor, Tensor, Tensor, Tensor]
"""Features and targets to fit to, then features and targets to score on."""


@dataclass(frozen=True, slots=True, eq=False)
class ProbeClassifier:
    """A fitted linear probe; `inverse_strength` is the C of scikit-learn that was found."""

    backbone: Backbone = field(repr=False)
    classes: tuple[str, ...]
    weight: Tensor = field(repr=False)  # [C, D + 1], float64; the last column is the bias
    inverse_strength: float

    @torch.no_grad()
    def logits(self, images: Sequence[ImageSource], classes: Sequence[str]) -> Tensor:
        """Return logits [N, C] for some of the classes that it was fitted to; see `FittedClassifier`."""
        if unknown := [name for name in classes if name not in self.classes]:
            known = ", ".join(self.classes[:3])
            raise InputError(
                f"classes must be among those that the linear probe was fitted to ({known}, ...), got {unknown[0]!r}; "
                "fit it to images of this class"
            )
        logits = _with_bias(encode_images(self.backbone, images).features) @ self.weight.T  # [N, all]
        return logits[:, targets_of(classes, self.classes)].float()


class LinearProbe:
    """Logistic regression on normalized image features, its strength searched on the task's validation images.

    Without validation images the strength is searched by cross-validation on the training images; with a single image
    of a class that is impossible, and it is 1.
    """

    towers: tuple[Tower, ...] = ()

    def fit(self, task: FewShotTask, *, seed: int = 0, progress: Progress | None = None) -> ProbeClassifier:
        """Fit to the images of the task; the seed is not used, because the optimum is unique."""
        features, targets, count = encode_images(task.backbone, task.images).features, task.targets, len(task.classes)
        if task.validation_images:
            validation = encode_images(task.backbone, task.validation_images).features
            splits = [(features, targets, validation, targets_of(task.validation_labels, task.classes))]
        else:
            splits = cross_validation_splits(features, targets, count)
        report = progress or (lambda done, total: None)
        inverse = search_strength(partial(_score, splits, count), report) if splits else 1.0
        return ProbeClassifier(task.backbone, task.classes, fit_logistic(features, targets, count, inverse), inverse)


def fit_logistic(features: Tensor, targets: Tensor, count: int, inverse_strength: float) -> Tensor:
    """Return the minimum of `inverse_strength` * summed cross-entropy + half the squared norm of the weights.

    Args:
        features: [N, D].
        targets: [N] int64.
        count: C, number of classes.
        inverse_strength: as C in scikit-learn; biases are not penalized.

    Returns:
        Weights and, in the last column, biases: [C, D + 1] float64, on the CPU.

    >>> weight = fit_logistic(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]), 2, 1.0)
    >>> (torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64) @ weight.T).argmax().item()
    0
    """
    inputs = _with_bias(features)  # [N, D + 1]
    weight = torch.zeros(count, inputs.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight],
        max_iter=MAX_ITERATIONS,
        tolerance_grad=TOLERANCE / len(inputs),
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        penalty = weight[:, :-1].square().sum() / (2 * inverse_strength * len(inputs))
        loss = F.cross_entropy(inputs @ weight.T, targets) + penalty
        loss.backward()  # type: ignore[no-untyped-call]  # of torch
        return loss

    optimizer.step(objective)  # type: ignore[no-untyped-call]  # of torch
    return weight.detach()


def search_strength(score: Callable[[float], tuple[float, float]], report: Progress) -> float:
    """Return the inverse strength with the lowest score; the stronger penalty if several are equal.

    From 10^-6 to 10^6 in steps of two decades, then with half the step on both sides of the best one so far, until
    there are eight steps in a decade (Radford et al. 2021, appendix A.3).
    """
    found: dict[float, tuple[float, float]] = {}
    total = len(COARSE) + 8  # two for each halving of the step

    def try_out(exponent: float) -> None:
        found[exponent] = score(10.0**exponent)
        report(len(found), total)

    for exponent in COARSE:
        try_out(exponent)
    step = COARSE[1] - COARSE[0]
    while step > RESOLUTION:
        step /= 2
        best = min(found, key=lambda exponent: (found[exponent], exponent))
        for exponent in (best - step, best + step):
            try_out(exponent)
    return float(10.0 ** min(found, key=lambda exponent: (found[exponent], exponent)))


def cross_validation_splits(features: Tensor, targets: Tensor, count: int) -> list[Split]:
    """Return at most `FOLDS` splits whose parts have every class; none if a class has a single image."""
    folds = min(FOLDS, int(torch.bincount(targets, minlength=count).min()))
    if folds < 2:
        return []
    ranks = F.one_hot(targets).cumsum(dim=0)[range(len(targets)), targets]  # [N] position within the class
    held_out = [ranks % folds == fold for fold in range(folds)]
    return [(features[~mask], targets[~mask], features[mask], targets[mask]) for mask in held_out]


def _score(splits: Sequence[Split], count: int, inverse_strength: float) -> tuple[float, float]:
    """Return the number of wrong predictions and the summed loss on the images that are scored on."""
    wrong, loss = 0.0, 0.0
    for features, targets, others, answers in splits:
        logits = _with_bias(others) @ fit_logistic(features, targets, count, inverse_strength).T
        wrong += float((logits.argmax(dim=1) != answers).sum())
        loss += float(F.cross_entropy(logits, answers, reduction="sum"))
    return wrong, loss


def _with_bias(features: Tensor) -> Tensor:
    """Return features in float64 with a last column of ones: [N, D + 1]."""
    return F.pad(features.double(), (0, 1), value=1.0)

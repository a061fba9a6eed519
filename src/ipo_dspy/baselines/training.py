"""SGD training loop shared by all learned methods, as in CoOp and follow-ups.

The rate is constant and small for the first epoch and follows half a cosine after it, by the epoch and not by the step
(Zhou et al. 2022, "CoOp"; the scheduler is that of Dassl, whose cosine starts after the warm-up and so
ends above zero). As in Dassl, images that do not fill the last batch of an epoch sit that epoch out, unless there is no
full batch at all; the next epoch leaves out others.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ipo_dspy.errors import InputError


@dataclass(frozen=True, slots=True)
class SGDConfig:
    """Optimization hyper-parameters.

    Attributes:
        epochs: passes over the images.
        batch_size: images in a step; of fewer images, all.
        lr: the highest rate.
        warmup: epochs at `warmup_lr` before that.
        warmup_lr: a rate.
        momentum: of SGD.
        weight_decay: of SGD.

    >>> recipe = SGDConfig(epochs=5, batch_size=4, lr=0.0035)
    >>> [round(recipe.rate(epoch), 5) for epoch in range(5)]
    [1e-05, 0.0035, 0.00317, 0.00229, 0.00121]
    """

    epochs: int
    batch_size: int
    lr: float
    warmup: int = 1
    warmup_lr: float = 1e-5
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be >= 1, got {getattr(self, name)!r}")
        if not self.lr > 0:
            raise InputError(f"lr must be positive, got {self.lr!r}; for example lr=0.002")

    def rate(self, epoch: int) -> float:
        """Return the rate in an epoch, counted from 0."""
        if epoch < self.warmup:
            return self.warmup_lr
        return self.lr * (1 + math.cos(math.pi * (epoch - self.warmup) / self.epochs)) / 2


def build_recipe(self: Any) -> SGDConfig:
    """Return the optimization hyper-parameters; every learned method has the three fields, and this as a method."""
    return SGDConfig(epochs=self.epochs, batch_size=self.batch_size, lr=self.lr)


def train(
    parameters: Sequence[Tensor],
    loss_of_batch: Callable[[Tensor], Tensor],
    count: int,
    *,
    recipe: SGDConfig,
    generator: torch.Generator,
    progress: Callable[[int, int], None] | None = None,
    after_epoch: Callable[[int], None] | None = None,
) -> tuple[float, ...]:
    """Learn parameters in place; afterwards they require no gradients.

    Args:
        parameters: leaves that require gradients.
        loss_of_batch: the loss of the images with the given indices [n].
        count: images in all.
        recipe: hyper-parameters.
        generator: decides the order of the images in every epoch; on the CPU.
        progress: called with steps done and steps in all.
        after_epoch: called with the number of epochs done.

    Returns:
        The mean loss of an image in each epoch, over the images seen in it.
    """
    optimizer = torch.optim.SGD(parameters, recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    steps = max(1, count // recipe.batch_size)
    means: list[float] = []
    for epoch in range(recipe.epochs):
        optimizer.param_groups[0]["lr"] = recipe.rate(epoch)
        total = 0.0
        seen = torch.randperm(count, generator=generator)[: steps * recipe.batch_size]
        for step, indices in enumerate(torch.split(seen, recipe.batch_size)):
            optimizer.zero_grad()
            loss = loss_of_batch(indices)
            torch.autograd.backward(loss)
            optimizer.step()
            total += float(loss.detach()) * len(indices)
            if progress is not None:
                progress(epoch * steps + step + 1, recipe.epochs * steps)
        means.append(total / len(seen))
        if after_epoch is not None:
            after_epoch(epoch + 1)
    for one in parameters:
        one.requires_grad_(False).grad = None
    return tuple(means)

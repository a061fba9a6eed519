"""SGD training loop shared by all learned methods, as in CoOp and follow-ups.

The learning rate is small and constant in the first epoch and then follows half a cosine, updated per epoch, not per
step (Zhou et al. 2022, "CoOp"). The scheduler is that of Dassl: its cosine starts after the warm-up and so ends above
zero. As in Dassl, the last incomplete batch of an epoch is dropped, unless it is the only one; the order is shuffled,
so each epoch drops different images.
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
    """Hyper-parameters of SGD with a warm-up.

    >>> recipe = SGDConfig(epochs=5, batch_size=4, lr=0.0035)
    >>> [round(recipe.rate(epoch), 5) for epoch in range(5)]
    [1e-05, 0.0035, 0.00317, 0.00229, 0.00121]
    """

    epochs: int
    batch_size: int  # all images if there are fewer
    lr: float  # peak
    warmup: int = 1  # number of first epochs at `warmup_lr`
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
        """Return the learning rate in an epoch, counted from 0."""
        if epoch < self.warmup:
            return self.warmup_lr
        return self.lr * (1 + math.cos(math.pi * (epoch - self.warmup) / self.epochs)) / 2


def build_recipe(self: Any) -> SGDConfig:
    """Return the optimization hyper-parameters; learned methods have the three fields and use this as a method."""
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
    """Train leaves in place, and return the mean loss per image of each epoch, over the images used in it.

    `loss_of_batch` gets the indices [n] of some of `count` images, which the generator shuffles in every epoch.
    `progress` is called with the number of steps done and the total, `after_epoch` with the number of epochs done.
    Afterwards the parameters do not require gradients.
    """
    optimizer = torch.optim.SGD(parameters, recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    steps = max(1, count // recipe.batch_size)
    means: list[float] = []
    for epoch in range(recipe.epochs):
        optimizer.param_groups[0]["lr"] = recipe.rate(epoch)
        total = 0.0
        order = torch.randperm(count, generator=generator)[: steps * recipe.batch_size]
        for step, indices in enumerate(torch.split(order, recipe.batch_size)):
            optimizer.zero_grad()
            loss = loss_of_batch(indices)
            torch.autograd.backward(loss)
            optimizer.step()
            total += float(loss.detach()) * len(indices)
            if progress is not None:
                progress(epoch * steps + step + 1, recipe.epochs * steps)
        means.append(total / len(order))
        if after_epoch is not None:
            after_epoch(epoch + 1)
    for parameter in parameters:
        parameter.requires_grad_(False).grad = None
    return tuple(means)

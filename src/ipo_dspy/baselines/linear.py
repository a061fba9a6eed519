"""A linear layer whose first weights come from a generator of ours.

`torch.nn.Linear` draws from the global generator, which library code leaves alone.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor


class Linear(NamedTuple):
    """A linear layer: weights [outputs, inputs] and biases [outputs], leaves that require gradients until learned."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]."""
        return F.linear(x, self.weight, self.bias)

    def copied(self) -> "Linear":
        """Leaves of its own with the same values."""
        return Linear(*(one.detach().clone().requires_grad_() for one in self))


def init_linear(inputs: int, outputs: int, device: torch.device, generator: torch.Generator) -> Linear:
    """Weights and biases uniform within 1/sqrt(inputs), as `torch.nn.Linear` has them, the weights first.

    >>> layer = init_linear(4, 3, torch.device("cpu"), torch.Generator().manual_seed(0))
    >>> layer(torch.zeros(2, 4)).shape, bool((layer.weight.abs() <= 0.5).all())
    (torch.Size([2, 3]), True)
    """
    weight, bias = (
        ((torch.rand(shape, generator=generator) * 2 - 1) * inputs**-0.5).to(device).requires_grad_()
        for shape in ((outputs, inputs), (outputs,))
    )
    return Linear(weight, bias)

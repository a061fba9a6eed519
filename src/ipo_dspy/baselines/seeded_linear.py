"""A linear layer that is initialized from an explicit generator.

`torch.nn.Linear` draws from the global generator, which library code must not touch.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor


class Linear(NamedTuple):
    """A linear layer: weights [outputs, inputs] and biases [outputs], leaves that require gradients during training."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Map [..., inputs] to [..., outputs]."""
        return F.linear(x, self.weight, self.bias)

    def copied(self) -> "Linear":
        """Return separate leaves with the same values."""
        return Linear(*(tensor.detach().clone().requires_grad_() for tensor in self))


def init_linear(inputs: int, outputs: int, device: torch.device, generator: torch.Generator) -> Linear:
    """Return a layer with weights, then biases, drawn uniformly within 1/sqrt(inputs), as in `torch.nn.Linear`."""
    weight, bias = (
        ((torch.rand(shape, generator=generator) * 2 - 1) * inputs**-0.5).to(device).requires_grad_()
        for shape in ((outputs, inputs), (outputs,))
    )
    return Linear(weight, bias)

"""Images perturbed: a random part of each, brought back to the size of the whole and perhaps flipped.

In pixels and from a generator of the caller, so that the same seed gives the same pictures: torchvision's transforms
draw from the global generator, which library code leaves alone. Parts are read with bilinear interpolation and are
never larger than the image.

Letters: N images, H height, W width.
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from ipo_dspy.errors import InputError

RATIO = 4 / 3
"""How much wider or higher a part is at most, as in torchvision's `RandomResizedCrop`."""


def random_crop_flip(pixels: Tensor, generator: torch.Generator, *, smallest: float) -> Tensor:
    """A random part of each image [N, 3, H, W] in the size of the whole, flipped half the time: [N, 3, H, W].

    A part's area is uniform, and so is the logarithm of its shape among those shapes that fit.

    Args:
        pixels: preprocessed images.
        generator: decides parts and flips; on the CPU.
        smallest: share of an image's area that a part has at least; at 1 only flips are left.

    Raises:
        InputError: `smallest` is no share.

    >>> ramp = torch.arange(4.0).expand(1, 3, 4, 4)
    >>> random_crop_flip(ramp, torch.Generator().manual_seed(2), smallest=1.0)[0, 0, 0]
    tensor([3., 2., 1., 0.])
    """
    check_share(smallest)
    drawn = torch.rand(len(pixels), 5, generator=generator)  # [N, 5]
    maps = _maps(*drawn.unbind(dim=1), smallest=smallest)  # [N, 2, 3]
    grid = F.affine_grid(maps.to(pixels), list(pixels.shape), align_corners=False)  # [N, H, W, 2]
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


def check_share(smallest: float) -> None:
    """Refuse a share of an image that cannot be.

    Raises:
        InputError: not above 0 and at most 1.
    """
    if not 0 < smallest <= 1:
        raise InputError(f"smallest_crop={smallest!r} is no share of an image; write e.g. 0.08, or 1 for flips alone")


def _maps(area: Tensor, shape: Tensor, right: Tensor, down: Tensor, flip: Tensor, *, smallest: float) -> Tensor:
    """From draws within 0 and 1, [N] each, to where every part lies in its image: [N, 2, 3], as `affine_grid` reads."""
    share = smallest + (1 - smallest) * area  # [N]
    widest = (-share.log()).clamp(max=math.log(RATIO))  # [N]; beyond it a part would be larger than the image
    bend = (widest * (shape - 0.5)).exp()  # [N]: square root of width over height
    width, height = share.sqrt() * bend, share.sqrt() / bend
    across = torch.where(flip < 0.5, width, -width)
    nothing = torch.zeros_like(width)
    rows = (across, nothing, (1 - width) * (2 * right - 1), nothing, height, (1 - height) * (2 * down - 1))
    return torch.stack(rows, dim=1).view(-1, 2, 3)

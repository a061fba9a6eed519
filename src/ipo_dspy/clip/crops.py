"""Cut boxes, such as those of a detector, out of one image."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ipo_dspy.clip.image_io import MAX_ASPECT, ImageSource, is_tensor, name_image, open_image
from ipo_dspy.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

Boxes: TypeAlias = Union[Sequence[Sequence[float]], NDArray[np.floating | np.integer], "Tensor"]
"""Boxes [B, 4] of one image in pixels: x0, y0, x1, y1 from its upper left corner, without column x1 and row y1."""
_SLACK = 1.0
"""Pixels by which a box may lie outside: detectors do not round theirs."""


def crop(image: ImageSource, boxes: Boxes, *, allow_url: bool = False) -> list[Image.Image]:
    """Return the part of an image in each box; sides are rounded to whole pixels.

    An image whose file says that it is turned is cut after it was turned upright, as it is shown.

    Raises:
        InputError: boxes of another form, in other units, empty, too thin, or outside the image by more than a pixel.
        ImageError: the image cannot be read.

    >>> [part.size for part in crop(np.zeros((30, 40, 3), np.uint8), [(0, 0, 40, 30), (9.7, 5, 30.2, 20)])]
    [(40, 30), (20, 15)]
    """
    try:
        plain = boxes.detach().cpu().double() if is_tensor(boxes) else boxes
        corners = np.asarray(plain, dtype=np.float64)  # [B, 4]
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: rows that are tensors with a gradient
        corners = np.empty(())
    if corners.shape == (0,):  # an empty list
        return []
    if corners.ndim != 2 or corners.shape[1] != 4 or not np.isfinite(corners).all():
        raise InputError(
            "must be boxes [B, 4] of finite numbers x0, y0, x1, y1", argument="crops", value=boxes, hint=_EXAMPLE
        )
    whole = open_image(image, allow_url=allow_url)
    if len(corners) and corners.max() <= 1 < max(whole.size):
        raise InputError("must be in pixels, not in shares of the image", argument="crops", value=boxes, hint=_EXAMPLE)
    limits = np.array([*whole.size, *whole.size], dtype=np.float64)
    rounded = np.rint(corners.clip(0, limits)).astype(int)
    for index, (box, pixels) in enumerate(zip(corners, rounded, strict=True)):
        shown = f"crops[{index}] = ({', '.join(f'{side:g}' for side in box)})"
        if ((box < -_SLACK) | (box > limits + _SLACK)).any():
            size = f"{whole.width}x{whole.height}"
            raise InputError(
                f"{shown} is outside {name_image(image)}, which is {size}; pass x0, y0, x1, y1 within the image"
            )
        if pixels[0] >= pixels[2] or pixels[1] >= pixels[3]:
            raise InputError(f"{shown} is empty; pass x0 < x1 and y0 < y1, or leave it out")
        sides = sorted(pixels[2:] - pixels[:2])
        if sides[1] > MAX_ASPECT * sides[0]:
            raise InputError(f"{shown} is too thin to be resized; pass a wider box, or leave it out")
    return [whole.crop(tuple(pixels)) for pixels in rounded.tolist()]


_EXAMPLE = "for example crops=[(10, 20, 110, 80)]"

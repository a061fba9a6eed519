"""Random augmentations of an image, as in the published training code.

torchvision's transforms draw from the global generator, which library code must not touch, and its RandAugment differs
from that of Dassl, on which CoPrompt's code is built: it has no inversion, no brightening before solarizing, and no
cutout, changes colors in both directions, keeps 7 bits instead of 5, and solarizes from 170 instead of 85.
"""

import math
import random
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageEnhance, ImageOps

Size: TypeAlias = tuple[int, int]
"""Width and height."""

Draw: TypeAlias = Callable[[Image.Image, Size, random.Random], Image.Image]
"""Returns a random augmentation, of a given size, of an RGB image of any size."""

SMALLEST, RATIO = 0.08, 4 / 3
"""Minimum fraction of the image area in a crop, and maximum aspect ratio of a crop in either direction."""

OPERATIONS_AT_ONCE, STRENGTH = 2, 10 / 30
"""Number of operations that RandAugment applies, and their strength (`RANDAUGMENT_N`, `RANDAUGMENT_M` in Dassl)."""

_BICUBIC = Image.Resampling.BICUBIC


def random_crop_flip(image: Image.Image, size: Size, rng: random.Random) -> Image.Image:
    """Return a random crop of the image, resized, and flipped half the time.

    The area of the crop is uniform, and so is the logarithm of its aspect ratio. If ten draws do not fit into the
    image, the result is the largest center crop with an allowed aspect ratio. The distribution is that of torchvision's
    `RandomResizedCrop` with its defaults.
    """
    crop = image.crop(_part(image.width, image.height, rng)).resize(size, _BICUBIC)
    return ImageOps.mirror(crop) if rng.random() < 0.5 else crop


def rand_augment(image: Image.Image, size: Size, rng: random.Random) -> Image.Image:
    """Return the image resized without cropping, after two random operations of `OPERATIONS`."""
    image = image.resize(size, _BICUBIC)
    for operation in rng.choices(list(OPERATIONS.values()), k=OPERATIONS_AT_ONCE):
        image = operation(image, rng)
    return image


def _part(width: int, height: int, rng: random.Random) -> tuple[int, int, int, int]:
    """Return the left, upper, right, and lower edges of a random crop."""
    for _ in range(10):
        area = width * height * rng.uniform(SMALLEST, 1)
        ratio = math.exp(rng.uniform(-math.log(RATIO), math.log(RATIO)))
        across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            left, top = rng.randint(0, width - across), rng.randint(0, height - down)
            return left, top, left + across, top + down
    across, down = min(width, round(height * RATIO)), min(height, round(width * RATIO))
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down


def _between(least: float, most: float) -> float:
    """Return the value at `STRENGTH` in the range of an operation."""
    return least + STRENGTH * (most - least)


def _either(value: float, rng: random.Random) -> float:
    """Return the value or, half the time, its negative."""
    return -value if rng.random() < 0.5 else value


def _enhanced(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> "Operation":
    """Return an operation that weakens a property of the image; a factor of 1 would not change it."""
    return lambda image, _: kind(image).enhance(_between(0.1, 1.9))


def _mapped(image: Image.Image, *rows: float) -> Image.Image:
    """Return the image under an affine map, given by its two rows; pixels from outside the image are black."""
    return image.transform(image.size, Image.Transform.AFFINE, rows)


def _brightened_solarized(image: Image.Image, _: random.Random) -> Image.Image:
    return ImageOps.solarize(image.point(lambda value: int(min(255, value + _between(0, 110)))), 128)


def _cut_out(image: Image.Image, rng: random.Random) -> Image.Image:
    """Return the image with a small gray square at a random position."""
    side = _between(0, 40)
    left, top = (max(0, int(rng.uniform(0, length) - side / 2)) for length in image.size)
    cut = image.copy()
    edges = (left, top, min(image.width, left + side), min(image.height, top + side))
    ImageDraw.Draw(cut).rectangle(edges, (125, 123, 114))
    return cut


Operation: TypeAlias = Callable[[Image.Image, random.Random], Image.Image]
"""Changes an RGB image but not its size."""

OPERATIONS: Mapping[str, Operation] = MappingProxyType(
    {
        "autocontrast": lambda image, _: ImageOps.autocontrast(image),
        "equalize": lambda image, _: ImageOps.equalize(image),
        "invert": lambda image, _: ImageOps.invert(image),
        "rotate": lambda image, rng: image.rotate(_either(_between(0, 30), rng)),
        "posterize": lambda image, _: ImageOps.posterize(image, int(_between(4, 8))),
        "solarize": lambda image, _: ImageOps.solarize(image, math.ceil(_between(0, 256))),
        "brighten and solarize": _brightened_solarized,
        "color": _enhanced(ImageEnhance.Color),
        "contrast": _enhanced(ImageEnhance.Contrast),
        "brightness": _enhanced(ImageEnhance.Brightness),
        "sharpness": _enhanced(ImageEnhance.Sharpness),
        "shear across": lambda image, rng: _mapped(image, 1, _either(_between(0, 0.3), rng), 0, 0, 1, 0),
        "shear down": lambda image, rng: _mapped(image, 1, 0, 0, _either(_between(0, 0.3), rng), 1, 0),
        "cut out": _cut_out,
        "move across": lambda image, rng: _mapped(image, 1, 0, _either(_between(0, 100), rng), 0, 1, 0),
        "move down": lambda image, rng: _mapped(image, 1, 0, 0, 0, 1, _either(_between(0, 100), rng)),
    }
)
"""The operations of Dassl's RandAugment, at the strengths of CoPrompt."""

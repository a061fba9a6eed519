"""Training images as pixels, by the evaluation transform or by a random augmentation at every step.

With the evaluation transform, pixels are computed once and stay in memory: 0.6 MB per image at 224 x 224, so 16 shots
of 500 classes take 4.8 GB. With an augmentation, the image is read and decoded again at each step. That takes no
memory, but the image tower has to run in every epoch.

Letters: N images, n images of a batch, H height, W width, D width of the features.
"""

import os
import random
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from ipo_dspy.baselines.augmentation import Draw, random_crop_flip
from ipo_dspy.baselines.base import FewShotTask
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.image_features import ImageSource, encode_images, open_image
from ipo_dspy.errors import DataError, ImageError

Result = TypeVar("Result")


class Views:
    """Pixels of training images, after a random augmentation or, if `draw` is None, the evaluation transform."""

    def __init__(self, task: FewShotTask, draw: Draw | None, generator: torch.Generator) -> None:
        self._backbone, self._images, self._draw, self._generator = task.backbone, task.images, draw, generator
        if draw is None:
            self._pixels = preprocess(task.backbone, task.images)  # [N, 3, H, W]
        else:
            _in_threads(lambda index: opened(task.images, index).size, range(len(task.images)))
            _, height, width = task.backbone.preprocess(Image.new("RGB", (32, 32))).shape
            self._size = width, height

    def __call__(self, indices: Tensor) -> Tensor:
        """Return pixels of the images with indices [n]: [n, 3, H, W], float32, on the CPU."""
        draw = self._draw
        if draw is None:
            return self._pixels[indices]
        # One seed per image, so that the order of the threads does not matter.
        seeds = torch.randint(2**62, (len(indices),), generator=self._generator).tolist()

        def augmented(place: int) -> Tensor:
            image = opened(self._images, int(indices[place]))
            # The image has its final size, so the evaluation transform only converts and normalizes it.
            return self._backbone.preprocess(draw(image, self._size, random.Random(seeds[place])))

        return torch.stack(_in_threads(augmented, range(len(indices))))


def crops(augment: bool) -> Draw | None:
    """Return the `draw` of `Views` for the `augment` setting of most methods: random crops and flips, or None."""
    return random_crop_flip if augment else None


def training_features(task: FewShotTask, augment: bool, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Return a function from indices of training images [n] to their normalized features [n, D].

    With `augment`, each call encodes new random crops; otherwise, each image is encoded once.
    """
    backbone = task.backbone
    if augment:
        views = Views(task, crops(augment), generator)
        return lambda indices: backbone.encode_pixels(views(indices))
    features = encode_images(backbone, task.images).features.to(backbone.device, torch.float32)  # [N, D]
    return lambda indices: features[indices]


def preprocess(backbone: Backbone, images: Sequence[ImageSource]) -> Tensor:
    """Apply the evaluation transform of the model to images: [N, 3, H, W], float32, on the CPU."""
    if not images:
        raise DataError("no images to encode; pass at least one")
    first = backbone.preprocess(opened(images, 0))  # [3, H, W]
    pixels = first.new_empty(len(images), *first.shape)
    pixels[0] = first

    def fill(index: int) -> None:
        pixels[index] = backbone.preprocess(opened(images, index))

    _in_threads(fill, range(1, len(images)))
    return pixels


def opened(images: Sequence[ImageSource], index: int) -> Image.Image:
    """Read and decode one of the images; an error names its position."""
    try:
        return open_image(images[index])
    except ImageError as error:
        raise ImageError(f"{error} (image {index + 1} of {len(images)})") from error


def _in_threads(function: Callable[[int], Result], numbers: Iterable[int]) -> list[Result]:
    """Return the results in order of the numbers; raise the first error in that order."""
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1), thread_name_prefix="ipo-decode") as pool:
        return list(pool.map(function, numbers))

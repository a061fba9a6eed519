"""A small CLIP with two blocks in both towers, and pictures of four colors that it can learn to distinguish."""

import functools
import tempfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from helpers import clip_toys
from ipo_dspy.baselines.base import FewShotTask
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.template import Template

CLASSES = ("cat", "dog", "owl", "bus")
PHOTO = Template.parse("a photo of a <CLASS>.")
COLORS = ((200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 40))


def toy_of_two_blocks(folder: Path, *, image: int = 2, text: int = 2) -> Backbone:
    """A toy whose towers have two blocks each, or as many as asked for."""
    config = {
        "text_cfg": {**clip_toys.TEXT, "layers": text},
        "vision_cfg": {**clip_toys.VISION, "layers": image},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(clip_toys.KINDS, "two blocks", config)
        return clip_toys.toy_backbone(folder, "two blocks")


@functools.cache
def deep_toy(*, image: int = 2, text: int = 2) -> Backbone:
    """The same, loaded once for all tests that leave it as it is; its files are gone."""
    with tempfile.TemporaryDirectory() as folder:
        return toy_of_two_blocks(Path(folder), image=image, text=text)


def pictures(shots: int, *, seed: int = 0) -> tuple[list[Image.Image], list[str]]:
    """Noisy pictures, each class in its color, with their labels."""
    generator = torch.Generator().manual_seed(seed)
    images, labels = list[Image.Image](), list[str]()
    for name, color in zip(CLASSES, COLORS, strict=True):
        for _ in range(shots):
            noise = torch.randint(-40, 41, (40, 48, 3), generator=generator)
            pixels = (torch.tensor(color) + noise).clamp(0, 255).byte()
            images.append(Image.fromarray(pixels.numpy()))
            labels.append(name)
    return images, labels


def few_shots(backbone: Backbone | None = None, shots: int = 4) -> FewShotTask:
    """A task for any method."""
    images, labels = pictures(shots)
    return FewShotTask(backbone or deep_toy(), images, labels, CLASSES, PHOTO)

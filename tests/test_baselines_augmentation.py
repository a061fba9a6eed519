"""Augmented images: crops compared with torchvision's; RandAugment by hand or compared with torchvision's."""

import random
import statistics
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ipo_dspy.baselines import augmentation as augment
from ipo_dspy.baselines.augmentation import OPERATIONS, Size, rand_augment, random_crop_flip
from ipo_dspy.clip.compat import patch_torchvision

patch_torchvision()
from torchvision.transforms import InterpolationMode, RandomResizedCrop  # noqa: E402
from torchvision.transforms import functional as tv  # noqa: E402

SIZE = (64, 48)
DRAWS = (random_crop_flip, rand_augment)


def noise(width: int = 90, height: int = 60, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def places(size: int = 200) -> Image.Image:
    """Red says how far across a pixel is, green how far down."""
    down, across = np.mgrid[:size, :size]
    return Image.fromarray(np.stack([across, down, np.full_like(down, 255)], axis=2).astype(np.uint8))


def array(image: Image.Image) -> Any:
    return np.asarray(image).astype(int)


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and one.tobytes() == other.tobytes()


def test_a_crop_is_the_part_of_the_image_in_bicubic() -> None:
    image, flips = noise(), 0
    for seed in range(40):
        left, top, right, bottom = augment._part(*image.size, random.Random(seed))
        crop = tv.resized_crop(
            image, top, left, bottom - top, right - left, list(SIZE[::-1]), InterpolationMode.BICUBIC
        )
        found = random_crop_flip(image, SIZE, random.Random(seed))
        flipped = same(found, tv.hflip(crop))
        assert flipped or same(found, crop)
        flips += flipped
    assert 10 < flips < 30


@pytest.mark.parametrize("size", [(500, 375), (64, 64), (300, 40)])
def test_parts_are_distributed_as_torchvisions(size: Size) -> None:
    rng, image = random.Random(1), Image.new("RGB", size)
    own = [augment._part(*size, rng) for _ in range(3000)]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        theirs = [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(3000)]
    for kept in (
        [(top, left, bottom - top, right - left) for left, top, right, bottom in own],
        theirs,
    ):
        assert all(top + height <= size[1] and left + width <= size[0] for top, left, height, width in kept)
    for index, edge in enumerate((size[1], size[0], size[1], size[0])):
        mine = [(part[1], part[0], part[3] - part[1], part[2] - part[0])[index] / edge for part in own]
        other = [part[index] / edge for part in theirs]
        assert statistics.mean(mine) == pytest.approx(statistics.mean(other), abs=0.02)
        assert statistics.stdev(mine) == pytest.approx(statistics.stdev(other), abs=0.02)


@pytest.mark.parametrize("size", [(1000, 10), (10, 1000), (1, 1)])
def test_of_thin_images_the_middle_is_taken(size: Size) -> None:
    with torch.random.fork_rng():
        top, left, height, width = RandomResizedCrop.get_params(Image.new("RGB", size), [0.08, 1.0], [3 / 4, 4 / 3])
    assert augment._part(*size, random.Random(0)) == (left, top, left + width, top + height)


def test_rand_augment_squeezes_the_image_and_applies_two_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Image.Image] = []

    def nothing(image: Image.Image, _: random.Random) -> Image.Image:
        seen.append(image)
        return image

    monkeypatch.setattr(augment, "OPERATIONS", {"nothing": nothing})
    found = rand_augment(noise(), SIZE, random.Random(0))
    assert len(seen) == 2
    assert same(found, tv.resize(noise(), list(SIZE[::-1]), InterpolationMode.BICUBIC))


def test_all_operations_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = dict.fromkeys(OPERATIONS, 0)

    def counted(name: str) -> augment.Operation:
        def count(image: Image.Image, _: random.Random) -> Image.Image:
            counts[name] += 1
            return image

        return count

    monkeypatch.setattr(augment, "OPERATIONS", {name: counted(name) for name in OPERATIONS})
    rng = random.Random(0)
    for _ in range(800):
        rand_augment(noise(8, 8), (8, 8), rng)
    assert len(counts) == 16
    assert all(60 < count < 140 for count in counts.values())


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("autocontrast", tv.autocontrast),
        ("equalize", tv.equalize),
        ("invert", tv.invert),
        ("posterize", lambda image: tv.posterize(image, 5)),
        ("solarize", lambda image: tv.solarize(image, 256 / 3)),
        ("color", lambda image: tv.adjust_saturation(image, 0.7)),
        ("contrast", lambda image: tv.adjust_contrast(image, 0.7)),
        ("brightness", lambda image: tv.adjust_brightness(image, 0.7)),
        ("sharpness", lambda image: tv.adjust_sharpness(image, 0.7)),
    ],
)
def test_operations_on_colors_are_torchvisions_at_a_third_of_the_strength(name: str, right: Any) -> None:
    image = noise()
    found = OPERATIONS[name](image, random.Random(0))
    assert same(found, right(image))
    assert not same(found, image) or name == "autocontrast"


def test_brightening_and_solarizing_by_hand() -> None:
    values = Image.fromarray(np.array([[[0, 91, 92], [127, 200, 255]]], dtype=np.uint8))
    found = array(OPERATIONS["brighten and solarize"](values, random.Random(0)))
    assert found.tolist() == [[[36, 127, 127], [255 - 163, 255 - 236, 0]]]


def test_rotations_are_by_ten_degrees_either_way() -> None:
    rng, left, right = random.Random(0), tv.rotate(noise(), 10), tv.rotate(noise(), -10)
    found = [OPERATIONS["rotate"](noise(), rng) for _ in range(40)]
    assert all(same(one, left) or same(one, right) for one in found)
    assert 8 < sum(same(one, left) for one in found) < 32


@pytest.mark.parametrize(
    ("name", "moved"),
    [
        ("shear across", lambda across, down: (across + 0.1 * down, down)),
        ("shear down", lambda across, down: (across, down + 0.1 * across)),
        ("move across", lambda across, down: (across + 100 / 3, down)),
        ("move down", lambda across, down: (across, down + 100 / 3)),
    ],
)
def test_moves_by_hand(name: str, moved: Any) -> None:
    """Either way, and black where they come from outside."""
    down, across = np.mgrid[:200, :200]
    to = np.stack(moved(across, down))
    forth = to - np.stack([across, down])
    rng, ways = random.Random(0), 0
    for _ in range(20):
        found = array(OPERATIONS[name](places(), rng))
        inside = found[:, :, 2] > 0
        away = [np.abs(found[:, :, :2].transpose(2, 0, 1) - (to - turn * forth))[:, inside].max() for turn in (0, 2)]
        assert min(away) <= 1
        assert found[~inside].sum() == 0
        assert 0.6 < inside.mean() < 0.96
        ways += away[0] <= 1
    assert 3 < ways < 17


def test_a_small_grey_square_is_cut_out() -> None:
    image, rng, areas = noise(200, 200), random.Random(0), []
    for _ in range(50):
        found = array(OPERATIONS["cut out"](image, rng))
        changed = (found != array(image)).any(axis=2)
        assert (found[changed] == (125, 123, 114)).all()
        areas.append(changed.sum())
    assert max(areas) <= 15**2
    assert statistics.median(areas) > 12**2
    assert same(image, noise(200, 200))


@pytest.mark.parametrize("draw", DRAWS)
def test_the_random_source_decides_and_global_ones_are_left_alone(draw: augment.Draw) -> None:
    before = torch.random.get_rng_state(), random.getstate()
    first, again, other = ([draw(noise(), SIZE, rng) for _ in range(5)] for rng in map(random.Random, (0, 0, 1)))
    assert all(same(*pair) for pair in zip(first, again, strict=True))
    assert not all(same(*pair) for pair in zip(first, other, strict=True))
    assert len({one.tobytes() for one in first}) == 5
    assert all(one.size == SIZE and one.mode == "RGB" for one in first)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert random.getstate() == before[1]

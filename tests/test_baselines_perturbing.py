"""Random parts of images: their size, their shape, flips, and the generator that decides."""

import pytest
import torch
from torch import Tensor

from ipo_dspy.baselines.perturbing import RATIO, random_crop_flip
from ipo_dspy.errors import InputError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def places(count: int, size: int = 64) -> Tensor:
    """Images whose first two channels say where a pixel is, from -1 to 1: [N, 3, H, W]."""
    ramp = (torch.arange(size) + 0.5) / size * 2 - 1
    across, down = ramp.expand(size, size), ramp[:, None].expand(size, size)
    return torch.stack([across, down, torch.zeros(size, size)]).expand(count, -1, -1, -1)


def spans(found: Tensor) -> tuple[Tensor, Tensor]:
    """Width (below 0 where flipped) and height of the part that each image shows, as shares: [N], [N]."""
    middle, size = found.shape[2] // 2, found.shape[2]
    across, down = found[:, 0, middle], found[:, 1, :, middle]  # [N, W], [N, H]
    whole = size / (size - 1) / 2  # the outer pixels' centres lie a pixel apart from the edges
    return (across[:, -1] - across[:, 0]) * whole, (down[:, -1] - down[:, 0]) * whole


@pytest.mark.parametrize("smallest", [0.08, 0.5, 0.9])
def test_parts_have_the_areas_and_shapes_that_were_asked_for(smallest: float) -> None:
    width, height = spans(random_crop_flip(places(400), seeded(), smallest=smallest))
    area, ratio = width.abs() * height, width.abs() / height
    assert smallest - 0.03 < area.min().item() < smallest + 0.05
    assert 0.95 < area.max().item() <= 1.001
    assert abs(area.mean().item() - (1 + smallest) / 2) < 0.04
    assert max(ratio.max().item(), 1 / ratio.min().item()) < RATIO + 0.05
    assert width.abs().max() <= 1.001
    assert height.max() <= 1.001
    assert 0.4 < (width < 0).float().mean().item() < 0.6


def test_parts_lie_anywhere_in_the_image() -> None:
    found = random_crop_flip(places(400), seeded(), smallest=0.08)
    assert found[:, :2].min() < -0.95
    assert found[:, :2].max() > 0.95
    assert found[:, :2].abs().max() <= 1
    assert found[:, :2].mean(dim=(0, 2, 3)).abs().max() < 0.08


def test_the_whole_image_comes_back_as_it_was_or_flipped() -> None:
    pixels = torch.rand(16, 3, 9, 12, generator=seeded())
    found = random_crop_flip(pixels, seeded(), smallest=1.0)
    same = [torch.allclose(one, own, atol=1e-5) for one, own in zip(found, pixels, strict=True)]
    flipped = [torch.allclose(one, own.flip(2), atol=1e-5) for one, own in zip(found, pixels, strict=True)]
    assert all(one != other for one, other in zip(same, flipped, strict=True))
    assert 0 < sum(same) < 16


def test_the_generator_decides_and_the_global_one_is_left_alone() -> None:
    pixels, before = torch.rand(4, 3, 8, 8, generator=seeded()), torch.random.get_rng_state()
    first, again, other = (random_crop_flip(pixels, seeded(seed), smallest=0.3) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert not torch.allclose(first[0], random_crop_flip(pixels[:1].expand(2, -1, -1, -1), seeded(), smallest=0.3)[1])
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("smallest", [0.0, -1.0, 1.5, float("nan")])
def test_a_share_that_cannot_be_is_told(smallest: float) -> None:
    with pytest.raises(InputError, match=r"smallest_crop=.* is no share of an image; write e\.g\. 0\.08, or 1 for"):
        random_crop_flip(places(1), seeded(), smallest=smallest)

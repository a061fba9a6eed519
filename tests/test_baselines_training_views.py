"""Training images as pixels: the evaluation transform once, or random views drawn at every step."""

import functools
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from helpers.baseline_toys import deep_toy, few_shots, pictures
from ipo_dspy.baselines import augmentation as augment
from ipo_dspy.baselines import build_method
from ipo_dspy.baselines.augmentation import Size, rand_augment, random_crop_flip
from ipo_dspy.baselines.base import FewShotTask
from ipo_dspy.baselines.training_views import Views, crops, preprocess, training_features
from ipo_dspy.clip.image_features import encode_images
from ipo_dspy.errors import DataError, ImageError, InputError

near = functools.partial(torch.testing.assert_close, rtol=0, atol=1e-5)
ALL = torch.arange(4)
CROPPED = ("coop", "cocoop", "maple", "promptsrc", "vpt")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_pixels_are_what_the_model_is_given(tmp_path: Path) -> None:
    images = pictures(2)[0]
    images[0].save(tmp_path / "one.png")
    pixels = preprocess(deep_toy(), [str(tmp_path / "one.png"), *images[1:]])
    assert (pixels.shape, pixels.dtype, pixels.device.type) == ((8, 3, 32, 32), torch.float32, "cpu")
    assert all(torch.equal(row, deep_toy().preprocess(image)) for row, image in zip(pixels, images, strict=True))
    near(deep_toy().encode_pixels(pixels), encode_images(deep_toy(), images).features)


@pytest.mark.parametrize("draw", [None, random_crop_flip])
def test_an_image_that_cannot_be_read_is_reported_with_its_place(draw: augment.Draw | None) -> None:
    few = few_shots(shots=1)
    for place in (0, 3):
        images = [*few.images[:place], "missing.png", *few.images[place + 1 :]]
        task = FewShotTask(few.backbone, images, few.labels, few.classes, few.template)
        with pytest.raises(ImageError, match=rf"missing.png' does not exist; .* \(image {place + 1} of 4\)"):
            Views(task, draw, seeded())
    with pytest.raises(DataError, match="no images to encode; pass at least one"):
        preprocess(deep_toy(), [])


def test_without_a_draw_views_are_the_images_and_the_generator_is_left_alone() -> None:
    few, generator = few_shots(shots=1), seeded()
    views = Views(few, None, generator)
    assert torch.equal(views(torch.tensor([2, 0])), preprocess(deep_toy(), [few.images[2], few.images[0]]))
    assert torch.equal(generator.get_state(), seeded().get_state())
    assert crops(False) is None


@pytest.mark.parametrize("draw", [random_crop_flip, rand_augment])
def test_each_view_is_drawn_again_from_the_generator(draw: augment.Draw) -> None:
    few, before = few_shots(shots=1), torch.random.get_rng_state()

    def two(seed: int) -> tuple[Tensor, Tensor]:
        views = Views(few, draw, seeded(seed))
        return views(ALL), views(ALL)

    (first, second), again, (other, _) = two(0), two(0), two(1)
    assert first.shape == (4, 3, 32, 32)
    assert torch.equal(first, again[0])
    assert torch.equal(second, again[1])
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_each_image_has_a_draw_of_its_own() -> None:
    image = pictures(1)[0][0]
    few = FewShotTask(deep_toy(), [image] * 4, ["cat"] * 4, ("cat", "dog"), few_shots().template)
    rows = Views(few, random_crop_flip, seeded())(ALL)
    assert len({row.numpy().tobytes() for row in rows}) == 4


def test_a_view_is_the_drawn_picture_through_the_evaluation_transform() -> None:
    few, sizes = few_shots(shots=1), list[Size]()

    def mirrored(image: Image.Image, size: Size, rng: random.Random) -> Image.Image:
        sizes.append(size)
        return ImageOps.mirror(image.resize(size))

    found = Views(few, mirrored, seeded())(torch.tensor([3, 1]))
    assert sizes == [(32, 32)] * 2
    for row, index in zip(found, (3, 1), strict=True):
        assert torch.equal(row, deep_toy().preprocess(ImageOps.mirror(few.images[index].resize((32, 32)))))  # type: ignore[union-attr,arg-type]


def test_features_of_training_images_are_encoded_once_or_of_each_crop() -> None:
    few = few_shots(shots=1)
    near(training_features(few, False, seeded())(ALL), encode_images(deep_toy(), few.images).features)
    features, views = training_features(few, True, seeded()), Views(few, random_crop_flip, seeded())
    for _ in range(2):
        near(features(ALL), deep_toy().encode_pixels(views(ALL)))


# Methods


def drawn(monkeypatch: pytest.MonkeyPatch, name: str, method: str, **settings: Any) -> tuple[int, Any]:
    """Return how often a view is drawn in a training on 8 images, and the learned parameters."""
    count, draw = 0, getattr(augment, name)

    def counting(*given: Any) -> Image.Image:
        nonlocal count
        count += 1
        found: Image.Image = draw(*given)
        return found

    with monkeypatch.context() as patch:
        for module in ("training_views", "coprompt"):
            patch.setattr(f"ipo_dspy.baselines.{module}.{name}", counting, raising=False)
        fitted = build_method(method, epochs=3, batch_size=4, **settings).fit(few_shots(shots=2), seed=0)
    return count, fitted


@pytest.mark.parametrize("method", CROPPED)
def test_crops_are_drawn_for_every_image_in_every_epoch(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = int(method == "cocoop")  # which looks at one image for the width of its features
    count, fitted = drawn(monkeypatch, "random_crop_flip", method, augment=True)
    assert count == 3 * 8 + extra
    _, again = drawn(monkeypatch, "random_crop_flip", method, augment=True)
    assert fitted.losses == again.losses
    none, plain = drawn(monkeypatch, "random_crop_flip", method)
    assert none == 0
    assert plain.losses != fitted.losses


def test_coprompt_draws_for_both_models(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawn(monkeypatch, "rand_augment", "coprompt")[0] == 2 * 3 * 8
    assert drawn(monkeypatch, "rand_augment", "coprompt", augment=False)[0] == 0


def test_promptsrc_holds_a_crop_to_what_the_frozen_model_says_of_the_same_crop() -> None:
    """Without prompts both are the same, so that the weight of the term does not count."""
    few, settings = few_shots(shots=1), {"n_ctx": 0, "epochs": 1, "augment": True}
    light, heavy = (build_method("promptsrc", image_weight=w, **settings).fit(few) for w in (0.0, 1000.0))
    assert light.losses == pytest.approx(heavy.losses, abs=1e-2)  # type: ignore[attr-defined]


def test_coprompts_models_see_different_pictures() -> None:
    """Without anything learned they agree on the same picture, and the texts are the same."""
    few = few_shots(shots=1)
    settings: dict[str, Any] = {
        "n_ctx": 0,
        "epochs": 1,
        "image_adapter_ratio": 0.0,
        "text_adapter_ratio": 0.0,
        "consistency_weight": 1000,
    }
    settings["sentences"] = {name: [f"a photo of a {name}."] for name in few.classes}
    apart, same = (build_method("coprompt", augment=on, **settings).fit(few).losses[0] for on in (True, False))  # type: ignore[attr-defined]
    assert same < 10
    assert apart > 10 * same


@pytest.mark.parametrize("method", [*CROPPED, "coprompt"])
@pytest.mark.parametrize("value", ["yes", 1, None])
def test_augment_is_true_or_false(method: str, value: Any) -> None:
    with pytest.raises(InputError, match=r"augment must be true or false, got .*; for example augment="):
        build_method(method, augment=value)

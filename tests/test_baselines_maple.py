"""MaPLe: the published recipe, couplings and logits by hand, and what the towers are given."""

import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from helpers.baseline_toys import CLASSES, PHOTO, deep_toy, few_shots, pictures
from helpers.clip_toys import COCA, TRIMMED, shared_toy
from ipo_dspy import demo
from ipo_dspy.baselines import build_method
from ipo_dspy.baselines.base import FewShotTask
from ipo_dspy.baselines.maple import CoupledPrompts, MaPLe, init_coupled
from ipo_dspy.baselines.towers import ImageTower
from ipo_dspy.baselines.training_views import preprocess
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.image_features import encode_images
from ipo_dspy.clip.loading import load_backbone
from ipo_dspy.clip.text_features import plain_class_features
from ipo_dspy.errors import InputError

near = functools.partial(torch.testing.assert_close, rtol=0, atol=1e-5)

WORDS = "a photo of a"


def start(count: int = 2, depth: int = 9, *, backbone: Backbone | None = None, seed: int = 0) -> CoupledPrompts:
    return init_coupled(backbone or deep_toy(), WORDS, count, depth, torch.Generator().manual_seed(seed))


def unread(backbone: Backbone, classes: tuple[str, ...] = CLASSES) -> FewShotTask:
    """A task whose image is found missing as soon as one looks."""
    return FewShotTask(backbone, ["missing.png"], [classes[0]], classes, PHOTO)


def learns(parameters: list[Tensor]) -> list[bool]:
    """Return for each parameter if it has a gradient other than zero."""
    return [one.grad is not None and bool(one.grad.abs().sum() > 0) for one in parameters]


def test_the_published_recipe() -> None:
    method = MaPLe()
    assert (method.n_ctx, method.ctx_init, method.depth) == (2, "a photo of a", 9)
    recipe = method.recipe()
    assert (recipe.epochs, recipe.batch_size, recipe.lr) == (5, 4, 0.0035)
    assert (recipe.warmup, recipe.warmup_lr, recipe.momentum, recipe.weight_decay) == (1, 1e-5, 0.9, 5e-4)


@pytest.mark.parametrize("kind", TRIMMED)
def test_before_the_first_step_first_prompts_are_the_words(kind: str) -> None:
    backbone = shared_toy(kind)
    expected = plain_class_features(backbone, [PHOTO], CLASSES)[0]
    near(start(depth=1, backbone=backbone).text_features(CLASSES), expected)


def test_without_tokens_it_is_zero_shot_clip() -> None:
    backbone, images = deep_toy(), pictures(2, seed=1)[0]
    fitted = MaPLe(n_ctx=0, epochs=2).fit(few_shots())
    near(fitted.features(images), encode_images(backbone, images).features)
    near(fitted.text_features(CLASSES), plain_class_features(backbone, [PHOTO], CLASSES)[0])


def test_prompts_and_couplings_are_those_of_the_smaller_tower() -> None:
    for image, text, depth, deep in ((1, 2, 9, 0), (2, 2, 9, 1), (3, 2, 9, 1), (3, 3, 9, 2), (3, 3, 1, 0)):
        model = start(3, depth, backbone=deep_toy(image=image, text=text))
        assert [one.shape for one in model.text.parameters] == [(3, 32)] * (1 + deep)
        assert [(one.weight.shape, one.bias.shape) for one in model.couplings] == [((32, 32), (32,))] * (1 + deep)
        assert len(model.parameters) == 3 * (1 + deep)
        assert all(one.is_leaf and one.requires_grad for one in model.parameters)


def test_deep_couplings_start_equal_and_diverge() -> None:
    backbone = deep_toy(image=3, text=3)
    first, second, third = start(backbone=backbone).couplings
    assert not torch.equal(first.weight, second.weight)
    assert all(torch.equal(*pair) for pair in zip(second, third, strict=True))
    assert not torch.equal(second.weight, start(backbone=backbone, seed=1).couplings[1].weight)
    _, second, third = MaPLe(epochs=2, lr=0.1).fit(few_shots(backbone)).model.couplings
    assert not any(torch.equal(*pair) for pair in zip(second, third, strict=True))


def test_image_prompts_are_made_of_text_prompts() -> None:
    model = start()
    for layer, text, image in zip(model.couplings, model.text.parameters, model.image.parameters, strict=True):
        by_hand = torch.stack([layer.weight @ token + layer.bias for token in text])  # [P, V]
        near(image, by_hand)


def test_logits_are_cosine_similarities_of_both_prompted_towers() -> None:
    backbone, images = deep_toy(), pictures(2, seed=1)[0]
    fitted = MaPLe(epochs=2, lr=0.1).fit(few_shots())
    model = fitted.model
    layer = [F.linear(text, *coupling) for coupling, text in zip(model.couplings, model.text.parameters, strict=True)]
    seen = ImageTower(backbone).encode(preprocess(backbone, images), layer[0], layer[1:])  # [N, D]
    text = model.text_features(CLASSES)  # [C, D]
    expected = backbone.logit_scale * F.cosine_similarity(seen[:, None], text[None], dim=2)
    torch.testing.assert_close(fitted.logits(images, CLASSES), expected, rtol=0, atol=1e-3)


def test_both_towers_have_deep_prompts_in_the_places_of_the_first() -> None:
    backbone, model = deep_toy(), start()
    seen: list[Tensor] = []
    towers = (backbone.model.transformer, backbone.model.visual.transformer)
    hooks = [one.resblocks[1].register_forward_pre_hook(lambda _, given: seen.append(given[0])) for one in towers]
    model.text_features(CLASSES)
    model.image_features(preprocess(backbone, pictures(1)[0]))
    for hook in hooks:
        hook.remove()
    assert torch.equal(seen[0][:, 1:3], model.text.deep[0].expand(4, -1, -1))
    assert torch.equal(seen[1][:, -2:], model.image.deep[0].expand(4, -1, -1))
    assert seen[1].shape == (4, 1 + 4 + 2, 32)  # class token, patches, prompts


def test_gradients_of_images_reach_all_and_those_of_texts_the_prompts() -> None:
    backbone, seeing, reading = deep_toy(), start(), start()
    torch.autograd.backward(seeing.image_features(preprocess(backbone, pictures(1)[0]))[:, 0].sum())
    assert all(learns(seeing.parameters))
    torch.autograd.backward(reading.text_features(CLASSES)[:, 0].sum())
    assert learns(reading.parameters) == [True] * 2 + [False] * 4
    assert all(parameter.grad is None for parameter in backbone.model.parameters())


def test_other_words_and_more_tokens_than_they_have() -> None:
    few = few_shots()
    other = MaPLe(ctx_init="one", epochs=1).fit(few)
    assert other.model.text.first.shape == (2, 32)
    many = MaPLe(n_ctx=6, epochs=1).fit(few)
    assert many.model.text.first.shape == (6, 32)
    assert many.logits(pictures(1)[0], CLASSES).shape == (4, 4)


@pytest.mark.parametrize("kind", ["siglip", "not causal", COCA])
def test_text_towers_of_another_kind_are_reported_before_an_image_is_read(kind: str) -> None:
    with pytest.raises(InputError, match=r"text tower of .* does not support learned tokens"):
        MaPLe().fit(unread(shared_toy(kind)))


def test_image_towers_of_another_kind_are_reported_before_an_image_is_read() -> None:
    backbone = load_backbone(f"local-dir:{demo.model_path()}", None, device="cpu")
    with pytest.raises(InputError, match=r"image tower of .* does not support learned tokens: .* use e\.g\. 'ViT-B-16"):
        MaPLe().fit(unread(backbone))


def test_names_that_do_not_fit_are_reported_before_an_image_is_read() -> None:
    with pytest.raises(InputError, match=r"class 'very very .* takes 77; use a smaller n_ctx or a shorter name"):
        MaPLe().fit(unread(deep_toy(), ("very " * 80 + "old dog", "cat")))


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"n_ctx": -1}, "n_ctx must be >= 0, got -1"),
        ({"depth": 0}, r"depth must be >= 1 \(1 = shallow prompts\), got 0"),
        ({"epochs": 0}, "epochs must be >= 1, got 0"),
        ({"lr": -1.0}, "lr must be positive, got -1.0"),
        ({"position": "end"}, "maple has no setting 'position'; known: n_ctx, ctx_init, depth, epochs, batch_size, lr"),
    ],
)
def test_bad_settings_are_reported_at_once(setting: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        build_method("maple", **setting)

"""CoCoOp: the meta-net and the logits by hand, image by image, against those of many images at a time."""

import pytest
import torch
from torch import Tensor

from helpers.baseline_toys import CLASSES, deep_toy, few_shots, pictures
from ipo_dspy.baselines import cocoop
from ipo_dspy.baselines.cocoop import CoCoOp, CoCoOpParams, ConditionalClassifier, meta_net
from ipo_dspy.baselines.context_tokens import PromptedClassTexts, init_context
from ipo_dspy.baselines.zero_shot import TemplateClassifier
from ipo_dspy.clip.image_features import encode_images
from ipo_dspy.template import Template


def start(seed: int = 0) -> CoCoOpParams:
    generator = torch.Generator().manual_seed(seed)
    context = init_context(deep_toy(), None, "a photo of a", generator)
    return CoCoOpParams(context, *meta_net(16, 32, torch.device("cpu"), generator))


def by_hand(learned: CoCoOpParams, features: Tensor) -> Tensor:
    """Equation 3, one image after another: [N, D] to [N, C]."""
    backbone, rows = deep_toy(), []
    texts = PromptedClassTexts(backbone, CLASSES, len(learned.context))
    for x in features:
        hidden = (learned.in_weight @ x + learned.in_bias).clamp(min=0)  # [H]
        moved = learned.out_weight @ hidden + learned.out_bias  # [W]
        own = texts.features((learned.context + moved)[None])[0]  # [C, D]
        rows.append(backbone.logit_scale * (own @ x))
    return torch.stack(rows)


def test_logits_are_the_equation_whatever_goes_through_the_tower_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures(2, seed=1)[0]
    fitted = CoCoOp(n_ctx=3, epochs=1).fit(few_shots())
    assert fitted.learned.context.shape == (3, 32)
    expected = by_hand(fitted.learned, encode_images(deep_toy(), images).features)
    for texts in (1, 9, 2048):
        monkeypatch.setattr(cocoop, "TEXTS", texts)
        torch.testing.assert_close(fitted.logits(images, CLASSES), expected, rtol=0, atol=1e-3)


def test_each_image_has_a_context_of_its_own() -> None:
    features = encode_images(deep_toy(), pictures(1)[0]).features
    contexts = start().contexts(features)
    assert contexts.shape == (4, 4, 32)
    moved = contexts - start().context
    torch.testing.assert_close(moved, moved[:, :1].expand(-1, 4, -1), rtol=0, atol=1e-6)
    assert not torch.allclose(moved[0], moved[1], atol=1e-5)


def test_with_a_silent_meta_net_it_is_clip_with_its_words() -> None:
    context, in_weight, in_bias, out_weight, out_bias = (one.detach() for one in start())
    silent = CoCoOpParams(context, in_weight, in_bias, out_weight * 0, out_bias * 0)
    images = pictures(2, seed=1)[0]
    clip = TemplateClassifier(deep_toy(), Template.parse("a photo of a <CLASS>.")).logits(images, CLASSES)
    found = ConditionalClassifier(deep_toy(), silent).logits(images, CLASSES)
    torch.testing.assert_close(found, clip, rtol=0, atol=1e-3)


def test_gradients_reach_context_and_meta_net_and_nothing_else() -> None:
    backbone, learned = deep_toy(), start(seed=1)
    features = encode_images(backbone, pictures(1)[0]).features
    found = learned.logits(PromptedClassTexts(backbone, CLASSES, 4), features, backbone)
    torch.autograd.backward(found[:, 0].sum())
    for one in learned:
        assert one.grad is not None
        assert one.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in backbone.model.parameters())


def test_the_meta_net_is_drawn_as_linear_layers_are() -> None:
    in_weight, in_bias, out_weight, out_bias = meta_net(512, 256, torch.device("cpu"), torch.Generator().manual_seed(0))
    assert [tuple(one.shape) for one in (in_weight, in_bias, out_weight, out_bias)] == [
        *((32, 512), (32,), (256, 32), (256,))
    ]
    for one, fan_in in ((in_weight, 512), (in_bias, 512), (out_weight, 32), (out_bias, 32)):
        bound = fan_in**-0.5
        assert 0.9 * bound < one.abs().max().item() <= bound
        assert abs(one.mean().item()) < 0.2 * bound
        assert one.requires_grad


def test_the_published_recipe() -> None:
    recipe = CoCoOp().recipe()
    assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.warmup, recipe.warmup_lr) == (10, 1, 0.002, 1, 1e-5)

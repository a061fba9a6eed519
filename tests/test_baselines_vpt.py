"""VPT: the published recipe, what the image tower is given, and features on which templates can be scored."""

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.baseline_toys import CLASSES, PHOTO, deep_toy, few_shots, pictures
from helpers.clip_toys import COCA, shared_toy
from ipo_dspy import demo
from ipo_dspy.baselines import build_method
from ipo_dspy.baselines.base import FewShotTask, evaluate
from ipo_dspy.baselines.deep_prompts import init_prompts
from ipo_dspy.baselines.towers import ImageTower
from ipo_dspy.baselines.training_views import preprocess
from ipo_dspy.baselines.vpt import VPT, VisualPrompts
from ipo_dspy.baselines.zero_shot import TemplateClassifier
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.image_features import encode_images
from ipo_dspy.clip.loading import load_backbone
from ipo_dspy.clip.text_features import class_features
from ipo_dspy.errors import InputError, TemplateError
from ipo_dspy.scoring.scorers import ClipScorer
from ipo_dspy.template import Template

near = functools.partial(torch.testing.assert_close, rtol=0, atol=1e-5)


def start(count: int = 2, depth: int = 12, *, image: int = 3) -> VisualPrompts:
    backbone, generator = deep_toy(image=image), torch.Generator().manual_seed(0)
    return VisualPrompts(backbone, PHOTO, init_prompts(backbone, ImageTower(backbone), count, depth, generator))


def unread(backbone: Backbone, template: Template = PHOTO) -> FewShotTask:
    """A task whose image is found missing as soon as one looks."""
    return FewShotTask(backbone, ["missing.png"], [CLASSES[0]], CLASSES, template)


def test_the_published_recipe() -> None:
    method = VPT()
    assert (method.n_ctx, method.depth) == (8, 12)
    recipe = method.recipe()
    assert (recipe.epochs, recipe.batch_size, recipe.lr) == (5, 4, 0.0025)
    assert (recipe.warmup, recipe.warmup_lr, recipe.momentum, recipe.weight_decay) == (1, 1e-5, 0.9, 5e-4)


def test_without_tokens_it_is_zero_shot_clip() -> None:
    backbone, images = deep_toy(), pictures(2, seed=1)[0]
    fitted = VPT(n_ctx=0, epochs=2).fit(few_shots())
    near(fitted.features(images), encode_images(backbone, images).features)
    clip = TemplateClassifier(backbone, PHOTO).logits(images, CLASSES)
    torch.testing.assert_close(fitted.logits(images, CLASSES), clip, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "template"),
    [
        ({}, "a photo of a <CLASS>."),
        ({"template": "art of the <CLASS>."}, "art of the <CLASS>."),
        ({"template": None}, "a drawing of a <CLASS>."),
    ],
)
def test_texts_are_those_of_the_code_or_of_another_template(settings: dict[str, Any], template: str) -> None:
    few = few_shots()
    drawing = Template.parse("a drawing of a <CLASS>.")
    fitted = VPT(epochs=1, **settings).fit(FewShotTask(few.backbone, few.images, few.labels, CLASSES, drawing))
    right = Template.parse(template)
    for classes in (CLASSES, ("horse", "sea_gull")):
        assert torch.equal(fitted.text_features(classes), class_features(few.backbone, [right], classes)[0])


def test_every_block_has_prompts_of_its_own() -> None:
    fitted = VPT(n_ctx=3, epochs=2, lr=0.1).fit(few_shots(deep_toy(image=3)))
    assert [one.shape for one in fitted.model.parameters] == [(3, 32)] * 3
    shallow = VPT(n_ctx=3, depth=1, epochs=1).fit(few_shots(deep_toy(image=3)))
    assert [one.shape for one in shallow.model.parameters] == [(3, 32)]


def test_deep_prompts_take_the_places_of_the_last_tokens() -> None:
    model, seen = start(), list[Tensor]()
    blocks = model.backbone.model.visual.transformer.resblocks
    hooks = [block.register_forward_pre_hook(lambda _, given: seen.append(given[0])) for block in blocks]
    model.image_features(preprocess(model.backbone, pictures(1)[0]))
    for hook in hooks:
        hook.remove()
    assert [one.shape for one in seen] == [(4, 1 + 4 + 2, 32)] * 3  # class token, patches, prompts
    for at, own in zip(seen[1:], model.prompts.deep, strict=True):
        assert torch.equal(at[:, -2:], own.expand(4, -1, -1))


def test_features_are_those_of_the_prompted_tower() -> None:
    backbone, images = deep_toy(), pictures(2, seed=1)[0]
    fitted = VPT(epochs=2, lr=0.1).fit(few_shots())
    prompts = fitted.model.prompts
    features = fitted.features(images)
    assert (features.shape, features.dtype, features.requires_grad) == ((8, 16), torch.float32, False)
    near(features.norm(dim=1), torch.ones(8))
    near(features, ImageTower(backbone).encode(preprocess(backbone, images), prompts.first, prompts.deep))
    assert not torch.allclose(features, encode_images(backbone, images).features, atol=1e-3)
    text = class_features(backbone, [PHOTO], CLASSES)[0]
    expected = backbone.logit_scale * features @ text.T
    torch.testing.assert_close(fitted.logits(images, CLASSES), expected, rtol=0, atol=1e-3)


def test_templates_can_be_scored_on_its_features() -> None:
    images, labels = pictures(2, seed=1)
    fitted = VPT(epochs=3, lr=0.1).fit(few_shots())
    scorer = ClipScorer(deep_toy(), fitted.features(images), labels, CLASSES)
    (score,) = scorer.score([PHOTO])
    expected = evaluate(fitted, images, labels, CLASSES)
    assert score.accuracy == expected.accuracy
    assert score.loss == pytest.approx(expected.loss, abs=1e-4)


def test_gradients_reach_the_prompts_and_nothing_else() -> None:
    model = start()
    torch.autograd.backward(model.image_features(preprocess(model.backbone, pictures(1)[0]))[:, 0].sum())
    for one in model.parameters:
        assert one.grad is not None
        assert one.grad.abs().sum() > 0
    assert len(model.parameters) == 3
    assert all(parameter.grad is None for parameter in model.backbone.model.parameters())


def test_any_text_tower_will_do() -> None:
    """Its texts are not learned; a logit bias counts."""
    backbone, images = shared_toy("siglip"), pictures(1)[0]
    fitted = VPT(n_ctx=0, epochs=1).fit(few_shots(backbone))
    clip = TemplateClassifier(backbone, PHOTO).logits(images, CLASSES)
    torch.testing.assert_close(fitted.logits(images, CLASSES), clip, rtol=0, atol=1e-3)
    assert backbone.logit_bias == -10


@pytest.mark.parametrize("kind", [COCA, "demo"])
def test_image_towers_of_another_kind_are_reported_before_an_image_is_read(kind: str) -> None:
    bundled = kind == "demo"
    backbone = load_backbone(f"local-dir:{demo.model_path()}", None, device="cpu") if bundled else shared_toy(kind)
    with pytest.raises(InputError, match=r"image tower of .* does not support learned tokens"):
        VPT().fit(unread(backbone))


def test_templates_that_do_not_fit_are_reported_before_an_image_is_read() -> None:
    with pytest.raises(TemplateError, match=r"filled with class .* tokens and the model takes 77; shorten"):
        VPT(template=f"a {'very ' * 80} old <CLASS>.").fit(unread(deep_toy()))
    with pytest.raises(TemplateError, match="<CLASS>"):
        VPT(template="a photo")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"n_ctx": -1}, "n_ctx must be >= 0, got -1"),
        ({"depth": 0}, r"depth must be >= 1 \(1 = shallow prompts\), got 0"),
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"lr": 0.0}, "lr must be positive, got 0.0"),
        (
            {"ctx_init": "a photo"},
            "vpt has no setting 'ctx_init'; known: template, n_ctx, depth, epochs, batch_size, lr, augment",
        ),
    ],
)
def test_bad_settings_are_reported_at_once(setting: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        build_method("vpt", **setting)

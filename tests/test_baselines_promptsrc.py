"""PromptSRC: every term of the loss by hand, the Gaussian over epochs, and what is learned of two towers."""

import dataclasses
import functools
import math
from typing import Any

import pytest
import torch

from helpers.baseline_toys import CLASSES, deep_toy, few_shots, pictures
from helpers.clip_toys import PLAIN, shared_toy
from ipo_dspy import demo
from ipo_dspy.baselines import build_method
from ipo_dspy.baselines.base import FewShotTask, evaluate
from ipo_dspy.baselines.deep_prompts import PromptedClassifier
from ipo_dspy.baselines.promptsrc import (
    IndependentPrompts,
    ModelOutputs,
    PromptSRC,
    WeightedMean,
    compute_outputs,
    epoch_weights,
    frozen_text,
    init_independent,
    regularized_loss,
)
from ipo_dspy.baselines.training_views import preprocess
from ipo_dspy.baselines.zero_shot import TemplateClassifier
from ipo_dspy.clip.image_features import encode_images
from ipo_dspy.clip.loading import import_open_clip
from ipo_dspy.errors import InputError, TemplateError
from ipo_dspy.template import Template

near = functools.partial(torch.testing.assert_close, rtol=0, atol=1e-5)

WORDS = "a photo of a"
LEARNED = ModelOutputs(
    torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8], [0.0, 1.0]]), torch.tensor([[0.0, math.log(3)]])
)
KEPT = ModelOutputs(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.6, 0.8], [0.8, 0.6]]), torch.tensor([[0.0, 0.0]]))


def drawn(n_ctx: int = 4, depth: int = 9, seed: int = 0) -> IndependentPrompts:
    return init_independent(deep_toy(), WORDS, n_ctx, depth, torch.Generator().manual_seed(seed))


def fit(seed: int = 0, **settings: Any) -> PromptedClassifier[IndependentPrompts]:
    return PromptSRC(**{"epochs": 2, "batch_size": 8, **settings}).fit(few_shots(), seed=seed)


def unprompted(few: FewShotTask) -> ModelOutputs:
    """Logits of the model without prompts."""
    return compute_outputs(
        few.backbone, encode_images(few.backbone, few.images).features, frozen_text(few.backbone, few.classes)
    )


def loss_of(learned: ModelOutputs, kept: ModelOutputs, text_weight: float = 0.0, image_weight: float = 0.0) -> float:
    targets = torch.tensor([1])
    return regularized_loss(learned, kept, targets, text_weight=text_weight, image_weight=image_weight).item()


def test_each_term_by_hand() -> None:
    right = -math.log(3 / 4)  # softmax of (0, ln 3) is (1/4, 3/4)
    divergence = (math.log(2) / 2 + math.log(2 / 3) / 2) / 2  # of (1/4, 3/4) from (1/2, 1/2), over 2 logits
    text, image = (0.8 + 0.4) / 4, (1 + 1) / 2
    assert loss_of(LEARNED, LEARNED, 25, 10) == pytest.approx(right)
    assert loss_of(LEARNED, KEPT) == pytest.approx(right + divergence)
    assert loss_of(LEARNED, KEPT, text_weight=25) == pytest.approx(right + divergence + 25 * text)
    assert loss_of(LEARNED, KEPT, image_weight=10) == pytest.approx(right + divergence + 10 * image)


def test_the_gaussian_of_the_official_recipe() -> None:
    weights = epoch_weights(20, 15, 1)
    density = torch.tensor([math.exp(-((epoch - 15) ** 2) / 2) for epoch in range(1, 21)], dtype=torch.float64)
    torch.testing.assert_close(weights, density / density.sum())
    assert weights.sum().item() == pytest.approx(1, abs=1e-12)
    assert weights.argmax().item() == 14  # epochs count from 1
    assert weights[14].item() == pytest.approx(1 / math.sqrt(2 * math.pi), abs=1e-6)
    mean = (weights * torch.arange(1, 21)).sum()
    assert mean.item() == pytest.approx(15, abs=1e-4)
    assert (weights * (torch.arange(1, 21) - mean) ** 2).sum().item() == pytest.approx(1, abs=1e-3)


def test_a_mean_far_beyond_all_epochs_leaves_the_last() -> None:
    weights = epoch_weights(3, 1000, 1)
    assert weights.sum().item() == pytest.approx(1)
    assert weights[2].item() == pytest.approx(1)


def test_parameters_are_averaged_over_epochs() -> None:
    one = torch.zeros(2, requires_grad=True)
    mean = WeightedMean([one], torch.tensor([0.25, 0.75], dtype=torch.float64))
    for epoch, value in ((1, 4.0), (2, 8.0)):
        one.detach().fill_(value)
        mean.add(epoch)
    mean.put()
    assert one.tolist() == [7.0, 7.0]


def test_what_is_learned_is_the_mean_of_the_epochs() -> None:
    last, first = fit(gpa_mean=1000.0), fit(gpa_mean=-1000.0)
    both = fit(gpa_mean=1.5)
    assert last.losses == first.losses == both.losses
    for mean, one, other in zip(*(fitted.model.parameters for fitted in (both, first, last)), strict=True):
        near(mean.double(), (one.double() + other.double()) / 2)
        assert not torch.equal(one, other)


def test_shapes() -> None:
    model = drawn(n_ctx=3)
    assert [tuple(one.shape) for one in model.parameters] == [(3, 32)] * 4  # two blocks in either tower
    assert len(drawn(depth=1).parameters) == 2
    assert model.image_features(torch.rand(2, 3, 32, 32)).shape == (2, 16)
    assert model.text_features(CLASSES).shape == (4, 16)


def test_the_first_prompt_is_the_words_and_the_others_are_small() -> None:
    model = drawn()
    clip = TemplateClassifier(deep_toy(), Template.parse("a photo of a <CLASS>."))
    shallow = drawn(depth=1)
    text = shallow.text_features(CLASSES)
    scores = clip.logits(pictures(1)[0], CLASSES)
    image = deep_toy().encode_pixels(preprocess(deep_toy(), pictures(1)[0]))
    near(compute_outputs(deep_toy(), image, text).logits, scores, atol=1e-3)
    for one in (*model.text.deep, *model.image.parameters):
        assert 0.01 < one.std().item() < 0.03


def test_the_frozen_texts_are_a_plain_mean_over_the_first_sixty_templates() -> None:
    backbone, templates = deep_toy(), import_open_clip().OPENAI_IMAGENET_TEMPLATES[:60]
    found = frozen_text(backbone, ["cat", "sea_gull"])
    tokenize = import_open_clip().get_tokenizer("ViT-B-32")
    for row, name in zip(found, ("cat", "sea gull"), strict=True):
        with torch.no_grad():
            mean = backbone.model.encode_text(tokenize([template(name) for template in templates])).mean(dim=0)
        near(row, mean / mean.norm())


def test_a_class_that_does_not_fit_the_sixty_is_reported() -> None:
    with pytest.raises(TemplateError, match=r"filled with class .* tokens and the model takes 77; shorten"):
        frozen_text(deep_toy(), ["cat", "very " * 68 + "old dog"])


@pytest.mark.parametrize("template", ["a photo of a <CLASS>.", "art of the <CLASS>."])
def test_without_prompts_it_is_zero_shot_clip(template: str) -> None:
    few, images = few_shots(), pictures(2, seed=1)[0]
    fitted = PromptSRC(n_ctx=0, ctx_init=template.removesuffix(" <CLASS>."), epochs=1).fit(few)
    clip = TemplateClassifier(few.backbone, Template.parse(template))
    near(
        fitted.logits(images, CLASSES) / few.backbone.logit_scale,
        clip.logits(images, CLASSES) / few.backbone.logit_scale,
    )


def test_gradients_reach_the_prompts_of_both_towers_and_nothing_else() -> None:
    few, model = few_shots(shots=1), drawn()
    learned = compute_outputs(
        deep_toy(), model.image_features(preprocess(deep_toy(), few.images)), model.text_features(CLASSES)
    )
    torch.autograd.backward(regularized_loss(learned, unprompted(few), few.targets, text_weight=25, image_weight=10))
    for one in model.parameters:
        assert one.grad is not None
        assert one.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in deep_toy().model.parameters())


def test_the_loss_falls_and_training_images_are_reported_apart_better() -> None:
    few = few_shots()
    fitted = PromptSRC(epochs=6, lr=0.05, gpa_mean=6.0).fit(few)
    assert fitted.losses[-1] < 0.8 * fitted.losses[0]
    before = evaluate(build_method("clip").fit(few), few.images, few.labels, few.classes)
    after = evaluate(fitted, few.images, few.labels, few.classes)
    assert after.loss < before.loss


def apart(fitted: PromptedClassifier[IndependentPrompts], few: FewShotTask) -> tuple[float, float]:
    """Distances of text features and image features from those of the frozen model."""
    kept = unprompted(few)
    text, image = fitted.text_features(few.classes), fitted.features(few.images)
    return (text - kept.text).abs().mean().item(), (image - kept.image).abs().mean().item()


def test_the_weights_hold_what_they_name_to_the_frozen_model() -> None:
    few = few_shots()
    free, text, image = (
        apart(PromptSRC(epochs=6, batch_size=8, lr=0.005, gpa_mean=6.0, text_weight=t, image_weight=i).fit(few), few)
        for t, i in ((0.0, 0.0), (25.0, 0.0), (0.0, 25.0))
    )
    assert text[0] < 0.6 * free[0]
    assert image[1] < 0.6 * free[1]


def test_the_seed_draws_all_prompts_but_the_words() -> None:
    start, again, other = (drawn(seed=seed).parameters for seed in (0, 0, 1))
    assert all(torch.equal(*pair) for pair in zip(start, again, strict=True))
    assert torch.equal(start[0], other[0])
    assert not any(torch.equal(*pair) for pair in zip(start[1:], other[1:], strict=True))


def test_the_published_recipe() -> None:
    method = PromptSRC()
    recipe = method.recipe()
    assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.warmup, recipe.warmup_lr) == (20, 4, 0.0025, 1, 1e-5)
    assert (recipe.momentum, recipe.weight_decay) == (0.9, 5e-4)
    assert method.towers == ("text", "image")
    assert (method.n_ctx, method.ctx_init, method.depth) == (4, "a photo of a", 9)
    assert (method.text_weight, method.image_weight, method.gpa_mean, method.gpa_std) == (25, 10, 15, 1)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"n_ctx": -1}, "n_ctx must be >= 0, got -1"),
        ({"depth": 0}, r"depth must be >= 1 \(1 = shallow prompts\), got 0"),
        ({"text_weight": -1.0}, "text_weight must be >= 0, got -1.0"),
        ({"image_weight": float("nan")}, "image_weight must be a finite number, got nan"),
        ({"gpa_std": 0.0}, "gpa_std must be positive, got 0.0"),
        ({"gpa_mean": float("nan")}, r"gpa_mean must be a finite number, got nan; for example gpa_mean=15"),
        ({"epochs": 0}, "epochs must be >= 1, got 0"),
        ({"shots": 16}, "promptsrc has no setting 'shots'; known: n_ctx, ctx_init, depth, text_weight, "),
    ],
)
def test_bad_settings_are_reported_at_once(setting: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        build_method("promptsrc", **setting)


@pytest.mark.parametrize("kind", PLAIN)
def test_a_text_tower_of_another_kind_is_reported(kind: str) -> None:
    with pytest.raises(InputError, match=r"text tower of .* does not support learned tokens"):
        PromptSRC().fit(few_shots(shared_toy(kind)))


def test_an_image_tower_of_another_kind_is_reported_before_an_image_is_read() -> None:
    few = few_shots(demo.load("pixel-animals", shots=1).program.backbone)
    with pytest.raises(InputError, match=r"image tower of .* does not support learned tokens"):
        PromptSRC().fit(dataclasses.replace(few, images=["nowhere.png"] * 16))

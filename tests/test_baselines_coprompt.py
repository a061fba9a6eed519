"""CoPrompt: adapters and consistency by hand, what the frozen model is shown, and what is learned of two towers."""

import dataclasses
import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

from helpers.baseline_toys import CLASSES, deep_toy, few_shots, pictures
from helpers.clip_toys import PLAIN, shared_toy
from ipo_dspy import demo
from ipo_dspy.baselines import build_method
from ipo_dspy.baselines.augmentation import rand_augment
from ipo_dspy.baselines.base import evaluate
from ipo_dspy.baselines.class_sentences import SentenceFeatures
from ipo_dspy.baselines.coprompt import Adapter, CoPrompt, CoPromptModel, consistency_loss, init_adapter
from ipo_dspy.baselines.training_views import Views, preprocess
from ipo_dspy.baselines.zero_shot import TemplateClassifier
from ipo_dspy.errors import InputError
from ipo_dspy.template import Template

near = functools.partial(torch.testing.assert_close, rtol=0, atol=1e-5)

SENTENCES = {name: [f"a {name} is seen from above.", f"what a {name} looks like."] for name in CLASSES}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def start(seed: int = 0, **settings: Any) -> CoPromptModel:
    return CoPrompt(**settings).start(few_shots(), seeded(seed))


def test_an_adapter_by_hand() -> None:
    adapter = Adapter(torch.tensor([[1.0, 0.0, 0.0, 2.0]]), torch.tensor([[3.0], [-1.0], [0.0], [1.0]]))
    features = torch.tensor([[0.6, 0.0, 0.8, 0.0], [-1.0, 0.0, 0.0, 0.0]])
    own = torch.tensor([1.8, 0.0, 0.0, 0.6])  # hidden: 0.6; its second output is below 0, and so is the second hidden
    mixed = 0.2 * own + 0.8 * features[0]
    near(adapter(features, 0.2), torch.stack([mixed / mixed.norm(), features[1]]))
    assert torch.equal(adapter(features, 0.0), features)


def test_the_length_of_a_feature_does_not_matter_to_an_adapter() -> None:
    adapter = init_adapter(16, torch.device("cpu"), seeded())
    features = torch.randn(5, 16, generator=seeded())
    near(adapter(7 * features, 0.3), adapter(features, 0.3))


def test_an_adapter_has_the_shapes_and_bounds_of_linear_layers_without_biases() -> None:
    adapter = init_adapter(512, torch.device("cpu"), seeded())
    assert [tuple(one.shape) for one in adapter] == [(128, 512), (512, 128)]
    for one, inputs in zip(adapter, (512, 128), strict=True):
        assert 0.95 * inputs**-0.5 < one.abs().max().item() <= inputs**-0.5
        assert one.requires_grad


def test_inconsistency_by_hand() -> None:
    learned, frozen = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.6, 0.8], [0.0, -1.0]])
    assert consistency_loss(learned, frozen).item() == pytest.approx(1 - (0.6 - 1) / 2)
    assert consistency_loss(learned, 5 * learned).item() == pytest.approx(0, abs=1e-6)


def test_the_loss_of_a_step_by_hand() -> None:
    """Cross-entropy, and the weight times what features differ from those of another draw and text."""
    few, generator = few_shots(shots=1), seeded()
    method = CoPrompt(epochs=1, batch_size=4, consistency_weight=3.0, sentences=SENTENCES)
    model, order = method.start(few, generator), torch.randperm(4, generator=generator)
    views = Views(few, rand_augment, generator)
    pixels = views(order)
    seen = few.backbone.encode_pixels(views(order))
    said = SentenceFeatures(few.backbone, few.classes, SENTENCES).draw(generator)
    with torch.no_grad():
        image, text = model.image_features(pixels), model.text_features(few.classes)
    right = F.cross_entropy(few.backbone.logit_scale * image @ text.T, few.targets[order])
    apart = 2 - (seen * image).sum(dim=1).mean() - (said * text).sum(dim=1).mean()
    assert method.fit(few).losses == pytest.approx(((right + 3.0 * apart).item(),), abs=1e-4)


def test_shapes() -> None:
    model = start(n_ctx=3)
    shapes = [tuple(one.shape) for one in model.parameters]
    # two blocks in either tower, their couplings, and two adapters
    assert shapes == [*[(3, 32)] * 2, *[(32, 32), (32,)] * 2, *[(4, 16), (16, 4)] * 2]
    assert model.image_features(torch.rand(2, 3, 32, 32)).shape == (2, 16)
    assert model.text_features(CLASSES).shape == (4, 16)
    near(model.text_features(CLASSES).norm(dim=1), torch.ones(4))


def test_shares_are_those_of_their_towers() -> None:
    model, bare = (
        start(image_adapter_ratio=0.5, text_adapter_ratio=0.25),
        start(image_adapter_ratio=0.0, text_adapter_ratio=0.0),
    )
    pixels = torch.rand(2, 3, 32, 32, generator=seeded())
    near(model.image_features(pixels), model.image(bare.image_features(pixels), 0.5))
    near(model.text_features(CLASSES), model.text(bare.text_features(CLASSES), 0.25))


@pytest.mark.parametrize("template", ["a photo of a <CLASS>.", "art of the <CLASS>."])
def test_without_prompts_and_adapters_it_is_zero_shot_clip(template: str) -> None:
    few, images = few_shots(), pictures(2, seed=1)[0]
    words = template.removesuffix(" <CLASS>.")
    fitted = CoPrompt(n_ctx=0, ctx_init=words, image_adapter_ratio=0.0, text_adapter_ratio=0.0, epochs=1).fit(few)
    clip = TemplateClassifier(few.backbone, Template.parse(template)).logits(images, CLASSES)
    near(fitted.logits(images, CLASSES) / few.backbone.logit_scale, clip / few.backbone.logit_scale)


def test_gradients_reach_prompts_couplings_and_adapters_and_nothing_else() -> None:
    few, model = few_shots(shots=1), start(seed=1)  # of seed 0 an adapter's few units are all silent
    image, text = model.image_features(preprocess(few.backbone, few.images)), model.text_features(CLASSES)
    torch.autograd.backward(F.cross_entropy(100 * image @ text.T, few.targets))
    for one in model.parameters:
        assert one.grad is not None
        assert one.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in deep_toy().model.parameters())


def test_the_loss_falls_and_training_images_are_reported_apart_better() -> None:
    few = few_shots()
    settings: dict[str, Any] = {"epochs": 8, "lr": 0.02, "n_ctx": 4, "augment": False}
    free, held = (CoPrompt(**settings, consistency_weight=weight).fit(few, seed=1) for weight in (0.0, 8.0))
    assert free.losses[-1] < 0.9 * free.losses[0]
    assert held.losses[-1] < 0.8 * held.losses[0]
    before = evaluate(build_method("clip").fit(few), few.images, few.labels, few.classes)
    after = evaluate(free, few.images, few.labels, few.classes)
    assert after.loss < 0.9 * before.loss
    assert after.accuracy > before.accuracy


def test_the_weight_holds_features_to_the_frozen_model() -> None:
    few = few_shots()
    clip = build_method("clip-ensemble").fit(few).logits(few.images, few.classes)
    fitted = [CoPrompt(epochs=6, batch_size=8, lr=0.01, consistency_weight=weight).fit(few) for weight in (0.0, 8.0)]
    free, held = ((one.logits(few.images, few.classes) - clip).abs().mean().item() for one in fitted)
    assert held < 0.8 * free


def test_the_seed_draws_everything_but_the_words() -> None:
    first, again, other = (start(seed).parameters for seed in (0, 0, 1))
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert torch.equal(first[0], other[0])
    assert not any(torch.equal(*pair) for pair in zip(first[1:], other[1:], strict=True))


def test_novel_classes_need_no_sentences() -> None:
    few = few_shots(shots=1)
    fitted = CoPrompt(epochs=1, sentences=SENTENCES).fit(few)
    assert fitted.logits(few.images, ("horse", "sea gull")).shape == (4, 2)


def test_the_published_recipe() -> None:
    method = CoPrompt()
    recipe = method.recipe()
    assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.warmup, recipe.warmup_lr) == (8, 4, 0.0035, 1, 1e-5)
    assert (recipe.momentum, recipe.weight_decay) == (0.9, 5e-4)
    assert method.towers == ("text", "image")
    assert (method.n_ctx, method.ctx_init, method.depth, method.consistency_weight) == (2, "a photo of a", 9, 1.0)
    assert (method.image_adapter_ratio, method.text_adapter_ratio) == (0.1, 0.2)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"n_ctx": -1}, "n_ctx must be >= 0, got -1"),
        ({"depth": 0}, r"depth must be >= 1 \(1 = shallow prompts\), got 0"),
        ({"consistency_weight": -1.0}, r"consistency_weight must be >= 0, got -1\.0"),
        ({"consistency_weight": float("inf")}, "consistency_weight must be a finite number, got inf"),
        ({"image_adapter_ratio": 1.5}, r"image_adapter_ratio must be between 0 and 1, got 1\.5"),
        ({"text_adapter_ratio": -0.1}, r"text_adapter_ratio must be between 0 and 1, got -0\.1"),
        ({"sentences": {"cat": "a cat"}}, r"sentences\['cat'\] must be a list of texts, got 'a cat'"),
        ({"epochs": 0}, "epochs must be >= 1, got 0"),
        ({"shots": 16}, "coprompt has no setting 'shots'; known: n_ctx, ctx_init, depth, consistency_weight, "),
    ],
)
def test_bad_settings_are_reported_at_once(setting: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        build_method("coprompt", **setting)


@pytest.mark.parametrize("kind", PLAIN)
def test_a_text_tower_of_another_kind_is_reported(kind: str) -> None:
    with pytest.raises(InputError, match=r"text tower of .* does not support learned tokens"):
        CoPrompt().fit(few_shots(shared_toy(kind)))


def test_an_image_tower_of_another_kind_is_reported_before_anything_is_encoded() -> None:
    few = few_shots(demo.load("pixel-animals", shots=1).program.backbone)
    with pytest.raises(InputError, match=r"image tower of .* does not support learned tokens"):
        CoPrompt(sentences={"nobody": ["such a class."]}).fit(dataclasses.replace(few, images=["nowhere.png"] * 16))

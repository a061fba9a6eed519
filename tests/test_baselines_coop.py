"""CoOp: the published recipe, and the equation by hand."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

from helpers.baseline_toys import CLASSES, deep_toy, few_shots, pictures
from ipo_dspy.baselines.context_tokens import Position, PromptedClassTexts
from ipo_dspy.baselines.coop import CoOp
from ipo_dspy.baselines.zero_shot import TemplateClassifier
from ipo_dspy.clip.image_features import encode_images
from ipo_dspy.errors import InputError
from ipo_dspy.template import Template


def of(template: str) -> TemplateClassifier:
    return TemplateClassifier(deep_toy(), Template.parse(template))


@pytest.mark.parametrize(("shots", "epochs"), [(1, 50), (2, 100), (4, 100), (8, 200), (16, 200)])
def test_epochs_go_by_the_shots(shots: int, epochs: int) -> None:
    recipe = CoOp().recipe(["cat"] * shots + ["dog"] * max(1, shots - 1))
    assert (recipe.epochs, recipe.batch_size, recipe.lr) == (epochs, 32, 0.002)
    assert (recipe.warmup, recipe.warmup_lr, recipe.momentum, recipe.weight_decay) == (1, 1e-5, 0.9, 5e-4)
    assert CoOp(epochs=7).recipe(["cat"] * shots).epochs == 7


def test_hardly_trained_it_is_clip_with_its_words() -> None:
    images, few = pictures(2, seed=1)[0], few_shots()
    fitted = CoOp(epochs=1, lr=1e-12).fit(few)  # the one epoch is that of the warm-up, at 1e-5
    near = of("a photo of a <CLASS>.").logits(images, CLASSES)
    torch.testing.assert_close(fitted.logits(images, CLASSES), near, rtol=0, atol=0.05)


def test_without_vectors_it_is_clip_with_the_name_alone() -> None:
    images = pictures(2, seed=1)[0]
    fitted = CoOp(n_ctx=0, epochs=2).fit(few_shots())
    torch.testing.assert_close(
        fitted.logits(images, CLASSES), of("<CLASS>.").logits(images, CLASSES), rtol=0, atol=1e-3
    )


@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_logits_are_the_equation(position: Position) -> None:
    backbone, images = deep_toy(), pictures(2, seed=1)[0]
    fitted = CoOp(n_ctx=3, position=position, epochs=2).fit(few_shots())
    assert fitted.context.shape == (3, 32)
    text = PromptedClassTexts(backbone, CLASSES, 3, position).features(fitted.context[None])[0]
    features = encode_images(backbone, images).features
    expected = backbone.logit_scale * F.cosine_similarity(features[:, None], text[None], dim=2)
    torch.testing.assert_close(fitted.logits(images, CLASSES), expected, rtol=0, atol=1e-3)


def test_an_unknown_position_is_reported() -> None:
    with pytest.raises(InputError, match="position must be one of 'end', 'middle', 'front', got 'back'"):
        CoOp(position="back")  # type: ignore[arg-type]


def test_names_that_do_not_fit_are_reported() -> None:
    fitted = CoOp(epochs=1).fit(few_shots())
    with pytest.raises(InputError, match=r"4 context vectors and class 'very very .* takes 77; use a smaller n_ctx"):
        fitted.logits(pictures(1)[0], ["cat", "very " * 80 + "old dog"])

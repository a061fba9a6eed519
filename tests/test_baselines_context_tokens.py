"""Context vectors in their places: words in them are the text with these words, and gradients reach nothing else."""

import functools

import pytest
import torch
from torch import Tensor

from helpers.clip_toys import COCA, PLAIN, TRIMMED, shared_toy
from ipo_dspy import demo
from ipo_dspy.baselines.context_tokens import Position, PromptedClassTexts, check_context, init_context
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.loading import load_backbone
from ipo_dspy.clip.text_features import plain_class_features
from ipo_dspy.errors import InputError
from ipo_dspy.template import Template

near = functools.partial(torch.testing.assert_close, rtol=0, atol=1e-5)

WORDS = "a photo of a"
CLASSES = ("cat", "very_large dog", "tawny owl", "U.S.")


def words(backbone: Backbone) -> Tensor:
    return init_context(backbone, None, WORDS, torch.Generator())


def drawn(backbone: Backbone, count: int, seed: int = 0) -> Tensor:
    return init_context(backbone, count, WORDS, torch.Generator().manual_seed(seed))


def clip(backbone: Backbone, template: str) -> Tensor:
    return plain_class_features(backbone, [Template.parse(template)], CLASSES)[0]


@pytest.mark.parametrize("kind", TRIMMED)
def test_before_the_first_step_it_is_clip_with_these_words(kind: str) -> None:
    backbone = shared_toy(kind)
    context = words(backbone)
    assert context.shape == (4, 32)
    near(PromptedClassTexts(backbone, CLASSES, 4).features(context[None])[0], clip(backbone, "a photo of a <CLASS>."))


@pytest.mark.parametrize("kind", TRIMMED)
def test_without_vectors_it_is_clip_with_the_name_alone(kind: str) -> None:
    backbone = shared_toy(kind)
    near(PromptedClassTexts(backbone, CLASSES, 0).features(drawn(backbone, 0)[None])[0], clip(backbone, "<CLASS>."))


@pytest.mark.parametrize(
    ("position", "template"), [("middle", "a photo <CLASS> of a."), ("front", "<CLASS> a photo of a.")]
)
def test_the_name_may_stand_elsewhere(position: Position, template: str) -> None:
    backbone = shared_toy()
    texts = PromptedClassTexts(backbone, CLASSES[:3], 4, position)
    near(texts.features(words(backbone)[None])[0], clip(backbone, template)[:3])


def test_an_odd_context_has_its_longer_half_after_the_name() -> None:
    """As half of M is rounded down in the code of CoOp."""
    backbone = shared_toy()
    context = init_context(backbone, None, "one photo of", torch.Generator())
    texts = PromptedClassTexts(backbone, CLASSES[:3], 3, "middle")
    near(texts.features(context[None])[0], clip(backbone, "one <CLASS> photo of.")[:3])


def test_the_bundled_model_too() -> None:
    backbone = load_backbone(f"local-dir:{demo.model_path()}", None, device="cpu")
    texts = PromptedClassTexts(backbone, CLASSES, 4)
    near(texts.features(words(backbone)[None])[0], clip(backbone, "a photo of a <CLASS>."))


def test_many_contexts_are_as_one_after_another() -> None:
    backbone = shared_toy()
    texts, contexts = (
        PromptedClassTexts(backbone, CLASSES, 3),
        torch.stack([drawn(backbone, 3, seed) for seed in range(5)]),
    )
    together = texts.features(contexts)
    assert together.shape == (5, 4, 16)
    near(together, torch.cat([texts.features(one[None]) for one in contexts]))
    assert not torch.allclose(together[0], together[1], atol=1e-4)


def test_gradients_reach_every_vector_and_nothing_else() -> None:
    backbone = shared_toy()
    context = drawn(backbone, 4)
    for position in ("end", "middle", "front"):
        texts = PromptedClassTexts(backbone, CLASSES, 4, position)
        context.grad = None
        torch.autograd.backward(texts.features(context[None])[0, :, 0].sum())
        assert context.grad is not None
        assert context.grad.abs().sum(dim=1).gt(0).all()
    assert all(parameter.grad is None for parameter in backbone.model.parameters())


def test_random_vectors_are_small_and_come_from_the_generator() -> None:
    backbone = shared_toy()
    assert drawn(backbone, 500).std().item() == pytest.approx(0.02, rel=0.05)
    before = torch.random.get_rng_state()
    assert torch.equal(drawn(backbone, 4), drawn(backbone, 4))
    assert not torch.equal(drawn(backbone, 4), drawn(backbone, 4, seed=1))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("kind", [*PLAIN, COCA])
def test_other_towers_are_reported(kind: str) -> None:
    with pytest.raises(InputError, match="does not support learned tokens"):
        PromptedClassTexts(shared_toy(kind), CLASSES, 4)


def test_a_class_name_that_does_not_fit_is_reported() -> None:
    with pytest.raises(
        InputError, match="73 context vectors and class 'very_large dog' have 79 tokens and the model takes 77; use a"
    ):
        PromptedClassTexts(shared_toy(), CLASSES[:3], 73)


def test_no_classes_are_reported() -> None:
    with pytest.raises(InputError, match="pass at least one"):
        PromptedClassTexts(shared_toy(), (), 4)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"n_ctx": -1, "ctx_init": WORDS}, r"n_ctx must be >= 0, got -1; for example n_ctx=16"),
        ({"n_ctx": None, "ctx_init": " "}, r"ctx_init is empty, got ' '; use e\.g\. 'a photo of a', or n_ctx=0"),
        (
            {"n_ctx": 4, "ctx_init": WORDS, "position": "back"},
            "position must be one of 'end', 'middle', 'front', got 'back'",
        ),
    ],
)
def test_an_impossible_context_is_reported(given: dict[str, str | int | None], said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_context(**given)  # type: ignore[arg-type]

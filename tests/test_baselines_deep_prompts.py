"""Parts that methods with prompts in the image tower share: texts, prompts, training, and the classifier."""

import copy
import functools
from collections.abc import Sequence

import pytest
import torch
from PIL import Image
from torch import Tensor

from helpers.baseline_toys import CLASSES, PHOTO, deep_toy, few_shots, pictures
from helpers.clip_toys import PLAIN, TRIMMED, shared_toy
from ipo_dspy.baselines import deep_prompts as prompting
from ipo_dspy.baselines.context_tokens import PromptedClassTexts
from ipo_dspy.baselines.deep_prompts import (
    PromptedClassifier,
    Prompts,
    check_prompts,
    init_from_words,
    init_prompts,
)
from ipo_dspy.baselines.towers import ImageTower, TextTower
from ipo_dspy.baselines.training import SGDConfig, train
from ipo_dspy.baselines.training_views import preprocess
from ipo_dspy.baselines.zero_shot import TemplateClassifier
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.image_features import encode_images
from ipo_dspy.clip.text_features import class_features, plain_class_features
from ipo_dspy.errors import DataError, ImageError, InputError
from ipo_dspy.template import Template

near = functools.partial(torch.testing.assert_close, rtol=0, atol=1e-5)

WORDS = "a photo of a"
NAMES = ("cat", "very_large dog", "tawny owl", "U.S.")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Seeing:
    """A model with prompts in the image tower; it counts what it is asked."""

    def __init__(self, count: int = 0) -> None:
        self.tower = ImageTower(deep_toy())
        self.prompts = init_prompts(deep_toy(), self.tower, count, 2, seeded())
        self.asked: list[tuple[int, ...] | tuple[str, ...]] = []

    @property
    def parameters(self) -> list[Tensor]:
        return self.prompts.parameters

    def image_features(self, pixels: Tensor) -> Tensor:
        self.asked.append(tuple(pixels.shape))
        return self.tower.encode(pixels, self.prompts.first, self.prompts.deep)

    def text_features(self, classes: Sequence[str]) -> Tensor:
        self.asked.append(tuple(classes))
        return class_features(deep_toy(), [PHOTO], classes)[0]


def texts_of(backbone: Backbone, count: int, names: Sequence[str] = NAMES, words: str = WORDS) -> PromptedClassTexts:
    return PromptedClassTexts(backbone, names, count, ctx_init=words)


def features(texts: PromptedClassTexts, prompts: Prompts) -> Tensor:
    return texts.features(prompts.first[None], prompts.deep)[0]


def clip(backbone: Backbone, template: str) -> Tensor:
    return plain_class_features(backbone, [Template.parse(template)], NAMES)[0]


def worded(backbone: Backbone, words: str, count: int) -> Tensor:
    prompts = Prompts(init_from_words(backbone, words, count, seeded()))
    return features(texts_of(backbone, count, words=words), prompts)


# Texts


@pytest.mark.parametrize("kind", TRIMMED)
@pytest.mark.parametrize("count", [0, 2, 4])
def test_before_the_first_step_texts_are_the_words(kind: str, count: int) -> None:
    backbone = shared_toy(kind)
    near(worded(backbone, WORDS, count), clip(backbone, "a photo of a <CLASS>."))


def test_only_the_first_tokens_give_way() -> None:
    backbone = shared_toy()
    others = Prompts(init_from_words(backbone, "one picture", 2, seeded()))
    near(features(texts_of(backbone, 2), others), clip(backbone, "one picture of a <CLASS>."))


def test_more_tokens_than_words_stand_alone_before_the_name() -> None:
    backbone = shared_toy()
    others = Prompts(init_from_words(backbone, "one nice picture of a", 5, seeded()))
    near(features(texts_of(backbone, 5), others), clip(backbone, "one nice picture of a <CLASS>."))
    near(worded(backbone, "", 0), clip(backbone, "<CLASS>."))


def test_first_words_are_drawn_where_there_are_too_few() -> None:
    backbone = shared_toy()
    assert torch.equal(*(init_from_words(backbone, WORDS, 4, seeded(seed)) for seed in (0, 1)))
    drawn = init_from_words(backbone, WORDS, 500, seeded())
    assert drawn.shape == (500, 32)
    assert drawn.std().item() == pytest.approx(0.02, rel=0.05)
    assert not torch.equal(*(init_from_words(backbone, "", 2, seeded(seed)) for seed in (0, 1)))


def test_deep_tokens_take_the_places_of_the_first() -> None:
    """The second block does not see what the first one made of its prompts."""
    backbone = shared_toy()
    texts, tower = texts_of(backbone, 2), TextTower(backbone)
    drawn = init_prompts(backbone, tower, 2, 2, seeded())
    seen: list[Tensor] = []
    hook = backbone.model.transformer.resblocks[1].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    found = features(texts, drawn)
    hook.remove()
    assert torch.equal(seen[0][:, 1:3], drawn.deep[0].expand(4, -1, -1))
    assert not torch.allclose(found, features(texts, Prompts(drawn.first)), atol=1e-4)
    assert not torch.allclose(found, features(texts, Prompts(drawn.first * -1, drawn.deep)), atol=1e-6)


def test_gradients_reach_the_prompts_and_nothing_else() -> None:
    backbone, tower = shared_toy(), TextTower(shared_toy())
    prompts = init_prompts(backbone, tower, 3, 2, seeded())
    torch.autograd.backward(features(texts_of(backbone, 3), prompts)[:, 0].sum())
    for one in prompts.parameters:
        assert one.grad is not None
        assert one.grad.abs().sum(dim=1).gt(0).all()
    assert all(parameter.grad is None for parameter in backbone.model.parameters())


@pytest.mark.parametrize("kind", PLAIN)
def test_other_text_towers_are_reported(kind: str) -> None:
    with pytest.raises(InputError, match="does not support learned tokens"):
        texts_of(shared_toy(kind), 2)


def test_texts_that_do_not_fit_are_reported() -> None:
    said = "73 context vectors and class 'very_large dog' have 79 tokens and the model takes 77; use a smaller n_ctx"
    with pytest.raises(InputError, match=said):
        texts_of(shared_toy(), 73, NAMES[:3])
    with pytest.raises(InputError, match="pass at least one"):
        texts_of(shared_toy(), 2, ())


# Prompts


def test_prompts_are_drawn_for_as_many_blocks_as_there_are() -> None:
    backbone = deep_toy()
    for depth, deep in ((1, 0), (2, 1), (9, 1)):
        prompts = init_prompts(backbone, ImageTower(backbone), 3, depth, seeded())
        assert [one.shape for one in prompts.parameters] == [(3, 32)] * (1 + deep)
        assert all(one.is_leaf and one.requires_grad for one in prompts.parameters)
    many = init_prompts(backbone, ImageTower(backbone), 500, 2, seeded())
    assert torch.cat(many.parameters).std().item() == pytest.approx(0.02, rel=0.05)
    again, other = (init_prompts(backbone, ImageTower(backbone), 500, 2, seeded(seed)) for seed in (0, 1))
    assert torch.equal(many.deep[0], again.deep[0])
    assert not torch.equal(many.deep[0], other.deep[0])
    assert not torch.equal(many.first, many.deep[0])


def test_impossible_prompts_are_reported() -> None:
    check_prompts(0, 1)
    with pytest.raises(InputError, match=r"n_ctx must be >= 0, got -1"):
        check_prompts(-1, 1)
    with pytest.raises(InputError, match=r"depth must be >= 1 \(1 = shallow prompts\), got 0"):
        check_prompts(2, 0)


# Training


def test_learning_moves_the_parameters_and_then_they_rest() -> None:
    few, model = few_shots(), Seeing(2)
    pixels = preprocess(deep_toy(), few.images)
    before = copy.deepcopy([one.detach() for one in model.parameters])
    weights = copy.deepcopy(deep_toy().model.state_dict())
    seen: list[int] = []
    done: list[int] = []

    def loss(indices: Tensor) -> Tensor:
        seen.extend(indices.tolist())
        return -model.image_features(pixels[indices])[:, 0].sum()

    recipe = SGDConfig(epochs=3, batch_size=4, lr=0.1)
    losses = train(model.parameters, loss, len(few.images), recipe=recipe, generator=seeded(), after_epoch=done.append)
    assert len(losses) == 3
    assert losses[2] < losses[0]
    assert sorted(seen) == sorted([*range(16)] * 3)
    assert done == [1, 2, 3]
    for old, new in zip(before, model.parameters, strict=True):
        assert not torch.equal(old, new)
        assert not new.requires_grad
        assert new.grad is None
    assert all(torch.equal(value, weights[name]) for name, value in deep_toy().model.state_dict().items())


# The classifier


def test_without_prompts_it_is_zero_shot_clip() -> None:
    images = pictures(2, seed=1)[0]
    fitted = PromptedClassifier(deep_toy(), Seeing(0))
    near(fitted.features(images), encode_images(deep_toy(), images).features)
    expected = TemplateClassifier(deep_toy(), PHOTO).logits(images, CLASSES)
    torch.testing.assert_close(fitted.logits(images, CLASSES), expected, rtol=0, atol=1e-3)


def test_images_pass_in_blocks_and_texts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    images, fitted = pictures(2)[0], PromptedClassifier(deep_toy(), Seeing(2))
    whole = fitted.logits(images, CLASSES)
    monkeypatch.setattr(prompting, "BLOCK", 3)
    fitted.model.asked.clear()
    parts = fitted.logits(images, CLASSES)
    assert fitted.model.asked == [(3, 3, 32, 32), (3, 3, 32, 32), (2, 3, 32, 32)]
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-3)
    assert (parts.shape, parts.dtype, parts.device.type, parts.requires_grad) == ((8, 4), torch.float32, "cpu", False)
    fitted.model.asked.clear()
    assert fitted.logits(images[:1], ["tram", "bus"]).shape == (1, 2)
    assert fitted.logits(images[:1], ("tram", "bus")).shape == (1, 2)
    assert [asked for asked in fitted.model.asked if isinstance(asked[0], str)] == [("tram", "bus")]


def test_images_that_cannot_be_read_are_reported() -> None:
    fitted = PromptedClassifier(deep_toy(), Seeing())
    with pytest.raises(DataError, match="no images to encode"):
        fitted.features([])
    with pytest.raises(ImageError, match=r"image of 3 bytes in memory cannot be read as an image"):
        fitted.logits([Image.new("RGB", (32, 32)), b"abc"], CLASSES)

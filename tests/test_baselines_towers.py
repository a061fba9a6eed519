"""The towers with gradients give what the model gives, change nothing of it, and put prompts where they belong."""

import copy
import functools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers.clip_toys import COCA, PLAIN, TRIMMED, shared_toy, toy_backbone
from ipo_dspy import demo
from ipo_dspy.baselines.towers import ImageTower, TextTower
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.loading import load_backbone
from ipo_dspy.errors import InputError

near = functools.partial(torch.testing.assert_close, rtol=0, atol=1e-5)

TEXTS = ("a cat.", "a photo of a very large dog.", "one")


def pixels(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def toy_of_two_blocks(folder: Path) -> Backbone:
    """A toy whose image tower has two blocks."""
    from helpers import clip_toys

    kinds = {**clip_toys.KINDS, "two": {"text_cfg": clip_toys.TEXT, "vision_cfg": {**clip_toys.VISION, "layers": 2}}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clip_toys, "KINDS", kinds)
        return toy_backbone(folder, "two")


def demo_backbone() -> Backbone:
    return load_backbone(f"local-dir:{demo.model_path()}", None, device="cpu")


@pytest.mark.parametrize("kind", TRIMMED)
def test_without_prompts_the_towers_are_the_model(kind: str) -> None:
    backbone = shared_toy(kind)
    text, ids = TextTower(backbone), backbone.token_ids(TEXTS)
    embedded = text.embed(ids)
    assert embedded.tokens.shape == (3, max(map(len, ids)), 32)
    assert embedded.ends.tolist() == [len(row) - 1 for row in ids]
    near(text.encode(embedded.tokens, embedded.ends), backbone.encode_tokens_plain(ids))
    image = ImageTower(backbone)
    for prompts in (None, torch.zeros(0, image.width)):
        near(image.encode(pixels(), prompts), backbone.encode_pixels(pixels()))


def test_the_bundled_model_has_a_text_tower_and_an_image_tower_of_another_kind() -> None:
    backbone = demo_backbone()
    text, ids = TextTower(backbone), backbone.token_ids(TEXTS)
    embedded = text.embed(ids)
    near(text.encode(embedded.tokens, embedded.ends), backbone.encode_tokens_plain(ids))
    with pytest.raises(InputError, match=r"image tower of .* does not support learned tokens: .* use e\.g\. 'ViT-B-16"):
        ImageTower(backbone)


def test_towers_that_want_the_batch_second(tmp_path: Path) -> None:
    backbone = toy_of_two_blocks(tmp_path)
    text, image, ids = TextTower(backbone), ImageTower(backbone), backbone.token_ids(TEXTS)
    embedded = text.embed(ids)
    first, seen = text.encode(embedded.tokens, embedded.ends), image.encode(pixels())
    for transformer in (backbone.model.transformer, backbone.model.visual.transformer):
        transformer.batch_first = False
        for block in transformer.resblocks:
            block.attn.batch_first = False
    near(text.encode(embedded.tokens, embedded.ends), first)
    near(image.encode(pixels()), seen)


@pytest.mark.parametrize("kind", [*PLAIN, COCA])
def test_text_towers_of_another_kind_are_reported(kind: str) -> None:
    with pytest.raises(InputError, match=r"text tower of .* does not support learned tokens: .* use a CLIP such as"):
        TextTower(shared_toy(kind))


def test_image_towers_of_another_kind_are_reported() -> None:
    with pytest.raises(InputError, match="pools at its class token, unlike ResNets, CoCa and SigLIP"):
        ImageTower(shared_toy(COCA))


def test_gradients_reach_what_is_put_in_and_nothing_else(tmp_path: Path) -> None:
    backbone = toy_of_two_blocks(tmp_path)
    before = copy.deepcopy(backbone.model.state_dict())
    text, image = TextTower(backbone), ImageTower(backbone)
    embedded = text.embed(backbone.token_ids(TEXTS))
    put = [embedded.tokens, *(torch.randn(2, 32) for _ in range(3))]
    tokens, deep_text, prompts, deep_image = (one.requires_grad_() for one in put)
    sides = (text.encode(tokens, embedded.ends, [deep_text]), image.encode(pixels(), prompts, [deep_image]))
    torch.autograd.backward((sides[0] @ sides[1].T)[0, 0])
    for one in (tokens, deep_text, deep_image):
        assert one.grad is not None
        assert one.grad.abs().sum() > 0
    assert prompts.grad is not None  # seen by the class token in the first block, before others take their places
    assert prompts.grad.abs().sum() > 0
    assert tokens.grad is not None
    assert not tokens.grad[0, int(embedded.ends[0]) + 1 :].any()  # a causal tower does not look beyond the end
    assert not tokens.grad[1:].any()
    assert all(parameter.grad is None for parameter in backbone.model.parameters())
    after = backbone.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_deep_tokens_take_the_places_after_the_first() -> None:
    """A replaced token matters only through the blocks before; a hook on the block sees the new ones."""
    backbone = shared_toy()
    text = TextTower(backbone)
    embedded, deep = text.embed(backbone.token_ids(TEXTS)), torch.randn(2, 32)
    seen: list[Tensor] = []
    hook = backbone.model.transformer.resblocks[1].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    text.encode(embedded.tokens, embedded.ends)
    text.encode(embedded.tokens, embedded.ends, [deep])
    hook.remove()
    assert torch.equal(seen[1][:, 1:3], deep.expand(3, -1, -1))
    assert torch.equal(seen[1][:, :1], seen[0][:, :1])
    assert torch.equal(seen[1][:, 3:], seen[0][:, 3:])


def test_visual_tokens_stand_last(tmp_path: Path) -> None:
    backbone = toy_of_two_blocks(tmp_path)
    image, prompts, deep = ImageTower(backbone), torch.randn(2, 32), torch.randn(2, 32)
    seen: list[Tensor] = []
    blocks = backbone.model.visual.transformer.resblocks
    hooks = [block.register_forward_pre_hook(lambda _, given: seen.append(given[0])) for block in blocks]
    image.encode(pixels())
    image.encode(pixels(), prompts, [deep])
    for hook in hooks:
        hook.remove()
    bare, first, second = seen[0], seen[2], seen[3]
    assert bare.shape == (3, 5, 32)
    assert first.shape == second.shape == (3, 7, 32)
    assert torch.equal(first[:, :5], bare)
    assert torch.allclose(first[:, 5:], backbone.model.visual.ln_pre(prompts).expand(3, -1, -1))
    assert torch.equal(second[:, 5:], deep.expand(3, -1, -1))


def test_too_many_deep_prompts_are_reported() -> None:
    text, image, one = TextTower(shared_toy()), ImageTower(shared_toy()), torch.zeros(1, 32)
    embedded = text.embed(shared_toy().token_ids(TEXTS))
    with pytest.raises(InputError, match="2 deep prompts, but the tower has 2 blocks; pass at most 1"):
        text.encode(embedded.tokens, embedded.ends, [one, one])
    with pytest.raises(InputError, match="1 deep prompts, but the tower has 1 blocks; pass at most 0"):
        image.encode(pixels(), one, [one])


def test_deep_prompts_need_places(tmp_path: Path) -> None:
    image = ImageTower(toy_of_two_blocks(tmp_path))
    with pytest.raises(InputError, match="deep prompts have 2 tokens but the shallow prompts have 0; they must match"):
        image.encode(pixels(), None, [torch.zeros(2, 32)])


def test_half_precision_towers_take_float32_tokens(tmp_path: Path) -> None:
    full = toy_of_two_blocks(tmp_path)
    half = load_backbone(full.name, device="cpu", dtype="bfloat16")
    prompts = torch.randn(2, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    sides = [ImageTower(one).encode(pixels(), prompts, [prompts]) for one in (full, half)]
    assert sides[1].dtype == torch.float32
    near(sides[1], sides[0], atol=0.05)
    texts = [TextTower(one) for one in (full, half)]
    ids = full.token_ids(TEXTS)
    features = [text.encode(text.embed(ids).tokens, text.embed(ids).ends) for text in texts]
    near(features[1], features[0], atol=0.05)


def test_lists_that_are_too_long_are_reported() -> None:
    with pytest.raises(InputError, match="100 tokens exceed the context of 77"):
        TextTower(shared_toy()).embed([(1,) * 100])

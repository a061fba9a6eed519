"""Template features: the quick path is the plain path, for every kind of tower and however it is batched."""

import random
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import clip_toys
from helpers.clip_toys import KINDS, shared_toy
from ipo_dspy import demo
from ipo_dspy.clip import prefix_encoder as prefix
from ipo_dspy.clip import text_features as text
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.loading import import_open_clip
from ipo_dspy.clip.prefix_plan import TokenList, plan
from ipo_dspy.clip.template_tokens import template_tokens
from ipo_dspy.errors import DataError, InputError
from ipo_dspy.template import Template

BOUND = 1e-5  # on every normalized feature, in float32
CLASSES = ("cat", "golden_retriever", "a very long name of a class that never ever ends")
TEMPLATES = [
    Template.parse(words)
    for words in (
        "<CLASS>",
        "a photo of a <CLASS>.",
        "a blurry photo of the <CLASS>, seen from above, in the rain, at night.",
        "a photo of a <CLASS>.\nart of the <CLASS>.\n<CLASS>, <CLASS>!",
    )
]
WORDS = st.lists(
    st.sampled_from(["dog", "cat", "the", "a photo of", "7", "café", "!", "supercalifragilistic"]), max_size=12
).map(" ".join)


@pytest.fixture(scope="module")
def toy() -> Backbone:
    return shared_toy()


@pytest.fixture
def calls(toy: Backbone, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of token lists in each pass of the text tower."""
    seen: list[int] = []
    encode = toy.encode_shared

    def counted(ids: Sequence[TokenList]) -> torch.Tensor:
        seen.append(len(ids))
        return encode(ids)

    monkeypatch.setattr(toy, "encode_shared", counted)
    monkeypatch.setattr(toy, "text_memo", type(toy.text_memo)(1_000_000))
    return seen


@pytest.mark.parametrize("kind", KINDS)
def test_class_features_agree_with_encode_text(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = shared_toy(kind)
    monkeypatch.setattr(text, "BATCH", 5)
    quick = text.class_features(toy, TEMPLATES, CLASSES)
    plain = text.plain_class_features(toy, TEMPLATES, CLASSES)
    assert quick.shape == (len(TEMPLATES), len(CLASSES), 16)
    assert quick.dtype == torch.float32
    torch.testing.assert_close(quick, plain, rtol=0, atol=BOUND)
    torch.testing.assert_close(quick.norm(dim=-1), torch.ones(quick.shape[:2]))
    assert (quick[0] - quick[1]).abs().max() > 1e-3  # the toy distinguishes templates


@pytest.mark.parametrize("template", TEMPLATES, ids=str)
def test_class_features_are_those_of_open_clips_zero_shot_classifier(toy: Backbone, template: Template) -> None:
    open_clip = import_open_clip()
    tokenizer = open_clip.tokenize
    names = [name.replace("_", " ") for name in CLASSES]
    prompts = [line.replace("<CLASS>", "{0}") for line in template.lines]
    theirs = open_clip.build_zero_shot_classifier(toy.model, tokenizer, names, prompts)  # [D, C]
    torch.testing.assert_close(text.class_features(toy, [template], CLASSES)[0], theirs.T, rtol=0, atol=BOUND)


@settings(max_examples=25, deadline=None)
@given(texts=st.lists(WORDS, min_size=1, max_size=9), nodes=st.integers(1, 50))
def test_any_list_in_chunks_of_any_size_gives_the_features_one_by_one(
    toy: Backbone, texts: list[str], nodes: int
) -> None:
    lists = [ids for ids in toy.token_ids(texts) if len(ids) <= toy.context_length]
    if not lists:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "NODES", nodes)
        together = text.encode_token_lists(toy, lists)
    alone = torch.cat([toy.encode_tokens_plain([ids]) for ids in lists])
    torch.testing.assert_close(together, alone, rtol=0, atol=BOUND)


@pytest.mark.parametrize("length", [2, 3, 20, 76, 77])
def test_every_length_up_to_the_full_context(toy: Backbone, length: int) -> None:
    start, end = 49406, 49407
    ids = [(start, *range(1000, 1000 + length - 2), end)]
    torch.testing.assert_close(text.encode_token_lists(toy, ids), toy.encode_tokens_plain(ids), rtol=0, atol=BOUND)


def test_equal_prompts_are_encoded_once_and_remembered(toy: Backbone, calls: list[int]) -> None:
    doubled = [Template.parse("a <CLASS>"), Template.parse("A  <CLASS>\na <class>"), Template.parse("a <CLASS>")]
    first = text.class_features(toy, doubled, ["cat", "dog"])
    assert calls == [2]
    assert torch.equal(text.class_features(toy, doubled[::-1], ["cat", "dog"]), first.flip(0))
    assert calls == [2]
    text.class_features(toy, doubled[:1], ["cat", "bird"])
    assert calls == [2, 2]


@pytest.mark.end_to_end
@pytest.mark.parametrize("wide", [False, True])
def test_what_shares_a_pass_and_the_number_of_threads_move_features_within_the_bound(
    wide: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tower = demo.load("pixel-animals", shots=1).program.backbone
    if wide:
        monkeypatch.setitem(
            clip_toys.KINDS,
            "wide",
            {"text_cfg": {**clip_toys.TEXT, "width": 512, "heads": 8}, "vision_cfg": clip_toys.VISION},
        )
        tower = clip_toys.toy_backbone(tmp_path, "wide")
    words = ["a", "photo", "of", "the", "dark", "grainy", "polar", "bear", "on", "table", ","]
    prompts = [" ".join(random.Random(i).choices(words, k=1 + i % 17)) for i in range(150)]
    lists = tower.token_ids(prompts)
    whole = text.encode_token_lists(tower, lists)
    threads = torch.get_num_threads()
    for some in (range(1), range(3, 5), range(10, 17), range(20, 60, 3), range(150)):
        torch.set_num_threads(1)
        found = text.encode_token_lists(tower, [lists[i] for i in some])
        torch.set_num_threads(threads)
        torch.testing.assert_close(found, whole[list(some)], rtol=0, atol=BOUND)


def test_runs_attend_in_pieces_of_bounded_size(toy: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = sorted(
        toy.token_ids([f"a photo of a very small {word}" for word in ("cat", "dog", "bear", "fox", "mouse")])
    )
    shared = plan(lists)
    whole = toy.encode_shared(lists)
    for keys in (1, 20, 10_000):
        monkeypatch.setattr(prefix, "LOOKED_AT", keys)
        pieces = [piece for group in shared.groups for piece in prefix._pieces(group)]
        assert all(piece.count == 1 or piece.count * (piece.depth + piece.length) <= keys for piece in pieces)
        nodes = [piece.first + i for piece in pieces for i in range(piece.count * piece.length)]
        assert nodes == list(range(shared.nodes))
        torch.testing.assert_close(toy.encode_shared(lists), whole, rtol=0, atol=BOUND)


def test_what_is_returned_can_be_changed_without_harm(toy: Backbone, calls: list[int]) -> None:
    first = text.class_features(toy, TEMPLATES[:1], CLASSES)
    kept = first.clone()
    first.zero_()
    assert torch.equal(text.class_features(toy, TEMPLATES[:1], CLASSES), kept)


def test_many_threads_compute_once(toy: Backbone, calls: list[int]) -> None:
    results: list[torch.Tensor] = []
    threads = [
        threading.Thread(target=lambda: results.append(text.class_features(toy, TEMPLATES, CLASSES))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert all(torch.equal(result, results[0]) for result in results)
    assert len(results) == 8


def test_exactly_the_context_fits(toy: Backbone) -> None:
    template = Template.parse("very " * 74 + "<CLASS>")
    assert template_tokens(toy, template, ["cat", "dog"]).longest == 77
    torch.testing.assert_close(
        text.class_features(toy, [template], ["cat", "dog"]),
        text.plain_class_features(toy, [template], ["cat", "dog"]),
        rtol=0,
        atol=BOUND,
    )


def test_empty_input(toy: Backbone) -> None:
    with pytest.raises(InputError, match="no templates"):
        text.class_features(toy, [], CLASSES)
    with pytest.raises(DataError, match="no classes"):
        text.class_features(toy, TEMPLATES, [])

"""The plan of shared prefixes: every distinct prefix once, exact numbers for what users meet, and the same features."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from helpers.clip_toys import COCA, KINDS, PLAIN, TRIMMED, shared_toy
from ipo_dspy.clip.prefix_encoder import suffix_tokens
from ipo_dspy.clip.prefix_plan import TokenList, chunks, plan, shared_tokens

BOUND = 1e-5
PRODUCTS = (torch.ops.aten.mm, torch.ops.aten.addmm)
token_lists = st.lists(
    st.lists(st.integers(1, 4), min_size=1, max_size=8).map(tuple), min_size=1, max_size=12, unique=True
).map(sorted)


def prefixes(lists: list[TokenList]) -> set[TokenList]:
    return {row[:length] for row in lists for length in range(1, len(row) + 1)}


@given(token_lists)
def test_every_distinct_prefix_is_one_node_with_its_ancestors(lists: list[TokenList]) -> None:
    shared = plan(lists)
    assert shared.nodes == len(prefixes(lists))
    found, ends = set(), []
    for group in shared.groups:
        for run in range(group.count):
            own = np.arange(group.first + run * group.length, group.first + (run + 1) * group.length)
            path = [*group.ancestors[run], *own]
            assert [shared.positions[node] for node in path] == list(range(len(path)))
            words = tuple(int(shared.tokens[node]) for node in path)
            found |= {words[:length] for length in range(group.depth + 1, len(words) + 1)}
            ends.append(words)
    assert found == prefixes(lists)
    assert [ends[place] for place in shared.places] == lists


@given(token_lists, st.integers(1, 30))
def test_pieces_keep_the_order_and_the_limit(lists: list[TokenList], nodes: int) -> None:
    pieces = chunks(lists, nodes)
    assert [row for piece in pieces for row in piece] == lists
    for piece in pieces:
        assert len(piece) == 1 or plan(piece).nodes <= nodes + max(map(len, piece))


def test_lists_that_are_not_distinct_or_not_sorted_are_refused() -> None:
    for lists in ([(1,), (1,)], [(2,), (1,)]):
        with pytest.raises(ValueError, match="distinct and sorted"):
            plan(lists)
    assert plan([]).nodes == 0
    assert shared_tokens([]) == []


@given(
    # 0 is a word, and what the rest of the context is filled with: CoCa takes it for that in the middle, too.
    st.lists(st.lists(st.sampled_from([0, 1001, 1002]), max_size=9), min_size=1, max_size=14),
    st.sampled_from([*TRIMMED, COCA]),
)
def test_any_token_lists_give_the_features_of_encode_text(bodies: list[list[int]], kind: str) -> None:
    toy = shared_toy(kind)
    lists = sorted({(49406, *body, 49407) for body in bodies})
    torch.testing.assert_close(toy.encode_shared(lists), toy.encode_tokens_plain(lists), rtol=0, atol=BOUND)


@pytest.mark.parametrize("kind", KINDS)
def test_towers_that_are_not_causal_or_pool_elsewhere_take_the_plain_path(kind: str) -> None:
    assert shared_toy(kind).shares_prefixes == (kind not in PLAIN)
    assert set(KINDS) == {*TRIMMED, COCA, *PLAIN}


@pytest.mark.parametrize("kind", ["clip", COCA])
@pytest.mark.parametrize("length", [2, 3, 40, 75, 76, 77])
def test_one_list_alone(length: int, kind: str) -> None:
    toy = shared_toy(kind)
    if length > toy.context_length:
        return
    lists = [(49406, *range(1000, 1000 + length - 2), 49407)]
    torch.testing.assert_close(toy.encode_shared(lists), toy.encode_tokens_plain(lists), rtol=0, atol=BOUND)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_stays_near(dtype: str) -> None:
    toy = shared_toy()
    lists = sorted(
        set(toy.token_ids([f"a {a} photo of a {b}." for a, b in itertools.product(["old", "new"], ["cat", "dog"])]))
    )
    full = toy.encode_shared(lists)
    model, before = toy.model, toy.dtype
    try:
        model.to(getattr(torch, dtype))
        half = toy.encode_shared(lists)
    finally:
        model.to(before)
    assert (full * half).sum(dim=-1).min() > 0.99


@pytest.mark.parametrize(
    ("template", "nodes"),
    [("a photo of a {}.", 4008), ("{}", 3012), ("a photo of a {}, seen from the side in the evening.", 11_992)],
)
def test_nodes_of_the_imagenet_class_names(template: str, nodes: int) -> None:
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    lists = shared_toy().token_ids([template.format(name) for name in IMAGENET_CLASSNAMES])
    assert plan(sorted(set(lists))).nodes == nodes


def test_templates_of_a_step_share_their_beginnings() -> None:
    toy, names = shared_toy(), ["polar bear", "cat", "dog"]
    ids = [toy.token_ids([f"a dark photo of a {name}{end}" for name in names]) for end in (".", ", at night.")]
    alone = [plan(sorted(set(lists))).nodes for lists in ids]
    together = plan(sorted({row for lists in ids for row in lists})).nodes
    start = len(toy.token_ids(["a dark photo of a"])[0]) - 1
    words = sum(len(toy.token_ids([name])[0]) - 2 for name in names)
    assert together == sum(alone) - start - words


@pytest.mark.parametrize(("kind", "nodes"), [("clip", 68), ("coca", 108)])
def test_no_operation_is_counted_that_an_exact_answer_does_not_need(kind: str, nodes: int) -> None:
    toy = shared_toy(kind)
    tower = getattr(toy.model, "text", toy.model)
    names = ["cat", "dog", "polar bear", *(f"cat {number}" for number in range(10, 27))]
    lists = sorted(toy.token_ids([f"a photo of a {name}." for name in names]))
    shared = plan([(*row, *suffix_tokens(tower)) for row in lists])
    assert shared.nodes == nodes
    with FlopCounterMode(display=False) as counter:
        toy.encode_shared(lists)
    width, layers, out, ends = tower.positional_embedding.shape[1], len(tower.transformer.resblocks), 16, len(lists)
    # A node takes 24 W^2 a layer (query, key, value, output, and an MLP four times as wide); in the last, where it is
    # no end, only key and value: 4 W^2. Attention is left out: torch counts only some of its kernels.
    blocks = 24 * width**2 * (layers - 1) * nodes + 4 * width**2 * nodes + 20 * width**2 * ends
    counted = counter.get_flop_counts()["Global"]
    products = sum(count for operation, count in counted.items() if operation in PRODUCTS)
    assert products == blocks + 2 * width * out * ends

"""Run a causal text tower on a plan of shared prefixes: each distinct prefix once per layer, exactly.

The large matrix products run over all nodes at once; attention runs over groups of runs, whose keys are those of their
ancestors and their own. In the last layer only the ends have a query and go through the MLP. The features of a list
agree to 1e-5 with the model's own `encode_text`; the last bits change with the number of rows of a product.

CoCa puts a class token after every list, at the last position of the context, and reads the features there. With its
published weights that token sees one padding token and not itself, a slip that is part of the model by now.

Letters: N nodes, M token lists, B runs, H heads, W width of the tower.
"""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from ipo_dspy.clip.prefix_plan import PrefixGroup, PrefixPlan, TokenList
from ipo_dspy.clip.transformers_model import JoinedAttention

ROWS = 1024
"""Nodes that go through the MLP at a time: its wide middle then stays in the cache of a CPU."""
LOOKED_AT = 8192
"""Keys of all runs that attend at a time: those of 16,384 nodes with long shared beginnings would take gigabytes."""
CLASS = -1
"""Stands in a plan for CoCa's class token, which has a separate embedding."""


def suffix_tokens(tower: Any) -> TokenList:
    """Return the tokens that a tower appends to every list.

    >>> from types import SimpleNamespace
    >>> suffix_tokens(SimpleNamespace(cls_emb=None))
    ()
    """
    return () if getattr(tower, "cls_emb", None) is None else (tower.pad_id, CLASS)


def can_encode(tower: Any, tokens: TokenList) -> bool:
    """Return whether `encode_with_shared_prefixes` matches the tower for a token list.

    CoCa masks padding by its token id, and needs room for at least one padding token.
    """
    return not suffix_tokens(tower) or (len(tokens) < tower.context_length and tower.pad_id not in tokens)


def shares_prefixes(tower: Any) -> bool:
    """Return whether `encode_with_shared_prefixes` supports the blocks of a tower.

    This does not check that the tower is causal.
    """
    blocks: Any = getattr(tower.transformer, "resblocks", ())
    right = getattr(tower, "correct_cls_mask", False)  # which no configuration of open_clip can ask for
    return len(blocks) > 0 and all(map(_is_plain, blocks)) and not right


def encode_with_shared_prefixes(tower: Any, plan: PrefixPlan) -> Tensor:
    """Hidden states at the end of each list after the last block, before the final norm: [M, W], in order of runs.

    The lists of the plan end with `suffix_tokens(tower)`.
    """
    device, blocks = tower.positional_embedding.device, tower.transformer.resblocks
    x = _embedded(tower, torch.from_numpy(plan.tokens).to(device), torch.from_numpy(plan.positions).to(device))
    pieces = [piece for group in plan.groups for piece in _pieces(group)]
    groups = [_Group(piece, device, blind=bool(suffix_tokens(tower))) for piece in pieces]
    for block in blocks[:-1]:
        attended = _attend(block, x, groups)
        x = _mlp(block, x + block.ls_1(block.attn.out_proj(attended)))
    return _last(blocks[-1], x, groups)


def _embedded(tower: Any, tokens: Tensor, positions: Tensor) -> Tensor:
    """Nodes before the first block, [N, W]."""
    dtype = tower.transformer.get_cast_dtype()
    if suffix_tokens(tower):
        ends = tokens == CLASS
        words = torch.where(ends[:, None], tower.cls_emb, tower.token_embedding(tokens.clamp(min=0)))
        positions = positions.masked_fill(ends, tower.context_length)
    else:
        words = tower.token_embedding(tokens)
    embedded: Tensor = words.to(dtype) + tower.positional_embedding[positions].to(dtype)
    return embedded


def _pieces(runs: PrefixGroup) -> list[PrefixGroup]:
    """Split a group into groups of runs that have about `LOOKED_AT` keys together."""
    size = max(1, LOOKED_AT // (runs.depth + runs.length))
    pieces = []
    for start in range(0, runs.count, size):
        ancestors = runs.ancestors[start : start + size]
        pieces.append(PrefixGroup(runs.first + start * runs.length, len(ancestors), runs.length, ancestors))
    return pieces


class _Group:
    """Runs with their ancestors on a device; if `blind`, their ends do not attend to themselves."""

    def __init__(self, runs: PrefixGroup, device: torch.device, *, blind: bool) -> None:
        self.count, self.length, self.depth = runs.count, runs.length, runs.depth
        self.keys = runs.depth + runs.length
        self.rows = slice(runs.first, runs.first + runs.count * runs.length)
        self.ancestors = torch.from_numpy(runs.ancestors).to(device)  # [B, depth]
        self.seen = torch.ones(runs.length, self.keys, dtype=torch.bool, device=device).tril(runs.depth)
        """Keys that each node of a run attends to."""
        if blind:
            self.seen[-1, -1] = False
        ends = torch.arange(runs.count, device=device) * runs.length + runs.length - 1
        self.ends = runs.first + ends  # [B]

    def attend(self, q: Tensor, kv: Tensor, heads: int) -> Tensor:
        """Attend from the last nodes of each run to ancestors and run: q [B, q, W], kv [N, 2 W] to [B, q, W]."""
        count = q.shape[1]
        run_kv = kv[self.rows].view(self.count, self.length, -1)
        both = torch.cat([kv[self.ancestors], run_kv], dim=1)  # [B, keys, 2 W]
        k, v = both.view(self.count, self.keys, 2, heads, -1).permute(2, 0, 3, 1, 4)  # each [B, H, keys, W / H]
        q = q.reshape(self.count, count, heads, -1).transpose(1, 2)  # [B, H, q, W / H]
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=self.seen[-count:])
        return attended.transpose(1, 2).flatten(-2)


def _attend(block: Any, x: Tensor, groups: list[_Group]) -> Tensor:
    """Attention of every node to its ancestors and itself, before the output projection: [N, W]."""
    width, heads = x.shape[1], block.attn.num_heads
    qkv = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias)  # [N, 3 W]
    out = torch.empty_like(x)
    for group in groups:
        queries = qkv[group.rows, :width].view(group.count, group.length, width)
        out[group.rows] = group.attend(queries, qkv[:, width:], heads).reshape(-1, width)
    return out


def _last(block: Any, x: Tensor, groups: list[_Group]) -> Tensor:
    """Apply the last block to the end of each run only: [M, W], in the order of runs."""
    width, heads = x.shape[1], block.attn.num_heads
    weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
    normed = block.ln_1(x)
    kv = F.linear(normed, weight[width:], None if bias is None else bias[width:])  # [N, 2 W]
    ends = torch.cat([group.ends for group in groups])  # [M]
    q = F.linear(normed[ends], weight[:width], None if bias is None else bias[:width])  # [M, W]
    attended, first = torch.empty_like(q), 0
    for group in groups:
        rows = slice(first, first + group.count)
        attended[rows] = group.attend(q[rows, None], kv, heads)[:, 0]
        first += group.count
    return _mlp(block, x[ends] + block.ls_1(block.attn.out_proj(attended)))


def _mlp(block: Any, x: Tensor) -> Tensor:
    """Apply the MLP half of a block in place, `ROWS` rows at a time."""
    for rows in torch.split(x, ROWS):
        rows += block.ls_2(block.mlp(block.ln_2(rows)))
    return x


def _is_plain(block: Any) -> bool:
    attention = getattr(block, "attn", None)
    parts = ("ln_1", "ls_1", "ln_2", "ls_2", "mlp")
    return (
        isinstance(attention, nn.MultiheadAttention | JoinedAttention)
        and attention.in_proj_weight is not None
        and attention.bias_k is None
        and not attention.add_zero_attn
        and all(hasattr(block, part) for part in parts)
        and not hasattr(block, "ln_1_kv")
    )

"""The text tower of a loaded model: where it pools, how it projects, and which fast path it allows.

A causal tower computes the prefix that token lists share once for all of them (`clip.prefix_encoder`). Structure and
a comparison with `encode_text` decide this at load. Any other model encodes the full context, which is slower.

Letters: M token lists, L tokens, W width of the tower, D width of the features.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from ipo_dspy.clip import prefix_encoder as prefix
from ipo_dspy.clip.prefix_plan import TokenList, plan
from ipo_dspy.clip.tokenizer import PROBES, TokenizerAdapter

TOLERANCE = 1e-5
"""Largest difference of a normalized float32 feature at which the fast path counts as exact."""
_PARTS = ("transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection")


def text_tower(model: Any) -> Any:
    """Return the module with the text tower's parts: `model.text`, or the model itself in open_clip's `CLIP`."""
    return getattr(model, "text", model)


def encode_shared(model: Any, ids: Sequence[TokenList]) -> Tensor:
    """Return what `encode_text` gives for M distinct, sorted token lists, each distinct prefix computed once: [M, D].

    Lists that the fast path cannot take (`prefix.fits`) must be left out.
    """
    tower = text_tower(model)
    shared = plan([(*row, *prefix.suffix_tokens(tower)) for row in ids])
    features = project(tower, prefix.encode_with_shared_prefixes(tower, shared))
    return features[torch.from_numpy(shared.places).to(features.device)]


def end_token_positions(tower: Any, tokens: Tensor) -> Tensor:
    """Return the positions [M] of tokens [M, L] at which a causal tower that pools at the end token reads."""
    if _pool(tower) == "argmax":
        return tokens.argmax(dim=-1)
    end = tower.text_eos_id if hasattr(tower, "text_eos_id") else tower.eos_id  # `CLIP`, or its own class
    return (tokens == int(end)).int().argmax(dim=-1)


def project(tower: Any, ends: Tensor) -> Tensor:
    """Return features [M, D] of the last hidden states [M, W] at the positions where the tower pools."""
    x = tower.ln_final(ends)
    projection = tower.text_projection
    features: Tensor = x if projection is None else projection(x) if callable(projection) else x @ projection
    return features


def pools_at_end(tower: Any) -> bool:
    """Return whether a tower reads its features at the end token; CoCa reads them at a separate token."""
    return not prefix.suffix_tokens(tower) and _pool(tower) in ("argmax", "eos")


def shares_prefixes(model: Any, tokens: TokenizerAdapter) -> bool:
    """Return whether `encode_shared` may stand in for this model's `encode_text`."""
    tower = text_tower(model)
    if not (_is_causal(tower) and tokens.pads_right and prefix.shares_prefixes(tower)):
        return False
    if not (prefix.suffix_tokens(tower) or pools_at_end(tower)):
        return False
    texts = [*PROBES, *(f"{text} {more}" for text in PROBES for more in ("a", "of a dog", "of a cat, seen"))]
    ids = sorted({row for row in tokens.ids(texts) if len(row) <= tokens.context_length})
    with torch.no_grad():
        plain = model.encode_text(tokens.padded(ids, tokens.context_length), normalize=False)
        fast = encode_shared(model, ids)
    return torch.allclose(F.normalize(plain, dim=-1), F.normalize(fast, dim=-1), rtol=0, atol=TOLERANCE)


def _is_causal(tower: Any) -> bool:
    mask = getattr(tower, "attn_mask", None)
    if not all(hasattr(tower, part) for part in _PARTS) or mask is None:
        return False
    return torch.equal(mask, torch.full_like(mask, float("-inf")).triu(1))


def _pool(tower: Any) -> str | None:
    return getattr(tower, "text_pool_type", None) or getattr(tower, "pool_type", None)  # `CLIP`, or its own class

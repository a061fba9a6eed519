"""The towers of a frozen CLIP with gradients to their inputs: embeddings, prompts, and prompts of deeper blocks.

This module calls the blocks of the loaded model one after another. The model is neither copied nor modified, not even
during a pass, so other threads can encode with it at the same time. Nothing is cached and no prefix is shared, because
every text begins with learned tokens. Towers compute in their own dtype; features are float32.

Letters: N images, C texts, L tokens, P prompt tokens, W width of a tower, D width of the features.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.bundled import canonical_model_name
from ipo_dspy.clip.prefix_plan import TokenList
from ipo_dspy.clip.text_tower import end_token_positions, pools_at_end, project, text_tower
from ipo_dspy.errors import InputError


class Embedded(NamedTuple):
    """Texts before the first block of a text tower."""

    tokens: Tensor  # embeddings without positions, [C, L, W], L the longest of these texts
    ends: Tensor  # position of each text's end token, [C]


class TextTower:
    """A causal text tower that pools at the end token; raises `InputError` for a model with another one."""

    def __init__(self, backbone: Backbone) -> None:
        tower: Any = text_tower(backbone.model)
        if not (backbone.shares_prefixes and pools_at_end(tower)):
            raise InputError(
                f"the text tower of {canonical_model_name(backbone.name)!r} does not support learned tokens: it must "
                "be causal and pool at the end token, unlike BERT, CoCa and SigLIP; use a CLIP such as "
                "'ViT-B-16-quickgelu'"
            )
        self._backbone = backbone
        self._tower = tower
        self.width = int(self._tower.token_embedding.embedding_dim)
        self.depth = len(self._tower.transformer.resblocks)

    @torch.no_grad()
    def embed(self, ids: Sequence[TokenList]) -> Embedded:
        """Embed token lists, without gradients; raise `InputError` for no list, or one longer than the context."""
        table = self._backbone.token_table(ids)  # [C, L]
        words: Tensor = self._tower.token_embedding(table)  # [C, L, W]
        return Embedded(words.float(), end_token_positions(self._tower, table))

    def encode(self, tokens: Tensor, ends: Tensor, deep: Sequence[Tensor] = (), *, normalize: bool = True) -> Tensor:
        """Encode embeddings [C, L, W] with end positions [C] to float32 features [C, D].

        Tokens `deep`, each [P, W], replace positions 1 to P before the second block, the third, and so on (Khattak et
        al. 2023, "MaPLe"). There must be fewer than blocks.
        """
        _check_depth(deep, self.depth)
        tower, length = self._tower, tokens.shape[1]
        dtype = tower.transformer.get_cast_dtype()
        x = tokens.to(dtype) + tower.positional_embedding[:length].to(dtype)  # [C, L, W]
        mask = tower.attn_mask[:length, :length]
        x = _run(tower.transformer, x, [(1, prompt) for prompt in deep], mask)  # [C, L, W]
        rows = torch.arange(len(x), device=x.device)
        features = project(tower, x[rows, ends]).float()  # [C, D]
        return F.normalize(features, dim=-1) if normalize else features


class ImageTower:
    """A vision transformer that pools at its class token; raises `InputError` for a model with another image tower."""

    def __init__(self, backbone: Backbone) -> None:
        self._tower: Any = backbone.model.visual
        if not _takes_prompts(self._tower):
            raise InputError(
                f"the image tower of {canonical_model_name(backbone.name)!r} does not support learned tokens: it must "
                "be a vision transformer that pools at its class token, unlike ResNets, CoCa and SigLIP; use e.g. "
                "'ViT-B-16-quickgelu', or the bundled 'demo-vit'"
            )
        self._device = backbone.device
        self.width = len(self._tower.class_embedding)
        self.depth = len(self._tower.transformer.resblocks)

    def encode(self, pixels: Tensor, prompts: Tensor | None = None, deep: Sequence[Tensor] = ()) -> Tensor:
        """Encode preprocessed images [N, 3, H, W] to normalized float32 features [N, D].

        Tokens `prompts` [P, W] follow the patches; they have no positions and pass through the norm before the first
        block, as in the code of MaPLe and PromptSRC. Tokens `deep`, each [P, W] and fewer than blocks, replace them
        before the second block, the third, and so on (Jia et al. 2022, "VPT").
        """
        count = 0 if prompts is None else len(prompts)
        _check_depth(deep, self.depth)
        if any(len(prompt) != count for prompt in deep):
            raise InputError(
                f"deep prompts have {len(deep[0])} tokens but the shallow prompts have {count}; they must match"
            )
        x = self._embedded(pixels, prompts)  # [N, L, W]
        x = _run(self._tower.transformer, x, [(x.shape[1] - count, prompt) for prompt in deep])
        pooled = self._tower.ln_post(x[:, 0]) @ self._tower.proj  # [N, D]
        return F.normalize(pooled.float(), dim=-1)

    def _embedded(self, pixels: Tensor, prompts: Tensor | None) -> Tensor:
        """Return class token, patches and prompts before the first block: [N, L, W]."""
        tower = self._tower
        dtype = tower.conv1.weight.dtype
        patches = tower.conv1(pixels.to(self._device, dtype)).flatten(2).transpose(1, 2)  # [N, L - 1, W]
        first = tower.class_embedding.to(dtype).expand(len(patches), 1, -1)  # [N, 1, W]
        x = torch.cat([first, patches], dim=1) + tower.positional_embedding.to(dtype)
        if prompts is not None:
            x = torch.cat([x, prompts.to(dtype).expand(len(x), -1, -1)], dim=1)
        embedded: Tensor = tower.ln_pre(x)
        return embedded


def check_towers(backbone: Backbone, needed: Iterable[str]) -> None:
    """Raise `InputError` if one of the towers of a model, `text` or `image`, does not support learned tokens."""
    kinds = {"text": TextTower, "image": ImageTower}
    for name in needed:
        kinds[name](backbone)


def _run(transformer: Any, x: Tensor, deep: Sequence[tuple[int, Tensor]], mask: Tensor | None = None) -> Tensor:
    """Run the blocks on x [N, L, W]; from the second block on, insert the next of `deep` first."""
    for index, block in enumerate(transformer.resblocks):
        if 0 < index <= len(deep):
            x = _placed(x, *deep[index - 1])
        x = x if transformer.batch_first else x.transpose(0, 1)
        x = block(x, attn_mask=mask)
        x = x if transformer.batch_first else x.transpose(0, 1)
    return x


def _placed(x: Tensor, start: int, prompt: Tensor) -> Tensor:
    """Replace tokens of x [N, L, W] by a prompt [P, W] from position `start` on."""
    new = prompt.to(x.dtype).expand(len(x), -1, -1)
    return torch.cat([x[:, :start], new, x[:, start + len(prompt) :]], dim=1)


def _check_depth(deep: Sequence[Tensor], depth: int) -> None:
    if len(deep) >= depth:
        raise InputError(f"{len(deep)} deep prompts, but the tower has {depth} blocks; pass at most {depth - 1}")


def _takes_prompts(tower: Any) -> bool:
    parts = ("conv1", "class_embedding", "positional_embedding", "ln_pre", "transformer", "ln_post", "proj")
    if not all(hasattr(tower, part) for part in parts) or tower.proj is None:
        return False
    return tower.pool_type == "tok" and tower.attn_pool is None and hasattr(tower.transformer, "resblocks")

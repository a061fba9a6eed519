"""A CLIP of transformers with the interface of open_clip's: `encode_image`, `encode_text`, and the parts of its tower.

Features are those of `get_image_features` and `get_text_features`. Padding that a tower must not see is marked by
`PADDING` in the table of tokens, because a padding token may also be a token of the text (SigLIP's is its end token).

A causal tower is also shown with the names of open_clip's parts, for `clip.prefix_encoder` and for learned tokens.
These parts hold the weights of transformers, not copies.

Letters: N images, M token lists, L tokens, P patches, W width of the tower, D width of the features.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from ipo_dspy.clip.transformers_files import Family

PADDING = -1
"""Stands for padding that is masked."""


class TransformersModel(nn.Module):
    """A model of transformers; see the module.

    Args:
        model: of a family in `FAMILIES`, in evaluation mode.
        family: how its text tower reads padding.
        pad_id: token that fills masked positions.
    """

    preprocessing: Mapping[str, Any] | None = None  # see `Backbone.preprocessing`; None if it cannot be described so
    visual: Any = None  # its image tower has none of the parts of open_clip's

    def __init__(self, model: Any, family: Family, pad_id: int) -> None:
        super().__init__()
        self.model, self._pad_id = model, pad_id
        self._reads_patches = model.config.model_type == "siglip2"
        self._tower = (CausalTextTower(model),) if family.text == "causal" else ()  # not registered a second time

    @property
    def text(self) -> Any:
        """Return the text tower with the parts of open_clip's if it is causal, else this module."""
        return self._tower[0] if self._tower else self

    @property
    def logit_scale(self) -> Tensor:
        """Return the logarithm of the factor from cosine similarities to logits; ALIGN divides by a temperature."""
        scale: Tensor = self.model.logit_scale if hasattr(self.model, "logit_scale") else -self.model.temperature.log()
        return scale

    @property
    def logit_bias(self) -> Tensor | None:
        """Return what is added to the logits; None without a sigmoid head."""
        return getattr(self.model, "logit_bias", None)

    def encode_image(self, pixels: Tensor, normalize: bool = False) -> Tensor:
        """Return the features [N, D] of images [N, 3, H, W], or of packed patches [N, P, ...] for SigLIP 2."""
        inputs = unpacked_patches(pixels) if self._reads_patches else {"pixel_values": pixels}
        return _features(self.model.get_image_features(**inputs), normalize)

    def encode_text(self, tokens: Tensor, normalize: bool = False) -> Tensor:
        """Return the features [M, D] of tokens [M, L], in which `PADDING` is masked."""
        seen = tokens != PADDING
        ids = tokens.masked_fill(~seen, self._pad_id)
        features = self.model.get_text_features(input_ids=ids, attention_mask=seen.long())
        return _features(features, normalize)


def _features(output: Any, normalize: bool) -> Tensor:
    features: Tensor = output if isinstance(output, Tensor) else output.pooler_output  # a tensor before version 5
    return F.normalize(features, dim=-1) if normalize else features


def packed_patches(inputs: Mapping[str, Tensor]) -> Tensor:
    """Return what SigLIP 2's processor gives for one image as a tensor [P, W + 2], so that images can be stacked.

    The last two columns mark the patches in the top row and in the left column; their sums are width and height, exact
    in every number format.
    """
    patches = inputs["pixel_values"][0]  # [P, W]
    height, width = inputs["spatial_shapes"][0].tolist()
    index = torch.arange(len(patches))
    edges = torch.stack([index < width, (index % width == 0) & (index < height * width)], dim=1)
    return torch.cat([patches, edges.to(patches.dtype)], dim=1)


def unpacked_patches(pixels: Tensor) -> dict[str, Tensor]:
    """Return the arguments of SigLIP 2's image tower from packed patches [N, P, W + 2]."""
    width, height = pixels[..., -2:].bool().sum(dim=1).unbind(dim=1)  # [N] each
    seen = torch.arange(pixels.shape[1], device=pixels.device) < (height * width)[:, None]  # [N, P]
    shapes = torch.stack([height, width], dim=1)
    return {"pixel_values": pixels[..., :-2], "pixel_attention_mask": seen.int(), "spatial_shapes": shapes}


class CausalTextTower(nn.Module):
    """The text tower of a CLIP or MetaCLIP 2 with the names of open_clip's parts."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        tower = model.text_model
        self._positions = tower.embeddings.position_embedding
        self.token_embedding = tower.embeddings.token_embedding
        self.transformer = _Transformer(tower.encoder.layers, self.token_embedding)
        self.ln_final, self.text_projection = tower.final_layer_norm, model.text_projection
        # The configs of the first CLIPs name a wrong end token, for which transformers takes the largest id.
        is_legacy = model.config.model_type == "clip" and tower.eos_token_id == 2
        self.text_pool_type = "argmax" if is_legacy else "eos"
        self.text_eos_id = tower.eos_token_id

    @property
    def positional_embedding(self) -> Tensor:
        """Return the embeddings of the positions [L, W]."""
        table: Tensor = self._positions.weight
        return table

    @property
    def attn_mask(self) -> Tensor:
        """Return the causal mask [L, L] that is added to the attention."""
        length, dtype = len(self.positional_embedding), self.positional_embedding.dtype
        mask = torch.full((length, length), float("-inf"), dtype=dtype, device=self.positional_embedding.device)
        return mask.triu(1)


class _Transformer(nn.Module):
    batch_first = True

    def __init__(self, layers: Any, embedding: nn.Embedding) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(_Block(layer) for layer in layers)
        self._embedding = embedding

    def get_cast_dtype(self) -> torch.dtype:
        """Return the number format of the blocks."""
        return self._embedding.weight.dtype


class _Block(nn.Module):
    def __init__(self, layer: Any) -> None:
        super().__init__()
        self._layer = layer
        self.ln_1, self.ln_2, self.mlp = layer.layer_norm1, layer.layer_norm2, layer.mlp
        self.ls_1, self.ls_2 = nn.Identity(), nn.Identity()
        self.attn = JoinedAttention(layer.self_attn)

    def forward(self, x: Tensor, attn_mask: Tensor) -> Tensor:
        """Run the block of transformers on x [M, L, W] with an additive mask [L, L]."""
        masks = {"attention_mask": attn_mask[None, None], "causal_attention_mask": None}  # version 4 requires both
        output: Tensor | tuple[Tensor, ...] = self._layer(x, **masks)
        return output[0] if isinstance(output, tuple) else output  # a tuple before version 5


class JoinedAttention(nn.Module):
    """Attention with separate projections of queries, keys and values, shown as one, like `nn.MultiheadAttention`."""

    bias_k = None
    add_zero_attn = False

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self._parts: Any = nn.ModuleList([attention.q_proj, attention.k_proj, attention.v_proj])
        self.out_proj, self.num_heads = attention.out_proj, attention.num_heads

    @property
    def in_proj_weight(self) -> Tensor:
        """Return the three projections [3 W, W]; joining them costs little compared with the product."""
        return torch.cat([part.weight for part in self._parts])

    @property
    def in_proj_bias(self) -> Tensor:
        """Return their biases [3 W]."""
        return torch.cat([part.bias for part in self._parts])

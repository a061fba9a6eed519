"""Class texts with placeholders for context vectors: the text input of CoOp and CoCoOp.

A text is `start, context, name., end`, with the context before the name, around it or after it. Placeholder tokens keep
the positions, so that the tower finds the end token as in any text. Context vectors then replace their embeddings.

Letters: B contexts, C classes, M context vectors, L tokens, W width of the text tower, D width of the features.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from ipo_dspy.baselines.towers import TextTower
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.prefix_plan import TokenList
from ipo_dspy.errors import InputError
from ipo_dspy.template import display_class_name

Position = Literal["end", "middle", "front"]
"""Position of the class name: after the context, in its middle, or before it."""

STD = 0.02
"""Standard deviation of random context vectors, as in the code of CoOp and CoCoOp."""


class PromptedClassTexts:
    """The texts of the classes with placeholders for M context vectors.

    The vectors replace the first M tokens of `ctx_init`, the words before the name, as in `a photo of a NAME.`. If the
    words have fewer tokens, they are left out. Raises `InputError` for an unsupported text tower, no classes, or a
    class whose text does not fit the context.
    """

    def __init__(
        self, backbone: Backbone, classes: Sequence[str], n_ctx: int, position: Position = "end", ctx_init: str = ""
    ) -> None:
        self._tower = TextTower(backbone)
        rows, places = _rows(backbone, classes, n_ctx, position, ctx_init)
        longest = max(range(len(rows)), key=lambda index: len(rows[index]), default=0)
        if rows and len(rows[longest]) > backbone.context_length:
            raise InputError(
                f"{n_ctx} context vectors and class {classes[longest]!r} have {len(rows[longest])} tokens and the "
                f"model takes {backbone.context_length}; use a smaller n_ctx or a shorter name"
            )
        embedded = self._tower.embed(rows)
        self._tokens, self._ends = embedded.tokens, embedded.ends  # [C, L, W], [C]
        self._places = torch.tensor(places, dtype=torch.int64, device=self._tokens.device).view(len(rows), n_ctx)

    def features(self, contexts: Tensor, deep: Sequence[Tensor] = ()) -> Tensor:
        """Return normalized features of every class in every context, with gradients: [B, M, W] to [B, C, D].

        Vectors `deep`, each [M, W], replace the context before the second block, the third, and so on.
        """
        (classes, n_ctx), width = self._places.shape, contexts.shape[2]
        shape = (len(contexts), classes, n_ctx, width)
        index, source = self._places[None, :, :, None].expand(shape), contexts[:, None].expand(shape)
        tokens = self._tokens.expand(len(contexts), -1, -1, -1).scatter(2, index, source)  # [B, C, L, W]
        features = self._tower.encode(tokens.flatten(0, 1), self._ends.repeat(len(contexts)), tuple(deep))  # [B * C, D]
        return features.view(len(contexts), classes, -1)


def init_context(backbone: Backbone, n_ctx: int | None, ctx_init: str, generator: torch.Generator) -> Tensor:
    """Return `n_ctx` random vectors, or for None the embeddings of the words: [M, W], a leaf with gradients."""
    tower = TextTower(backbone)
    if n_ctx is None:
        return tower.embed(backbone.token_ids([ctx_init])).tokens[0, 1:-1].clone().requires_grad_()
    vectors = torch.randn(n_ctx, tower.width, generator=generator) * STD
    return vectors.to(backbone.device).requires_grad_()


def check_context(n_ctx: int | None, ctx_init: str, position: str = "end") -> None:
    """Raise `InputError` for a negative number of vectors, no words, or an unknown position."""
    if n_ctx is not None and n_ctx < 0:
        raise InputError(f"n_ctx must be >= 0, got {n_ctx}; for example n_ctx=16, or None for ctx_init")
    if n_ctx is None and not ctx_init.strip():
        raise InputError(f"ctx_init is empty, got {ctx_init!r}; use e.g. 'a photo of a', or n_ctx=0 for no context")
    if position not in get_args(Position):
        known = ", ".join(map(repr, get_args(Position)))
        raise InputError(f"position must be one of {known}, got {position!r}")


def spelled(backbone: Backbone, words: str) -> TokenList:
    """Return the tokens of words, without the start and end tokens."""
    return backbone.token_ids([words])[0][1:-1]


def _rows(
    backbone: Backbone, classes: Sequence[str], n_ctx: int, position: Position, ctx_init: str
) -> tuple[list[TokenList], list[list[int]]]:
    """Return the token lists of all classes, and the positions [C, M] of the context in them."""
    names = [display_class_name(name) for name in classes]
    if ctx_init and n_ctx <= len(spelled(backbone, ctx_init)):
        texts = backbone.token_ids([f"{ctx_init} {name}." for name in names])
        return list(texts), [list(range(1, 1 + n_ctx))] * len(texts)
    before = {"end": n_ctx, "middle": n_ctx // 2, "front": 0}[position]
    rows, places = [], []
    for row, name in zip(backbone.token_ids([f"{name}." for name in names]), backbone.token_ids(names), strict=True):
        split = len(name) - 1  # end of the name: `name` also has a start and an end token
        filler = row[1:2]  # any token except the end token
        rows.append((*row[:1], *filler * before, *row[1:split], *filler * (n_ctx - before), *row[split:]))
        places.append([*range(1, 1 + before), *range(split + before, split + n_ctx)])
    return rows, places

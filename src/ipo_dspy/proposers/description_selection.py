"""Which descriptions a prompt holds when not all fit into its budget of tokens."""

import math
from collections.abc import Callable, Mapping, Sequence

from ipo_dspy._internal.sequences import evenly_spaced

DESCRIPTION_TOKENS = 2000
"""The paper's requests hold about 5,000 tokens in all."""

Choose = Callable[[Sequence[str], int, int], list[str]]
"""Descriptions, budget, step to those that are shown, in order."""


def tokens_in(text: str) -> int:
    """About how many tokens a text has: four letters each in English, one a character where letters are not Latin.

    A count by the model's own tokenizer would have to fetch that tokenizer; a budget needs no more than this.

    >>> tokens_in("a blurry photo on a dark background"), tokens_in("\u732b\u306e\u5199\u771f")
    (9, 4)
    """
    wide = sum(ord(char) > 0x24F for char in text)
    return math.ceil((len(text) - wide) / 4) + wide


def evenly(texts: Sequence[str], budget: int, step: int = 0) -> list[str]:
    """As many as fit, taken evenly over the list, in order; the same at each step.

    >>> evenly(("a" * 4, "b" * 4, "c" * 4, "d" * 4), 2)
    ['aaaa', 'cccc']
    """
    keep = len(texts)
    while keep and (needed := sum(map(tokens_in, evenly_spaced(texts, keep)))) > budget:
        keep = min(keep - 1, keep * budget // needed)
    return evenly_spaced(texts, keep)


def in_turn(texts: Sequence[str], budget: int, step: int) -> list[str]:
    """As `evenly`, beginning at another one at each step, so that all have their turn.

    >>> in_turn(("a" * 4, "b" * 4, "c" * 4, "d" * 4), 2, step=1)
    ['bbbb', 'dddd']
    """
    if sum(map(tokens_in, texts)) <= budget:
        return list(texts)
    offset = step % len(texts)
    return evenly([*texts[offset:], *texts[:offset]], budget)


CHOICES: Mapping[str, Choose] = {"even": evenly, "rotate": in_turn}

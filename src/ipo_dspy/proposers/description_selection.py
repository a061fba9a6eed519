"""Select the descriptions of a prompt when not all of them fit into its token budget."""

import math
from collections.abc import Sequence

from ipo_dspy._internal.sequences import evenly_spaced

DESCRIPTION_TOKENS = 2000
"""Token budget of the descriptions in a prompt; the paper's requests have about 5,000 tokens in total."""


def tokens_in(text: str) -> int:
    """Estimate the number of tokens of a text: one per four Latin letters, one per character of other scripts.

    An exact count would require a download of the model's tokenizer; a budget does not need it.

    >>> tokens_in("a blurry photo on a dark background"), tokens_in("\u732b\u306e\u5199\u771f")
    (9, 4)
    """
    wide = sum(ord(char) > 0x24F for char in text)
    return math.ceil((len(text) - wide) / 4) + wide


def select_evenly(texts: Sequence[str], budget: int, step: int = 0) -> list[str]:
    """Return as many texts as fit, evenly spaced and in order; the same at each step.

    >>> select_evenly(("a" * 4, "b" * 4, "c" * 4, "d" * 4), 2)
    ['aaaa', 'cccc']
    """
    keep = len(texts)
    while keep and (needed := sum(map(tokens_in, evenly_spaced(texts, keep)))) > budget:
        keep = min(keep - 1, keep * budget // needed)
    return evenly_spaced(texts, keep)


def rotate(texts: Sequence[str], budget: int, step: int) -> list[str]:
    """Return as many texts as fit, evenly spaced, with a start that moves each step so that all are shown in turn.

    >>> rotate(("a" * 4, "b" * 4, "c" * 4, "d" * 4), 2, step=1)
    ['bbbb', 'dddd']
    """
    if sum(map(tokens_in, texts)) <= budget:
        return list(texts)
    offset = step % len(texts)
    return select_evenly([*texts[offset:], *texts[:offset]], budget)

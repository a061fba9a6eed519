"""Describer interface: the Protocol, its result, and clean-up of descriptions."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ipo_dspy.run.ledger import AskOnce
from ipo_dspy.template import display_class_name

_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Scripts without spaces between words: Thai, Lao, Tibetan, Burmese, Khmer, Japanese, and Chinese.

Korean is included because it joins particles to words.
"""


@dataclass(frozen=True, slots=True)
class Descriptions:
    """Descriptions of images, in order.

    Attributes:
        texts: one per image; empty if an image could not be described.
        faults: one message per failed image.
        guessed: the texts are the phrases that CLIP ranks highest in a list; they need not be true of the image.
    """

    texts: tuple[str, ...]
    faults: tuple[str, ...] = ()
    guessed: bool = False


class Describer(Protocol):
    """Describes the look of images without the name of their class."""

    def describe(
        self, images: Sequence[Any], class_names: Sequence[str], *, once: AskOnce | None = None
    ) -> Descriptions:
        """Return one description for each image (path, PIL image, or dspy.Image), given the name of its class.

        Each call that costs money goes through `once`, with an ID that is the same for the same image.
        """


def first_sentences(text: str, characters: int = 400) -> str:
    """Return as many sentences as fit, and at least a part of the first; a long answer must not displace others.

    >>> first_sentences("A dark photo. It is grainy. It was taken at night.", 30)
    'A dark photo. It is grainy.'
    """
    text = " ".join(text.split())
    if len(text) <= characters:
        return text
    ends = [match.end() for match in re.finditer(r"[.!?\u3002](?=\s|$)", text[: characters + 1])]
    return text[: ends[-1] if ends else characters].strip()


def without_class_name(text: str, class_name: str, substitute: str = "subject") -> str:
    """Return a description with the class name replaced, if it occurs, and whitespace collapsed.

    The name matches as complete words in any case, with spaces or hyphens between them, and as a regular plural. In
    scripts without spaces between words, or with particles joined to them, it matches anywhere.

    >>> without_class_name("A blurry Polar-Bear on ice. Polar bears!", "polar_bear")
    'A blurry subject on ice. subject!'
    >>> without_class_name("\u4e00\u53ea\u732b", "\u732b")
    '\u4e00\u53easubject'
    """
    words = [
        _spelled(word)
        for word in re.split(r"[\s-]+", unicodedata.normalize("NFC", display_class_name(class_name)))
        if word
    ]
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    if not words:
        return text
    begin, end = ("" if _UNSPACED.match(word) else r"\w" for word in (words[0][0], words[-1][-1]))
    in_y = words[-1].lower().endswith("y")
    words[-1] = f"{words[-1][:-1]}(?:ys?|ies)" if in_y else f"{words[-1]}(?:e?s)?"
    pattern = f"{begin and f'(?<!{begin})'}{'[ _-]*'.join(words)}{end and f'(?!{end})'}"
    return re.sub(pattern, substitute, text, flags=re.IGNORECASE)


def _spelled(word: str) -> str:
    """Return a pattern of a word that matches any form of apostrophe."""
    return re.sub(r"['\u2018\u2019\u02bc]", "['\u2018\u2019\u02bc]", re.escape(word))

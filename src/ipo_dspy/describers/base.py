"""What a describer is given and gives back."""

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
"""Thai, Lao, Tibetan, Burmese, Khmer, Japanese, Chinese; and Korean, which joins particles to words."""


@dataclass(frozen=True, slots=True)
class Descriptions:
    """One text an image, in order; an empty text where an image could not be described.

    Attributes:
        texts: as many as images were given.
        faults: what went wrong, one message a failed image.
    """

    texts: tuple[str, ...]
    faults: tuple[str, ...] = ()


class Describer(Protocol):
    """Says how images look without naming their class."""

    def describe(
        self, images: Sequence[Any], class_names: Sequence[str], *, once: AskOnce | None = None
    ) -> Descriptions:
        """One description for each image (path, PIL image or dspy.Image), given the name of its class.

        Whatever costs money goes through `once`, under a name that is the same for the same image.
        """


def first_sentences(text: str, characters: int = 400) -> str:
    """As many sentences as fit, and at least some of the first: one talkative answer should not crowd out others.

    >>> first_sentences("A dark photo. It is grainy. It was taken at night.", 30)
    'A dark photo. It is grainy.'
    """
    text = " ".join(text.split())
    if len(text) <= characters:
        return text
    ends = [match.end() for match in re.finditer(r"[.!?\u3002](?=\s|$)", text[: characters + 1])]
    return text[: ends[-1] if ends else characters].strip()


def without_class_name(text: str, class_name: str, substitute: str = "subject") -> str:
    """Return a description in which the class name, should it have slipped in, is replaced; whitespace is collapsed.

    Whole words only, any case, spaces or hyphens between them, a regular plural included. In scripts that put no space
    between words, or join particles to them, the name is replaced wherever it stands.

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
    """Return a pattern of a word, whose apostrophes may be of any form."""
    return re.sub(r"['\u2018\u2019\u02bc]", "['\u2018\u2019\u02bc]", re.escape(word))

"""Text from outside (answers, errors, file names, fields of files), made safe to keep and to show.

Every such text passes through here: it is bounded in length, the secrets of this process are redacted, and characters
that move a terminal's cursor, hide text, or turn it round are shown by their number.
"""

import re
import unicodedata

from ipo_dspy._internal.secrets import redact

__all__ = ["one_line", "printable", "redact"]

_PLAIN_CONTROLS = frozenset("\n\t\u200c\u200d")  # Persian, Hindi, and emoji need the joiners
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_LONG_PACKED = re.compile(r"[\w+/-]{200,}={0,2}", re.ASCII)
"""No word is so long: an image, or something else that nobody reads."""


def one_line(text: str, limit: int) -> str:
    r"""Return a text from outside on one line: bounded, without secrets, and printable.

    Args:
        text: of any length.
        limit: characters of the result.

    >>> one_line("wrong key:\n\x1b[31m sk-abcdef123", 300)
    'wrong key: [U+001B][31m [hidden]'
    """
    text = _LONG_PACKED.sub("[...]", redact(text[: 100 * limit]))
    text = printable(" ".join(text.split()))
    return text if len(text) <= limit else text[: limit - 3] + "..."


def printable(text: str) -> str:
    r"""Return the text with control, bidirectional, and surrogate characters written as numbers.

    >>> printable("a\u202eb\x1b[2J")
    'a[U+202E]b[U+001B][2J'
    """
    return "".join(_printable(char) for char in text.replace("\r\n", "\n"))


def _printable(char: str) -> str:
    hidden = unicodedata.category(char) in _HIDDEN_CATEGORIES and char not in _PLAIN_CONTROLS
    return f"[U+{ord(char):04X}]" if hidden else char

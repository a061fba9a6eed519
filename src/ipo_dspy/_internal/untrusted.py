"""Make text from outside (responses, errors, file names, fields of files) safe to store and to show.

Such text is shortened and the secrets of this process are redacted. Characters that move a terminal's cursor, hide
text, or reverse its direction are shown as their code points.
"""

import re
import unicodedata

from ipo_dspy._internal.secrets import redact as redact

_PLAIN_CONTROLS = frozenset("\n\t\u200c\u200d")  # Persian, Hindi, and emoji need the joiners
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_LONG_PACKED = re.compile(r"[\w+/-]{200,}={0,2}", re.ASCII)
"""Longer runs are base64 data, not words."""


def one_line(text: str, limit: int) -> str:
    r"""Return a text from outside on one line: bounded, without secrets, and printable.

    Args:
        text: text of any length.
        limit: maximum number of characters of the result.

    >>> one_line("wrong key:\n\x1b[31m sk-abcdef123", 300)
    'wrong key: [U+001B][31m [hidden]'
    """
    text = _LONG_PACKED.sub("[...]", redact(text[: 100 * limit]))
    text = printable(" ".join(text.split()))
    return text if len(text) <= limit else text[: limit - 3] + "..."


def one_line_error(error: BaseException) -> str:
    """Return the words of an error on one line, at most 200 characters, without secrets and hidden characters."""
    return one_line(str(error), 200) or type(error).__name__


def printable(text: str) -> str:
    r"""Return the text with control, bidirectional, and surrogate characters shown as code points.

    >>> printable("a\u202eb\x1b[2J")
    'a[U+202E]b[U+001B][2J'
    """
    return "".join(_printable(char) for char in text.replace("\r\n", "\n"))


def _printable(char: str) -> str:
    hidden = unicodedata.category(char) in _HIDDEN_CATEGORIES and char not in _PLAIN_CONTROLS
    return f"[U+{ord(char):04X}]" if hidden else char

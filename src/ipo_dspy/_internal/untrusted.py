"""Text from outside (answers, errors, file names, fields of files), made safe to keep and to show.

Every such text passes through here: it is bounded in length, known secrets are redacted, and characters that move a
terminal's cursor, hide text or turn it round are shown by their number.
"""

import unicodedata

_PLAIN_CONTROLS = frozenset("\n\t\u200c\u200d")  # Persian, Hindi, and emoji need the joiners
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def printable(text: str) -> str:
    r"""Return the text with control, bidirectional, and surrogate characters written as numbers.

    >>> printable("a\u202eb\x1b[2J")
    'a[U+202E]b[U+001B][2J'
    """
    return "".join(_printable(char) for char in text.replace("\r\n", "\n"))


def _printable(char: str) -> str:
    hidden = unicodedata.category(char) in _HIDDEN_CATEGORIES and char not in _PLAIN_CONTROLS
    return f"[U+{ord(char):04X}]" if hidden else char

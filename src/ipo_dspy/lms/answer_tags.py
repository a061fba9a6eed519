"""Find the tagged texts in the free-form answer of a language model, however carelessly it tags them."""

import re
from collections.abc import Callable

from ipo_dspy.template import has_placeholder

OPEN_TAG, CLOSE_TAG = "<INS>", "</INS>"
TAG = re.compile(r"\\?[<\[]\s{0,9}([/\\])?\s{0,9}INS\s{0,9}([/\\])?\s{0,9}\\?[>\]]", re.IGNORECASE)
"""A single tag: a pattern for whole answers would take minutes on a runaway one."""
_WORDS = re.compile(r"[^\W\d_]{2}(?!.*[:>*`\u2013\u2014-]\s*$)", re.DOTALL)
"""Words before a tag that do not introduce it, so that a sentence mentions it."""
_BEFORE = 100
"""Number of characters before a tag that are searched for them."""


def _with_placeholder(content: str) -> str:
    return content if has_placeholder(content) else ""


def tag_contents(text: str, unclosed: Callable[[str], str] = _with_placeholder) -> tuple[list[str], list[str]]:
    r"""Return the contents of tags that begin a line, and those of tags within sentences, which must be closed.

    Args:
        text: the answer.
        unclosed: what counts of a content that begins a line and is not closed before the next one; some models forget
            the slash.

    >>> tag_contents("<INS>crane: crane bird</INS>\nOr I could write <INS>nail: metal nail</INS>")
    (['crane: crane bird'], ['nail: metal nail'])
    """
    own_lines: list[str] = []
    inline: list[str] = []
    begins_line, opened, end = True, False, 0
    for tag in TAG.finditer(text):
        closes = bool(tag[1] or tag[2])
        content = text[end : tag.start()] if opened else ""
        if not closes:
            content = unclosed(content) if begins_line else ""
        if closes or content:
            (own_lines if begins_line else inline).append(content)
        if end == 0 or "\n" in text[end : tag.start()]:
            before = text[max(0, tag.start() - _BEFORE) : tag.start()].rpartition("\n")[2]
            begins_line = _WORDS.search(before) is None
        opened, end = not closes, tag.end()
    return [*own_lines, text[end:]] if opened and begins_line else own_lines, inline

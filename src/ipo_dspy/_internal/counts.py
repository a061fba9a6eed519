"""Format counts and shortened lists for messages."""

from collections.abc import Sequence


def pluralize(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless the number is 1.

    >>> pluralize(1, "template"), pluralize(0, "LLM call"), pluralize(2, "training class")
    ('1 template', '0 LLM calls', '2 training classes')
    """
    if number == 1:
        return f"{number} {noun}"
    return f"{number} {noun}{'es' if noun.endswith('s') else 's'}"


def first_few(items: Sequence[str], limit: int = 5) -> str:
    """Return the first items, separated by commas, with "..." if there are more.

    >>> first_few(["a", "b", "c"], 2), first_few(["a", "b"], 2)
    ('a, b, ...', 'a, b')
    """
    return ", ".join(items[:limit]) + (", ..." if len(items) > limit else "")


def shorten(text: str, length: int) -> str:
    """Return a text, or its beginning and an ellipsis if it has more than `length` characters.

    >>> shorten("a photo", 7), shorten("a photograph", 7)
    ('a photo', 'a phot…')
    """
    return text if len(text) <= length else f"{text[: length - 1]}…"

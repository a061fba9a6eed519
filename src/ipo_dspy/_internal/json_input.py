"""Parse untrusted JSON within bounds of size and depth, and check it against type annotations."""

import json
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

MAX_DEPTH = 64
"""Maximum nesting of lists and objects; files of this package need fewer than ten levels."""


def parse_json(data: bytes | str, *, limit: int | None = None, max_depth: int = MAX_DEPTH) -> Any:
    """Return the value of a JSON text; bytes may be UTF-16 or UTF-32, or begin with a byte-order mark.

    Raises:
        ValueError: the text is not valid JSON, not Unicode, longer than `limit`, or nested deeper than `max_depth`.

    >>> parse_json(b'{"a": [1]}')
    {'a': [1]}
    """
    if limit is not None and len(data) > limit:
        raise ValueError(f"it is longer than {limit:,}, which is what is read")
    try:
        value = json.loads(data)
        if not _is_deeper(value, max_depth):
            return value
    except RecursionError:
        pass
    raise ValueError(f"it is nested deeper than {max_depth} levels")


def _is_deeper(value: Any, depth: int) -> bool:
    inner = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(inner, list):
        return False
    return depth == 0 or any(_is_deeper(item, depth - 1) for item in inner)


def has_type(value: Any, annotation: Any, *, largest: float | None = None) -> bool:
    """Return True if a value that was read from JSON has the annotated type.

    Args:
        value: as `parse_json` returns it.
        annotation: a type made of strings, numbers, lists, mappings, literals, `TypedDict` and unions; an integer
            also counts as a `float`.
        largest: exclusive bound on the magnitude of all numbers, which also rejects infinity and NaN; None allows any.

    >>> has_type([1, 2.5], list[float]), has_type(True, int), has_type(None, str | None)
    (True, False, True)
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(has_type(value, member, largest=largest) for member in inner)
    if origin is Literal:
        return value in inner
    if origin is list:
        return isinstance(value, list) and all(has_type(item, inner[0], largest=largest) for item in value)
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(has_type(item, inner[1], largest=largest) for item in value.values())
    if is_typeddict(annotation):
        hints = get_type_hints(annotation).items()
        return isinstance(value, dict) and all(
            has_type(value[name], hint, largest=largest) if name in value else name in annotation.__optional_keys__
            for name, hint in hints
        )
    if annotation in (int, float):
        kinds = (int,) if annotation is int else (int, float)
        moderate = largest is None or (isinstance(value, kinds) and -largest < value < largest)
        return isinstance(value, kinds) and not isinstance(value, bool) and moderate
    return isinstance(value, annotation)


_WORDS = {str: "a text", int: "an integer", float: "a finite number", bool: "true or false", list: "a list"}


def type_in_words(annotation: Any) -> str:
    """Return a readable phrase for an annotation.

    >>> type_in_words(list[str]), type_in_words(float | None)
    ('a list of texts', 'a finite number or null')
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if member is type(None) else type_in_words(member) for member in inner)
    if origin is list and inner[0] is str:
        return "a list of texts"
    return _WORDS.get(origin or annotation, "an object")

"""JSON that was written elsewhere: parsed within bounds of size and depth, and compared with type annotations."""

import json
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

MAX_DEPTH = 64
"""Of lists and objects in one another; what this package writes needs less than ten."""


def parse_json(data: bytes | str, *, limit: int | None = None, max_depth: int = MAX_DEPTH) -> Any:
    """Return the value of a JSON text, of bytes also in UTF-16 or with a byte-order mark.

    Args:
        data: one JSON value.
        limit: of its length; not checked if left out.
        max_depth: of lists and objects in one another.

    Raises:
        ValueError: it is no JSON, in no Unicode encoding, longer than `limit`, or nested too deeply.

    >>> parse_json(b'{"a": [1]}')
    {'a': [1]}
    """
    if limit is not None and len(data) > limit:
        raise ValueError(f"it is longer than {limit:,}, which is what is read")
    try:
        value = json.loads(data)
    except RecursionError:
        deep = True
    else:
        deep = _is_deeper(value, max_depth)
    if deep:
        raise ValueError(f"it is nested deeper than {max_depth} levels")
    return value


def _is_deeper(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return False
    return True


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    return [inner for inner in value if isinstance(inner, dict | list)] if isinstance(value, list) else []


def has_type(value: Any, annotation: Any, *, largest: float | None = None) -> bool:
    """Return whether a value that was read from JSON has the type of an annotation.

    Args:
        value: as `parse_json` returns it.
        annotation: of texts, numbers, lists, mappings, literals, `TypedDict` and unions of
            these; a whole number is a `float`, too.
        largest: bound of all numbers, which leaves out infinity and NaN; None allows any.

    >>> has_type([1, 2.5], list[float]), has_type(True, int), has_type(None, str | None)
    (True, False, True)
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(has_type(value, one, largest=largest) for one in inner)
    if origin is Literal:
        return value in inner
    if origin is list:
        return isinstance(value, list) and all(has_type(one, inner[0], largest=largest) for one in value)
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(has_type(one, inner[1], largest=largest) for one in value.values())
    if is_typeddict(annotation):
        hints = get_type_hints(annotation).items()
        return isinstance(value, dict) and all(
            name in value and has_type(value[name], hint, largest=largest) for name, hint in hints
        )
    if annotation in (int, float):
        kinds = (int,) if annotation is int else (int, float)
        moderate = largest is None or (isinstance(value, kinds) and -largest < value < largest)
        return isinstance(value, kinds) and not isinstance(value, bool) and moderate
    return isinstance(value, annotation)


_WORDS = {str: "a text", int: "a whole number", float: "a finite number", bool: "true or false", list: "a list"}


def type_in_words(annotation: Any) -> str:
    """Return an annotation in words for people.

    >>> type_in_words(list[str]), type_in_words(float | None)
    ('a list of texts', 'a finite number or null')
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if one is type(None) else type_in_words(one) for one in inner)
    if origin is list and inner[0] is str:
        return "a list of texts"
    return _WORDS.get(origin or annotation, "an object")

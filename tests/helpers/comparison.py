"""Equal but for the last digits of numbers, which no processor promises another, nor one batch the next."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

BOUND = 1e-5
"""Largest difference of two numbers; a mean loss is moved by about 1e-6 nats, an accuracy by nothing."""


def assert_alike(one: Any, other: Any, where: str = "") -> None:
    """See that two values are the same, also inside lists, mappings and dataclasses, and numbers within `BOUND`."""
    if isinstance(one, float) and isinstance(other, float):
        assert abs(one - other) <= BOUND, f"{where}: {one} and {other}"
    elif is_dataclass(one):
        assert type(one) is type(other), where
        for field in fields(one):
            assert_alike(getattr(one, field.name), getattr(other, field.name), f"{where}.{field.name}")
    elif isinstance(one, Mapping) and isinstance(other, Mapping):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_alike(one[key], other[key], f"{where}[{key!r}]")
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_alike(*pair, f"{where}[{index}]")
    else:
        assert one == other, f"{where}: {one!r} and {other!r}"

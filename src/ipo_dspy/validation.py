"""What the arguments of `IPO` may be; a wrong one is told when it is given, with what to write instead."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from ipo_dspy.errors import InputError
from ipo_dspy.template import Template

Budget = Literal["light", "medium", "heavy"]
BUDGETS: Mapping[str, int] = {"light": 20, "medium": 50, "heavy": 100}
"""Steps of each `auto` budget; the paper runs 100."""
DEFAULT_STEPS = 100


def steps_of(steps: int | None, auto: str | None) -> int:
    """How many steps `steps=` or `auto=` mean.

    >>> steps_of(None, None), steps_of(7, None), steps_of(None, "light")
    (100, 7, 20)
    """
    if auto is None:
        return DEFAULT_STEPS if steps is None else whole("steps", steps, 0)
    if steps is not None:
        raise InputError(f"steps={steps} and auto={auto!r} are two answers to one question; pass one of them")
    if auto not in BUDGETS:
        raise InputError(f"auto={auto!r} is unknown; write one of {', '.join(map(repr, BUDGETS))}")
    return BUDGETS[auto]


def whole(name: str, value: int, least: int) -> int:
    """A whole number of at least so much."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(
            f"{name}={value!r} is not a whole number of at least {least}; write e.g. {name}={max(least, 8)}"
        )
    return value


def flag(name: str, value: bool) -> bool:
    """Return True or False as given.

    Raises:
        InputError: it is neither; a text such as 'no' would count as True.
    """
    if not isinstance(value, bool):
        raise InputError(f"{name} must be True or False, got {value!r}; for example {name}=True")
    return value


def callables(name: str, values: Iterable[Any]) -> tuple[Any, ...]:
    """Return functions that were given in a list.

    Raises:
        InputError: no list of functions.
    """
    if callable(values):
        raise InputError(f"{name} must be a list, got one function; for example {name}=[print]")
    found = tuple(values) if isinstance(values, Iterable) else None
    if found is None or not all(map(callable, found)):
        raise InputError(f"{name} must be a list of functions, got {values!r}; for example {name}=[print]")
    return found


def having(name: str, value: Any, method: str, example: str) -> None:
    """See that an object does what it is given for.

    Raises:
        InputError: it has no such method.
    """
    if not callable(getattr(value, method, None)):
        raise InputError(f"{name} must have a method {method}(), got {value!r}; for example {name}={example}")


def template_of(template: str | Template) -> Template:
    """A template that was given as text or as itself."""
    return template if isinstance(template, Template) else Template.parse(template)

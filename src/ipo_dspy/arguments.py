"""What the arguments of `IPO` may be; a wrong one is told when it is given, with what to write instead."""

from collections.abc import Mapping
from typing import Literal

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


def template_of(template: str | Template) -> Template:
    """A template that was given as text or as itself."""
    return template if isinstance(template, Template) else Template.parse(template)

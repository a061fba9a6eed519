"""Checks of the arguments that callers pass; each raises `InputError`, whose message ends with a valid example."""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from types import MappingProxyType
from typing import Any, Concatenate, ParamSpec

from ipo_dspy._internal.renames import warn_renamed
from ipo_dspy.errors import Argument, Hint, InputError
from ipo_dspy.template import Template

P = ParamSpec("P")


def invalid(argument: str, condition: str, value: object, remedy: str | Hint) -> InputError:
    """Return the error for an argument that does not meet its condition.

    >>> str(invalid("steps", "an integer of at least 0", -1, "for example steps=8"))
    'steps must be an integer of at least 0, got -1; for example steps=8'
    """
    return InputError(f"must be {condition}", argument=argument, value=value, hint=remedy)


def _example(name: str, value: object) -> Hint:
    return Hint("for example {}", Argument(name, value))


def require_int(name: str, value: int, least: int) -> int:
    """Return an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise invalid(name, f"an integer of at least {least}", value, _example(name, max(least, 8)))
    return value


def require_number(name: str, value: float, least: float) -> float:
    """Return a finite number, or raise an `InputError` if it is another value or below the minimum.

    >>> require_number("tolerance", 1, 0)
    1
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
        raise invalid(name, f"a number of at least {least:g}", value, _example(name, 1.0))
    return value


def flag(name: str, value: bool) -> bool:
    """Return the value if it is True or False; a string such as 'no' would count as True."""
    if not isinstance(value, bool):
        raise invalid(name, "True or False", value, _example(name, True))
    return value


def one_of(name: str, value: str, known: Iterable[str], renamed: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return a named choice; an old name is mapped to the current one, with a `DeprecationWarning`."""
    if isinstance(value, str) and value in renamed:
        warn_renamed(f"{name}={value!r}", f"{name}={renamed[value]!r}", stacklevel=5)
        return renamed[value]
    names = tuple(known)
    if value not in names:
        raise invalid(name, f"one of {', '.join(map(repr, names))}", value, _example(name, names[0]))
    return value


def check_class_names(name: str, given: Iterable[Any], classes: Sequence[Any]) -> None:
    """Check that an argument is for names of classes, where it is for some."""
    if unknown := [label for label in given if label not in classes]:
        listed = ", ".join(map(repr, classes[:5])) + (", ..." if len(classes) > 5 else "")
        remedy = f"use one of the {len(classes)} classes ({listed})"
        raise invalid(name, "given for names of classes", unknown[0], remedy)


def callables(name: str, values: Iterable[Any]) -> tuple[Any, ...]:
    """Return a list of functions as a tuple."""
    if callable(values):
        raise InputError(f"{name} must be a list, got one function; for example {name}=[print]")
    functions = tuple(values) if isinstance(values, Iterable) else None
    if functions is None or not all(map(callable, functions)):
        raise invalid(name, "a list of functions", values, f"for example {name}=[print]")
    return functions


def having(name: str, value: Any, method: str, example: str) -> None:
    """Check that an object has a required method."""
    if not callable(getattr(value, method, None)):
        raise InputError(f"{name} must have a method {method}(), got {value!r}; for example {name}={example}")


def as_template(template: str | Template) -> Template:
    """Return a template that was passed as a string or as a `Template`."""
    return template if isinstance(template, Template) else Template.parse(template)


def takes_arguments_of(
    source: Callable[P, Any],
) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, P], None]]:
    """Give a method with `**arguments` the signature of `source`, for type checkers and `inspect.signature`."""

    def decorate(method: Callable[..., None]) -> Callable[Concatenate[Any, P], None]:
        @wraps(method)
        def wrapper(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> None:
            method(self, *args, **kwargs)

        self, *_ = inspect.signature(method).parameters.values()
        signature = inspect.signature(source)
        vars(wrapper)["__signature__"] = signature.replace(
            parameters=[self, *signature.parameters.values()], return_annotation=None
        )
        return wrapper

    return decorate

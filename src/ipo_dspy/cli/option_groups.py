"""Let a command take a group of options as one parameter, which Typer does not know: it sees the options one by one."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any


def flatten(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command for Typer: in place of each parameter that is a dataclass, it has the fields of that class.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Size:
    ...     width: int = 1
    ...     height: int = 1
    >>> def draw(name: str, *, size: Size, color: str = "red") -> None:
    ...     print(name, size, color)
    >>> list(inspect.signature(flatten(draw)).parameters)
    ['name', 'width', 'height', 'color']
    >>> flatten(draw)(name="box", width=2, height=3, color="blue")
    box Size(width=2, height=3) blue
    """
    groups: dict[str, Any] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        group = parameter.annotation
        if isinstance(group, type) and is_dataclass(group):
            groups[name] = group
            parameters += inspect.signature(group).parameters.values()
        else:
            parameters.append(parameter)

    @functools.wraps(command)
    def call(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        command(**values)

    # Keyword-only, so that options without a default may follow others.
    keywords = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    call.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
    return call

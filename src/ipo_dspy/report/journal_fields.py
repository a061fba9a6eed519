"""Make texts of a journal printable: invisible and bidirectional characters are replaced by their code point."""

import json
from collections.abc import Mapping
from typing import Any, cast

from ipo_dspy._internal.untrusted import printable
from ipo_dspy.run.events import Event

_EXACT = frozenset({"source", "key"})
"""Fields that are compared or opened, not displayed."""


def printable_event(event: Event) -> Event:
    r"""Return an event with printable texts and names.

    >>> printable_event({"event": "error", "predictor": "self", "step": 1, "message": "a\u202eb"})["message"]
    'a[U+202E]b'
    """
    fields = {name: value if name in _EXACT else _printable(value) for name, value in event.items()}
    return cast(Event, fields)


def pairs(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return names and values of any JSON type as text, and at the end the names without a value.

    >>> pairs({"steps": 3, "initial_templates": [], "task": None, "start": {"self": "a <CLASS>"}})
    [('steps', '3'), ('initial_templates', 'none'), ('start', 'a <CLASS>'), ('not set', 'task')]
    """
    rows = [(name, _as_text(value)) for name, value in values.items() if value is not None]
    unset = ", ".join(name for name, value in values.items() if value is None)
    return [*rows, ("not set", unset)] if unset else rows


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_printable(item) for item in value]
    if isinstance(value, dict):
        return {printable(name): _printable(item) for name, item in value.items()}
    return value


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ", ".join(map(_as_text, value)) or "none"
    if isinstance(value, dict) and value.keys() == {"self"}:  # of a program that is a classifier
        return _as_text(value["self"])
    return "not set" if value is None else json.dumps(value, ensure_ascii=False)

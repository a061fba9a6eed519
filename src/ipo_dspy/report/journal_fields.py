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
    """Return names and values of any JSON type as text.

    >>> pairs({"steps": 3, "initial_templates": [], "task": None})
    [('steps', '3'), ('initial_templates', 'none'), ('task', 'not set')]
    """
    return [(name, _as_text(value)) for name, value in values.items()]


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
    return "not set" if value is None else json.dumps(value, ensure_ascii=False)

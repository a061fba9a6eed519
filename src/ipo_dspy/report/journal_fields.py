"""Reads the fields of journal events with their types, so that nothing behind this module guesses.

A journal may come from elsewhere or from a later version: a field of the wrong type ends in a
`JournalError` that names it. Characters that hide or turn round text are shown by their number.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from ipo_dspy._internal.untrusted import printable
from ipo_dspy.errors import InputError, JournalError, TemplateError
from ipo_dspy.scoring.score import Score
from ipo_dspy.template import Template


def _moderate(value: float) -> bool:
    """No infinity, no NaN, and no number that the drawing could not hold."""
    return abs(value) < 1e15


class Fields:
    """One event, or one object inside it; each reader raises `JournalError` for another type.

    >>> Fields({"event": "trial", "accuracy": 75.0, "loss": 0.5}).score()
    Score(accuracy=75.00%, loss=0.5000)
    """

    def __init__(self, values: Mapping[str, Any], *, kind: str = "") -> None:
        self._values = values
        self.kind = kind or str(values.get("event", "event"))

    def raw(self, name: str) -> str:
        """A text exactly as journalled, e.g. a path to open."""
        value = self._values.get(name)
        return value if isinstance(value, str) else self._refuse(name, "a text")

    def text(self, name: str) -> str:
        """A text to show."""
        return printable(self.raw(name))

    def template(self, name: str) -> Template:
        """A template as it was journalled: `Template.parse` would refuse what an earlier version let through."""
        try:
            return Template(tuple(self.text(name).split("\n")))
        except TemplateError:
            self._refuse(name, "a template with <CLASS> in each line")

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts to show."""
        value = self._values.get(name)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self._refuse(name, "a list of texts")
        return tuple(map(printable, value))

    def number(self, name: str) -> float:
        """A finite number."""
        value = self._values.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not _moderate(value):
            self._refuse(name, "a finite number")
        return float(value)

    def whole(self, name: str) -> int:
        """A whole number."""
        value = self._values.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not _moderate(value):
            self._refuse(name, "a whole number")
        return int(value)

    def counted(self, name: str) -> float | None:
        """A number, or None where the writer did not know it (a local model reports no tokens)."""
        return None if self._values.get(name) is None else self.number(name)

    def score(self) -> Score:
        """The fields `accuracy` and `loss`."""
        try:
            return Score(self.number("accuracy"), self.number("loss"))
        except InputError as error:
            raise JournalError(f"journal event {self.kind!r}: {error}") from error

    def inner(self, name: str) -> "Fields | None":
        """An object inside this one, or None where it is null."""
        value = self._values.get(name)
        if value is None:
            return None
        return Fields(value, kind=self.kind) if isinstance(value, dict) else self._refuse(name, "an object")

    def need(self, name: str) -> "Fields":
        """An object inside this one, which must be there."""
        inner = self.inner(name)
        return inner if inner is not None else self._refuse(name, "an object")

    def inners(self, name: str) -> "tuple[Fields, ...]":
        """A list of objects."""
        value = self._values.get(name)
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self._refuse(name, "a list of objects")
        return tuple(Fields(item, kind=self.kind) for item in value)

    def anything(self, name: str) -> str:
        """Any JSON value as a text to show."""
        return _as_text(self._values.get(name))

    def pairs(self, name: str) -> tuple[tuple[str, str], ...]:
        """An object of any JSON values as names and texts, in the journalled order."""
        inner = self.inner(name)
        return tuple((printable(key), _as_text(value)) for key, value in inner._values.items()) if inner else ()

    def counts(self, name: str) -> Mapping[str, tuple[int, int]]:
        """An object of pairs `[correct, total]`."""
        return dict(self._counts(name))

    def _counts(self, name: str) -> Iterator[tuple[str, tuple[int, int]]]:
        inner = self.inner(name)
        for key, value in inner._values.items() if inner else ():
            match value:
                case [int(correct), int(total)] if 0 <= correct <= total:
                    yield printable(key), (correct, total)
                case _:
                    self._refuse(name, "an object of pairs [correct, total]")

    def _refuse(self, name: str, wanted: str) -> NoReturn:
        found = repr(self._values.get(name))[:80]
        raise JournalError(
            f"journal event {self.kind!r} has {found} as {name!r}, not {wanted}; give the folder of a run of ipo_dspy"
        )


def _as_text(value: Any) -> str:
    match value:
        case str():
            return printable(value)
        case list():
            return ", ".join(map(_as_text, value)) or "none"
        case None:
            return "not set"
        case _:
            return printable(json.dumps(value, ensure_ascii=False))

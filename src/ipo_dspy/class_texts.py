"""The texts of classes: what CLIP reads for a label in place of `<CLASS>`.

A label is what a program answers; CLIP reads the label itself unless it has other texts. Several texts of a class are
averaged like the lines of a template. Full sentences with the template `<CLASS>` are the format of CuPL (Pratt et al.,
What does a platypus look like?, 2023), whose JSON files `load_class_texts` reads.
"""

import csv
import functools
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from ipo_dspy._internal.counts import first_few
from ipo_dspy._internal.json_input import parse_json
from ipo_dspy.errors import DataError
from ipo_dspy.template import MAX_CHARACTERS, check_classes, check_name, reading

LabeledTexts: TypeAlias = Sequence[str] | Mapping[str, str | Sequence[str]]
"""Class names, or the text or texts of each label."""
Texts: TypeAlias = Mapping[str, tuple[str, ...]]
"""The texts of labels that are not read as they are."""

MAX_TEXTS = 1000
"""Maximum number of texts of a class: more than any published set has; a guard against runaway responses."""
MAX_FILE = 256 * 1024 * 1024
"""Maximum size of a file with class texts, in bytes: 1,000 texts of 250 bytes for each of a thousand classes."""

SPOKEN_CHARACTERS = 60

_COLUMNS = ("label", "text")
_ID = re.compile(r"[a-z]{0,3}[-_]?\d+", re.IGNORECASE)


def parse_classes(classes: LabeledTexts, *, least: int = 2) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """Return the labels, and the texts of those that are not read as they are.

    Raises:
        DataError: not names or texts of names, fewer than `least` labels, an empty text, one that two classes share, or
            one that is the name of another class.

    >>> parse_classes({"crane": "crane bird", "nail": ["metal nail", "fingernail"], "dog": "dog"})
    (('crane', 'nail', 'dog'), {'crane': ('crane bird',), 'nail': ('metal nail', 'fingernail')})
    """
    if not isinstance(classes, Mapping):
        return check_classes(classes, least=least), {}
    labels = check_classes(list(classes), least=least)
    return labels, check_texts(labels, classes)


def check_texts(labels: Sequence[str], texts: Mapping[str, str | Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Return the texts of the labels that are not read as they are; labels without an entry are.

    Raises:
        DataError: as `parse_classes`, or texts for a label that is not among the labels.
    """
    if unknown := texts.keys() - set(labels):
        raise DataError(
            f"class_texts must be for the {len(labels)} classes, got texts for {min(unknown)!r:.200}; "
            f"the classes are {first_few(list(map(repr, labels)), 5)}"
        )
    checked = {label: _texts_of_class(label, given) for label, given in texts.items()}
    owners = {reading(label): label for label in labels}
    for label in labels:
        for text in checked.get(label, (label,)):
            other = owners.setdefault(reading(text), label)
            if other != label:
                raise DataError(
                    f"text {text!r:.200} of class {label!r} must not be a text or the name of class {other!r}; "
                    "use words that distinguish them, for example 'crane bird' and 'construction crane'"
                )
    return {label: given for label, given in checked.items() if given != (label,)}


@functools.lru_cache(maxsize=64)  # asked for every image
def check_distinct(labels: tuple[str, ...], texts: tuple[tuple[str, ...], ...]) -> None:
    """Check that no two labels have identical texts.

    Raises:
        DataError: as `check_texts`.
    """
    check_texts(labels, dict(zip(labels, texts, strict=True)))


def _texts_of_class(label: str, given: object) -> tuple[str, ...]:
    example = f"for example {{{label!r}: 'crane bird'}}"
    texts = (given,) if isinstance(given, str) else given
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"class {label!r} must have a text or a list of texts, got {given!r:.200}; {example}")
    if not texts:
        raise DataError(f"class {label!r} must have at least one text, got {given!r}; {example}")
    if len(texts) > MAX_TEXTS:
        raise DataError(f"class {label!r} must have at most {MAX_TEXTS:,} texts, got {len(texts):,}; keep the best")
    for text in texts:
        check_name(text, f"text of class {label!r}")
        if len(text) > MAX_CHARACTERS:
            limit = f"at most {MAX_CHARACTERS:,} characters"
            raise DataError(f"text of class {label!r} must have {limit}, got {len(text):,}; shorten it")
    return tuple(dict.fromkeys(" ".join(text.split()) for text in texts))


def load_class_texts(path: str | os.PathLike[str]) -> dict[str, tuple[str, ...]]:
    """Read class texts from a file, to be passed as `ClipClassifier(classes=...)`.

    Args:
        path: JSON with a text or a list of texts for each label (the format of CuPL and CLIP_benchmark), CSV with the
            columns `label` and `text`, one text per row, or a saved `ClipClassifier`.

    Raises:
        DataError: the file cannot be read, or has another format; texts are checked when they are used.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
    ...     _ = file.write('{"crane": "crane bird", "nail": ["metal nail", "fingernail"]}')
    ...     file.flush()
    ...     load_class_texts(file.name)
    {'crane': ('crane bird',), 'nail': ('metal nail', 'fingernail')}
    """
    name = os.fspath(path)
    try:
        if Path(path).stat().st_size > MAX_FILE:
            raise DataError(f"class texts {name!r} must have at most {MAX_FILE >> 20} MB; keep fewer texts a class")
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"class texts {name!r} cannot be read ({error.strerror}); pass a JSON or CSV file") from error
    try:
        rows = _csv_rows(content) if name.lower().endswith(".csv") else _json_rows(content)
    except (ValueError, csv.Error) as error:
        raise DataError(
            f"class texts {name!r} cannot be used: {error}; "
            'pass JSON such as {"crane": ["crane bird"]}, or CSV with the columns label and text'
        ) from error
    if not rows:
        raise DataError(f"class texts {name!r} must have at least one label, got none; add a label with its text")
    return rows


def _json_rows(content: bytes) -> dict[str, tuple[str, ...]]:
    value = parse_json(content)
    if not isinstance(value, dict):
        raise ValueError(f"it is a {type(value).__name__}, not an object with a text or a list of texts for each label")
    match value:
        case {"clip": dict(), "fields": {"label": {"criteria": dict(criteria)}}}:  # a saved program
            value = {label: texts or label for label, texts in criteria.items()}
    return {label: _texts_of_class(label, texts) for label, texts in value.items()}


def _csv_rows(content: bytes) -> dict[str, tuple[str, ...]]:
    reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""))
    if missing := [column for column in _COLUMNS if column not in (reader.fieldnames or ())]:
        raise ValueError(f"it has no column {missing[0]!r}")
    rows: dict[str, list[str]] = {}
    for row in reader:
        rows.setdefault(row["label"] or "", []).append(row["text"] or "")
    return {label: _texts_of_class(label, texts) for label, texts in rows.items()}


def spoken_name(label: str, texts: Sequence[str]) -> str:
    """Return the name of a class for people and language models: its texts if they are short, else its label.

    >>> spoken_name("n01440764", ["tench", "tinca tinca"]), spoken_name("tench", ["a tench is a fish " * 9])
    ('tench or tinca tinca', 'tench')
    """
    joined = " or ".join(texts)
    return joined if len(joined) <= SPOKEN_CHARACTERS else label


def hard_names(labels: Iterable[str]) -> list[str]:
    """Return the labels that a CLIP trained on English text may not understand.

    They are identifiers or numbers, or contain brackets or non-ASCII letters.

    >>> hard_names(["cat", "n01440764", "Äpfel", "nail (metal)", "boeing 747", "17"])
    ['n01440764', 'Äpfel', 'nail (metal)', '17']
    """
    return [
        label for label in labels if not label.isascii() or _ID.fullmatch(label) or any(c in label for c in "()[]{}<>")
    ]

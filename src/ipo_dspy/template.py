"""Prompt templates: text with `<CLASS>` where the class name goes, parsed once and applied many times.

The optimizer searches for templates and people read them in saved programs, so a template is plain text and nothing
else. One line is one prompt. Several lines are an ensemble, whose normalized text features are averaged as in Radford
et al. 2021, section 3.1.4. This module does not check that a template fits the context of a model, which requires the
model's tokenizer (`clip.template_tokens`).
"""

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ipo_dspy.errors import DataError, RejectionReason, TemplateError

PLACEHOLDER = "<CLASS>"
DEFAULT_TEMPLATE = f"a photo of a {PLACEHOLDER}."
MAX_LINES = 1000
"""More prompts than any published ensemble has (80 for ImageNet); a guard against runaway responses."""
MAX_CHARACTERS = 5000
"""Maximum length of a line: no CLIP model reads more, and a runaway response is rejected without tokenizing it with
every class."""

_PLACEHOLDER_FORMS = re.compile(r"<\s*class\s*>", re.IGNORECASE)
_LOOKALIKES = re.compile(r"\{[a-z_]*\}|\[class\]|%s", re.IGNORECASE)
_JOINERS = ("\u200c", "\u200d")  # used in the spelling of Persian and Hindi, and in emoji
_ALLOWED_CONTROLS = {"\n", "\t", "\r", *_JOINERS}


@dataclass(frozen=True, slots=True)
class Template:
    r"""One or more prompts, each with `<CLASS>`; build one with `Template.parse`.

    Equal templates have equal text. Whitespace is collapsed and `<class>` in any case becomes `<CLASS>`,
    so parsing the result of `str()` returns the same template.

    >>> template = Template.parse("a blurry photo of a <class>. ")
    >>> str(template)
    'a blurry photo of a <CLASS>.'
    >>> template.fill("golden_retriever")
    ('a blurry photo of a golden retriever.',)
    >>> len(Template.parse("a <CLASS>.\na photo of a <CLASS>.").lines)
    2
    """

    lines: tuple[str, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.lines, tuple) or not all(isinstance(line, str) for line in self.lines):
            raise _no_text(self.lines)
        if not self.lines:
            raise _error("is empty", "", reason="empty")
        for line in self.lines:
            if PLACEHOLDER not in line:
                lookalike = _LOOKALIKES.search(line)
                note = f" ({lookalike.group()!r} is not a placeholder)" if lookalike else ""
                raise _error(f"has no {PLACEHOLDER}{note}", line, reason="no class placeholder")
            if len(line.splitlines()) != 1:
                raise _error("has a line break within a line", line, reason="control characters")

    @classmethod
    def parse(cls, text: str) -> "Template":
        """Read a template from text, one prompt per line; blank lines are dropped.

        Raises:
            TemplateError: not a string, empty, a line without `<CLASS>`, control characters, too many lines or
                too long ones.
        """
        if not isinstance(text, str):
            raise _no_text(text)
        if hidden := _find_control_character(text):
            raise _error(f"contains the control character {hidden}", text, reason="control characters")
        collapsed = (" ".join(line.split()) for line in unicodedata.normalize("NFC", text).splitlines())
        lines = tuple(_PLACEHOLDER_FORMS.sub(PLACEHOLDER, line) for line in collapsed if line)
        if len(lines) > MAX_LINES:
            raise _error(f"has {len(lines)} lines, more than {MAX_LINES}", text, reason="too many lines")
        for line in lines:
            if len(line) > MAX_CHARACTERS:
                raise _error(f"has {len(line)} characters in a line", text, reason="too long")
        return cls(lines)

    def fill(self, class_name: str) -> tuple[str, ...]:
        """Return the prompts for one class; underscores in the name become spaces."""
        name = display_class_name(class_name)
        return tuple(line.replace(PLACEHOLDER, name) for line in self.lines)

    def __str__(self) -> str:
        return "\n".join(self.lines)


def has_placeholder(text: str) -> bool:
    """Return True if a text contains `<CLASS>`, in upper or lower case.

    >>> has_placeholder("a < class >."), has_placeholder("a class.")
    (True, False)
    """
    return _PLACEHOLDER_FORMS.search(text) is not None


def display_class_name(class_name: str) -> str:
    """Return a class name as it appears in a prompt: underscores become spaces, whitespace is collapsed.

    >>> display_class_name("golden_retriever")
    'golden retriever'
    """
    return " ".join(class_name.replace("_", " ").split())


def same_class(name: str, classes: Sequence[str]) -> str | None:
    """Return the class with this name, else the only class with the same text in a prompt, else None.

    >>> same_class("beer_mug", ["beer mug", "cup"]), same_class("mug", ["beer mug", "cup"])
    ('beer mug', None)
    """
    return name if name in classes else _by_reading(tuple(classes)).get(display_class_name(name))


@functools.lru_cache(maxsize=16)  # called for every image
def _by_reading(classes: tuple[str, ...]) -> Mapping[str, str]:
    """Return classes by their text in a prompt, without those whose text is identical."""
    count = Counter(map(display_class_name, classes))
    return {reading: name for name in classes if count[reading := display_class_name(name)] == 1}


def check_classes(classes: Sequence[str], *, least: int = 2) -> tuple[str, ...]:
    """Return class names as a tuple in the given order, and check that their prompts differ.

    Raises:
        DataError: not a list of names, fewer than `least`, an empty one, or two that are indistinguishable in a prompt.
    """
    if isinstance(classes, str):
        raise DataError(f"classes is the string {classes!r}; pass a list of names, e.g. ['cat', 'dog']")
    if isinstance(classes, Mapping):
        raise DataError(
            f"classes must be a list of names, got {classes!r:.200}; pass list(classes) here, "
            "and the texts as ClipClassifier(classes={label: texts})"
        )
    if isinstance(classes, set | frozenset):
        raise DataError(f"classes must be a list of names, got the unordered {classes!r:.200}; pass sorted(classes)")
    try:
        names = tuple(classes)
    except TypeError as error:
        raise DataError(f"classes is {classes!r}; pass a list of names, e.g. ['cat', 'dog']") from error
    if len(names) < least:
        count, example = ("two classes", ["cat", "dog"]) if least == 2 else ("one class", ["cat"])
        raise DataError(f"a classifier needs at least {count}, e.g. {example}, got {list(names)!r:.200}")
    seen: dict[str, str] = {}
    for name in names:
        check_name(name, "class name")
        key = reading(name)
        if key in seen:
            raise DataError(
                f"class names {seen[key]!r} and {name!r} are indistinguishable in a prompt; "
                "rename one to what it shows, for example 'crane bird' or 'construction crane'"
            )
        seen[key] = name
    return names


def check_name(name: str, kind: str) -> None:
    """Check a text that is filled into templates.

    Raises:
        DataError: not a string, empty, or with control characters; the message begins with the kind of text.
    """
    if not isinstance(name, str) or not reading(name):
        raise DataError(f"{kind} {name!r} must be a non-empty string; for example 'cat'")
    if hidden := _find_control_character(name):
        raise DataError(f"{kind} {name!r} contains the control character {hidden}; remove it, e.g. 'cat'")


def reading(name: str) -> str:
    """Return the text by which a reader distinguishes class names: without case and invisible joiners.

    >>> reading("Beer_Mug") == reading("beer mug")
    True
    """
    for joiner in _JOINERS:
        name = name.replace(joiner, "")
    return unicodedata.normalize("NFC", display_class_name(name)).casefold()


def _find_control_character(text: str) -> str | None:
    """Return the first control or bidirectional character that is not a joiner: it can hide text from a reader."""
    for char in text:
        if unicodedata.category(char) in {"Cc", "Cf", "Cs"} and char not in _ALLOWED_CONTROLS:
            return f"U+{ord(char):04X}"
    return None


_REMEDIES: Mapping[RejectionReason, str] = {
    "control characters": "type it again without hidden characters",
    "too many lines": f"keep at most {MAX_LINES}",
    "too long": f"keep at most {MAX_CHARACTERS}",
}


def _no_text(given: object) -> TemplateError:
    return TemplateError(
        f"template must be a string with {PLACEHOLDER} where the class name goes, got {repr(given)[:120]}; "
        f"for example {DEFAULT_TEMPLATE!r}",
        reason="no class placeholder",
    )


def _error(fact: str, text: str, *, reason: RejectionReason) -> TemplateError:
    shown = text if len(text) <= 120 else text[:117] + "..."
    remedy = _REMEDIES.get(reason, f"write {PLACEHOLDER} where the class name goes")
    return TemplateError(f"template {shown!r} {fact}; {remedy}, e.g. {DEFAULT_TEMPLATE!r}", reason=reason)

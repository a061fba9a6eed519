"""Check that a template filled with every class fits the context of a model; nothing is ever cut."""

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.prefix_plan import TokenList
from ipo_dspy.errors import DataError, TemplateError
from ipo_dspy.template import Template

ClassTexts: TypeAlias = Sequence[str | tuple[str, ...]]
"""The text of each class, or several texts, whose features are averaged."""

_SHOWN_CHARACTERS = 120


@dataclass(frozen=True, slots=True)
class TemplateTokens:
    """Tokens of a template filled with all classes.

    Attributes:
        key: equal for two templates exactly if, line by line and class by class, they give the same token
            ids; such templates are the same to the model.
        longest: tokens of the longest filled prompt, start and end included.
    """

    key: str
    longest: int


def template_tokens(backbone: Backbone, template: Template, classes: ClassTexts) -> TemplateTokens:
    """Tokenize a template with every text of every class, and refuse it if one prompt does not fit the context.

    Raises:
        TemplateError: reason `too long`, naming the longest class and by how much.
        DataError: no classes.
    """
    lists = filled_token_lists(backbone, template, classes)
    digest = hashlib.sha256(str(len(template.lines)).encode())
    for tokens in lists:
        digest.update(array("q", (len(tokens), *tokens)).tobytes())
    return TemplateTokens(key=digest.hexdigest()[:32], longest=max(map(len, lists)))


def texts_of(entry: str | tuple[str, ...]) -> tuple[str, ...]:
    """Return the texts of a class.

    >>> texts_of("cat"), texts_of(("metal nail", "fingernail"))
    (('cat',), ('metal nail', 'fingernail'))
    """
    return (entry,) if isinstance(entry, str) else entry


def filled_token_lists(backbone: Backbone, template: Template, classes: ClassTexts) -> list[TokenList]:
    """Return the token lists of every line filled with every text; classes outermost, then texts; all fit the context.

    Raises:
        TemplateError: see `template_tokens`.
        DataError: no classes.
    """
    if not classes:
        raise DataError("no classes to fill the template with; pass at least two names, e.g. ['cat', 'dog']")
    texts = [text for entry in classes for text in texts_of(entry)]
    lists = backbone.token_ids([line for text in texts for line in template.fill(text)])
    longest = max(range(len(lists)), key=lambda index: len(lists[index]))
    count, context = len(lists[longest]), backbone.context_length
    if count > context:
        of_text, of_line = divmod(longest, len(template.lines))
        line, name = template.lines[of_line], texts[of_text]
        shown = line if len(line) <= _SHOWN_CHARACTERS else line[: _SHOWN_CHARACTERS - 3] + "..."
        raise TemplateError(
            f"template {shown!r} filled with class {name!r} has {count} tokens and the model takes {context}; "
            f"shorten it by {count - context} tokens",
            reason="too long",
        )
    return lists

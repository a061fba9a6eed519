r"""Read prompt templates from the free-form answer of a language model.

`FORMS` is a table of the forms of an answer. They are tried in its order, and the first that yields a template is
taken. A form only finds texts; each text is then processed in the same way, by `template_text`:

1. It is split if it holds several templates, such as two quoted ones.
2. `undressed` removes list markers, labels, quotes, emphasis, and explanations.
3. `repaired` replaces look-alikes of `<CLASS>`, such as `{class}`.
4. It is dropped if it lacks `<CLASS>` or has markup left: a wrong text that is scored is worse than one that is lost.

Reasoning is not part of an answer, and neither is what precedes a heading such as "Final answer:".
"""

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import json_repair

from ipo_dspy.errors import TemplateError
from ipo_dspy.lms.answer_tags import OPEN_TAG, TAG, tag_contents
from ipo_dspy.lms.reasoning import without_thoughts
from ipo_dspy.lms.template_text import (
    BARE,
    LONGEST_LINE,
    NOUN,
    PLACEHOLDER_IN_ANY_CASE,
    REPAIRED,
    has_markup,
    marker_rank,
    quoted,
    repaired,
    split_templates,
    undressed,
    unescaped,
    without_label,
)
from ipo_dspy.template import Template, has_placeholder

MOST_LINES = 1000
"""Maximum number of lines that are parsed: the last ones of an answer."""
MOST_DOCUMENTS = 50
"""Maximum number of JSON documents that are parsed in an answer."""
LONGEST_REPAIR, MOST_BRACKETS = 8000, 100
"""Maximum number of characters and of opening brackets of malformed JSON: `json_repair` takes quadratic time."""
_SECTION = re.compile(r"\[\[ ## (\w{1,40}) ## \]\]")
_FINAL = re.compile(
    r"^[^\w\n]*(?:(?:here (?:is|are) )?(?:the |my )?(?:final|revised)\s(?:\w+\s)?"
    r"(?:answers?|templates?|prompts?|list|versions?|output|set|selection|proposals?)|answers?|output)\b[^\w\n]*$",
    re.IGNORECASE | re.MULTILINE,
)
_BLOCKS = re.compile(r"</?(?!\s*/?\s*class\b)([a-z][\w:-]{0,30})(?:\s[^<>\n]{0,100})?/?>", re.IGNORECASE)
_INLINE = frozenset({"b", "i", "u", "em", "strong", "code", "span", "mark", "q"})
_FENCE = re.compile(r"^[ \t]*(?:```|~~~).*$", re.MULTILINE)
_JSON_BEGIN = re.compile(r"[\[{](?=\s{0,100}[\"'\[{])")
_ROW_RULE = re.compile(r"[\s|:+-]*-[\s|:+-]*")
_TEMPLATE_KEY = re.compile(rf"(?:\w+[_ ])?{NOUN}(?:[_ #]*\d+)?|\d+|value|content|result|output|ins", re.IGNORECASE)
_EXPLAINING_KEY = re.compile(
    r"\w*(?:reason|why|expla|rational|note|comment|descri|analys|thought|idea|effect|goal|title|hint|example|task)\w*",
    re.IGNORECASE,
)
_TAIL = re.compile(r"\s(-|\u2013|\()(?:\s|(?<=\()).*$|(:)\s.*$")
"""A possible explanation behind a template; taken for one if every item of a list has it."""
_SPEECH = re.compile(
    r"^\W*(?:sure|certainly|of course|okay|ok|i['\u2019]?(?:ll|d|ve|m)|let me|let['\u2019]?s|hope|please|note"
    r"|i (?:would|will|can|cannot|have|think|suggest|normally|need|should|could)"
    r"|we (?:need|should|must|can|could|want)|draft\b[^<]{0,12}:|(?:avoid|bad|instead of|rejected)\b[^<]{0,12}[:\"`])"
    r"(?:\b|(?<=\W))|\b(?:templates?|prompts?|placeholders?|class names?)\b"
    r"|\b(?:keep|put|place|insert|include|mention|use|replace|write|fill|hold|contain|need|want)\w*\s"
    r"(?:in\s|only\s)?(?:the\s)?\W?<CLASS>"
    r"|<CLASS>\W?\s(?:must|should|will|goes|appears|stands|exactly|once)\b",
    re.IGNORECASE,
)
"""Speech to the reader, about templates, or about the placeholder."""
_PROSE = re.compile(
    r"\b(?:(?-i:I)|we|you|they|them|these|would|should|could|must|can(?:no|['\u2019])t|do(?:es)? not)\b|\?\s*$",
    re.IGNORECASE,
)
"""Text that a line without a marker does not hold if it is a template."""


def parse_templates(completion: str, cut: bool = False) -> list[str]:
    r"""Return the templates in an answer, in order, with repaired placeholders.

    Two kinds of texts follow that are rejected with a reason: tagged ones without `<CLASS>`, and a last one that the
    token limit cut, which keeps its opening tag.

    Args:
        completion: answer of a language model.
        cut: whether the token limit truncated it.

    >>> parse_templates("<INS>a <CLASS>.</INS> and <ins> art of a [CLASS] </ins>")
    ['a <CLASS>.', 'art of a <CLASS>']
    >>> parse_templates('1. **a <CLASS>.** - short\n2. "art of a <CLASS>" (plain)\nHope that helps!')
    ['a <CLASS>.', 'art of a <CLASS>']
    >>> parse_templates("a <CLASS>.\nart of a <CLASS> in the", cut=True)
    ['a <CLASS>.', '<INS>art of a <CLASS> in the']
    """
    return list(map(repaired, read_answer(completion, cut)))


def read_answer(completion: str, cut: bool = False) -> list[str]:
    """Return what `parse_templates` returns, but with `<class>` where a placeholder was repaired.

    >>> read_answer("<INS>a <CLASS>.</INS> <INS>art of a [CLASS]</INS>")
    ['a <CLASS>.', 'art of a <class>']
    """
    answer = _sections(unescaped(without_thoughts(completion).answer))
    texts = (answer, BARE.sub(REPAIRED, answer))
    parts = (part for text in texts for part in (_FINAL.split(text)[-1], text) if has_placeholder(part))
    readings = ([*itertools.chain.from_iterable(map(_templates, read(part)))] for part in parts for _, read in FORMS)
    templates = next(filter(None, readings), [])
    others = (
        without_label(" ".join(content.split())) for content in tag_contents(answer)[0] if not has_placeholder(content)
    )
    others = (text for text in others if re.search(r"\w", text) and not has_markup(text))
    templates += [text for text in others if BARE.sub(REPAIRED, text) not in templates]
    if cut and templates and " ".join(repaired(answer).split()).endswith(repaired(templates[-1])):
        templates[-1] = f"{OPEN_TAG}{templates[-1]}"
    return templates


def read_proposal(text: str) -> Template:
    r"""Return the template in a proposer's text, undressed and repaired; wrapped lines are joined.

    Raises:
        TemplateError: it is truncated, is empty, lacks `<CLASS>`, or has control characters.

    >>> str(read_proposal('"a blurry photo\nof a {class}."'))
    'a blurry photo of a <CLASS>.'
    """
    text = text.strip()
    if text.startswith(OPEN_TAG):
        raise TemplateError(f"answer {text[:120]!r} has no closing tag; raise the model's max_tokens", reason="cut off")
    lines = [repaired(line) for line in text.splitlines()]
    if any(not has_placeholder(line) for line in lines if line.strip()):
        lines = [repaired(" ".join(text.splitlines()))]
    return Template.parse("\n".join(map(undressed, lines)))


def _tagged(text: str) -> Iterable[str]:
    """Texts between tags, or after them if none is closed; several lines are several templates."""
    own_lines, inline = tag_contents(text)
    for content in own_lines if any(map(has_placeholder, own_lines)) else inline:
        yield from _items(content)


def _json_values(text: str) -> Iterable[str]:
    """Texts of JSON lists and objects, with whatever stands around them; malformed JSON is repaired."""
    if values := _documents(text):
        return values
    begin = _JSON_BEGIN.search(text)
    broken = text[begin.start() : begin.start() + LONGEST_REPAIR + 1] if begin else ""
    if not broken or len(broken) > LONGEST_REPAIR or broken.count("[") + broken.count("{") > MOST_BRACKETS:
        return []
    try:
        return list(_values(json_repair.loads(broken)))
    except (ValueError, RecursionError):
        return []


def _cells(text: str) -> list[str]:
    """Cells of a Markdown table: those of the column that holds `<CLASS>` most often."""
    lines = [line for line in text.splitlines()[-MOST_LINES:] if len(line) <= LONGEST_LINE and "|" in line]
    rules = [i for i, line in enumerate(lines) if _ROW_RULE.fullmatch(line)]
    rows = [
        line.strip().strip("|").split("|")
        for i, line in enumerate(lines)
        if i + 1 not in rules and (rules or line.strip().startswith("|"))
    ]
    columns = Counter(i for row in rows for i, cell in enumerate(row) if has_placeholder(cell))
    column = columns.most_common(1)[0][0] if columns else 0
    return [row[column] for row in rows if len(row) > column]


def _listed(text: str) -> list[str]:
    """Lines: those with a number or label, else those with a bullet or quotes, else all; those in a fence, if any."""
    fenced = "\n".join(_FENCE.split(text)[1::2])
    groups: tuple[list[str], list[str], list[str]] = ([], [], [])
    rank = 2
    for line in _lines(fenced if has_placeholder(fenced) else text):
        own = marker_rank(line.strip())
        rank = 0 if own == 1 and rank == 0 and not line[:1].isspace() else own  # a list with two kinds of markers
        if has_placeholder(line) and not _speaks(line) and not (rank == 2 and _PROSE.search(line)):
            groups[rank].append(line)
    chosen = max(groups[:2], key=len) or groups[2]
    texts = list(
        dict.fromkeys(undressed(part) for line in chosen for part in split_templates(line))
    )  # a draft, then the answer
    tails = [_TAIL.search(text, text.rfind(">")) for text in texts]
    separators = {tail and (tail[1] or tail[2]) for tail in tails}
    if len(texts) > 1 and len(separators) == 1 and None not in separators:
        return [text[: tail.start()] for text, tail in zip(texts, tails, strict=True) if tail]
    return texts


FORMS: tuple[tuple[str, Callable[[str], Iterable[str]]], ...] = (
    ("tags", _tagged),
    ("JSON", _json_values),
    ("table", _cells),
    ("lines", _listed),
)
"""Names of the forms and their functions from an answer to its texts, in the order in which they are tried."""


def _templates(text: str) -> Iterator[str]:
    """Yield the templates in a text that a form found."""
    for part in map(undressed, split_templates(text)):
        has_words = re.search(r"[^\W\d_]", PLACEHOLDER_IN_ANY_CASE.sub("", part))
        if has_placeholder(part) and has_words and not has_markup(part):
            yield part


def _sections(text: str) -> str:
    """Return the field with the templates of an answer in DSPy's chat format."""
    parts = _SECTION.split(text)  # text, name, text, name, text, ...
    named = [content for name, content in zip(parts[1::2], parts[2::2], strict=True) if _TEMPLATE_KEY.fullmatch(name)]
    return "\n".join(named or parts[::2])


def _items(content: str) -> list[str]:
    """Return the templates in one tag or JSON value: one per line if several hold `<CLASS>`, otherwise one in all."""
    if values := _documents(content):
        return values
    lines = _lines(content)
    holding = [i for i, line in enumerate(lines) if has_placeholder(line)]
    if len(holding) != 1:
        return _listed(content) if holding else []
    begin = end = holding[0]
    while begin > 0 and lines[begin - 1].strip() and not lines[begin - 1].rstrip().endswith(":"):
        begin -= 1
    while end + 1 < len(lines) and lines[end + 1].strip() and not re.search(r"[.!?][\"'`*]*$", lines[end]):
        if _PROSE.search(lines[end + 1]):
            break
        end += 1
    return [" ".join(" ".join(lines[begin : end + 1]).split())]


def _documents(text: str) -> list[str]:
    """Return the texts with `<CLASS>` in all valid JSON documents of a text."""
    values: list[str] = []
    end = 0
    for begin in itertools.islice(_JSON_BEGIN.finditer(text), MOST_DOCUMENTS):
        if begin.start() >= end:
            try:
                value, end = json.JSONDecoder(strict=False).raw_decode(text, begin.start())
                values += _values(value)
            except (ValueError, RecursionError):
                continue
    return values


def _values(value: Any) -> Iterator[str]:
    """Yield the texts with `<CLASS>` in a JSON value; if an object has keys such as "template", only theirs."""
    if isinstance(value, str):
        yield from _items(unescaped(value))
    elif isinstance(value, list):
        for inner in value:
            yield from _values(inner)
    elif isinstance(value, dict):
        named = {name: inner for name, inner in value.items() if _TEMPLATE_KEY.fullmatch(name)}
        for name, inner in (named or value).items():
            if has_placeholder(name):  # templates as keys, with their scores or reasons as values
                yield from _items(name)
            elif not _EXPLAINING_KEY.fullmatch(name) or name in named:
                yield from _values(inner)


def _lines(text: str) -> list[str]:
    """Return the lines of a text; HTML or XML tags other than inline emphasis separate paragraphs."""
    text = _BLOCKS.sub(lambda tag: "" if tag[1].lower() in _INLINE else "\n\n", TAG.sub("\n", text))
    lines = (line for line in text.splitlines()[-MOST_LINES:] if len(line) <= LONGEST_LINE)
    return [line[: len(line) - len(line.lstrip())] + " ".join(line.split()) for line in lines]


def _speaks(line: str) -> bool:
    """Return True if a line announces or discusses templates instead of being one."""
    line = line.strip().rstrip("*_ ")
    text = without_label(line)
    if line.endswith(":"):
        return True
    return quoted(text) == text and len(split_templates(text)) == 1 and _SPEECH.search(text) is not None

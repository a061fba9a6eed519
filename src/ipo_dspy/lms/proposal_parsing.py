"""Parse prompt templates from the free-form answer of a language model.

An answer is parsed in the first of these forms that yields a text with `<CLASS>`:

    tagged   <INS>a photo of a <CLASS>.</INS>, closing tags are optional, a pair may hold several lines
    JSON     lists, or objects with a key such as "template"; may be fenced or truncated
    table    a row of a Markdown table; the first cell that holds `<CLASS>`
    lines    each line that holds `<CLASS>` and does not address the reader

The text of a tag, value, cell or line is then stripped of its decoration:

    text     = mark* label? (quoted | plain) explanation?
    mark     = "-" | "1." | "(a)" | ">" | ...            a list marker
    label    = "Template 1:" | "**Prompt:**" | ...
    quoted   = a text with `<CLASS>` between quotes, asterisks, or backticks
    explanation = " - why" | " (why so)" | "(loss 1.2)"    after a quoted text or the end of a sentence

The rest of a text is kept: quotes, commas, colons, numbers, and parentheses inside a template belong to it. The last
answers count, since the first may be drafts.
"""

import html
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from ipo_dspy.errors import TemplateError
from ipo_dspy.lms.reasoning import without_thoughts
from ipo_dspy.template import PLACEHOLDER, Template, has_placeholder

OPEN_TAG, CLOSE_TAG = "<INS>", "</INS>"

LONGEST_LINE = 6000
"""Maximum number of characters of a line; a longer one cannot be a template and is not parsed."""
MOST_LINES = 1000
"""Maximum number of lines that are parsed: the last ones of an answer."""
MOST_DOCUMENTS = 50
"""Maximum number of JSON documents that are parsed in an answer."""

_TAG = re.compile(r"<\s*(?:(/)\s*)?INS\s*>", re.IGNORECASE)
"""A single tag: a pattern for whole answers would take minutes on a runaway one."""
_BEGINS_LINE = re.compile(r"(?:^|\n|INS\s*>)[\s\d.()\[\]*>#`'\"\u2022-]*$", re.IGNORECASE)
"""Text before a tag that opens a template, as opposed to a tag that a sentence mentions."""
_BEFORE = 40
"""Number of characters that are matched against it."""
_LOOKALIKE = re.compile(
    r"\{{1,3}\s?class(?:[ _-]?name)?\s?\}{1,3}|\[class(?:[ _-]?name)?\]|<class[ _-]?name>|<class\s?/>|\\<class\\>"
    r"|\$\{?class\}?",
    re.IGNORECASE,
)
_ANY_LOOKALIKE = re.compile(r"\{[a-z_ ]{0,20}\}|\[[a-z_ ]{0,20}\]|%s|\bCLASS(?:_?NAME)?\b", re.IGNORECASE)
"""Replaced by `<CLASS>` only if an answer has no closer match."""
_SECTION = re.compile(r"\[\[ ## (\w{1,40}) ## \]\]")
_BLOCKS = re.compile(r"</?(?!\s*/?\s*class\b)([a-z][\w:-]{0,30})(?:\s[^<>\n]{0,100})?/?>", re.IGNORECASE)
_INLINE = frozenset({"b", "i", "u", "em", "strong", "code", "span", "mark", "q"})
_JSON_BEGIN = re.compile(r"[\[{](?=\s{0,100}[\"\[{])")
_JSON_TEXT = re.compile(r"\"((?:[^\"\\\n]|\\.)*)\"\s{0,10}(:?)")
_ROW = re.compile(r"^\s*\|.*\|\s*$")
_RULE = re.compile(r"^\s*\|[\s|:-]+\|\s*$")

_NOUN = (
    "(?:templates?|prompts?|answers?|options?|candidates?|suggestions?|proposals?|versions?|variants?|sentences?"
    "|instructions?|ideas?|text)"
)
_TEMPLATE_KEY = re.compile(rf"(?:\w+[_ ])?{_NOUN}(?:[_ #]*\d+)?|\d+|value|content|result|output|ins", re.IGNORECASE)
_MARK = re.compile(
    r"\s*(?:(?:>|#{1,6}(?=\s))\s*|\\?[-*+\u2022\u2013\u2014\u00b7\u2023\u25e6\u25aa\u25cf\u25cb\u25ba\u25b6\u27a4\u2192\u2713\u2714\u2726\u2605]\s+"
    r"|\*{0,2}(?:\(\s?(?:\d{1,3}|[a-z]|[ivx]{1,4})\s?\)|(?:\d{1,3}|[a-z]|[ivx]{1,4})\)|\[\d{1,3}\]|#\d{1,3}[.):]?|\d{1,3}\.(?!\d)|\d{1,3}:(?!\d)|[a-z]\.(?=\s)"
    r"|\d{1,3}\s[-\u2013\u2014](?=\s)|[\u2460-\u2473])\*{0,2}\s*)",
    re.IGNORECASE,
)
_LABEL = re.compile(
    rf"\s*[\"'*_]{{0,3}}(?:(?:new|improved|candidate|better|final|suggested|proposed)\s)*{_NOUN}\s?(?:#|no\.?)?\s?"
    r"(?:(?:\d{1,3}|[a-h])?[\"'*_]{0,3}\s?[:=]|(?:\d{1,3}|[a-h])[\"'*_]{0,3}\s?[.)\u2013\u2014-])[\"*_]{0,2}(?=\s|[\"'`*<\u201c])\s*",
    re.IGNORECASE,
)
_PREFACE = re.compile(
    r"\s*(?:here(?:'s| is| are)|try|how about|perhaps|maybe)\b[^:\"]{0,60}:\s*(?=[\"'`*\u201c])", re.IGNORECASE
)
_QUOTES = {
    '"': '"',
    "'": "'",
    "\u201c": "\u201d",
    "\u2018": "\u2019",
    "\u201e": "\u201c\u201d",
    "\u00ab": "\u00bb",
    "\u300c": "\u300d",
    "\u300e": "\u300f",
}
_EMPHASIS = re.compile(r"\*{1,3}|_{1,3}|`{1,3}")
_AFTER = re.compile(
    r"[,;.]?\s*$|[,;:.]?\s*(?:[-\u2013\u2014:(\[#|\u2190\u2192]|//|=>|because\b|which\b|this\b|to\b|for\b)",
    re.IGNORECASE,
)
"""Text that may follow a quoted template: nothing, or an explanation."""
_EXPLANATION = re.compile(
    r"(?<=[.!?])(?:\s+[-\u2013\u2014]+\s|\s*[:;]\s|\s+(?:#|//|=>|\u2190|\u2192)"
    r"|\s*[(\[](?=[^()\[\]]*[a-z]\s[^()\[\]]*[)\]]\s*$)).*$",
    re.IGNORECASE | re.DOTALL,
)
_SCORED = re.compile(
    r"\s*(?:[-\u2013\u2014,;:|]\s*)?(?:[(\[][^()\[\]]*\b(?:loss|accuracy|acc)\b[^()\[\]\d]{0,10}\d[^()\[\]]*[)\]]|[-\u2013\u2014|]\s*(?:loss|accuracy)\b\W{0,3}\d.*)\s*$",
    re.IGNORECASE,
)
_TALK = re.compile(r"\b(?:templates?|prompts?|placeholders?|class names?|instructions?)\b", re.IGNORECASE)
_TALKING = re.compile(
    r"\b(?:must|should|holds?|contains?|includ\w+|replac\w+|here|following|these|each|every|write|need|let|we|you|i|keep|sure|certainly)\b",
    re.IGNORECASE,
)
_SPOKEN = re.compile(
    r"^\W*(?:sure|certainly|of course|okay|ok|i['\u2019]?(?:ll|d|ve|m)|let me|let['\u2019]?s|hope|please|note"
    r"|i (?:would|will|can|cannot|have|think|suggest|normally|need|should|could)"
    r"|we (?:need|should|must|can|could|want))\b",
    re.IGNORECASE,
)


def parse_templates(completion: str, cut: bool = False) -> list[str]:
    r"""Return the texts in an answer that are meant as templates, in order.

    A truncated template keeps its opening tag, so that it is rejected as truncated. If no text holds `<CLASS>`, the
    tagged texts are returned, to be rejected as well.

    Args:
        completion: answer of a language model.
        cut: whether the token limit truncated it.

    >>> parse_templates("<INS>a <CLASS>.</INS> and <ins> art of a <CLASS> </ins>")
    ['a <CLASS>.', 'art of a <CLASS>']
    >>> parse_templates("<INS>a <CLASS>.</INS> <INS>a photo of")
    ['a <CLASS>.', '<INS>a photo of']
    >>> parse_templates('1. **a {class}.** - short\n2. "art of a {class}" (plain)\nHope that helps!')
    ['a <CLASS>.', 'art of a <CLASS>']
    >>> parse_templates("a <CLASS>.\nart of a <CLASS> in the", cut=True)
    ['a <CLASS>.', '<INS>art of a <CLASS> in the']
    """
    text = _with_placeholders(without_thoughts(completion).answer)
    tagged = _tagged(text, cut)
    if any(has_placeholder(template) for template in tagged):
        return tagged  # including repetitions: the search counts them as duplicates instead of asking for more
    return _once(_untagged(text, cut)) or tagged


def last_answers(answers: Sequence[str], count: int) -> list[str]:
    """Return the last answers; truncated ones and ones without `<CLASS>` only if there are too few others.

    >>> last_answers(["a draft <CLASS>", "one <CLASS>", "a dog", "<INS>an old <CLA"], 1)
    ['one <CLASS>']
    """
    complete = [text for text in answers if has_placeholder(text) and not text.startswith(OPEN_TAG)]
    return complete[-count:] if len(complete) >= count else list(answers[-count:])


def read_proposal(text: str) -> Template:
    r"""Return the template in a proposer's text, without list markers and quotes; wrapped lines are joined.

    Raises:
        TemplateError: it is truncated, is empty, lacks `<CLASS>`, or has control characters.

    >>> str(read_proposal('"a blurry photo\nof a <CLASS>."'))
    'a blurry photo of a <CLASS>.'
    """
    text = text.strip()
    if text.startswith(OPEN_TAG):
        raise TemplateError(f"answer {text[:120]!r} has no closing tag; raise the model's max_tokens", reason="cut off")
    lines = text.splitlines()
    if any(not has_placeholder(line) for line in lines if line.strip()):
        text = " ".join(lines)
    return Template.parse("\n".join(map(undressed, text.splitlines())))


def undressed(text: str) -> str:
    """Return a text without list marker, label, surrounding quotes and explanation; see the grammar above.

    >>> undressed('2) Template 2: "a photo of a <CLASS>." - plain')
    'a photo of a <CLASS>.'
    >>> undressed('a "retro" photo of a <CLASS>, taken in 1990 (or so)')
    'a "retro" photo of a <CLASS>, taken in 1990 (or so)'
    """
    text = text.strip()
    if len(text) > LONGEST_LINE or not has_placeholder(text):
        return text.strip("\"'`\u201c\u201d\u2018\u2019") if len(text) <= LONGEST_LINE else text
    for _ in range(6):  # bounded for hostile answers; real ones have two or three layers
        before, text = text, _quoted(_without_label(text))
        if text == before:
            break
    text = _EMPHASIS.sub("", text) if "`" in text or "**" in text else text
    text = _without_odd_quote(_without_explanation(text))
    return text.replace('\\"', '"').strip().rstrip(",;").strip()


def _with_placeholders(text: str) -> str:
    """Return a text with escaped and similar forms of `<CLASS>` replaced by it."""
    text = html.unescape(text) if "&lt;" in text else text
    text = re.sub(r"\\u003c", "<", text, flags=re.IGNORECASE)
    text = re.sub(r"\\u003e", ">", text, flags=re.IGNORECASE)
    text = _LOOKALIKE.sub(PLACEHOLDER, text)
    return text if has_placeholder(text) else _ANY_LOOKALIKE.sub(PLACEHOLDER, text)


def _tagged(text: str, cut: bool) -> list[str]:
    answers: list[str] = []
    opened: int | None = None
    within_words = False
    tags = list(_TAG.finditer(text))
    for tag in tags:
        content = "" if opened is None else text[opened : tag.start()].strip()
        if has_placeholder(content):  # even if the next tag opens: some models forget the slash
            answers += _items(content)
        elif tag.group(1) and opened is not None and not within_words:
            answers.append(" ".join(content.split()))
        within_words = _BEGINS_LINE.search(text[max(0, tag.start() - _BEFORE) : tag.start()]) is None
        opened = None if tag.group(1) else tag.end()
    if opened is not None and (rest := text[opened:].strip()):
        closes = any(tag.group(1) for tag in tags)
        whole = has_placeholder(rest) and not cut and (not closes or rest[-1] in ".!?")
        answers += _items(rest) if whole else [f"{OPEN_TAG}{rest}"]
    return answers


def _items(content: str) -> list[str]:
    """Return the templates in one tag: one per line if several lines hold `<CLASS>`, otherwise one in all."""
    if not has_placeholder(content):
        return []
    if templates := _from_json(content):
        return templates
    lines = [line for line in _lines(content) if has_placeholder(line)]
    return list(map(undressed, lines if len(lines) > 1 else [" ".join(content.split())]))


def _untagged(text: str, cut: bool) -> list[str]:
    text = _sections(text)
    if not has_placeholder(text):
        return []
    return _from_json(text) or _from_table(text) or _from_lines(text, cut)


def _sections(text: str) -> str:
    """Return the field with the templates of an answer in DSPy's chat format."""
    parts = _SECTION.split(text)  # text, name, text, name, text, ...
    named = [content for name, content in zip(parts[1::2], parts[2::2], strict=True) if _TEMPLATE_KEY.fullmatch(name)]
    return "\n".join(named or parts[::2])


def _from_json(text: str) -> list[str]:
    texts: list[str] = []
    end = tried = 0
    for begin in _JSON_BEGIN.finditer(text):
        if begin.start() < end:
            continue
        tried += 1
        try:
            value, end = json.JSONDecoder(strict=False).raw_decode(text, begin.start())
            texts += _values(value)
        except (ValueError, RecursionError):
            pass
        if tried == MOST_DOCUMENTS:
            break
    return texts or (_from_broken_json(text) if tried else [])


def _values(value: Any, key: str = "template") -> Iterator[str]:
    """Yield the texts with `<CLASS>` in a JSON value; if an object has keys such as "template", only theirs."""
    if isinstance(value, str) and has_placeholder(value) and _TEMPLATE_KEY.fullmatch(key):
        yield undressed(" ".join(value.split()))
    elif isinstance(value, list):
        for inner in value:
            yield from _values(inner, key)
    elif isinstance(value, dict):
        named = {name: inner for name, inner in value.items() if _TEMPLATE_KEY.fullmatch(name)}
        for name, inner in (named or value).items():
            yield from _values(inner, name if named else "template")
            if not named and not isinstance(inner, str | dict | list):
                yield from _values(name)  # templates as keys, with their scores as values


def _from_broken_json(text: str) -> list[str]:
    """Return the texts of truncated or malformed JSON."""
    texts, key = [], "template"
    for quoted, colon in _JSON_TEXT.findall(text):
        if colon:
            key = quoted
        elif has_placeholder(quoted) and _TEMPLATE_KEY.fullmatch(key):
            texts.append(undressed(quoted.replace('\\"', '"').replace("\\n", " ")))
    return texts


def _from_table(text: str) -> list[str]:
    lines = text.splitlines()[-MOST_LINES:]
    heads = {i for i, line in enumerate(lines[1:]) if len(line) <= LONGEST_LINE and _RULE.match(line)}
    rows = (line for i, line in enumerate(lines) if i not in heads and len(line) <= LONGEST_LINE and _ROW.match(line))
    cells = (next((cell for cell in row.split("|") if has_placeholder(cell)), None) for row in rows)
    return [undressed(cell) for cell in cells if cell is not None]


def _from_lines(text: str, cut: bool) -> list[str]:
    lines = [line for line in _lines(text) if line.strip()]
    texts = [undressed(line) for line in lines if has_placeholder(line) and not _speaks(line)]
    if cut and texts and has_placeholder(lines[-1]) and not _speaks(lines[-1]):
        texts[-1] = f"{OPEN_TAG}{texts[-1]}"
    return texts


def _lines(text: str) -> list[str]:
    """Return the lines of a text; HTML or XML tags other than inline emphasis separate lines."""
    text = _BLOCKS.sub(lambda tag: "" if tag[1].lower() in _INLINE else "\n", _TAG.sub("\n", text))
    return text.splitlines()[-MOST_LINES:]


def _speaks(line: str) -> bool:
    """Return True if a line announces or discusses templates instead of being one."""
    if len(line) > LONGEST_LINE:
        return False
    line = line.strip().rstrip("*_ ")
    text = _without_label(line)
    if line.endswith(":"):
        return True
    if _quoted(text) != text.strip():
        return False
    return _SPOKEN.match(text) is not None or (_TALK.search(text) is not None and _TALKING.search(text) is not None)


def _without_label(text: str) -> str:
    for pattern in (_MARK, _MARK, _LABEL, _PREFACE):
        if (match := pattern.match(text)) and has_placeholder(text[match.end() :]):
            text = text[match.end() :]
    return text.strip()


def _quoted(text: str) -> str:
    """Return the quoted text at the beginning of a text if it is the template; otherwise the text."""
    if not text:
        return text
    if emphasis := _EMPHASIS.match(text):
        mark, begin = emphasis[0], emphasis.end()
        ends = [text.find(mark, begin)]
    elif text[0] in _QUOTES:
        begin, mark = 1, _QUOTES[text[0]]
        ends = [i for i in range(1, len(text)) if text[i] in mark and _closes(text, i)]
    else:
        return text
    for end in ends[:1] if text[0] != "'" else ends:
        inner, rest = text[begin:end], text[end + (len(mark) if emphasis else 1) :]
        if end > begin and has_placeholder(inner) and _AFTER.match(rest) and not has_placeholder(rest):
            return inner.strip()
    return text


def _closes(text: str, i: int) -> bool:
    """Return True if a quote may be a closing one: not escaped, and not an apostrophe within a word."""
    return text[i - 1] != "\\" and not (
        text[i] in "'\u2019" and text[i - 1].isalnum() and text[i + 1 : i + 2].isalnum()
    )


def _without_explanation(text: str) -> str:
    for pattern in (_SCORED, _EXPLANATION):
        match = pattern.search(text)
        if match and has_placeholder(text[: match.start()]) and not has_placeholder(text[match.start() :]):
            text = text[: match.start()]
    return text.strip()


def _without_odd_quote(text: str) -> str:
    """Return a text without an unpaired quote at either end, as in truncated JSON."""
    if text.count('"') % 2 == 0:
        return text
    if match := re.search(r"(?<=[^\d\s])\"(?=\s*(?:[,;]?\s*$|[-\u2013\u2014:(]))", text):
        before = text[: match.start()]
        return before if has_placeholder(before) else text
    return text[1:] if text.startswith('"') else text


def _once(texts: Any) -> list[str]:
    """Return texts in order without duplicates, each at its last position."""
    return list(dict.fromkeys(reversed(list(texts))))[::-1]

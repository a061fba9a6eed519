r"""Read prompt templates from the free-form answer of a language model.

`FORMS` is a table of the forms of an answer. They are tried in its order, and the first that yields a template is
taken. A form only finds texts; each text is then processed in the same way:

1. It is split if it holds several templates, such as two quoted ones.
2. `undressed` removes list markers, labels, quotes, emphasis, and explanations.
3. `repaired` replaces look-alikes of `<CLASS>`, such as `{class}`.
4. It is dropped if it lacks `<CLASS>` or has markup left: a wrong text that is scored is worse than one that is lost.

Reasoning is not part of an answer, and neither is what precedes a heading such as "Final answer:".
"""

import html
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import json_repair

from ipo_dspy.errors import TemplateError
from ipo_dspy.lms.reasoning import without_thoughts
from ipo_dspy.template import PLACEHOLDER, Template, has_placeholder

OPEN_TAG, CLOSE_TAG = "<INS>", "</INS>"

LONGEST_LINE = 6000
"""Maximum number of characters of a line; a longer one cannot be a template."""
MOST_LINES = 1000
"""Maximum number of lines that are parsed: the last ones of an answer."""
MOST_DOCUMENTS = 50
"""Maximum number of JSON documents that are parsed in an answer."""
LONGEST_REPAIR, MOST_BRACKETS = 8000, 100
"""Maximum number of characters and of opening brackets of malformed JSON: `json_repair` takes quadratic time."""

_LOOKALIKE = re.compile(
    r"\\{0,2}[$%]?[<{\[\uff1c\u27e8\u2039\u00ab]{1,3}\s?(?:(?:insert|your|the)[ _])?"
    r"(?:class|category|label|object|subject)(?:[ _-]?(?:name|label))?(?: here)?"
    r"\s?/?\\{0,2}[>}\]\uff1e\u27e9\u203a\u00bb]{1,3}"
    r"|<\s*class\s*>|%\(class\w{0,6}\)s|\$class(?:_?name)?\b|(?-i:__CLASS__|%CLASS%)|\{\}|%s",
    re.IGNORECASE,
)
_BARE = re.compile(r"\(CLASS(?:[ _]?NAME)?\)|<?\bCLASS(?:[ _]?NAME)?\b>?")
"""Replaced by `<CLASS>` only if an answer has no template with a closer look-alike."""
_PLACEHOLDER = re.compile(r"<\s*class\s*>", re.IGNORECASE)
_REPAIRED = "<class>"
"""Means the same as `<CLASS>`, so that a repaired template differs from one that was written as requested."""
_MARKUP = re.compile(
    r"[<>|`{}\\*\x00]|__|\]\(|&\w+;|^[_#\[\]>,;:]|[_\[]$|[\"']\s*[:,]?\s*[\"'\]]|\[\s*[\"']|(?-i:CLASS)|^\W*ins\b",
    re.IGNORECASE,
)
"""Text that no template holds besides its placeholder."""

_TAG = re.compile(r"\\?[<\[]\s{0,9}([/\\])?\s{0,9}INS\s{0,9}([/\\])?\s{0,9}\\?[>\]]", re.IGNORECASE)
"""A single tag: a pattern for whole answers would take minutes on a runaway one."""
_WORDS = re.compile(r"[^\W\d_]{2}(?!.*[:>*`\u2013\u2014-]\s*$)", re.DOTALL)
"""Words before a tag that do not introduce it, so that a sentence mentions it."""
_BEFORE = 100
"""Number of characters before a tag that are searched for them."""
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

_NOUN = (
    "(?:templates?|prompts?|answers?|options?|candidates?|suggestions?|proposals?|versions?|variants?|sentences?"
    "|instructions?|ideas?|captions?|text)"
)
_TEMPLATE_KEY = re.compile(rf"(?:\w+[_ ])?{_NOUN}(?:[_ #]*\d+)?|\d+|value|content|result|output|ins", re.IGNORECASE)
_EXPLAINING_KEY = re.compile(
    r"\w*(?:reason|why|expla|rational|note|comment|descri|analys|thought|idea|effect|goal|title|hint|example|task)\w*",
    re.IGNORECASE,
)
_NUMBER = re.compile(
    r"\s*(?:\*{0,2}(?:\(\s?(?:\d{1,3}|[a-z]|[ivx]{1,4})\s?\)|(?:\d{1,3}|[a-z]|[ivx]{1,4})\)|\[\d{1,3}\]|#\d{1,3}[.):]?"
    r"|\d{1,3}\.(?!\d)|\d{1,3}:(?!\d)|(?:[a-z]|[ivx]{2,4})\.(?=\s)"
    r"|\d{1,3}\s[-\u2013\u2014](?=\s)|[\u2460-\u2473]|\d\ufe0f?\u20e3)\*{0,2}\s*)",
    re.IGNORECASE,
)
_BULLET = re.compile(
    r"\s*(?:(?:>|#{1,6}(?=\s))\s*"
    r"|\\?[-*+\u2022\u2013\u2014\u00b7\u2023\u25e6\u25aa\u25cf\u25cb\u25ba\u25b6\u27a4\u2192\u2713\u2714\u2726\u2605\u2705]\s+"
    r"|\[[ x]\]\s+)",
    re.IGNORECASE,
)
_LABEL = re.compile(
    rf"\s*[\"'*_]{{0,3}}(?:(?:(?:new|improved|candidate|better|final|suggested|proposed)\s)*{_NOUN}\s?(?:#|no\.?)?\s?"
    r"(?:(?:\d{1,3}|[a-h])?(?:\s\([^()]{1,40}\))?[\"'*_]{0,3}\s?[:=]"
    r"|(?:\d{1,3}|[a-h])[\"'*_]{0,3}\s?(?:[.)\u2013\u2014\u2192-]|->))"
    r"|[a-z]{1,12}\s?#?\d{1,3}[\"'*_]{0,3}:)[\"*_]{0,2}(?=\s|[\"'`*<\u201c])\s*",
    re.IGNORECASE,
)
_HEADING = re.compile(r"\s*(?:\*\*|__)[^*_<>{}\n]{1,60}(?:(?:\*\*|__)\s?[:\u2013\u2014-]|[:.](?:\*\*|__))\s*")
_PREFACE = re.compile(
    r"\s*(?:here(?:'s| is| are)|try|how about|perhaps|maybe|use|consider|e\.g\.|for example|i(?:'d| would)? suggest"
    r"|something like)\b[^:\"`*\u201c]{0,60}:?\s*(?=[\"'`*\u201c])"
    r"|[^\"`*\u201c<>{}]{1,60}(?:[:=]|\s[\u2013\u2014-])\s*(?=[\"`\u201c]|\*\*)",
    re.IGNORECASE,
)
_SPANS = re.compile(
    r"(?<![\w\"])\"([^\"\n]+)\"(?![\w\"])|\u201c([^\u201c\u201d\n]+)\u201d|`([^`\n]+)`|\*\*([^*\n]+)\*\*"
)
_QUOTED = re.compile(
    r"(?:(\*{1,3}|_{1,3}|`{1,3})(.+?)\1|\"((?:[^\"\\]|\\.)+)\"|'(.+?)'(?!\w)|\u2018(.+?)\u2019(?!\w)"
    r"|[\u201c\u201e]([^\u201c\u201d]+)[\u201c\u201d]|\u00ab(.+?)\u00bb|[\u300c\u300e](.+?)[\u300d\u300f])"
    r"(?:[,;.]?\s*$|[,;:.]?\s*(?:[-\u2013\u2014:(\[#|\u2190\u2192]|//|=>|->|(?:because|which|this|to|for)\b))",
    re.IGNORECASE,
)
"""A quoted text with nothing behind it but an explanation."""
_EXPLANATION = re.compile(
    r"(?<=[.!?])(?:\s+[-\u2013\u2014]+\s|\s*[:;]\s|\s+(?:#|//|=>|->|\u2190|\u2192)"
    r"|\s*[(\[](?=[^()\[\]]*[a-z]\s[^()\[\]]*[)\]]\s*$)).*$|\s*\[\d{1,3}\]\s*$|\s+(?:\u2014|->|=>|\u2192)\s.*$",
    re.IGNORECASE | re.DOTALL,
)
_ODD_QUOTE = re.compile(r"^\"|(?<=[^\d\s])\"\s*(?:[,;]?\s*$|[-\u2013\u2014:(].*$)")
_TAIL = re.compile(r"\s(-|\u2013|\()(?:\s|(?<=\()).*$|(:)\s.*$")
"""A possible explanation behind a template; taken for one if every item of a list has it."""
_SEPARATOR = re.compile(r"\s*[|;]\s*|(?<=[^\d\s][.!?])\s+|\s+(?=\d{1,2}[.)]\s)")
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
    answer = _sections(_unescaped(without_thoughts(completion).answer))
    texts = (answer, _BARE.sub(_REPAIRED, answer))
    parts = (part for text in texts for part in (_FINAL.split(text)[-1], text) if has_placeholder(part))
    readings = ([*itertools.chain.from_iterable(map(_templates, read(part)))] for part in parts for _, read in FORMS)
    templates = next(filter(None, readings), [])
    others = (" ".join(content.split()) for content in _contents(answer)[0] if not has_placeholder(content))
    others = (text for text in others if re.search(r"\w", text) and not _has_markup(text))
    templates += [text for text in others if _BARE.sub(_REPAIRED, text) not in templates]
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


def repaired(text: str) -> str:
    """Return a text with look-alikes of the placeholder replaced by it.

    >>> repaired("a {class} [cropped]"), repaired("a photo of a CLASS"), repaired("a {color} dog")
    ('a <CLASS> [cropped]', 'a photo of a <CLASS>', 'a {color} dog')
    """
    text = _LOOKALIKE.sub(PLACEHOLDER, text)
    return text if PLACEHOLDER in text else _BARE.sub(PLACEHOLDER, text)


def undressed(text: str) -> str:
    """Return a text without list marker, label, surrounding quotes and explanation.

    >>> undressed('2) Template 2: "a photo of a <CLASS>." - plain')
    'a photo of a <CLASS>.'
    >>> undressed('a "retro" photo of a <CLASS>, taken in 1990 (or so)')
    'a "retro" photo of a <CLASS>, taken in 1990 (or so)'
    """
    text = " ".join(text.split())
    if len(text) > LONGEST_LINE or not has_placeholder(text):
        return text
    for _ in range(6):  # bounded for hostile answers; real ones have two or three layers
        before, text = text, _quoted(_without_label(text))
        if text == before:
            break
    explained = _EXPLANATION.search(text)
    if explained and has_placeholder(text[: explained.start()]) and not has_placeholder(explained[0]):
        text = text[: explained.start()]
    text = re.sub(r"[*`]+", "", text).strip()
    text = _ODD_QUOTE.sub("", text) if text.count('"') % 2 else text
    return text.replace('\\"', '"').strip().rstrip(",;").strip()


def _tagged(text: str) -> Iterable[str]:
    """Texts between tags, or after them if none is closed; several lines are several templates."""
    own_lines, inline = _contents(text)
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
        own = _rank(line.strip())
        rank = 0 if own == 1 and rank == 0 and not line[:1].isspace() else own  # a list with two kinds of markers
        if has_placeholder(line) and not _speaks(line) and not (rank == 2 and _PROSE.search(line)):
            groups[rank].append(line)
    chosen = max(groups[:2], key=len) or groups[2]
    texts = list(dict.fromkeys(undressed(part) for line in chosen for part in _parts(line)))  # a draft, then the answer
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
    for part in map(undressed, _parts(text)):
        has_words = re.search(r"[^\W\d_]", _PLACEHOLDER.sub("", part))
        if has_placeholder(part) and has_words and not _has_markup(part):
            yield part


def _has_markup(text: str) -> bool:
    text = repaired(text).replace(PLACEHOLDER, "x")
    is_balanced = all(text.count(opening) == text.count(closing) for opening, closing in ("()", "[]"))
    return not is_balanced or _MARKUP.search(text) is not None


def _unescaped(text: str) -> str:
    """Return a text without escapes and look-alikes of the placeholder."""
    text = re.sub(r"\\u003([ce])", lambda code: "<" if code[1] in "cC" else ">", text, flags=re.IGNORECASE)
    for _ in range(2):
        text = html.unescape(re.sub(r"&lt;\s?class\s?&gt;", _REPAIRED, text, flags=re.IGNORECASE))
    return _LOOKALIKE.sub(lambda match: match[0] if match[0] == PLACEHOLDER else _REPAIRED, text)


def _sections(text: str) -> str:
    """Return the field with the templates of an answer in DSPy's chat format."""
    parts = _SECTION.split(text)  # text, name, text, name, text, ...
    named = [content for name, content in zip(parts[1::2], parts[2::2], strict=True) if _TEMPLATE_KEY.fullmatch(name)]
    return "\n".join(named or parts[::2])


def _contents(text: str) -> tuple[list[str], list[str]]:
    """Return the contents of tags that begin a line, and those of tags within sentences, which must be closed."""
    own_lines: list[str] = []
    inline: list[str] = []
    begins_line, opened, end = True, False, 0
    for tag in _TAG.finditer(text):
        closes = bool(tag[1] or tag[2])
        content = text[end : tag.start()] if opened else ""
        if closes or (begins_line and has_placeholder(content)):  # some models forget the slash
            (own_lines if begins_line else inline).append(content)
        if end == 0 or "\n" in text[end : tag.start()]:
            before = text[max(0, tag.start() - _BEFORE) : tag.start()].rpartition("\n")[2]
            begins_line = _WORDS.search(before) is None
        opened, end = not closes, tag.end()
    return [*own_lines, text[end:]] if opened and begins_line else own_lines, inline


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
        yield from _items(_unescaped(value))
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
    text = _BLOCKS.sub(lambda tag: "" if tag[1].lower() in _INLINE else "\n\n", _TAG.sub("\n", text))
    lines = (line for line in text.splitlines()[-MOST_LINES:] if len(line) <= LONGEST_LINE)
    return [line[: len(line) - len(line.lstrip())] + " ".join(line.split()) for line in lines]


def _parts(text: str) -> list[str]:
    """Return the templates on one line: several if several are quoted, or if it can be split so that each is whole."""
    if len(text) > LONGEST_LINE or not has_placeholder(text):
        return [text]
    spans = [next(filter(None, span)) for span in _SPANS.findall(text)]
    if len(spans := [span for span in spans if has_placeholder(span) and " " in span.strip()]) > 1:
        return spans
    parts = _SEPARATOR.split(text) if len(_PLACEHOLDER.findall(text)) > 1 else []
    return parts if parts and all(map(has_placeholder, parts)) else [text]


def _rank(line: str) -> int:
    """Return 0 for a line with a number or label, 1 for one with a bullet or quotes, and 2 for a bare one."""
    unbulleted = line[bullet.end() :] if (bullet := _BULLET.match(line)) else line
    if _NUMBER.match(unbulleted) or _LABEL.match(unbulleted):
        return 0
    return 1 if bullet or _quoted(line.strip()) != line.strip() or len(_parts(line)) > 1 else 2


def _speaks(line: str) -> bool:
    """Return True if a line announces or discusses templates instead of being one."""
    line = line.strip().rstrip("*_ ")
    text = _without_label(line)
    if line.endswith(":"):
        return True
    return _quoted(text) == text and len(_parts(text)) == 1 and _SPEECH.search(text) is not None


def _without_label(text: str) -> str:
    for pattern in (_BULLET, _NUMBER, _NUMBER, _LABEL, _HEADING, _PREFACE):
        if (match := pattern.match(text)) and has_placeholder(text[match.end() :]):
            text = text[match.end() :]
    return text.strip()


def _quoted(text: str) -> str:
    """Return the quoted text at the beginning of a text if it is the template; otherwise the text."""
    match = _QUOTED.match(text)
    inner = next(filter(None, match.groups()[1:]), "") if match else ""
    return inner.strip() if match and has_placeholder(inner) and not has_placeholder(text[match.end() :]) else text

"""Clean the text of a template in an answer: look-alikes of `<CLASS>`, list markers, labels, quotes, explanations."""

import html
import re

from ipo_dspy.template import PLACEHOLDER, has_placeholder

LONGEST_LINE = 6000
"""Maximum number of characters of a line; a longer one cannot be a template."""
_LOOKALIKE = re.compile(
    r"\\{0,2}[$%]?[<{\[\uff1c\u27e8\u2039\u00ab]{1,3}\s?(?:(?:insert|your|the)[ _])?"
    r"(?:class|category|label|object|subject)(?:[ _-]?(?:name|label))?(?: here)?"
    r"\s?/?\\{0,2}[>}\]\uff1e\u27e9\u203a\u00bb]{1,3}"
    r"|<\s*class\s*>|%\(class\w{0,6}\)s|\$class(?:_?name)?\b|(?-i:__CLASS__|%CLASS%)|\{\}|%s",
    re.IGNORECASE,
)
BARE = re.compile(r"\(CLASS(?:[ _]?NAME)?\)|<?\bCLASS(?:[ _]?NAME)?\b>?")
"""Replaced by `<CLASS>` only if an answer has no template with a closer look-alike."""
PLACEHOLDER_IN_ANY_CASE = re.compile(r"<\s*class\s*>", re.IGNORECASE)
REPAIRED = "<class>"
"""Means the same as `<CLASS>`, so that a repaired template differs from one that was written as requested."""
_MARKUP = re.compile(
    r"[<>|`{}\\*\x00]|__|\]\(|&\w+;|^[_#\[\]>,;:]|[_\[]$|[\"']\s*[:,]?\s*[\"'\]]|\[\s*[\"']|(?-i:CLASS)|^\W*ins\b",
    re.IGNORECASE,
)
"""Text that no template holds besides its placeholder."""
NOUN = (
    "(?:templates?|prompts?|answers?|options?|candidates?|suggestions?|proposals?|versions?|variants?|sentences?"
    "|instructions?|ideas?|captions?|text)"
)
"""Words that a model has for a template."""
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
    rf"\s*[\"'*_]{{0,3}}(?:(?:(?:new|improved|candidate|better|final|suggested|proposed)\s)*{NOUN}\s?(?:#|no\.?)?\s?"
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
_SEPARATOR = re.compile(r"\s*[|;]\s*|(?<=[^\d\s][.!?])\s+|\s+(?=\d{1,2}[.)]\s)")


def repaired(text: str) -> str:
    """Return a text with look-alikes of the placeholder replaced by it.

    >>> repaired("a {class} [cropped]"), repaired("a photo of a CLASS"), repaired("a {color} dog")
    ('a <CLASS> [cropped]', 'a photo of a <CLASS>', 'a {color} dog')
    """
    text = _LOOKALIKE.sub(PLACEHOLDER, text)
    return text if PLACEHOLDER in text else BARE.sub(PLACEHOLDER, text)


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
        before, text = text, quoted(without_label(text))
        if text == before:
            break
    explained = _EXPLANATION.search(text)
    if explained and has_placeholder(text[: explained.start()]) and not has_placeholder(explained[0]):
        text = text[: explained.start()]
    text = re.sub(r"[*`]+", "", text).strip()
    text = _ODD_QUOTE.sub("", text) if text.count('"') % 2 else text
    return text.replace('\\"', '"').strip().rstrip(",;").strip()


def has_markup(text: str) -> bool:
    """Return True if a text has brackets, code or JSON that no template holds."""
    text = repaired(text).replace(PLACEHOLDER, "x")
    is_balanced = all(text.count(opening) == text.count(closing) for opening, closing in ("()", "[]"))
    return not is_balanced or _MARKUP.search(text) is not None


def unescaped(text: str) -> str:
    """Return a text without escapes and look-alikes of the placeholder."""
    text = re.sub(r"\\u003([ce])", lambda code: "<" if code[1] in "cC" else ">", text, flags=re.IGNORECASE)
    for _ in range(2):
        text = html.unescape(re.sub(r"&lt;\s?class\s?&gt;", REPAIRED, text, flags=re.IGNORECASE))
    return _LOOKALIKE.sub(lambda match: match[0] if match[0] == PLACEHOLDER else REPAIRED, text)


def split_templates(text: str) -> list[str]:
    """Return the templates on one line: several if several are quoted, or if it can be split so that each is whole."""
    if len(text) > LONGEST_LINE or not has_placeholder(text):
        return [text]
    spans = [next(filter(None, span)) for span in _SPANS.findall(text)]
    if len(spans := [span for span in spans if has_placeholder(span) and " " in span.strip()]) > 1:
        return spans
    parts = _SEPARATOR.split(text) if len(PLACEHOLDER_IN_ANY_CASE.findall(text)) > 1 else []
    return parts if parts and all(map(has_placeholder, parts)) else [text]


def marker_rank(line: str) -> int:
    """Return 0 for a line with a number or label, 1 for one with a bullet or quotes, and 2 for a bare one."""
    unbulleted = line[bullet.end() :] if (bullet := _BULLET.match(line)) else line
    if _NUMBER.match(unbulleted) or _LABEL.match(unbulleted):
        return 0
    return 1 if bullet or quoted(line.strip()) != line.strip() or len(split_templates(line)) > 1 else 2


def without_label(text: str) -> str:
    """Return a text without the list marker, label, heading or preface before it, none of which holds `<CLASS>`."""
    for pattern in (_BULLET, _NUMBER, _NUMBER, _LABEL, _HEADING, _PREFACE):
        if (match := pattern.match(text)) and has_placeholder(text[match.end() :]) == has_placeholder(text):
            text = text[match.end() :]
    return text.strip()


def quoted(text: str) -> str:
    """Return the quoted text at the beginning of a text if it is the template; otherwise the text."""
    match = _QUOTED.match(text)
    inner = next(filter(None, match.groups()[1:]), "") if match else ""
    return inner.strip() if match and has_placeholder(inner) and not has_placeholder(text[match.end() :]) else text

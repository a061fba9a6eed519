"""The phrases of a template, and what it reads without one of them.

A phrase is a phrase of the bank (`phrase_bank.BANK`), such as `pixel art` or `on a white background`, or any other word
that carries meaning. Articles, prepositions and the like are not counted.
"""

import functools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ipo_dspy.phrase_bank import BANK, Phrase
from ipo_dspy.template import PLACEHOLDER

if TYPE_CHECKING:
    import inflect

_PREPOSITIONS = "of|in|on|at|by|for|from|with|without|as|and|or|that|which"
FUNCTION_WORDS = frozenset(
    f"a|an|the|to|is|are|was|it|its|this|there|here|shows|showing|depicts|depicting|{_PREPOSITIONS}".split("|")
)
"""Words without a meaning by themselves; they are never counted or removed alone."""

WORD = re.compile(r"<CLASS>|[^\W_]+(?:[-'\u2019][^\W_]+)*")
JOINED = re.compile(
    r"(?:about|above|against|as|at|before|behind|below|by|for|from|in|inside|into|like|near|on|over|through|under|with"
    r"|within|without|and|or|that|who|is|are|was|drawn|made|seen|shown|taken|indoors|outdoors|\w{3,}(?:ed|ing))\b",
    re.IGNORECASE,
)
"""Beginnings of clauses that no comma separates from a noun."""
_TIE = re.compile(r"^\s*(?:of|(?:(?:that|which) )?(?:shows|showing|depicts|depicting))\b", re.IGNORECASE)
"""Words between a medium and what it shows."""
_BREAK = re.compile(rf"[:;()\[\]{{}}\"“”«»]|\b(?:an?|the|{_PREPOSITIONS})\b", re.IGNORECASE)
_BROKEN = re.compile(
    rf"\b(?:an?|the|{_PREPOSITIONS})\s*(?:[,.:;)]|$)|\b(?:an?|the) (?:an?|the|{_PREPOSITIONS})\b"
    rf"|\b(?:{_PREPOSITIONS}) (?:{_PREPOSITIONS})\b",
    re.IGNORECASE,
)
"""An article or a preposition with nothing behind it."""
_EMPTY = re.compile(r"""\(\)|\[\]|\{\}|(?<!\w)["“”«»]\s*["“”«»](?!\w)""")
"""Brackets and quotation marks around nothing."""
_ARTICLE = re.compile(r"\b([aA])(n?) (<CLASS>|[\w-]+)")


def phrase_pattern(phrases: Sequence[Phrase]) -> re.Pattern[str]:
    """Return a pattern that matches any of the phrases, the longest first."""
    longest_first = sorted({re.escape(p.text) for p in phrases}, key=lambda text: (-len(text), text))
    longest_first = [re.sub(r"\\[ -]", "[- ]", text) for text in longest_first]  # black-and-white, low resolution
    return re.compile(rf"(?<![\w-])(?:{'|'.join(longest_first)})(?![\w-])", re.IGNORECASE)


def phrase_key(text: str) -> str:
    """Return a phrase in the form in which `low resolution` and `Low-resolution` are one.

    >>> phrase_key("Black-and-white")
    'black and white'
    """
    return text.lower().replace("-", " ")


def phrases(text: str) -> list[str]:
    """Return the phrases of one line of a template, in order.

    >>> phrases("a good grey clear screenshot of a <CLASS>, on a white background.")
    ['good', 'grey', 'clear', 'screenshot', 'on a white background']
    >>> phrases("a centered satellite photo of <CLASS>, a type of land use.")
    ['centered', 'satellite photo', 'type', 'land', 'use']
    >>> phrases("<CLASS>")
    []
    """
    return [text[start:end] for start, end in phrase_spans(text)]


def phrase_spans(text: str) -> list[tuple[int, int]]:
    """Return the start and the end of each phrase of one line of a template, in order."""
    masked = text.replace(PLACEHOLDER, "\0" * len(PLACEHOLDER))
    known = [match.span() for match in _bank().finditer(masked)]
    found = [match.span() for match in WORD.finditer(masked) if match.group().lower() not in FUNCTION_WORDS]
    others = [(start, end) for start, end in found if not any(a <= start < b for a, b in known)]
    return sorted([*known, *others])


def shorter_texts(text: str) -> dict[str, str]:
    """Return the sentences that remain when a phrase or a clause of phrases is removed, with what was removed.

    >>> shorter_texts("a dark photo of a <CLASS>.")
    {'a photo of a <CLASS>.': 'dark', 'a <CLASS>.': 'dark photo'}
    """
    removed: dict[str, str] = {}
    for clause in _clauses(text, phrase_spans(text)):
        modifiers = clause[:-1] if _follows_article(text, clause[0]) else []  # the last one is the noun
        for i, (start, end) in enumerate(modifiers):
            removed.setdefault(_without(text, start, end, is_first=i == 0), text[start:end])
        start, end = clause[0][0], clause[-1][1]
        removed.setdefault(_without_clause(text, start, end), text[start:end])
    return {
        left: phrase
        for left, phrase in removed.items()
        if PLACEHOLDER in left and left != text and not _BROKEN.search(left)
    }


@functools.cache
def _bank() -> re.Pattern[str]:
    return phrase_pattern(BANK)


@functools.cache
def _adjectives() -> frozenset[str]:
    """Return the phrases that are adjectives and no nouns."""
    nouns = {phrase.text for phrase in BANK if phrase.position == "noun"}
    return frozenset(phrase.text for phrase in BANK if phrase.position == "adjective" and phrase.text not in nouns)


@functools.lru_cache(maxsize=4096)
def _is_clause(phrase: str) -> bool:
    """Return True for phrases that follow a noun, such as `tinted green`."""
    return any(known.position == "after" and known.text == phrase.lower() for known in BANK)


@functools.cache
def _bank_words() -> frozenset[str]:
    return frozenset(word for phrase in BANK for word in phrase.text.split())


def _clauses(text: str, spans: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Group phrases between which there is neither the class name nor a preposition, nor a comma behind the class."""
    groups: list[list[tuple[int, int]]] = []
    for span in spans:
        between = text[groups[-1][-1][1] : span[0]] if groups else ""
        is_behind = PLACEHOLDER in text[: span[0]]
        is_apart = PLACEHOLDER in between or _BREAK.match(text, span[0]) is not None or _is_clause(text[slice(*span)])
        if not (is_behind and between.strip() == "of"):  # a type of pet
            is_apart = is_apart or _BREAK.search(between) is not None
        if groups and is_behind and "," in between:  # apart, but for a dark, moody atmosphere
            before, last = groups[-1][0], groups[-1][-1]
            is_apart = is_apart or not (_follows_article(text, before) and text[slice(*last)].lower() in _adjectives())
        if not groups or is_apart:
            groups.append([])
        groups[-1].append(span)
    return groups


def _follows_article(text: str, span: tuple[int, int]) -> bool:
    return re.search(rf"(?:\b(?:an?|the|{_PREPOSITIONS})|^|,)\s*$", text[: span[0]], re.IGNORECASE) is not None


def _without(text: str, start: int, end: int, *, is_first: bool) -> str:
    """Remove a modifier, with the comma that separates it from the last one, or the first one from the next."""
    before, after = text[:start].rstrip(), text[end:].lstrip()
    return tidy(f"{before} {after.removeprefix(',')}" if is_first else f"{before.removesuffix(',')} {after}")


def _without_clause(text: str, start: int, end: int) -> str:
    """Remove a clause, with the words that tie it to the rest; an article directly before the class name stays."""
    before, after = text[:start].rstrip(" ,"), _TIE.sub("", text[end:])
    if not text[:start].rstrip().endswith(",") and JOINED.match(rest := after.lstrip(" ,")):
        after = rest  # follows the noun now
    if not after.lstrip().startswith(PLACEHOLDER):
        while (match := re.search(r"(?:^|\s)(\w+)$", before)) and match[1].lower() in FUNCTION_WORDS:
            before = before[: match.start()].rstrip(" ,")
    return tidy(f"{before} {after}")


def tidy(text: str) -> str:
    """Return the text with spaces, commas and indefinite articles as English has them.

    >>> tidy("an  blurry photo of a  <CLASS> , , at night .")
    'a blurry photo of a <CLASS>, at night.'
    >>> tidy("a RGB image and an uniform"), tidy(", <CLASS>,")
    ('an RGB image and a uniform', '<CLASS>')
    """
    text = _EMPTY.sub(" ", re.sub(r"([(\[{])[\s,.:;]+", r"\1", text))
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"\s+([,.:;)\]}])", r"\1", text)
    text = re.sub(r"[,:;]+(?=[,.:;])|^[\s,.:;]+|[\s,:;]+$", "", text).strip()
    return _ARTICLE.sub(lambda match: f"{match[1]}{_article(match[3])[1:]} {match[3]}", text)


@functools.lru_cache(maxsize=4096)
def _article(word: str) -> str:
    """Return `a` or `an`, as it stands before a word; `a` before the class name, which may be any."""
    if word == PLACEHOLDER:
        return "a"
    if word[0].isdigit():  # inflect knows no 8-bit and no 11th
        return "an" if re.match(r"8|1[18](?!\d)", word) else "a"
    if word.lower() in _bank_words():
        return "an" if re.match(r"[aeiou](?!ne\b)|x-ray", word, re.IGNORECASE) else "a"
    return str(_inflect().a(word)).split(" ", 1)[0]


@functools.cache
def _inflect() -> "inflect.engine":
    import inflect  # takes a second, so not for the words of the bank

    return inflect.engine()

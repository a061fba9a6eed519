"""Captions of images: templates with a grammar, whose phrases do not contradict or repeat one another.

A caption has a medium, adjectives of the medium and of the object, and clauses at the end, each of them a phrase with
groups (`vocabulary.Phrase`). It never has two phrases of one group, so a picture is not both red and grey, nor both
blurry and sharp. Any template can be read as a caption; words outside the bank become phrases of their own.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ipo_dspy.template import PLACEHOLDER
from ipo_dspy.template_phrases import FUNCTION_WORDS, phrase_pattern, tidy
from ipo_dspy.vocabulary import Phrase

DETERMINERS = ("a", "the", "")
MASS_NOUNS = frozenset({"pixel art", "clip art", "vector art", "graffiti", "embroidery", "origami"})
"""Media that take no article."""
OF_OBJECT = frozenset({"size", "color", "tone", "texture", "age", "orientation", "lighting", "medium", "quality"})
"""Groups whose adjectives can stand before the name of what is shown: `a photo of a small dog`."""
_ORDER = (
    *("quality", "size", "clarity", "resolution", "contrast", "texture", "lighting", "place", "orientation"),
    *("elevation", "age", "inversion", "tone", "color", "setting", "medium"),
)
"""Order of adjectives before a noun."""
_APART = re.compile(r"(?:an?|the|hard|barely|out|black|white)\b", re.IGNORECASE)
"""Beginnings of clauses that a comma separates from the class name."""
_OF = re.compile(r"^(.*)\b(?:of|showing)\b(.*)$", re.IGNORECASE)
_DETERMINED = re.compile(r"^(.*?)\b(an?|the)\s+((?:(?!\ban?\b|\bthe\b)[^,])*)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption of an image.

    Attributes:
        medium: a noun, or None: `a small <CLASS>.`
        look: adjectives of the medium.
        object: adjectives of what is shown.
        after: clauses at the end.
        determiner: of the class name: `a`, `the` or none.
        is_label: True for the class name first: `<CLASS>, a small drawing.`

    >>> photo, blurry = Phrase("photo", "medium", "noun"), Phrase("blurry", "quality", "adjective", ("clarity",))
    >>> caption = Caption(photo, look=(blurry,))
    >>> str(caption), str(caption.add(Phrase("sharp", "quality", "adjective", ("clarity",))))
    ('a blurry photo of a <CLASS>.', 'a sharp photo of a <CLASS>.')
    """

    medium: Phrase | None = None
    look: tuple[Phrase, ...] = ()
    object: tuple[Phrase, ...] = ()
    after: tuple[Phrase, ...] = ()
    determiner: str = "a"
    is_label: bool = False

    @property
    def phrases(self) -> tuple[Phrase, ...]:
        """All phrases, in order."""
        return (*self.look, *((self.medium,) if self.medium else ()), *self.object, *self.after)

    def __str__(self) -> str:
        look = "" if self.medium is None else " ".join([*_texts(_ordered(self.look)), self.medium.text])
        look = look if self.medium is None or self.medium.text in MASS_NOUNS else f"a {look}"
        thing = " ".join(filter(None, [self.determiner, *_texts(_ordered(self.object)), PLACEHOLDER]))
        after = "".join(
            f", {text}" if i or _APART.match(text) else f" {text}" for i, text in enumerate(_texts(self.after))
        )
        if self.medium is None:
            return tidy(f"{thing}{after}.")
        return tidy(f"{PLACEHOLDER}, {look}{after}." if self.is_label else f"{look} of {thing}{after}.")

    def add(self, phrase: Phrase, *, to_object: bool = False) -> "Caption":
        """Return the caption with a phrase, without those that it excludes."""
        rest = self.without(p for p in self.phrases if not set(p.groups).isdisjoint(phrase.groups))
        if phrase.position == "noun":  # some adjectives stood before the object for lack of a medium
            moved = tuple(p for p in rest.object if not OF_OBJECT.issuperset(p.groups))
            thing = tuple(p for p in rest.object if p not in moved)
            return replace(rest, medium=phrase, look=(*rest.look, *moved), object=thing)
        if phrase.position == "after":
            return replace(rest, after=(*rest.after, phrase))
        if rest.medium is None or (to_object and not rest.is_label and OF_OBJECT.issuperset(phrase.groups)):
            return replace(rest, object=(*rest.object, phrase))
        return replace(rest, look=(*rest.look, phrase))

    def without(self, phrases: Iterable[Phrase]) -> "Caption":
        """Return the caption without some of its phrases; adjectives of a medium go with it to the object."""
        gone = set(phrases)
        look, thing, after = (
            tuple(phrase for phrase in part if phrase not in gone) for part in (self.look, self.object, self.after)
        )
        if self.medium is None or self.medium not in gone:
            return replace(self, look=look, object=thing, after=after)
        return Caption(object=(*look, *thing), after=after, determiner=self.determiner)


class CaptionReader:
    """Reads templates as captions.

    Args:
        phrases: the bank; of phrases with the same text and position, the first one counts.
    """

    def __init__(self, phrases: Sequence[Phrase]) -> None:
        self._find = phrase_pattern(phrases)
        self._known = {(phrase.text.lower(), phrase.position): phrase for phrase in reversed(phrases)}

    def read(self, text: str) -> Caption:
        """Return the caption that has the phrases of a template; of two that exclude each other, the last one.

        >>> from ipo_dspy.vocabulary import BANK
        >>> reader = CaptionReader(BANK)
        >>> str(reader.read("A blurry photo of the small <CLASS> on a table, at night"))
        'a blurry photo of the small <CLASS> on a table, at night.'
        >>> str(reader.read("a centered satellite photo of <CLASS>, a type of land use."))
        'a centered satellite photo of <CLASS>, a type of land use.'
        """
        before, _, behind = text.rstrip(" .").partition(PLACEHOLDER)
        look, thing = match.groups() if (match := _OF.match(before)) else ("", before)
        determiner = ""
        if match := _DETERMINED.match(f"{thing.strip()} "):
            more, determiner, thing = match.groups()
            look += more
        clauses = self._clauses(behind.replace(PLACEHOLDER, " "))
        noun, adjectives = self._medium(look)
        label = next((phrase for phrase in clauses if phrase.position == "noun"), None)
        caption = Caption(
            noun or label,
            determiner="a" if determiner.lower() == "an" else determiner.lower(),
            is_label=noun is None and label is not None,
        )
        for phrase in (*adjectives, *clauses):
            caption = caption if phrase.position == "noun" else caption.add(phrase)
        for phrase in self._adjectives(thing):
            caption = caption.add(phrase, to_object=True)
        return caption

    def _medium(self, text: str) -> tuple[Phrase | None, list[Phrase]]:
        """Return the noun of a text, by default its last word, and the adjectives before it."""
        words = _pieces(self._find, text)
        known = [i for i, piece in enumerate(words) if (piece, "noun") in self._known]
        if not words:
            return None, []
        at = known[-1] if known else len(words) - 1
        noun = self._known.get((words[at], "noun"), Phrase(words[at], "medium", "noun"))
        return noun, [self._adjective(piece) for piece in words[:at]]

    def _adjectives(self, text: str) -> list[Phrase]:
        return [self._adjective(piece) for piece in _pieces(self._find, text)]

    def _adjective(self, text: str) -> Phrase:
        return self._known.get((text, "adjective"), Phrase(text, "quality", "adjective", (text,)))

    def _clauses(self, text: str) -> list[Phrase]:
        """Return the phrases behind the class name; a clause of other words is a phrase of its own."""
        clauses: list[Phrase] = []
        for clause in filter(None, map(str.strip, text.split(","))):
            pieces = _pieces(self._find, clause)
            phrases = [self._behind(piece) for piece in pieces]
            if all(phrases):
                clauses += [phrase for phrase in phrases if phrase is not None]
            else:
                clauses.append(Phrase(clause, "setting", "after", (clause.lower(),)))
        return clauses

    def _behind(self, text: str) -> Phrase | None:
        return next((p for q in ("after", "noun", "adjective") if (p := self._known.get((text, q)))), None)


def _pieces(pattern: re.Pattern[str], text: str) -> list[str]:
    """Return the known phrases and the other words of a text, in order and in lower case."""
    known = [(match.start(), match.group()) for match in pattern.finditer(text)]
    masked = pattern.sub(lambda match: "\0" * len(match.group()), text)
    others = [(match.start(), match.group()) for match in re.finditer(r"[^\s,\0]+", masked)]
    return [words.lower() for _, words in sorted([*known, *others]) if words.lower() not in FUNCTION_WORDS]


def _texts(phrases: Iterable[Phrase]) -> list[str]:
    return [phrase.text for phrase in phrases]


def _ordered(adjectives: Iterable[Phrase]) -> list[Phrase]:
    return sorted(adjectives, key=lambda phrase: _ORDER.index(phrase.groups[0]) if phrase.groups[0] in _ORDER else 0)

"""Captions of images: grammatical templates whose phrases do not contradict or repeat one another.

A caption has a medium, adjectives of the medium and of the object, and clauses at the end, each of them a phrase with
groups (`phrase_bank.Phrase`). It never has two phrases of one group, so a picture is not both red and grey, nor both
blurry and sharp. Any template can be read as a caption; words outside the bank become separate phrases.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ipo_dspy.phrase_bank import Phrase, Position
from ipo_dspy.template import PLACEHOLDER
from ipo_dspy.template_phrases import FUNCTION_WORDS, JOINED, WORD, phrase_key, phrase_pattern, tidy

DETERMINERS = ("a", "the")
MASS_NOUNS = frozenset(["art", "graffiti", "embroidery", "footage", "imagery"])
"""Last words of media that take no article."""
OF_OBJECT = frozenset(
    ["size", "color", "tone", "texture", "noise", "age", "orientation", "lighting", "medium", "quality"]
)
"""Groups whose adjectives can stand before the name of what is shown: `a photo of a small dog`."""
_OF_IMAGE = (
    "aerial, bad, clear, close-up, cluttered, color, compressed, crisp, cropped, dim, foggy, good, grainy, grayscale, "
    "hazy, high-contrast, high-resolution, inverted, low-contrast, low-resolution, negative, night-time, noisy, "
    "overexposed, saturated, scratched, sepia, sharp, smeared, soft, stippled, underexposed, unfocused, washed-out, "
    "wide, zoomed-in"
)
OF_IMAGE = frozenset(_OF_IMAGE.split(", "))
"""Adjectives of images alone: `a noisy dog` and `a sharp knife` say something else."""
PICTURE = Phrase("picture", "medium", "noun", ("any",))
"""The medium of a caption that has an adjective of images and no other medium."""
_ORDER = (
    *("quality", "size", "clarity", "resolution", "contrast", "noise", "texture", "detail", "lighting", "place"),
    *("orientation", "age", "setting", "inversion", "tone", "color", "framing", "elevation", "style", "medium"),
)
"""Order of adjectives before a noun."""
_OF_WHAT_IS_SHOWN = frozenset({"viewpoint", "setting", "lighting"})
"""Facets whose clauses come first, and stay with the class name when it stands before the medium."""
_OF = re.compile(r"^(.*)(?:(?<![\w-])(?:of|showing|depicting)(?![\w-])|[,:](?=\s*$))(.*)$", re.IGNORECASE)
_DETERMINER = r"\b(?:an?|the|one|another|some|many|several|each|every|my|your|our)\b"
_DETERMINED = re.compile(rf"^(.*?)({_DETERMINER})\s+((?:(?!{_DETERMINER}).)*)$", re.IGNORECASE)
_MARKS = re.compile(r"[\"\u201c\u201d*`]|(?<=<CLASS>)(?:'s|[\w\u2019-]+)|[\s.]+$")
"""Quotation marks, endings of the class name, and the full stop."""
_CLAUSE_END = re.compile(r"[,;:()]|\.(?=\s)")
_LIST_WORDS = re.compile(r"^\s*(?:an?|the)\b|\band\b", re.IGNORECASE)


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
        thing = " ".join(filter(None, [self.determiner, *_texts(_ordered(self.object)), PLACEHOLDER]))
        drawn = [phrase for phrase in self.after if "medium" in phrase.groups]
        shown = [phrase for phrase in self.after if phrase.facet in _OF_WHAT_IS_SHOWN and phrase not in drawn]
        others = [phrase for phrase in self.after if phrase not in drawn and phrase not in shown]
        after = _joined([*drawn, *shown, *others])
        if self.medium is None:
            return tidy(f"{thing}{after}.")
        article = "" if self.medium.text.split()[-1] in MASS_NOUNS else "a"
        look = " ".join([article, *_texts(_ordered(self.look)), self.medium.text])
        if self.is_label:
            return tidy(f"{PLACEHOLDER}{_joined(shown)}, {look}{_joined([*drawn, *others])}.")
        return tidy(f"{look} of {thing}{after}.")

    def add(self, phrase: Phrase, *, to_object: bool = False) -> "Caption":
        """Return the caption with a phrase, without those that it excludes."""
        of_image = phrase.position == "adjective" and phrase.text in OF_IMAGE
        rest = self.without(p for p in self.phrases if not set(p.groups).isdisjoint(phrase.groups))
        if of_image and rest.medium is None:
            rest = rest.add(PICTURE)
        if phrase.position == "noun":  # some adjectives stood before the object for lack of a medium
            moved = tuple(p for p in rest.object if p.groups[0] not in OF_OBJECT)
            thing = tuple(p for p in rest.object if p not in moved)
            return replace(rest, medium=phrase, look=(*rest.look, *moved), object=thing)
        if phrase.position == "after":
            return replace(rest, after=(*rest.after, phrase))
        if rest.medium is None or (to_object and not rest.is_label and not of_image and phrase.groups[0] in OF_OBJECT):
            return replace(rest, object=(*rest.object, phrase))
        return replace(rest, look=(*rest.look, phrase))

    def without(self, phrases: Iterable[Phrase]) -> "Caption":
        """Return the caption without some of its phrases; without its medium, those of images alone go as well."""
        gone = set(phrases)
        look, thing, after = (
            tuple(phrase for phrase in part if phrase not in gone) for part in (self.look, self.object, self.after)
        )
        if self.medium is None or self.medium not in gone:
            return replace(self, look=look, object=thing, after=after)
        look = tuple(phrase for phrase in look if phrase.text not in OF_IMAGE)
        return Caption(object=(*look, *thing), after=after, determiner=self.determiner)


class CaptionReader:
    """Reads templates as captions.

    Args:
        phrases: the bank; of phrases with the same text and position, the first one counts.
    """

    def __init__(self, phrases: Sequence[Phrase]) -> None:
        self._find = phrase_pattern(phrases)
        forms = (phrase_key, str.lower)  # the exact form counts: out of focus is a clause, out-of-focus an adjective
        self._known = {(form(p.text), p.position): p for form in forms for p in reversed(phrases)}

    def read(self, text: str) -> Caption:
        """Return the caption that has the phrases of a template; of two that exclude each other, the last one.

        >>> from ipo_dspy.phrase_bank import BANK
        >>> reader = CaptionReader(BANK)
        >>> str(reader.read("A blurry photo of the small <CLASS> on a table, at night"))
        'a blurry photo of the small <CLASS> on a table, at night.'
        >>> str(reader.read("a centered satellite photo of <CLASS>, a type of land use."))
        'a centered satellite photo of <CLASS>, a type of land use.'
        """
        before, _, behind = _MARKS.sub("", text).partition(PLACEHOLDER)
        look, thing = match.groups() if (match := _OF.match(before)) else ("", before)
        determiner = ""
        if match := _DETERMINED.match(f"{thing.strip()} "):
            more, determiner, thing = match.groups()
            look += more
        clauses = self._clauses(behind.replace(PLACEHOLDER, " "))
        noun, adjectives = self._medium(look)
        label = next((phrase for phrase in clauses if phrase.position == "noun"), None)
        is_label = noun is None and label is not None
        determiner = "a" if is_label or determiner.lower() == "an" else determiner.lower()
        caption = Caption(noun or label, determiner=determiner, is_label=is_label)
        for phrase in (*adjectives, *clauses):
            caption = caption if phrase.position == "noun" else caption.add(phrase)
        for piece in self._pieces(thing):
            caption = caption.add(self._adjective(piece), to_object=True)
        return caption

    def _medium(self, text: str) -> tuple[Phrase | None, list[Phrase]]:
        """Return the noun of a text, by default its last word, and the adjectives before it."""
        pieces = self._pieces(text)
        nouns = [self._noun(piece) for piece in pieces]
        if not pieces:
            return None, []
        at = max((i for i, noun in enumerate(nouns) if noun), default=len(pieces) - 1)
        return nouns[at] or Phrase(pieces[at], "medium", "noun"), [self._adjective(piece) for piece in pieces[:at]]

    def _find_phrase(self, text: str, *positions: Position) -> Phrase | None:
        """Return the phrase of that text in the first position that has one."""
        keys = [(form, position) for form in (text.lower(), phrase_key(text)) for position in positions]
        return next((self._known[key] for key in keys if key in self._known), None)

    def _noun(self, text: str) -> Phrase | None:
        """Return the medium of that name; `photos` are a photo."""
        return self._find_phrase(text, "noun") or self._find_phrase(text.removesuffix("s"), "noun")

    def _adjective(self, text: str) -> Phrase:
        unknown = Phrase(text, "quality", "adjective", (text.lower(),))
        return self._find_phrase(text, "adjective") or unknown

    def _clauses(self, text: str) -> list[Phrase]:
        """Return the phrases behind the class name; a clause with other words is a separate phrase."""
        clauses: list[Phrase] = []
        for clause in filter(None, map(str.strip, _CLAUSE_END.split(text))):
            known = self._behind(self._find.findall(clause))
            if _LIST_WORDS.sub("", self._find.sub("", clause)).strip():
                groups = dict.fromkeys(group for phrase in known for group in phrase.groups)
                clauses.append(Phrase(clause, "setting", "after", (*groups, clause.lower())))
            else:
                clauses += known
        return clauses

    def _behind(self, pieces: Sequence[str]) -> list[Phrase]:
        """Return the phrases of a clause; only the last noun is one, so that a negative photo is a photo."""
        known: list[Phrase] = []
        for piece in reversed(pieces):
            has_noun = any(phrase.position == "noun" for phrase in known)
            order: tuple[Position, ...] = ("after", "adjective", "noun") if has_noun else ("after", "noun", "adjective")
            known += filter(None, [self._find_phrase(piece, *order)])
        return known[::-1]

    def _pieces(self, text: str) -> list[str]:
        """Return the known phrases and the other words of a text, in order."""
        known = [(match.start(), match.group()) for match in self._find.finditer(text)]
        masked = self._find.sub(lambda match: "\0" * len(match.group()), text)
        others = [(match.start(), match.group()) for match in WORD.finditer(masked)]
        pieces = [word.lower() if word.istitle() else word for _, word in sorted([*known, *others])]  # not RGB
        return [piece for piece in pieces if piece.lower() not in FUNCTION_WORDS]


def _joined(clauses: Iterable[Phrase]) -> str:
    """Return clauses as they follow a noun."""
    return "".join(
        f" {text}" if i == 0 and JOINED.match(text) else f", {text}" for i, text in enumerate(_texts(clauses))
    )


def _texts(phrases: Iterable[Phrase]) -> list[str]:
    return [phrase.text for phrase in phrases]


def _ordered(adjectives: Iterable[Phrase]) -> list[Phrase]:
    """Return adjectives in the order of English; other words stay next to the noun, as in `line art`."""
    rank = {group: i for i, group in enumerate(_ORDER)}
    return sorted(adjectives, key=lambda phrase: rank.get(phrase.groups[0], len(rank)))

"""Compute what the page says about the choice of the template: candidates, ties, phrases and warnings."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ipo_dspy._internal.counts import first_few, pluralize
from ipo_dspy.report import summary
from ipo_dspy.run import choice_text
from ipo_dspy.run.events import CandidateFields, ChoiceFields, FinalistFields, PhraseFields
from ipo_dspy.run.state import SearchState

CLASSES_NAMED = 10
SHORT = 3
"""Letters of the words of a phrase that are not counted by themselves, such as `of` and `the`."""


@dataclass(frozen=True, slots=True)
class PhraseRow:
    """A phrase of the selected template, and the number of descriptions that mention it.

    `words` are those of its words that are mentioned, with their number, if the phrase as a whole never is.
    """

    worth: PhraseFields
    mentions: int
    words: Sequence[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class ChoiceSummary:
    """Facts about the selected template."""

    fields: ChoiceFields
    expectation: str
    against_start: str
    ties: str
    tied: Sequence[FinalistFields]
    phrases: Sequence[PhraseRow]
    candidates: Sequence[CandidateFields]


def summarize(search: SearchState) -> ChoiceSummary | None:
    """Return what is known about the selected template; None if nothing is selected yet, or in older journals."""
    selected = search.selected
    if selected is None or "choice" not in selected:
        return None
    choice, texts = selected["choice"], [text for _, text in search.descriptions]
    is_start = search.start is not None and selected["index"] == search.start.index
    return ChoiceSummary(
        fields=choice,
        expectation=choice_text.expectation(choice, selected["selected_on"]),
        against_start=choice_text.against_start(choice, is_start=is_start),
        ties=choice_text.ties(choice),
        tied=selected.get("tied", []),
        phrases=[_phrase(worth, texts) for worth in selected.get("phrases", [])],
        candidates=selected.get("candidates", []),
    )


def _phrase(worth: PhraseFields, texts: Sequence[str]) -> PhraseRow:
    count = mentions(worth["phrase"], texts)
    parts = dict.fromkeys(word for word in worth["phrase"].split() if len(word) > SHORT) if not count else ()
    return PhraseRow(worth, count, [(word, number) for word in parts if (number := mentions(word, texts))])


def mentions(phrase: str, texts: Sequence[str]) -> int:
    """Return the number of texts that contain a phrase, in any case, spelled with spaces or hyphens.

    >>> mentions("upside down", ["Upside-down, grey", "turned upside  down.", "upside downs"])
    2
    """
    words = r"[\s-]+".join(map(re.escape, re.split(r"[\s-]+", phrase.strip())))
    pattern = re.compile(rf"(?<!\w){words}(?!\w)", re.IGNORECASE)
    return sum(pattern.search(text) is not None for text in texts)


def warnings(search: SearchState) -> list[str]:
    """Return what a reader should know before the template is used: few images, and classes that are never right."""
    found = []
    if search.selected is not None and "choice" in search.selected:
        found.append(choice_text.limits(search.selected["choice"]))
    if table := summary.class_table(search):
        split, rows = table
        never = [row.name for row in rows if row.best == 0]
        if never:
            count = pluralize(len(never), "class")
            found.append(f"{count} never predicted correctly on {split} images: {first_few(never, CLASSES_NAMED)}")
    return [warning[0].upper() + warning[1:] for warning in found if warning]

"""Compute what the page says about the choice of the template: candidates, ties, phrases, reasons and warnings."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ipo_dspy._internal.counts import first_few, pluralize
from ipo_dspy.class_texts import hard_names
from ipo_dspy.history import Trial
from ipo_dspy.report import summary
from ipo_dspy.run import choice_sentences
from ipo_dspy.run.events import CandidateFields, ChoiceFields, FinalistFields, PhraseFields, SelectedEvent
from ipo_dspy.run.state import SearchState
from ipo_dspy.scoring.intervals import wilson_interval
from ipo_dspy.scoring.objectives import ObjectiveText

CLASSES_NAMED = 10
FEW = 4
"""Images of a class below which they are called few."""
OPTIMISTIC = 3.0
"""Points of optimism from which on a template without test images is called overfitted."""
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


@dataclass(frozen=True, slots=True)
class Unchosen:
    """A trial that is better than the chosen one by one measure, and the reason why it was not chosen."""

    trial: Trial
    template: str
    reason: str


def summarize(search: SearchState) -> ChoiceSummary | None:
    """Return what is known about the selected template; None if nothing is selected yet, or in older journals."""
    selected = search.selected
    if selected is None or "choice" not in selected:
        return None
    choice, texts = selected["choice"], [text for _, text in search.descriptions]
    is_start = search.start is not None and selected["index"] == search.start.index
    return ChoiceSummary(
        fields=choice,
        expectation=choice_sentences.expectation(choice, selected["selected_on"]),
        against_start=choice_sentences.against_start(choice, is_start=is_start),
        ties=choice_sentences.ties(choice),
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


def unchosen(search: SearchState) -> dict[str, Unchosen]:
    """Return the best trial and the one with the lowest loss, by measure, unless the chosen one is as good."""
    best = search.best
    if search.selected is None or best is None:
        return {}
    accurate = search.history.best
    lowest = min(search.history, key=lambda trial: (round(trial.score.loss, 4), trial.rank))
    goal = ObjectiveText.of(search.objective)
    better = {
        goal.title: accurate if accurate.score.goal > best.score.goal else None,
        "Loss": lowest if round(lowest.score.loss, 4) < round(best.score.loss, 4) else None,
    }
    return {
        name: Unchosen(
            trial, choice_sentences.plainest([str(trial.template)]), _reason(search.selected, trial, best, goal)
        )
        for name, trial in better.items()
        if trial is not None
    }


def outcome(search: SearchState) -> list[str]:
    """Return why the figure of the chosen template is below the best one of the search, and what to expect of it."""
    sentences, goal = [], ObjectiveText.of(search.objective)
    other = unchosen(search).get(goal.title)
    if other is not None and search.best is not None:
        figures = " against ".join(goal.number(trial.score.goal) for trial in (other.trial, search.best))
        sentences.append(
            f"trial {other.trial.index} was better on the training images ({figures}), but was not chosen: "
            f"{other.reason}"
        )
    if (chosen := summarize(search)) is not None:
        sentences.append(f"expected: {chosen.expectation}")
    return sentences


def _reason(selected: SelectedEvent, trial: Trial, best: Trial, goal: ObjectiveText) -> str:
    """Return why a trial was not chosen; both were compared on the images that decided, if they are candidates."""
    compared = {candidate["index"]: candidate for candidate in selected.get("candidates", [])}
    candidate, winner = compared.get(trial.index), compared.get(best.index)
    plainest = "of the tied ones, the template with the fewest words wins"
    if selected["selected_on"] == "train":
        # Only the best candidates are listed; with more than one tied, the one with the lowest loss may lead.
        has_ties = "choice" in selected and selected["choice"]["tied"] > 1
        is_behind = trial.score.rank[:2] > best.score.rank[:2]
        if candidate["tied"] if candidate else has_ties and is_behind:
            return plainest
        return f"{goal.label} comes first" if is_behind else "it is not within the tolerance of the leading one"
    is_tied = candidate is not None and candidate["tied"]
    reason = f"the {selected['selected_on']} images decide"
    if candidate and winner:
        reason += f", on which it has {goal.brief(candidate['accuracy'])} against {goal.brief(winner['accuracy'])}"
    return f"{reason}, and {plainest}" if is_tied else reason


def warnings(search: SearchState) -> list[str]:
    """Return what a reader should know before the template is used, each with what to do about it."""
    imbalance = choice_sentences.imbalance(summary.images_per_class(search, "train"), search.objective)
    found = [few_images(search), _overfitting(search), imbalance]
    if table := summary.class_table(search):
        split, rows = table
        never = [row.name for row in rows if row.best == 0]
        if never:
            count = pluralize(len(never), "class")
            names = first_few(never, CLASSES_NAMED)
            words = "" if search.class_texts else "pass other words for such a class (--class-texts), or "
            found.append(f"{count} never predicted correctly on {split} images: {names}; {words}add images of it")
    texts = search.class_texts["class_texts"] if search.class_texts else search.setup.get("class_texts", {})
    if hard := hard_names(set(search.setup["classes"]) - set(texts)):
        names = first_few(sorted(hard), CLASSES_NAMED)
        found.append(f"CLIP may not understand the class names {names}; pass English words for them (--class-texts)")
    return [warning[0].upper() + warning[1:] for warning in found if warning]


def few_images(search: SearchState) -> str | None:
    """Return a sentence if few images decided, with what to do about it."""
    if search.selected is None or "choice" not in search.selected:
        return None
    choice, split = search.selected["choice"], search.selected["selected_on"]
    counts = summary.images_per_class(search, split)
    fewest = counts[0] if counts else choice["images"] // max(len(search.setup["classes"]), 1)
    limits = choice_sentences.limits(choice)
    if limits is None and fewest < FEW:
        limits = f"only {pluralize(choice['images'], 'image')} decided, as few as {fewest} per class"
    return limits and f"{limits}; use {_more_images(split)}"


def _overfitting(search: SearchState) -> str | None:
    if search.selected is None or search.best is None:
        return None
    split, accuracy, images = search.selected["selected_on"], search.best.score.accuracy, search.setup["images"]
    remedy = f"use {_more_images(split)}, or --tolerance 2"
    tests = (search.evaluations.get(("test", part, "best")) for part in ("all", "base"))  # novel classes are harder
    if test := next(filter(None, tests), None):
        if not images or not test["images"]:
            return None
        trained, tested = wilson_interval(accuracy, images), wilson_interval(test["accuracy"], test["images"])
        fact = f"{accuracy:.1f} % on training images and {test['accuracy']:.1f} % on test images differ beyond chance"
        return f"overfitting: {fact}; {remedy}" if trained.low > tested.high else None
    optimism, goal = (
        search.selected["choice"]["optimism"] if "choice" in search.selected else 0.0,
        ObjectiveText.of(search.objective),
    )
    fact = f"the {goal.label} is about {optimism:.1f} points too high, since the template was chosen on the same images"
    return f"overfitting: {fact}; {remedy}" if goal.is_share and optimism > OPTIMISTIC else None


def _more_images(split: str) -> str:
    return "more training images, or validation images (--val)" if split == "train" else f"more {split} images"

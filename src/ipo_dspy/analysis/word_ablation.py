"""Which words of a template matter: it is scored with each word and each phrase left out, as in the paper's Table 1.

A phrase is what stands between commas or brackets, or from a preposition to the next one; what stands before and behind
`<CLASS>` counts as one, too. Words are taken out and nothing else is changed but for spaces, commas, and brackets left
hanging, so that the difference is that of the words.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ipo_dspy.data import ImageDataset
from ipo_dspy.errors import Hint, InputError
from ipo_dspy.optimizer.evaluation import evaluate
from ipo_dspy.scoring.score import Score, harmonic_mean
from ipo_dspy.template import PLACEHOLDER, Template

if TYPE_CHECKING:
    from ipo_dspy.classifier import ClipClassifier

_TOKEN = re.compile(r"<CLASS>|(?:(?!<CLASS>)[^\s,.:;!?()\[\]{}\"“”«»])+")
_BRACKETS = ("()", "[]", "{}", "“”", "«»", '""')
_SEPARATORS = frozenset(",:;!?" + "".join(_BRACKETS))
_BEGINS = frozenset({"of", "in", "on", "with", "at", "from", "by", "for", "as", "under", "over", "behind", "against"})
HALVES = ("base", "novel")


@dataclass(frozen=True, slots=True)
class Ablation:
    """A template from which `removed` was removed, a `word` or a `phrase`; empty for the `whole` template."""

    removed: str
    kind: str
    template: Template


@dataclass(frozen=True, slots=True)
class AblationResult:
    """Scores of a template from which a word or phrase was removed, by part: `base` and `novel`, or `all`."""

    occlusion: Ablation
    scores: Mapping[str, Score]

    @property
    def main(self) -> float:
        """The figure by which rows are compared: H, or accuracy where classes are not split."""
        return next(iter(self.scores.values())).accuracy if self.h is None else self.h

    @property
    def h(self) -> float | None:
        """Harmonic mean of base and novel accuracy, where there are both."""
        if not set(HALVES) <= self.scores.keys():
            return None
        return harmonic_mean(*(self.scores[half].accuracy for half in HALVES))


@dataclass(frozen=True, slots=True)
class Confusion:
    """Number of images of one class classified as another, with the start template and with this one."""

    part: str
    label: str
    taken_for: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """The whole template first, then its words and phrases, and its confusions compared with the start template."""

    start: Template
    rows: tuple[AblationResult, ...]
    confusions: tuple[Confusion, ...]

    def plain(self) -> dict[str, Any]:
        """Return the same as JSON values."""
        rows = [
            {
                "removed": row.occlusion.removed,
                "kind": row.occlusion.kind,
                "template": str(row.occlusion.template),
                "scores": {part: asdict(score) for part, score in row.scores.items()},
                "h": row.h,
                "main": row.main,
            }
            for row in self.rows
        ]
        return {"start": str(self.start), "rows": rows, "confusions": list(map(asdict, self.confusions))}


def leave_one_out_templates(template: Template) -> tuple[Ablation, ...]:
    """Return the template itself, without each word, and without each phrase; each text once.

    >>> template = Template.parse("art of a <CLASS>, at night.")
    >>> [(ablation.removed, str(ablation.template)) for ablation in leave_one_out_templates(template)][:3]
    [('', 'art of a <CLASS>, at night.'), ('art', 'of a <CLASS>, at night.'), ('of', 'art a <CLASS>, at night.')]

    Raises:
        InputError: an ensemble, whose lines are to be explained one by one.
    """
    if len(template.lines) != 1:
        raise InputError(
            f"the template is an ensemble of {len(template.lines)} lines",
            hint=Hint("explain one of them, e.g. {template}", template=template.lines[0]),
        )
    text = template.lines[0]
    words = [span for span in _words(text) if text[slice(*span)] != PLACEHOLDER]
    ablations = {text: Ablation("", "whole", template)}
    for kind, spans in (("word", words), ("phrase", _phrases(text))):
        for start, end in spans:
            left = _tidy(text[:start] + " " + text[end:])
            ablations.setdefault(left, Ablation(text[start:end].strip(" ,"), kind, Template.parse(left)))
    alone = PLACEHOLDER + text[len(text.rstrip(".")) :]
    ablations.setdefault(alone, Ablation(f"all but {PLACEHOLDER}", "phrase", Template.parse(alone)))
    return tuple(ablations.values())


def explain(
    program: "ClipClassifier", parts: Mapping[str, ImageDataset], start: Template, template: Template
) -> Explanation:
    """Score a template whole and in part with the model of a program.

    Args:
        program: has the model.
        parts: images by part: `base` and `novel`, or `all`; each part is scored with its own class names.
        start: template whose confusions are those before.
        template: to be explained.
    """
    rows = leave_one_out_templates(template)
    scores: list[dict[str, Score]] = [{} for _ in rows]
    confusions: list[Confusion] = []
    for part, images in parts.items():
        classifier = program.deepcopy()
        classifier.classes = images.classes
        *results, first = evaluate(classifier, images, templates=[*(row.template for row in rows), start])
        for of_row, result in zip(scores, results, strict=True):
            of_row[part] = result.score
        labels = images.labels()
        before, after = _mistakes(labels, first.predicted), _mistakes(labels, results[0].predicted)
        confusions += [Confusion(part, *pair, before=before[pair], after=after[pair]) for pair in before | after]
    confusions.sort(key=lambda confusion: -abs(confusion.before - confusion.after))
    return Explanation(start, tuple(map(AblationResult, rows, scores)), tuple(confusions))


def _mistakes(labels: Sequence[str], predicted: Sequence[str]) -> Counter[tuple[str, str]]:
    return Counter(pair for pair in zip(labels, predicted, strict=True) if pair[0] != pair[1])


def _words(text: str) -> list[tuple[int, int]]:
    """Spans of the words and of `<CLASS>`; punctuation alone, brackets, and quotation marks are no words."""
    tokens = _TOKEN.finditer(text)
    return [match.span() for match in tokens if any(unicodedata.category(char)[0] != "P" for char in match.group())]


def _phrases(text: str) -> list[tuple[int, int]]:
    """Spans of several words from a comma, bracket, or preposition on; then all before and all behind the class."""
    spans = _words(text)
    group: list[tuple[int, int]] = []
    groups = [group]
    for start, end in spans:
        word = text[start:end]
        separated = bool(group) and not _SEPARATORS.isdisjoint(text[group[-1][1] : start])
        if separated or word == PLACEHOLDER or word.lower() in _BEGINS:
            groups.append(group := [])
        if word != PLACEHOLDER:
            group.append((start, end))
    place = text.index(PLACEHOLDER)
    groups.append([span for span in spans if span[1] <= place])
    groups.append([span for span in spans if span[0] > place])
    return [(group[0][0], group[-1][1]) for group in groups if len(group) > 1]


def _tidy(text: str) -> str:
    """Put spaces right, and remove commas and brackets that are left with nothing to hold."""
    for pair in _BRACKETS:
        opening, closing = pair[0], pair[1]
        text = re.sub(rf"{re.escape(opening)}\s*{re.escape(closing)}", " ", text)
        if opening != closing and text.count(opening) != text.count(closing):
            text = text.replace(opening, " ").replace(closing, " ")
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"(?<=[(\[{“«]) | (?=[,.:;)\]}”»])", "", text)
    return re.sub(r"[,:;]+(?=[,.:;])|^[\s,.:;]+", "", text).strip(" ,:;")

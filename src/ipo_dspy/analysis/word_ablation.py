"""The worth of each part of a template: it is scored without each phrase and word, as in the paper's Table 1.

Phrases are those of `template_phrases`, and are removed so that the rest remains a sentence where that is possible; the
words of a phrase of several words are removed one by one, and nothing else is changed except spaces, articles, and
leftover punctuation. For an ensemble, each line is left out. All templates see the same images, so the differences have
the standard errors of paired comparisons.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ipo_dspy._internal.counts import first_few, pluralize
from ipo_dspy.data import ImageDataset
from ipo_dspy.optimizer.evaluation import encode_examples
from ipo_dspy.scoring.comparison import Comparison
from ipo_dspy.scoring.part_worth import Worth
from ipo_dspy.scoring.score import Score, harmonic_mean
from ipo_dspy.template import PLACEHOLDER, Template
from ipo_dspy.template_phrases import FUNCTION_WORDS, WORD, phrase_spans, shorter_texts, tidy

if TYPE_CHECKING:
    from ipo_dspy.classifier import ClipClassifier

HALVES = ("base", "novel")
NOISE_SHOWN = 20
"""Maximum number of phrases that the sentence on noise names."""


@dataclass(frozen=True, slots=True)
class Ablation:
    """A template from which `removed` was removed, a `phrase`, `word`, or `line`; empty for the `whole` template."""

    removed: str
    kind: str
    template: Template


@dataclass(frozen=True, slots=True)
class AblationResult:
    """Scores of a template from which something was removed, and what that is worth (nothing for the whole template).

    Both are by part of the images: `base` and `novel`, or `all`.
    """

    occlusion: Ablation
    scores: Mapping[str, Score]
    worth: Mapping[str, Worth]

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

    @property
    def is_noise(self) -> bool:
        """True if what was removed cannot be told apart from noise on any part of the images."""
        return bool(self.worth) and all(worth.is_noise for worth in self.worth.values())


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
    """The whole template first, then without each part, and its confusions compared with the start template.

    Confusions are ordered by the number of images with this template, then with the start template. `images` is the
    number of images of each part.
    """

    start: Template
    rows: tuple[AblationResult, ...]
    confusions: tuple[Confusion, ...]
    images: Mapping[str, int] = field(default_factory=dict)

    @property
    def finding(self) -> str:
        """A sentence on the phrases, or the lines of an ensemble, that cannot be told apart from noise."""
        parts = [row for row in self.rows[1:] if row.occlusion.kind != "word"]
        noise = [repr(row.occlusion.removed) for row in parts if row.is_noise]
        total = pluralize(len(parts), parts[0].occlusion.kind if parts else "phrase")
        if not noise:
            return f"{total} can be told apart from noise"
        return f"{len(noise)} of {total} cannot be told apart from noise: {first_few(noise, NOISE_SHOWN)}"

    def plain(self) -> dict[str, Any]:
        """Return the same as JSON values."""
        rows = [
            {
                "removed": row.occlusion.removed,
                "kind": row.occlusion.kind,
                "template": str(row.occlusion.template),
                "scores": {part: asdict(score) for part, score in row.scores.items()},
                "worth": {part: asdict(worth) for part, worth in row.worth.items()},
                "is_noise": row.is_noise,
                "h": row.h,
                "main": row.main,
            }
            for row in self.rows
        ]
        confusions = list(map(asdict, self.confusions))
        return {
            "start": str(self.start),
            "images": dict(self.images),
            "rows": rows,
            "finding": self.finding,
            "confusions": confusions,
        }


def leave_one_out_templates(template: Template) -> tuple[Ablation, ...]:
    """Return the template itself, without each phrase, and without each word of a phrase of several; each text once.

    An ensemble is returned without each of its lines instead.

    >>> template = Template.parse("pixel art of a <CLASS>, at night.")
    >>> [(ablation.removed, str(ablation.template)) for ablation in leave_one_out_templates(template)][1:3]
    [('pixel art', 'a <CLASS>, at night.'), ('at night', 'pixel art of a <CLASS>.')]
    """
    lines, text = template.lines, template.lines[0]
    whole = Ablation("", "whole", template)
    if len(lines) > 1:
        others = (Template((*lines[:i], *lines[i + 1 :])) for i in range(len(lines)))
        return (whole, *(Ablation(line, "line", left) for line, left in zip(lines, others, strict=True)))
    ablations = {text: whole}

    def add(kind: str, removed: str, left: str) -> None:
        ablations.setdefault(left, Ablation(removed, kind, Template.parse(left)))

    for left, phrase in shorter_texts(text).items():
        add("phrase", phrase, left)
    for kind, spans in (("phrase", phrase_spans(text)), ("word", [match.span() for match in WORD.finditer(text)])):
        known = {PLACEHOLDER, *(ablation.removed for ablation in ablations.values())}
        for start, end in spans:
            if (part := text[start:end]) not in known and part.lower() not in FUNCTION_WORDS:
                add(kind, part, tidy(text[:start] + text[end:]))
    add("phrase", f"all but {PLACEHOLDER}", PLACEHOLDER + text[len(text.rstrip(".")) :])
    return tuple(ablations.values())


def explain(
    program: "ClipClassifier", parts: Mapping[str, ImageDataset], start: Template, template: Template
) -> Explanation:
    """Score a template whole and without each of its parts with the model of a program.

    Args:
        program: has the model.
        parts: images by part: `base` and `novel`, or `all`; each part is scored with its own class names.
        start: template whose confusions are those before.
        template: to be explained.
    """
    rows = leave_one_out_templates(template)
    scores: list[dict[str, Score]] = [{} for _ in rows]
    worths: list[dict[str, Worth]] = [{} for _ in rows]
    confusions: list[Confusion] = []
    counts: dict[str, int] = {}
    for part, images in parts.items():
        classifier = program.deepcopy()
        classifier.classes = images.classes
        judged = encode_examples(classifier, images)
        counts[part] = len(judged.images.labels)
        compared = Comparison(judged.scorer.tally_pairs([row.template for row in rows]))
        for i, score in enumerate(compared.scores):
            scores[i][part] = score
            if i:
                worths[i][part] = Worth(*compared.difference(0, i))
        before, after = (_mistakes(judged.images.labels, judged.scorer.predict(one)) for one in (start, template))
        confusions += [Confusion(part, *pair, before=before[pair], after=after[pair]) for pair in before | after]
    confusions.sort(key=lambda confusion: (-confusion.after, -confusion.before))
    return Explanation(start, tuple(map(AblationResult, rows, scores, worths)), tuple(confusions), counts)


def _mistakes(labels: Sequence[str], predicted: Sequence[str]) -> Counter[tuple[str, str]]:
    return Counter(pair for pair in zip(labels, predicted, strict=True) if pair[0] != pair[1])

"""Search for the words that fill `<CLASS>`, label by label, for the selected template.

The labels with the highest loss are improved one after the other, with the texts of all others unchanged, until no
label changes and no more texts are proposed. Texts come from the user, and from a language model, which is shown
what the labels are mistaken for and how earlier texts did. Texts are accepted if they are better on images not used to
choose them: the validation images if there are any, else folds of the training images; see `class_text_choice`.
"""

import functools
import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import cast

import numpy as np
import torch

from ipo_dspy.clip.template_tokens import template_tokens
from ipo_dspy.errors import BudgetError, DataError, ImageError, ProposalError, TemplateError
from ipo_dspy.lms.class_text_parsing import check_proposed_text
from ipo_dspy.lms.signatures import ClassMistakes, Mistake
from ipo_dspy.optimizer.class_text_choice import choose_texts, is_beyond_chance, rows_of_folds
from ipo_dspy.optimizer.search_context import SearchContext
from ipo_dspy.proposers.base import ClassTextProposer, ClassTextRequest
from ipo_dspy.run.events import ClassTextChangeFields, ClassTextsEvent, ClassTextsFields
from ipo_dspy.scoring.comparison import Comparison
from ipo_dspy.scoring.part_worth import Worth
from ipo_dspy.scoring.score import Score
from ipo_dspy.scoring.scorers import ClipScorer
from ipo_dspy.template import Template, check_name, reading

ROUNDS = 5
"""Maximum number of passes over the labels; each has at most one request to a language model."""
LABELS_ASKED, TEXTS_ASKED = 8, 12
"""Maximum number of labels in a request, those that lose most, and of texts for each of them."""
ASKED_AT_MOST = 3
"""Number of requests about the same label, so that others have their turn."""
JOINED = 16
"""Maximum number of texts of a label whose average is tried."""
SHOWN_CONFUSIONS, SHOWN_TRIED, SHOWN_REJECTIONS = 4, 12, 5


@dataclass(frozen=True, slots=True)
class ClassTextChange(Worth):
    """Words of a class that were replaced, and the gain on images that did not choose them.

    Attributes:
        label: the class.
        before, after: its texts.
        round: pass over the labels, from 1.
        candidates: number of alternatives to its words, each a text or the mean of several, that were compared.
        images: number of its images, of those that decided.
        recognized: how many of them were recognized before and after.
        lost: largest number of these images that another class lost.
    """

    label: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    round: int
    candidates: int
    images: int
    recognized: tuple[int, int]
    lost: int

    @property
    def fields(self) -> ClassTextChangeFields:
        """Plain values for the journal."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return cast(ClassTextChangeFields, values)


@dataclass(frozen=True, slots=True)
class ClassTextsResult:
    """The result of a search for words of the classes.

    Attributes:
        template: the template that the words are filled into.
        texts: the texts of every label.
        changes: accepted changes in order.
        before, after: scores on the images that decided.
        gain: the gain of all changes together.
        decided_by: `validation` or `train`.
        rounds: passes over the labels.
        compared: number of alternatives to the present words of a label, each a text or the mean of several, that were
            compared with them, over all rounds.
    """

    template: Template
    texts: Mapping[str, tuple[str, ...]]
    changes: tuple[ClassTextChange, ...]
    before: Score
    after: Score
    gain: Worth
    decided_by: str
    rounds: int
    compared: int

    @property
    def fields(self) -> ClassTextsFields:
        """Plain values for the journal."""
        return {
            "template": str(self.template),
            "selected_on": self.decided_by,
            "rounds": self.rounds,
            "compared": self.compared,
            "before": {"accuracy": self.before.accuracy, "loss": self.before.loss},
            "after": {"accuracy": self.after.accuracy, "loss": self.after.loss},
            "accuracy_error": self.gain.accuracy_error,
            "class_texts": {label: list(texts) for label, texts in self.texts.items() if texts != (label,)},
            "changes": [change.fields for change in self.changes],
        }


class ClassTextSearch:
    """One search over the texts of the classes of one classifier.

    Args:
        scorer: scores on the training images, with the present texts.
        context: the proposer, the configuration with the texts that the user gave, and the record of the run.
        validator: scores on the validation images, which then decide.
        mistakes: returns the training images that a scorer gets wrong with a template, for the proposer.
    """

    def __init__(
        self,
        scorer: ClipScorer,
        context: SearchContext,
        *,
        validator: ClipScorer | None = None,
        mistakes: Callable[[ClipScorer, Template], tuple[Mistake, ...]] = lambda scorer, template: (),
    ) -> None:
        self.scorer, self.validator, self.context, self.mistakes = scorer, validator, context, mistakes
        self.config = context.config
        self.labels = scorer.classes
        self.texts = {
            label: (texts,) if isinstance(texts, str) else texts
            for label, texts in zip(self.labels, scorer.texts, strict=True)
        }
        self._pool: dict[str, list[str]] = {
            label: list(given) for label, given in (self.config.candidates or {}).items() if label in self.texts
        }
        self._rejected: list[str] = []
        self._asked: Counter[str] = Counter()
        self._compared = 0
        self._folds = [scorer]

    def run(self, template: Template) -> ClassTextsResult:
        """Search texts for a template; the result is never worse on the images that decide."""
        start = tuple(self.texts.values())
        outcomes = self._decider.tally_pairs([template])
        least = outcomes.sums[:, 0] - self.config.max_recall_drop / 100 * outcomes.images  # [C]
        if self.validator is None:
            column = {label: k for k, label in enumerate(self.labels)}
            folds = rows_of_folds(np.array([column[label] for label in self.scorer.labels]), seed=self.config.seed)
            self._folds = [self.scorer.on_images(rows) for rows in folds]
        changes: list[ClassTextChange] = []
        for label, given in self._pool.items():
            self._pool[label] = self._usable(template, label, given, round_=0)
        rounds = 0
        while rounds < ROUNDS and not self.context.stop():
            rounds += 1
            self.context.progress("class texts", rounds - 1, ROUNDS)
            asked, order = self._asked.total(), self._ask(template, rounds)
            found = [self._improve(template, label, least, rounds) for label in order if self._pool.get(label)]
            changes += filter(None, found)
            if not any(found) and self._asked.total() == asked:
                break
        self.context.progress("class texts", ROUNDS, ROUNDS)
        compared = Comparison(self._decider.tally_variants([(template, start), (template, tuple(self.texts.values()))]))
        before, after = compared.scores
        result = ClassTextsResult(
            template,
            dict(self.texts),
            tuple(changes),
            before,
            after,
            Worth(*compared.difference(1, 0)),
            "train" if self.validator is None else "validation",
            rounds,
            self._compared,
        )
        self.context.recorder.record(
            ClassTextsEvent(event="class_texts", predictor=self.context.predictor, **result.fields)
        )
        return result

    @property
    def _decider(self) -> ClipScorer:
        return self.validator or self.scorer

    def _ask(self, template: Template, round_: int) -> list[str]:
        """Add texts of the proposer for the labels that lose most, and return all labels, the worst first."""
        outcomes = self.scorer.tally_pairs([template])
        correct, losses = outcomes.sums.T  # [C] each
        order = sorted(range(len(self.labels)), key=lambda k: (-round(float(losses[k]), 4), k))
        ordered = [self.labels[k] for k in order]
        losing = {self.labels[k] for k in order if correct[k] < outcomes.images[k]}
        worst = [label for label in ordered if label in losing and self._asked[label] < ASKED_AT_MOST][:LABELS_ASKED]
        if worst and isinstance(self.context.proposer, ClassTextProposer):
            self._asked.update(worst)
            self._add_proposals(template, round_, worst)
        return ordered

    def _add_proposals(self, template: Template, round_: int, labels: Sequence[str]) -> None:
        predicted = self.scorer.predict(template)
        classes = tuple(self._class_mistakes(template, label, predicted) for label in labels)
        request = ClassTextRequest(
            round=round_,
            count=TEXTS_ASKED,
            template=str(template),
            classes=classes,
            rejected=tuple(self._rejected[-SHOWN_REJECTIONS:]),
            task=self.context.task,
            mistakes=self._pictures(template),
            seed=self.config.seed,
            once=self.context.once,
        )
        try:
            proposed = cast(ClassTextProposer, self.context.proposer).propose_class_texts(request)
        except (ProposalError, BudgetError) as error:
            self.context.error(0, f"no words for classes were proposed: {error}")
            return
        for label in labels:
            fresh = [text for text in proposed.get(label, ()) if text not in self._pool.get(label, ())]
            self._pool.setdefault(label, []).extend(self._usable(template, label, fresh[:TEXTS_ASKED], round_))

    def _class_mistakes(self, template: Template, label: str, predicted: Sequence[str]) -> ClassMistakes:
        guesses = [guess for guess, true in zip(predicted, self.scorer.labels, strict=True) if true == label]
        taken = Counter(guess for guess in guesses if guess != label).most_common(SHOWN_CONFUSIONS)
        return ClassMistakes(
            label=label,
            texts=list(self.texts[label]),
            images=len(guesses),
            correct=guesses.count(label),
            taken_for=[f"{name} {count}" for name, count in taken],
            tried=self._tried(template, label),
        )

    def _tried(self, template: Template, label: str) -> list[str]:
        """Return the texts of a label that were tried, those with the lowest loss first, with the images recognized."""
        column, texts = self.labels.index(label), [t for t in self._pool.get(label, ()) if t not in self.texts[label]]
        if not texts:
            return []
        tally = self.scorer.tally_texts(template, column, [(text,) for text in texts])
        order = sorted(range(len(texts)), key=lambda k: (round(float(tally.loss[k]), 4), k))
        return [f"{texts[k]} {int(tally.correct[k, column])}" for k in order[:SHOWN_TRIED]]

    def _pictures(self, template: Template) -> tuple[Mistake, ...]:
        try:
            return self.mistakes(self.scorer, template)
        except ImageError as error:
            self.context.error(0, f"the request has no images: {error}")
            return ()

    def _usable(self, template: Template, label: str, texts: Sequence[str], round_: int) -> list[str]:
        """Return the texts that can stand for a label; the others are recorded as rejections."""
        usable: list[str] = []
        for text in texts:
            try:
                if round_ and (fault := check_proposed_text(text)):
                    raise DataError(f"text {text[:120]!r} of class {label!r} {fault}; propose another")
                check_name(text, f"text of class {label!r}")
                if self._is_taken(label, text):
                    raise DataError(f"text {text!r} of class {label!r} must not be a text of another class")
                template_tokens(self.scorer.backbone, template, (text,))
            except (DataError, TemplateError) as error:
                reason = self.context.reject(round_, f"{label}: {text[:1000]}", error, stage="class_texts")
                self._rejected.append(f"{label}: {text[:120]} ({reason})")
            else:
                usable.append(text)
        return usable

    def _is_taken(self, label: str, text: str) -> bool:
        others = ((other, *texts) for other, texts in self.texts.items() if other != label)
        return reading(text) in {reading(name) for names in others for name in names}

    def _candidates(self, label: str) -> list[tuple[str, ...]]:
        """Return texts to compare with the present ones: others, more, fewer, or all of them averaged."""
        present = self.texts[label]
        pool = [text for text in self._pool[label] if not self._is_taken(label, text)]
        others = [text for text in pool if text not in present]
        found: list[tuple[str, ...]] = [(text,) for text in pool]
        found += [(*present, text) for text in others if len(present) < JOINED]
        found += [tuple(text for text in present if text != removed) for removed in present if len(present) > 1]
        if 1 < len(others) <= JOINED:
            found += [tuple(others), tuple(dict.fromkeys((*present, *others)))]
        return [texts for texts in dict.fromkeys(found) if texts != present]

    def _improve(self, template: Template, label: str, least: np.ndarray, round_: int) -> ClassTextChange | None:
        """Replace the texts of a label if others are accepted, and return the change."""
        column, candidates = self.labels.index(label), [self.texts[label], *self._candidates(label)]
        self._compared += len(candidates) - 1
        parts = [fold.tally_texts(template, column, candidates) for fold in self._folds]
        if self.validator is None:
            chosen, by_fold = choose_texts(parts, torch.from_numpy(least))
            judges = list(zip(self._folds, by_fold, strict=False))  # a single image has no other folds
        else:
            chosen, _ = choose_texts(parts)
            judges = [(self.validator, chosen)]
        if chosen == 0 or not judges:
            return None
        pairs = [judge.tally_text_pairs(template, column, [candidates[k]]) for judge, k in judges]
        judged = functools.reduce(operator.add, pairs)
        correct = judged.sums[:, :2]  # [C, 2]
        if self.validator is None:
            correct = torch.stack([part.correct[[0, chosen]] for part in parts]).sum(dim=0).T.numpy()
        if not is_beyond_chance(judged) or (correct[:, 1] < least - 1e-9).any():
            return None
        lost = np.delete(correct[:, 0] - correct[:, 1], column).max()
        change = ClassTextChange(
            *Comparison(judged).difference(1, 0),
            label=label,
            before=self.texts[label],
            after=candidates[chosen],
            round=round_,
            candidates=len(candidates) - 1,
            images=int(judged.images[column]),
            recognized=(round(correct[column, 0]), round(correct[column, 1])),
            lost=max(0, round(lost)),
        )
        self.texts[label] = change.after
        texts = tuple(self.texts.values())
        self.scorer = self.scorer.with_texts(texts)
        self._folds = [fold.with_texts(texts) for fold in self._folds]
        self.validator = self.validator and self.validator.with_texts(texts)
        return change

"""Test whether a program classifies worse than a reference: another program, template, model, or an earlier check.

A program and its reference usually see the same images, and then only images on which they differ distinguish them. So
outcomes are kept by image, and the test is McNemar's exact test, which finds differences that two accuracies hide. An
earlier check on other images is compared by Fisher's exact test. Both tests are one-sided, on accuracy.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ipo_dspy.analysis.program_outcomes import Outcomes as Outcomes
from ipo_dspy.analysis.program_outcomes import outcomes_of as outcomes_of
from ipo_dspy.argument_checks import as_template, invalid
from ipo_dspy.classifier.image_lists import example_list
from ipo_dspy.scoring.comparison import Comparison, Floats, PairTally
from ipo_dspy.scoring.exact_tests import fisher_test, mcnemar_test
from ipo_dspy.template import DEFAULT_TEMPLATE, Template

if TYPE_CHECKING:
    import dspy

    from ipo_dspy.classifier import ClipClassifier

ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class OutcomeComparison:
    """A program compared with its reference on the same images, or with the reference on other images.

    Attributes:
        same_images: True if both saw these images, so that the test is paired.
        images: number of images of the program.
        reference_images: number of images of the reference.
        accuracy, reference_accuracy: in percent.
        gain: by how many points the program is more accurate; negative if it is worse.
        gain_error: standard error of the gain.
        loss: by how many nats the loss of the program is lower.
        loss_error: standard error of that difference.
        broken: images that only the reference gets right; None for other images.
        fixed: images that only the program gets right; None for other images.
        p: probability of an accuracy as low as this, or lower, if the program is as good as the reference.
    """

    same_images: bool
    images: int
    reference_images: int
    accuracy: float
    reference_accuracy: float
    gain: float
    gain_error: float
    loss: float
    loss_error: float
    broken: int | None
    fixed: int | None
    p: float


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of a check.

    Attributes:
        program: outcomes of the program.
        reference: outcomes of what it was compared with.
        comparisons: on the images that both saw, and on those that only the program saw; one of the two may be missing.
        alpha: probability of a false alarm: that a program as good as the reference is called worse.
    """

    program: Outcomes
    reference: Outcomes
    comparisons: tuple[OutcomeComparison, ...]
    alpha: float

    @property
    def is_worse(self) -> bool:
        """True if the program got worse; with two comparisons, `alpha` is shared by them."""
        return any(compared.p < self.alpha_each for compared in self.comparisons)

    @property
    def alpha_each(self) -> float:
        """The `alpha` of each comparison: half of it if there are two."""
        return self.alpha / len(self.comparisons)

    @property
    def relabeled(self) -> int:
        """Number of images of the reference that have another label now."""
        known = {key for key, _ in self.program.images}
        return sum(key in known for key, _ in set(self.reference.images) - set(self.program.images))

    @property
    def missing(self) -> int:
        """Number of images of the reference that the program did not see, under any label."""
        return len(set(self.reference.images) - set(self.program.images)) - self.relabeled

    def plain(self) -> dict[str, Any]:
        """Return the same as JSON values, without the outcomes of single images."""
        sides = {
            name: {"template": side.template, "model": side.model, "images": len(side.images), **asdict(side.score)}
            for name, side in (("program", self.program), ("reference", self.reference))
        }
        compared = [asdict(comparison) | {"alpha": self.alpha_each} for comparison in self.comparisons]
        changes = {"relabeled": self.relabeled, "missing": self.missing}
        return {"is_worse": self.is_worse, "alpha": self.alpha, **sides, **changes, "comparisons": compared}

    def __repr__(self) -> str:
        verdict = "worse" if self.is_worse else "not worse"
        return f"CheckResult({verdict}, {self.reference.score} -> {self.program.score}, alpha={self.alpha:g})"


def check(
    program: "ClipClassifier",
    examples: "Sequence[dspy.Example]",
    against: "ClipClassifier | Template | str | Outcomes" = DEFAULT_TEMPLATE,
    *,
    alpha: float = ALPHA,
    skip_unreadable: bool = False,
) -> CheckResult:
    """Test whether a program is worse than a reference on labeled images.

    A calibrated program is scored by its calibrated probabilities; its threshold is not applied.

    Args:
        program: classifier to check.
        examples: images with labels.
        against: another classifier, which may have another model; a template, for the model of the program; or the
            outcomes of an earlier check.
        alpha: probability of a false alarm.
        skip_unreadable: skip images that cannot be read.

    Raises:
        DataError: no examples, or labels outside the classes.
        ImageError: an image cannot be read (without `skip_unreadable`).
        TemplateError: `against` is a string that is not a template.

    >>> from ipo_dspy import ClipClassifier, demo
    >>> task = demo.load("pixel-animals", shots=1)
    >>> better = ClipClassifier(task.classes, template="pixel art of a <CLASS>.", model="demo")
    >>> check(better, task.testset[:100]).is_worse
    False
    >>> check(task.program, task.testset[:100], better).is_worse
    True
    """
    if isinstance(alpha, bool) or not isinstance(alpha, float) or not 0.0 < alpha < 1.0:
        raise invalid("alpha", "a number between 0 and 1", alpha, "for example alpha=0.05")
    if isinstance(against, str | Template):
        other: ClipClassifier = program.deepcopy()
        other.template = as_template(against)
        against = other
    examples = example_list(examples, "examples")
    now = outcomes_of(program, examples, skip_unreadable=skip_unreadable)
    if not isinstance(against, Outcomes):
        against = outcomes_of(against, examples, skip_unreadable=skip_unreadable)
    return compare_outcomes(now, against, alpha=alpha)


def compare_outcomes(now: Outcomes, before: Outcomes, *, alpha: float = ALPHA) -> CheckResult:
    """Test whether outcomes are worse than earlier ones: in pairs on the images of both, as samples on the others.

    >>> images = tuple((str(number), "cat") for number in range(8))
    >>> right, wrong = (Outcomes("a <CLASS>", "demo", images, np.full(8, c), np.ones(8)) for c in (1.0, 0.0))
    >>> compare_outcomes(wrong, right)
    CheckResult(worse, Score(accuracy=100.00%, loss=1.0000) -> Score(accuracy=0.00%, loss=1.0000), alpha=0.05)
    """
    row = {image: number for number, image in enumerate(before.images)}
    shared = [(i, row[image]) for i, image in enumerate(now.images) if image in row]
    others = [i for i, image in enumerate(now.images) if image not in row]
    comparisons = [_compare_pairs(now, before, *map(list, zip(*shared, strict=True)))] if shared else []
    comparisons += [_compare_samples(now, before, others)] if others else []
    return CheckResult(now, before, tuple(comparisons), alpha)


def _compare_pairs(now: Outcomes, before: Outcomes, rows: list[int], rows_before: list[int]) -> OutcomeComparison:
    correct, reference = now.correct[rows], before.correct[rows_before]
    table = np.stack([correct, reference, now.loss[rows], before.loss[rows_before]], axis=1)  # [N, 4]
    compared = Comparison(PairTally.of(table, np.zeros(len(rows), dtype=np.int64), 1))
    gain, gain_error, fall, fall_error = compared.difference(0, 1)
    broken, fixed = int((reference > correct).sum()), int((correct > reference).sum())
    return OutcomeComparison(
        same_images=True,
        images=len(rows),
        reference_images=len(rows),
        accuracy=float(compared.accuracy[0]),
        reference_accuracy=float(compared.accuracy[1]),
        gain=gain,
        gain_error=gain_error,
        loss=fall,
        loss_error=fall_error,
        broken=broken,
        fixed=fixed,
        p=mcnemar_test(broken, fixed),
    )


def _compare_samples(now: Outcomes, before: Outcomes, rows: list[int]) -> OutcomeComparison:
    correct, loss = now.correct[rows], now.loss[rows]
    accuracy, reference = 100.0 * float(correct.mean()), 100.0 * float(before.correct.mean())
    return OutcomeComparison(
        same_images=False,
        images=len(correct),
        reference_images=len(before.correct),
        accuracy=accuracy,
        reference_accuracy=reference,
        gain=accuracy - reference,
        gain_error=100.0 * math.hypot(_error(correct), _error(before.correct)),
        loss=float(before.loss.mean() - loss.mean()),
        loss_error=math.hypot(_error(loss), _error(before.loss)),
        broken=None,
        fixed=None,
        p=fisher_test(int(correct.sum()), len(correct), int(before.correct.sum()), len(before.correct)),
    )


def _error(values: Floats) -> float:
    """Return the standard error of a mean; a very large number for one value, as in `Comparison`."""
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 1e9

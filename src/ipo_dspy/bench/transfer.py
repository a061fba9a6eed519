"""Transfer: a method learns on k shots of all classes of one data set and is tested on all classes of others.

Zero-shot CLIP takes the hand-written template of each data set. Whatever learns takes along what it learned, and the
template of the source, where it learns with one in place. Source: the cross-dataset transfer and domain
generalization of Zhou et al. 2022, "Conditional Prompt Learning for Vision-Language Models".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ipo_dspy.baselines import build_method
from ipo_dspy.baselines.base import FittedClassifier, evaluate
from ipo_dspy.bench.cells import Cell
from ipo_dspy.bench.method_runners import CellContext, MethodResult, few_shot, images_of
from ipo_dspy.bench.registry import find_kind
from ipo_dspy.bench.suites import BaseNovelSplit, FullDataset, Suite
from ipo_dspy.scoring.score import Score


@dataclass(frozen=True, slots=True)
class TransferJob(CellContext):
    """A job whose method is tested on all classes of its data set and of others; base and novel are one there.

    Attributes:
        targets: the others, by name.
    """

    targets: Mapping[str, FullDataset] = field(repr=False)

    def score(self, fitted: FittedClassifier, **told: Any) -> MethodResult:
        """Loss and accuracy on the source and on each target."""
        source = self.split.base
        own = evaluate(fitted, images_of(source), source.labels(), source.classes)
        return MethodResult(
            own, None, targets={name: self._on(one, fitted) for name, one in self.targets.items()}, **told
        )

    def _on(self, target: FullDataset, fitted: FittedClassifier) -> Score:
        if not find_kind(self.method).learns:
            task = replace(few_shot(self), template=target.template)
            fitted = build_method(self.method, **self.arguments).fit(task)
        return evaluate(fitted, images_of(target.test), target.test.labels(), target.test.classes)


def split_of(suite: Suite, cell: Cell) -> BaseNovelSplit:
    """What a cell learns from, and is tested on at home."""
    if not cell.targets:
        return suite.load(cell.dataset, shots=cell.shots, seed=cell.seed)
    whole = suite.whole(cell.dataset, shots=cell.shots, seed=cell.seed)
    return BaseNovelSplit(whole.train, whole.test, whole.test, whole.template)

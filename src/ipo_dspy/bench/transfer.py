"""Transfer: a method learns on k shots of all classes of one data set and is tested on all classes of others.

Zero-shot CLIP uses the hand-written template of each data set. All other methods transfer their learned parameters, and
the template of the source if they learn with one. Source: the cross-dataset transfer and domain
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
    """A cell whose method is tested on all classes of its data set and of others, without a base-to-novel split.

    Attributes:
        targets: the other data sets, by name.
    """

    targets: Mapping[str, FullDataset] = field(repr=False)

    def score(self, fitted: FittedClassifier, **values: Any) -> MethodResult:
        """Return loss and accuracy on the source and on each target."""
        source = self.split.base
        source_score = evaluate(fitted, images_of(source), source.labels(), source.classes)
        target_scores = {name: self._on(target, fitted) for name, target in self.targets.items()}
        return MethodResult(source_score, None, targets=target_scores, **values)

    def _on(self, target: FullDataset, fitted: FittedClassifier) -> Score:
        if not find_kind(self.method).learns:
            task = replace(few_shot(self), template=target.template)
            fitted = build_method(self.method, **self.arguments).fit(task)
        return evaluate(fitted, images_of(target.test), target.test.labels(), target.test.classes)


def split_of(suite: Suite, cell: Cell) -> BaseNovelSplit:
    """Return the training and test images of a cell, without its targets."""
    if not cell.targets:
        return suite.load(cell.dataset, shots=cell.shots, seed=cell.seed)
    full = suite.whole(cell.dataset, shots=cell.shots, seed=cell.seed)
    return BaseNovelSplit(full.train, full.test, full.test, full.template)

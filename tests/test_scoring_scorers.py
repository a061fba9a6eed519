"""The outcomes of single images agree with the tallies of all of them."""

import numpy as np
import pytest
import torch

from ipo_dspy.demo import DemoTask
from ipo_dspy.optimizer.evaluation import encode_examples
from ipo_dspy.scoring.scorers import ClipScorer
from ipo_dspy.template import Template

TEMPLATES = [Template.parse("a photo of a <CLASS>."), Template.parse("pixel art of a <CLASS>.")]


@pytest.mark.parametrize("has_choices", [False, True])
def test_outcomes_sum_up_to_the_tally(task: DemoTask, has_choices: bool) -> None:
    labels = task.testset.labels()[::9]
    features = encode_examples(task.program, task.testset[::9]).scorer.image_features  # type: ignore[attr-defined]
    choices = [(label, "bat", "cat") if i % 2 else task.classes for i, label in enumerate(labels)]
    choices = [tuple(dict.fromkeys(names)) for names in choices]
    scorer = ClipScorer(task.program.backbone, features, labels, task.classes, choices=choices if has_choices else None)
    parts = [scorer.outcomes(TEMPLATES, slice(first, first + 7)) for first in range(0, len(labels), 7)]
    table, tally = np.concatenate(parts), scorer.tally_pairs(TEMPLATES)
    np.testing.assert_allclose(table, scorer.outcomes(TEMPLATES), atol=1e-5)
    np.testing.assert_allclose(table.sum(axis=0), tally.sums.sum(axis=0), rtol=1e-5)
    np.testing.assert_allclose(table.T @ table, tally.products, rtol=1e-5)
    assert torch.equal(
        torch.tensor(table[:, 1] == 1),
        torch.tensor([a == b for a, b in zip(scorer.predict(TEMPLATES[1]), labels, strict=True)]),
    )

"""Suspicious labels: cases counted by hand, a plain loop, and wrong labels planted in a simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ipo_dspy.scoring.confident_learning import TOLERANCE, suspicious_labels


def plain(probabilities: NDArray[np.float64], labels: list[int]) -> dict[int, int]:
    """The rule of the paper, image by image."""
    classes = range(probabilities.shape[1])
    thresholds = {
        c: np.mean([row[c] for row, label in zip(probabilities, labels, strict=True) if label == c])
        for c in classes
        if c in labels
    }
    found = {}
    for i, row in enumerate(probabilities):
        confident = [c for c, least in thresholds.items() if row[c] >= least - TOLERANCE]
        best = max(confident, key=lambda c: (row[c], -c), default=labels[i])
        if best != labels[i] != max(classes, key=lambda c: (row[c], -c)):
            found[i] = best
    return found


@given(st.integers(1, 30), st.integers(2, 5), st.integers(0, 999))
def test_it_is_the_rule_of_the_paper(images: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(classes), images)
    labels = rng.integers(0, classes, images)
    found, suggested = suspicious_labels(probabilities, labels)
    assert dict(zip(found.tolist(), suggested.tolist(), strict=True)) == plain(probabilities, labels.tolist())
    given = probabilities[found, labels[found]]
    assert (np.diff(given) >= 0).all()


@pytest.mark.parametrize(
    ("probabilities", "labels", "expected"),
    [
        # Thresholds 0.8 and 0.5. The last image reaches that of class 0, and not that of its own label.
        ([[0.8, 0.2], [0.8, 0.2], [0.1, 0.9], [0.9, 0.1]], [0, 0, 1, 1], {3: 0}),
        # Thresholds 0.6 and 0.4: class 1 is more probable for image 1, but less than for images of that class.
        ([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.2, 0.8]], [0, 0, 1, 1], {}),
        # All images of a class have the same probability, which is the threshold in spite of rounding.
        ([[0.2, 0.8]] * 3 + [[0.2, 0.8]], [1, 1, 1, 0], {3: 1}),
        # Class 2 has no image, and is suggested for none.
        ([[0.1, 0.2, 0.7], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1]], [0, 0, 1], {}),
        # Image 1 is below the threshold of its label, but no class is more probable.
        ([[0.9, 0.1], [0.55, 0.45], [0.6, 0.4], [0.6, 0.4]], [0, 0, 1, 1], {}),
    ],
)
def test_cases_counted_by_hand(probabilities: list[list[float]], labels: list[int], expected: dict[int, int]) -> None:
    found, suggested = suspicious_labels(np.array(probabilities), np.array(labels))
    assert dict(zip(found.tolist(), suggested.tolist(), strict=True)) == expected


def test_wrong_labels_are_found() -> None:
    """Five percent of 2,000 labels are wrong, and the probabilities are right for 90 % of the images."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 10, 2000)
    logits = rng.standard_normal((2000, 10))
    logits[np.arange(2000), truth] += 3
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    wrong = rng.choice(2000, 100, replace=False)
    labels = truth.copy()
    labels[wrong] = (truth[wrong] + rng.integers(1, 10, 100)) % 10
    found, suggested = suspicious_labels(probabilities, labels)
    hits = np.isin(found, wrong)
    assert hits.sum() >= 45
    assert hits.mean() >= 0.85
    assert np.isin(found[:50], wrong).mean() >= 0.9
    assert (suggested[hits] == truth[found[hits]]).mean() >= 0.9

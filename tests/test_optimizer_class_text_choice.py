"""The rule that accepts texts of a class, against known truths."""

import numpy as np
import pytest

from ipo_dspy.optimizer.class_text_choice import choose_texts
from ipo_dspy.scoring.comparison import Floats, PairTally

CLASSES = 10


def outcomes(seed: int, images: int, effects: Floats, *, shared: float = 1.0) -> PairTally:
    """Return the tally of texts for class 0 whose logits differ from image to image by chance, and by an effect.

    All texts have the same expected outcomes if their effects on the logit of the images of class 0 are equal.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % CLASSES
    others = rng.normal(size=(images, CLASSES - 1)) * 2  # logits of the other classes
    own = np.where(labels > 0, labels - 1, 0)
    others[np.arange(images), own] += np.where(labels > 0, 2.0, 0.0)
    of_text = rng.normal(size=(images, 1)) * shared + rng.normal(size=(images, len(effects)))
    of_text += np.where(labels == 0, 1.0, -1.0)[:, None] + np.where(labels == 0, 1.0, 0.0)[:, None] * effects
    logits = np.concatenate(
        [of_text[:, :, None], np.repeat(others[:, None], len(effects), axis=1)], axis=2
    )  # [N, K, C]
    losses = np.log(np.exp(logits).sum(axis=2)) - np.take_along_axis(logits, labels[:, None, None], axis=2)[:, :, 0]
    correct = (logits.argmax(axis=2) == labels[:, None]).astype(float)
    return PairTally.of(np.hstack([correct, losses]), labels, CLASSES)


@pytest.mark.end_to_end
@pytest.mark.parametrize("images", [40, 160, 400])
@pytest.mark.parametrize("shared", [0.0, 3.0])
def test_texts_without_effect_are_rarely_accepted(images: int, shared: float) -> None:
    runs = 300
    accepted = sum(
        choose_texts(outcomes(seed, images, np.zeros(18), shared=shared), np.zeros(CLASSES), tried=17, seed=seed) > 0
        for seed in range(runs)
    )
    assert accepted <= 0.05 * runs + 2 * np.sqrt(0.05 * 0.95 * runs)


@pytest.mark.end_to_end
def test_the_best_of_many_texts_without_effect_is_rarely_accepted() -> None:
    accepted = 0
    for seed in range(100):
        tally = outcomes(seed, 160, np.zeros(401))
        gains = tally.sums[:, :401].sum(axis=0)
        kept = np.array([0, *(1 + np.argsort(-gains[1:])[:40])])  # those that look best on the same images
        both = np.concatenate([kept, 401 + kept])
        best = PairTally(tally.images, tally.sums[:, both], tally.products[np.ix_(both, both)])
        accepted += choose_texts(best, np.zeros(CLASSES), tried=400, seed=seed) > 0
    assert accepted <= 9


def test_a_text_with_a_large_effect_is_accepted() -> None:
    effects = np.zeros(18)
    effects[5] = 4.0
    chosen = [choose_texts(outcomes(seed, 400, effects), np.zeros(CLASSES), tried=17) for seed in range(50)]
    assert chosen.count(5) >= 45


def test_a_text_that_costs_another_class_more_than_its_floor_is_not() -> None:
    effects = np.zeros(3)
    effects[1] = 4.0
    tally = outcomes(0, 400, effects)
    floors = tally.sums[:, 0].copy()
    assert choose_texts(tally, floors - 40, tried=2) == 1
    floors[3] = tally.sums[3, 1] + 1
    assert choose_texts(tally, floors, tried=2) == 0

"""The rule that accepts texts of a class, against known truths."""

import functools
import operator

import numpy as np
import pytest
import torch

from ipo_dspy.optimizer.class_text_choice import choose_texts, is_beyond_chance, rows_of_folds
from ipo_dspy.scoring.class_columns import ColumnTally
from ipo_dspy.scoring.comparison import Floats, PairTally

CLASSES = 10


def table(seed: int, images: int, effects: Floats, *, shared: float = 1.0) -> Floats:
    """Return the outcomes [N, 2K] of texts for class 0 whose logits differ by chance and by an effect.

    All texts have the same expected outcomes if their effects on the logit of the images of class 0 are equal. The
    label of image i is i % CLASSES.
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
    return np.hstack([correct, losses])


def accepted(outcomes: Floats, least_correct: torch.Tensor | None = None) -> int:
    """Return the position of the texts that are accepted, 0 for the present ones, which come first."""
    labels, count = np.arange(len(outcomes)) % CLASSES, outcomes.shape[1] // 2
    folds = rows_of_folds(labels)
    parts = [
        ColumnTally(
            torch.bincount(torch.from_numpy(labels[rows]), minlength=CLASSES),
            torch.from_numpy((np.eye(CLASSES)[labels[rows]].T @ outcomes[rows, :count]).T).round().long(),
            torch.from_numpy(outcomes[rows, count:].sum(axis=0)),
        )
        for rows in folds
    ]
    chosen, by_fold = choose_texts(parts, least_correct)
    pairs = [
        PairTally.of(outcomes[rows][:, [0, k, count, count + k]], labels[rows], CLASSES)
        for rows, k in zip(folds, by_fold, strict=True)
    ]
    return chosen if is_beyond_chance(functools.reduce(operator.add, pairs)) else 0


@pytest.mark.end_to_end
@pytest.mark.end_to_end
@pytest.mark.parametrize("images", [40, 160, 400])
@pytest.mark.parametrize("shared", [0.0, 1.0, 3.0])
def test_texts_without_effect_are_rarely_accepted(images: int, shared: float) -> None:
    runs = 300
    count = sum(accepted(table(seed, images, np.zeros(18), shared=shared)) > 0 for seed in range(runs))
    assert count <= 0.05 * runs + 2 * np.sqrt(0.05 * 0.95 * runs)


@pytest.mark.end_to_end
@pytest.mark.end_to_end
def test_the_best_of_many_texts_without_effect_is_rarely_accepted() -> None:
    assert sum(accepted(table(seed, 160, np.zeros(401))) > 0 for seed in range(100)) <= 9


@pytest.mark.end_to_end
@pytest.mark.parametrize("images", [40, 160])
def test_variants_of_the_best_text_are_accepted_more_often(images: int) -> None:
    """Who sees how texts did on all images, as a language model does, learns what they have in common by chance."""
    rng, own = np.random.default_rng(0), np.arange(images) % CLASSES == 0
    changed, runs = 0, 60
    for _ in range(runs):
        margin, effects = rng.normal(0.3, 1.5, images), [np.zeros(images)]  # of the class over the others
        for _ in range(3):
            best = min(effects[1:], key=lambda effect: np.logaddexp(0, -margin - effect).sum(), default=None)
            for _ in range(12):
                fresh = rng.normal(size=images) * own
                effects.append(fresh if best is None else 0.8 * best + 0.6 * fresh)
            margins = margin[:, None] + np.array(effects).T
            if accepted(np.hstack([(margins > 0).astype(float), np.logaddexp(0, -margins)])):
                changed += 1
                break
    assert changed <= 0.35 * runs


@pytest.mark.end_to_end
@pytest.mark.parametrize(("texts", "effect", "share"), [(18, 4.0, 0.9), (18, 2.0, 0.5), (401, 4.0, 0.8)])
def test_a_text_with_an_effect_is_accepted(texts: int, effect: float, share: float) -> None:
    effects = np.zeros(texts)
    effects[5] = effect
    chosen = [accepted(table(seed, 400, effects)) for seed in range(50)]
    assert chosen.count(5) >= share * 50


def test_a_text_that_costs_another_class_more_than_its_floor_is_not() -> None:
    effects = np.zeros(3)
    effects[1] = 4.0
    outcomes = table(0, 400, effects)
    correct = np.eye(CLASSES)[np.arange(400) % CLASSES].T @ outcomes[:, :3]  # [C, 3]
    floors = torch.from_numpy(correct[:, 0].copy())
    assert accepted(outcomes, floors - 40) == 1
    floors[3] = correct[3, 1] + 1
    assert accepted(outcomes, floors) == 0


@pytest.mark.parametrize("images", [1, 3, 7, 100])
def test_folds_hold_every_image_once(images: int) -> None:
    folds = rows_of_folds(np.sort(np.arange(images) % 3), seed=images)
    assert sorted(np.concatenate(folds).tolist()) == list(range(images))
    assert all(map(len, folds))

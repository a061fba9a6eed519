"""Comparison of templates in pairs: exact against plain formulas, and its statistics against a known truth."""

from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ipo_dspy.errors import InputError
from ipo_dspy.scoring.comparison import Comparison, Floats, PairTally
from ipo_dspy.scoring.intervals import wilson_interval
from ipo_dspy.scoring.metrics import tally_pairs

QUANTILES = np.vectorize(NormalDist().inv_cdf)
FAMILIES = 20


def tally(correct: Floats, losses: Floats, classes: int = 1) -> PairTally:
    return PairTally.of(np.hstack([correct, losses]), np.arange(len(correct)) % classes, classes)


def best(accuracy: Floats, loss: Floats, scale: float) -> Any:
    return np.where(accuracy >= accuracy.max(axis=1, keepdims=True) - 1e-9, loss, np.inf).argmin(axis=1)


def world(rng: np.random.Generator, templates: int) -> Floats:
    """True accuracies as on the bundled tasks: many templates are nearly as good as the best, some are far worse."""
    return np.clip(0.75 - 0.08 * np.exp(1.1 * rng.standard_normal(templates)), 0.05, 0.97)


def images(rng: np.random.Generator, accuracy: Floats, count: int) -> tuple[Floats, Floats]:
    """Outcomes of templates on images: images differ in difficulty, and templates of a family make similar errors.

    Outcomes of two templates have a correlation of 0.5, on the bundled tasks 0.41 to 0.53.
    """
    families = rng.integers(0, FAMILIES, len(accuracy))
    difficulty = rng.standard_normal((count, 1))
    shared = rng.standard_normal((count, FAMILIES))[:, families]
    own = rng.standard_normal((count, len(accuracy)))
    noise = np.sqrt(0.7) * difficulty + np.sqrt(0.27) * shared + np.sqrt(0.03) * own
    margin = QUANTILES(accuracy) - noise
    return (margin > 0).astype(float), np.logaddexp(0, -2 * margin)


@given(st.integers(1, 9), st.integers(2, 5), st.integers(1, 4), st.integers(1, 5), st.integers(0, 99))
def test_pairs_are_the_products_of_all_outcomes(n: int, classes: int, templates: int, block: int, seed: int) -> None:
    torch.manual_seed(seed)
    features, texts = torch.randn(n, 8), torch.randn(templates, classes, 8)
    labels = torch.randint(classes, (n,))
    logits = torch.stack([3 * features @ text.T for text in texts]).double()  # [T, N, C]
    correct = (logits.argmax(-1) == labels).double()
    losses = torch.stack([torch.nn.functional.cross_entropy(each, labels, reduction="none") for each in logits])
    table = torch.cat([correct, losses]).T  # [N, 2T]
    pairs = tally_pairs(features, labels, texts, logit_scale=3.0, block=block)
    assert pairs.images.tolist() == torch.bincount(labels, minlength=classes).tolist()
    for label in range(classes):
        np.testing.assert_allclose(pairs.sums[label], table[labels == label].sum(0), atol=1e-4, rtol=1e-5)
    np.testing.assert_allclose(pairs.products, table.T @ table, atol=1e-4, rtol=1e-5)
    halves = [tally_pairs(features[i::2], labels[i::2], texts, logit_scale=3.0) for i in (0, 1) if len(labels[i::2])]
    whole = halves[0] if len(halves) == 1 else halves[0] + halves[1]
    np.testing.assert_allclose(whole.products, pairs.products, atol=1e-4, rtol=1e-5)


def test_errors_are_those_of_paired_differences() -> None:
    rng = np.random.default_rng(0)
    correct, losses = images(rng, world(rng, 6), 50)
    compared = Comparison(tally(correct, losses))
    for i in range(6):
        for j in range(6):
            expected = 100 * np.std(correct[:, i] - correct[:, j], ddof=1) / np.sqrt(50)
            assert compared.accuracy_errors[i, j] == pytest.approx(expected, abs=1e-6)
            assert compared.loss_errors[i, j] == pytest.approx(
                np.std(losses[:, i] - losses[:, j], ddof=1) / np.sqrt(50), abs=1e-6
            )


def test_one_image_separates_no_templates_and_no_image_is_an_error() -> None:
    compared = Comparison(tally(np.array([[1.0, 0.0]]), np.array([[0.1, 2.0]])))
    assert compared.accuracy_errors.min() > 100
    assert compared.optimism(best) >= 0
    assert compared.best_set().all()
    with pytest.raises(InputError, match="images must not be empty"):
        Comparison(PairTally(np.zeros(1, int), np.zeros((1, 2)), np.zeros((2, 2))))
    with pytest.raises(InputError, match="losses must be finite"):
        Comparison(PairTally(np.ones(1, int), np.array([[1.0, np.nan]]), np.zeros((2, 2))))


def test_templates_that_are_equal_have_no_optimism() -> None:
    rng = np.random.default_rng(0)
    correct, losses = images(rng, np.array([0.7]), 60)
    compared = Comparison(tally(np.repeat(correct, 9, axis=1), np.repeat(losses, 9, axis=1)))
    assert compared.optimism(best) < 1e-6
    assert compared.best_set().all()
    assert compared.accuracy_errors.max() == 0


def test_the_last_digits_of_losses_do_not_change_the_optimism() -> None:
    """A resumed run encodes texts in other batches than a whole one."""
    rng = np.random.default_rng(0)
    margin = rng.standard_normal((6, 1)) + 0.3 * rng.standard_normal((6, 60))  # many are right on the same images
    correct, losses = (margin > -0.3).astype(float), np.logaddexp(0, -margin)
    again = losses + 1e-7 * rng.standard_normal(losses.shape)
    first, second = (Comparison(tally(correct, table, classes=3)) for table in (losses, again))
    assert first.optimism(best) == pytest.approx(second.optimism(best), abs=1e-3)
    noise, _ = first.draws(400)
    same = (correct == correct[:, [0]]).all(axis=0)
    np.testing.assert_allclose(noise[:, same], np.repeat(noise[:, [0]], same.sum(), axis=1), atol=1e-8)


def test_only_the_spread_within_classes_counts_for_new_images_of_the_same_classes() -> None:
    rng = np.random.default_rng(0)
    by_class = np.arange(40) % 4
    correct = np.stack([by_class > 0, by_class > 1, rng.random(40) > 0.5], axis=1).astype(float)
    losses = np.stack([1.0 * by_class, 2.0 * by_class, rng.random(40)], axis=1)
    compared = Comparison(tally(correct, losses, classes=4))
    assert compared.is_spread_known
    assert compared.loss_errors[0, 1] > 0.1
    _, noise = compared.draws(400)
    centered = losses - np.stack([losses[by_class == label].mean(axis=0) for label in range(4)])[by_class]
    expected = np.sqrt((centered**2).sum(axis=0) / (40 * 36))  # N images, N - C degrees of freedom
    np.testing.assert_allclose(noise.std(axis=0), expected, rtol=0.15, atol=1e-6)
    assert not Comparison(tally(correct[:4], losses[:4], classes=4)).is_spread_known


def test_the_optimism_of_halves_is_that_of_resampled_images() -> None:
    rng = np.random.default_rng(1)
    correct, losses = images(rng, world(rng, 60), 200)
    compared = Comparison(tally(correct, losses))
    weights = rng.multinomial(200, np.full(200, 1 / 200), size=2000) - 1.0  # [B, N]
    noise, loss_noise = weights @ correct / 2, weights @ losses / 200  # of the mean, in percent and nats
    chosen = best(compared.accuracy + noise, compared.loss + loss_noise, 1.0)
    resampled = 2 * noise[np.arange(2000), chosen].mean()
    accuracy, loss = compared.draws(2000)
    chosen = best(compared.accuracy + accuracy, compared.loss + loss, 1.0)
    drawn = 2 * accuracy[np.arange(2000), chosen].mean()
    assert drawn == pytest.approx(resampled, rel=0.1)


@pytest.mark.parametrize(
    ("count", "repetitions", "templates"),
    [
        (100, 40, 100),
        pytest.param(25, 200, 300, marks=pytest.mark.slow),
        pytest.param(100, 200, 300, marks=pytest.mark.slow),
        pytest.param(400, 100, 300, marks=pytest.mark.slow),
    ],
)
def test_a_known_truth_is_covered(count: int, repetitions: int, templates: int) -> None:
    errors, covered, held = [], [], []
    for repetition in range(repetitions):
        rng = np.random.default_rng([repetition, count])
        truth = world(rng, templates)
        compared = Comparison(tally(*images(rng, truth, count)), seed=repetition)
        chosen = int(best(compared.accuracy[None], compared.loss[None], 1.0)[0])
        expected = compared.accuracy[chosen] - compared.optimism(best)
        interval = compared.interval(expected, chosen)
        covered.append(interval.low <= 100 * truth[chosen] <= interval.high)
        held.append(compared.best_set()[truth.argmax()])
        common = compared.accuracy.mean() - 100 * truth.mean()  # luck of the images that all templates share
        errors.append(expected - 100 * truth[chosen] - common)
    error = np.std(errors) / np.sqrt(repetitions)
    assert abs(np.mean(errors)) < 0.5 + 2 * error
    assert np.mean(covered) >= 0.92 - 2 * np.sqrt(0.05 * 0.95 / repetitions)
    assert np.mean(held) >= 0.9


def test_the_interval_is_wilsons() -> None:
    interval = wilson_interval(90.0, 20)
    assert (round(interval.low, 1), round(interval.high, 1)) == (69.9, 97.2)
    assert wilson_interval(100.0, 5).high == 100.0
    assert wilson_interval(0.0, 5).low == 0.0

"""Several labels of an image: tallies against their plain definitions, sums over parts, and average precision."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given
from hypothesis import strategies as st

from ipo_dspy.scoring.comparison import Comparison
from ipo_dspy.scoring.image_blocks import BLOCK_ELEMENTS
from ipo_dspy.scoring.label_sets import average_precision
from ipo_dspy.scoring.multi_label import present_classes, ranked_precisions, tally_decision_pairs, tally_decisions

SCALE, BIAS = 8.0, -2.0


def random_images(images: int, classes: int, templates: int, seed: int) -> tuple[Any, Any, Any]:
    torch.manual_seed(seed)
    features, texts = torch.randn(images, 6), torch.randn(templates, classes, 6)
    return F.normalize(features, dim=-1), torch.rand(images, classes) < 0.3, F.normalize(texts, dim=-1)


@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 1, 2), (1, 4, 3), (40, 5, 4), (101, 13, 2)], ids=str)
def test_scores_are_their_plain_definitions(shape: tuple[int, int, int]) -> None:
    images, targets, texts = random_images(*shape, seed=1)
    for text, tally in zip(
        texts, tally_decisions(images, targets, texts, logit_scale=SCALE, logit_bias=BIAS), strict=True
    ):
        logits = (SCALE * images @ text.T + BIAS).double().numpy()
        shares, there = 1 / (1 + np.exp(-logits)), targets.numpy()
        losses = -np.where(there, np.log(shares), np.log(1 - shares))
        assert tally.score.accuracy == pytest.approx(100 * ((shares >= 0.5) == there).mean(), abs=1e-9)
        assert tally.score.loss == pytest.approx(losses.mean(), abs=1e-6)
        found = present_classes(images, text, logit_scale=SCALE, logit_bias=BIAS)
        assert found.tolist() == (shares >= 0.5).tolist()


def test_tallies_add_up_over_parts_and_blocks() -> None:
    images, targets, texts = random_images(90, 5, 4, seed=2)
    options: dict[str, Any] = {"logit_scale": SCALE, "logit_bias": BIAS}
    whole = tally_decisions(images, targets, texts, **options)
    parts = [tally_decisions(images[i::3], targets[i::3], texts, block=4, **options) for i in range(3)]
    for one, *rest in zip(whole, *parts, strict=True):
        added = rest[0] + rest[1] + rest[2]
        assert (one.images, one.correct) == (added.images, added.correct)
        assert one.loss == pytest.approx(added.loss, abs=1e-4)
    pairs = tally_decision_pairs(images, targets, texts, **options)
    split = [tally_decision_pairs(images[i::3], targets[i::3], texts, block=4, **options) for i in range(3)]
    added_pairs = split[0] + split[1] + split[2]
    np.testing.assert_allclose(added_pairs.products, pairs.products, rtol=1e-6)
    assert (added_pairs.images.tolist(), added_pairs.decisions) == ([90], 5)
    compared = Comparison(added_pairs)
    for score, tally in zip(compared.scores, whole, strict=True):
        assert score.accuracy == pytest.approx(tally.score.accuracy, abs=1e-9)
        assert score.loss == pytest.approx(tally.score.loss, abs=1e-6)


def test_errors_of_differences_are_those_of_a_paired_test() -> None:
    images, targets, texts = random_images(200, 6, 2, seed=3)
    compared = Comparison(tally_decision_pairs(images, targets, texts, logit_scale=SCALE, logit_bias=BIAS))
    right = [((SCALE * images @ text.T + BIAS >= 0) == targets).double().mean(dim=1) for text in texts]
    error = 100 * float((right[0] - right[1]).std()) / 200**0.5
    assert compared.accuracy_errors[0, 1] == pytest.approx(error, rel=1e-6)
    interval = compared.interval(float(compared.accuracy[0]), 0)
    assert interval.high - interval.low < 2.2 * 1.96 * 100 * float(right[0].std()) / 200**0.5 * 1.25


def textbook(scores: Any, there: Any) -> float:
    """Return the sum over thresholds of precision times the growth of recall, one threshold after the other."""
    area, recall = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        answered = scores >= threshold
        hits = int((there & answered).sum())
        area += (hits / there.sum() - recall) * hits / answered.sum()
        recall = hits / there.sum()
    return 100 * float(area)


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=40))
def test_average_precision_is_that_of_the_textbook(rows: list[tuple[int, bool]]) -> None:
    scores, there = np.array([float(s) for s, _ in rows]), np.array([t for _, t in rows])
    value = average_precision(scores, there)
    if there.any():
        assert value == pytest.approx(textbook(scores, there), abs=1e-9)
        assert 0 < value <= 100 + 1e-9
    else:
        assert np.isnan(value)


def test_average_precision_of_known_rankings() -> None:
    order = np.array([0.9, 0.8, 0.7, 0.6])
    assert average_precision(order, np.array([True, True, False, False])) == 100
    assert average_precision(order, np.array([False, False, False, True])) == 25
    assert average_precision(np.zeros(4), np.array([True, False, False, True])) == 50  # ties: the share


def test_average_precisions_of_classes_do_not_depend_on_how_many_are_computed_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images, targets, texts = random_images(50, 9, 1, seed=4)
    targets[:, 3] = False
    whole = ranked_precisions(images, targets, texts[0])
    assert np.isnan(whole).tolist() == [i == 3 for i in range(9)]
    for i in (0, 8):
        assert whole[i] == pytest.approx(textbook((images @ texts[0][i]).numpy(), targets[:, i].numpy()), abs=1e-3)
    monkeypatch.setitem(BLOCK_ELEMENTS, "cpu", 100)  # two at a time
    np.testing.assert_allclose(ranked_precisions(images, targets, texts[0]), whole, atol=1e-9)

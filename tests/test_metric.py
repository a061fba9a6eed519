"""Loss and accuracy against the formula written out, in double precision."""

import functools
import itertools
import math
import operator
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ipo_dspy.errors import InputError
from ipo_dspy.metric import logits, per_class, score_templates, tally_templates


def problem(seed: int, n: int, c: int, t: int, d: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.nn.functional.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=-1)
    text = torch.nn.functional.normalize(torch.randn(t, c, d, generator=generator, dtype=torch.float64), dim=-1)
    return images, torch.randint(c, (n,), generator=generator), text


def by_hand(
    images: Tensor, labels: Tensor, text: Tensor, scale: float, bias: float, allowed: Tensor | None = None
) -> tuple[float, float]:
    """Accuracy and loss of one template, one image at a time."""
    loss, correct = 0.0, 0
    for row, (image, label) in enumerate(zip(images.tolist(), labels.tolist(), strict=True)):
        scores = {
            k: scale * math.fsum(a * b for a, b in zip(image, one, strict=True)) + bias
            for k, one in enumerate(text.tolist())
            if allowed is None or allowed[row, k]
        }
        top = max(scores.values())
        loss += top + math.log(math.fsum(math.exp(s - top) for s in scores.values())) - scores[label]
        correct += scores[label] == top
    return 100.0 * correct / len(labels), loss / len(labels)


@pytest.mark.parametrize(("n", "c", "t"), [(1, 2, 1), (7, 3, 2), (40, 11, 3)])
@pytest.mark.parametrize(("scale", "bias"), [(1.0, 0.0), (100.0, -10.0)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_is_the_formula(n: int, c: int, t: int, scale: float, bias: float, dtype: torch.dtype) -> None:
    images, labels, text = problem(n, n, c, t)
    images, text = images.to(dtype), text.to(dtype)
    scores = score_templates(images, labels, text, logit_scale=scale, logit_bias=bias)
    tolerance = 1e-6 if dtype == torch.float64 else 1e-7 * scale * 4  # float32 rounds cosines at about 1e-7
    for score, one in zip(scores, text, strict=True):
        accuracy, loss = by_hand(images.double(), labels, one.double(), scale, bias)
        assert score.accuracy == pytest.approx(accuracy)
        assert score.loss == pytest.approx(loss, abs=tolerance)


def test_order_of_images_is_irrelevant() -> None:
    images, labels, text = problem(0, 50, 5, 4)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    one = score_templates(images, labels, text, logit_scale=50.0)
    other = score_templates(images[order], labels[order], text, logit_scale=50.0)
    for a, b in zip(one, other, strict=True):
        assert a.accuracy == b.accuracy
        assert a.loss == pytest.approx(b.loss, rel=1e-10)


@given(cuts=st.lists(st.integers(1, 7), max_size=6), seed=st.integers(0, 99), order=st.randoms())
def test_tallies_of_parts_add_up_exactly(cuts: list[int], seed: int, order: random.Random) -> None:
    """To the last bit, in any order; the parts are of 64, since a product of a few rows has other last bits."""
    images, labels, text = problem(seed, 7 * 64 + 17, 5, 2)
    images, text = images.float(), text.float()
    whole = tally_templates(images, labels, text, logit_scale=100.0)
    edges = [0, *sorted({64 * cut for cut in cuts}), len(images)]
    parts = [slice(*pair) for pair in itertools.pairwise(edges)]
    order.shuffle(parts)
    tallies = [tally_templates(images[part], labels[part], text, logit_scale=100.0) for part in parts]
    assert [functools.reduce(operator.add, of_one) for of_one in zip(*tallies, strict=True)] == whole


def test_only_allowed_classes_compete() -> None:
    images, labels, text = problem(3, 20, 6, 1)
    allowed = torch.rand(20, 6, generator=torch.Generator().manual_seed(2)) < 0.4
    allowed[torch.arange(20), labels] = True
    (score,) = score_templates(images, labels, text, logit_scale=20.0, allowed=allowed)
    accuracy, loss = by_hand(images, labels, text[0], 20.0, 0.0, allowed)
    assert score.accuracy == pytest.approx(accuracy)
    assert score.loss == pytest.approx(loss, abs=1e-6)
    assert torch.isneginf(logits(images, text[0], logit_scale=20.0, allowed=allowed)).eq(~allowed).all()


def test_logits_are_scaled_cosines_and_a_bias() -> None:
    eye = torch.eye(2)
    assert torch.equal(logits(eye, eye, logit_scale=3.0, logit_bias=-1.0), 3.0 * eye - 1.0)


def test_features_that_are_no_numbers_are_told() -> None:
    images, labels, text = problem(4, 3, 2, 1)
    with pytest.raises(InputError, match="loss nan is not a finite number; check the features"):
        score_templates(images * float("nan"), labels, text, logit_scale=1.0)


def test_per_class_counts_every_image_once() -> None:
    counts = per_class(["cat", "dog", "cat", "emu"], ["dog", "dog", "cat", "cat"])
    assert counts == {"dog": (1, 2), "cat": (1, 2)}
    assert list(counts) == ["dog", "cat"]
    with pytest.raises(ValueError, match="zip"):
        per_class(["cat"], ["cat", "dog"])

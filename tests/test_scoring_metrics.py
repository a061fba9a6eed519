"""Loss and accuracy against the formula written out, in double precision."""

import functools
import itertools
import math
import operator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ipo_dspy.errors import InputError
from ipo_dspy.scoring.candidate_classes import CandidateClasses
from ipo_dspy.scoring.image_blocks import BLOCK_ELEMENTS, MIN_IMAGES, block_size
from ipo_dspy.scoring.metrics import Tally, class_logits, per_class, predict, tally_templates
from ipo_dspy.scoring.score import Score


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


def score_templates(images: Tensor, labels: Tensor, text: Tensor, **given: Any) -> list[Score]:
    return [tally.score for tally in tally_templates(images, labels, text, **given)]


def candidates(allowed: Tensor | None) -> CandidateClasses | None:
    """The same classes as sets of names."""
    if allowed is None:
        return None
    names = [str(k) for k in range(allowed.shape[1])]
    choices = [[name for name, one in zip(names, row, strict=True) if one] for row in allowed.tolist()]
    return CandidateClasses.of(choices, {name: k for k, name in enumerate(names)})


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


@given(cuts=st.lists(st.integers(1, 514), max_size=6), seed=st.integers(0, 99))
def test_tallies_of_parts_add_up(cuts: list[int], seed: int) -> None:
    images, labels, text = problem(seed, 515, 100, 1)
    images, text = images.float(), text.float()
    parts = [slice(*pair) for pair in itertools.pairwise([0, *sorted(set(cuts)), len(images)])]
    (whole,) = tally_templates(images, labels, text, logit_scale=100.0)
    tallies = [tally_templates(images[part], labels[part], text, logit_scale=100.0)[0] for part in parts]
    added = functools.reduce(operator.add, tallies)
    assert (added.images, added.correct) == (whole.images, whole.correct)
    assert added.score.loss == pytest.approx(whole.score.loss, abs=1e-6)


def direct(
    images: Tensor, labels: Tensor, text: Tensor, scale: float, bias: float, allowed: Tensor | None
) -> list[tuple[int, float]]:
    """The slow twin: all logits of a template at once, then cross-entropy in double precision."""
    rows = []
    for one in text:
        scores = scale * (images.to(one.dtype) @ one.T) + bias  # [N, C]
        scores = scores if allowed is None else scores.masked_fill(~allowed, float("-inf"))
        loss = torch.nn.functional.cross_entropy(scores.double(), labels).item()
        rows.append((int((scores.argmax(dim=1) == labels).sum()), loss))
    return rows


@given(
    n=st.integers(1, 300),
    c=st.integers(1, 20),
    t=st.integers(1, 3),
    block=st.none() | st.integers(1, 310),
    seed=st.integers(0, 999),
    scale=st.sampled_from([1.0, 30.0, 100.0]),
    bias=st.sampled_from([0.0, -10.0]),
    masked=st.booleans(),
    half=st.booleans(),
)
def test_any_block_is_the_direct_formula(
    n: int, c: int, t: int, block: int | None, seed: int, scale: float, bias: float, masked: bool, half: bool
) -> None:
    images, labels, text = problem(seed, n, c, t)
    images, text = images.to(torch.float16 if half else torch.float32), text.float()
    allowed = None
    if masked:
        allowed = torch.rand(n, c, generator=torch.Generator().manual_seed(seed)) < 0.5
        allowed[torch.arange(n), labels] = True
    given = {"logit_scale": scale, "logit_bias": bias, "allowed": candidates(allowed), "block": block}
    tallies = tally_templates(images, labels, text, **given)  # type: ignore[arg-type]
    for tally, (correct, loss) in zip(tallies, direct(images, labels, text, scale, bias, allowed), strict=True):
        assert (tally.images, tally.correct) == (n, correct)
        rounding = 4e-7 * scale / math.sqrt(n)  # of the logits in float32: in the mean it is that of one image, or less
        assert tally.score.loss == pytest.approx(loss, abs=max(1e-6, rounding))


def test_a_thousand_classes_are_the_direct_formula_to_a_millionth() -> None:
    images, labels, text = problem(5, 3000, 1000, 2, d=64)
    images, text = images.float(), text.float()
    wanted = direct(images, labels, text, 100.0, 0.0, None)
    for block in (None, 1, 64, 333, 3000):
        tallies = tally_templates(images, labels, text, logit_scale=100.0, block=block)
        for tally, (correct, loss) in zip(tallies, wanted, strict=True):
            assert tally.correct == correct
            assert tally.score.loss == pytest.approx(loss, abs=1e-6)


def test_sure_images_have_the_loss_that_is_left() -> None:
    """A loss much smaller than its logits is not their difference, which float32 knows to 4e-6 only."""
    text = torch.tensor([[[1.0, 0.0], [0.88, 0.0]]])
    (tally,) = tally_templates(torch.tensor([[1.0, 0.0]]), torch.tensor([0]), text, logit_scale=100.0)
    assert tally.loss == pytest.approx(math.log1p(math.exp(-12.0)), abs=1e-7)


@given(ties=st.lists(st.integers(0, 3), min_size=2, max_size=6), block=st.integers(1, 5), n=st.integers(1, 9))
def test_the_first_of_equal_classes_is_given(ties: list[int], block: int, n: int) -> None:
    images = torch.eye(4).repeat(n, 1)[: 4 * n : 3]
    text = torch.eye(4)[ties]  # [C, D], classes with the same features
    first = (images @ text.T).argmax(dim=1)
    assert [row.index(max(row)) for row in (images @ text.T).tolist()] == first.tolist()
    assert torch.equal(predict(images, text, logit_scale=2.0, block=block)[0], first)
    for label in range(len(ties)):
        labels = torch.full((len(images),), label)
        (tally,) = tally_templates(images, labels, text[None], logit_scale=2.0, block=block)
        assert tally.correct == int((first == label).sum())


@given(block=st.none() | st.integers(1, 100), masked=st.booleans())
def test_predictions_are_those_that_are_counted(block: int | None, masked: bool) -> None:
    images, labels, text = problem(8, 90, 7, 2)
    allowed = torch.rand(90, 7, generator=torch.Generator().manual_seed(2)) < 0.4 if masked else None
    if allowed is not None:
        allowed[torch.arange(90), labels] = True
    given = {"logit_scale": 20.0, "logit_bias": -3.0, "allowed": candidates(allowed)}
    for one, tally in zip(text, tally_templates(images, labels, text, **given), strict=True):  # type: ignore[arg-type]
        found, probabilities = predict(images, one, block=block, **given)  # type: ignore[arg-type]
        logits = class_logits(images, one, logit_scale=20.0, logit_bias=-3.0)
        logits = logits if allowed is None else logits.masked_fill(~allowed, -torch.inf)
        assert torch.equal(found, logits.argmax(dim=1))
        assert torch.allclose(probabilities, logits.softmax(dim=1).amax(dim=1))
        assert int((found == labels).sum()) == tally.correct


def test_a_score_does_not_depend_on_the_other_templates() -> None:
    images, labels, text = problem(6, 500, 9, 5, d=64)
    images, text = images.float(), text.float()
    together = tally_templates(images, labels, text, logit_scale=100.0)
    for one, tally in zip(text, together, strict=True):
        (alone,) = tally_templates(images, labels, one[None], logit_scale=100.0)
        assert alone.correct == tally.correct
        assert alone.score.loss == pytest.approx(tally.score.loss, abs=1e-6)


@pytest.mark.parametrize(("c", "d"), [(2, 1), (10, 512), (1000, 512), (21_841, 768), (5, 4096)])
def test_blocks_keep_within_their_numbers(c: int, d: int) -> None:
    size = block_size(torch.zeros(1, 1, 1).expand(3, c, d))
    assert size == MIN_IMAGES or MIN_IMAGES < size <= BLOCK_ELEMENTS["cpu"] // max(c, d)


def test_no_images_have_no_score() -> None:
    images, labels, text = problem(0, 0, 2, 1)
    (tally,) = tally_templates(images, labels, text, logit_scale=1.0)
    assert tally == Tally(0, 0, 0.0)
    assert [len(found) for found in predict(images, text[0], logit_scale=1.0)] == [0, 0]
    with pytest.raises(InputError, match="images must not be empty; pass at least one"):
        _ = tally.score


def test_only_allowed_classes_compete() -> None:
    images, labels, text = problem(3, 20, 6, 1)
    allowed = torch.rand(20, 6, generator=torch.Generator().manual_seed(2)) < 0.4
    allowed[torch.arange(20), labels] = True
    (score,) = score_templates(images, labels, text, logit_scale=20.0, allowed=candidates(allowed))
    accuracy, loss = by_hand(images, labels, text[0], 20.0, 0.0, allowed)
    assert score.accuracy == pytest.approx(accuracy)
    assert score.loss == pytest.approx(loss, abs=1e-6)


def test_logits_are_scaled_cosines_and_a_bias() -> None:
    eye = torch.eye(2)
    assert torch.equal(class_logits(eye, eye, logit_scale=3.0, logit_bias=-1.0), 3.0 * eye - 1.0)


def test_features_that_are_not_numbers_are_reported() -> None:
    images, labels, text = problem(4, 3, 2, 1)
    with pytest.raises(InputError, match="loss must be finite, got nan; check the features"):
        score_templates(images * float("nan"), labels, text, logit_scale=1.0)


def test_per_class_counts_every_image_once() -> None:
    counts = per_class(["cat", "dog", "cat", "emu"], ["dog", "dog", "cat", "cat"])
    assert counts == {"dog": (1, 2), "cat": (1, 2)}
    assert list(counts) == ["dog", "cat"]
    with pytest.raises(ValueError, match="zip"):
        per_class(["cat"], ["cat", "dog"])

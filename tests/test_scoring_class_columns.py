"""Tallies of candidate texts for one class against those of the whole table of logits."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ipo_dspy import demo
from ipo_dspy.clip.bundled import DEMO_VIT
from ipo_dspy.clip.image_features import encode_images
from ipo_dspy.clip.text_features import class_features
from ipo_dspy.scoring import class_columns
from ipo_dspy.scoring.class_columns import tally_column
from ipo_dspy.scoring.metrics import predict, tally_templates
from ipo_dspy.template import Template


def problem(seed: int, n: int, c: int, m: int, d: int = 16) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    images, texts, candidates = (F.normalize(torch.randn(k, d, generator=draw), dim=-1) for k in (n, c, m))
    return images, torch.randint(c, (n,), generator=draw), texts, candidates


def assert_same_as_whole_table(
    images: Tensor, labels: Tensor, texts: Tensor, column: int, candidates: Tensor, scale: float, bias: float = 0.0
) -> None:
    tables = texts.repeat(len(candidates), 1, 1)
    tables[:, column] = candidates
    tally = tally_column(images, labels, texts, column, candidates, logit_scale=scale, logit_bias=bias)
    whole = tally_templates(images, labels, tables, logit_scale=scale, logit_bias=bias)
    for m, expected in enumerate(whole):
        assert tally.of(m).score.loss == pytest.approx(expected.score.loss, abs=1e-5)
        assert tally.of(m).correct == expected.correct
        right = predict(images, tables[m], logit_scale=scale, logit_bias=bias)[0] == labels
        assert tally.correct[m].tolist() == torch.bincount(labels[right], minlength=len(texts)).tolist()


@given(seed=st.integers(0, 9999), n=st.integers(1, 60), c=st.integers(2, 9), m=st.integers(1, 7), data=st.data())
def test_a_column_is_scored_like_the_whole_table(seed: int, n: int, c: int, m: int, data: st.DataObject) -> None:
    images, labels, texts, candidates = problem(seed, n, c, m)
    column = data.draw(st.integers(0, c - 1))
    for scale, bias in ((1.0, 0.0), (20.0, -10.0), (100.0, 0.0)):
        assert_same_as_whole_table(images, labels, texts, column, candidates, scale, bias)


def test_blocks_of_images_and_of_candidates_do_not_change_a_tally(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels, texts, candidates = problem(0, 500, 4, 33)
    whole = tally_column(images, labels, texts, 1, candidates, logit_scale=30.0)
    monkeypatch.setattr(class_columns, "ROWS", 37)
    monkeypatch.setattr(class_columns, "CELLS", 150)
    parts = tally_column(images, labels, texts, 1, candidates, logit_scale=30.0)
    assert torch.equal(whole.correct, parts.correct)
    assert torch.allclose(whole.loss, parts.loss, atol=1e-3, rtol=0)


@given(seed=st.integers(0, 9999), cut=st.integers(0, 60))
def test_tallies_of_disjoint_images_add_up(seed: int, cut: int) -> None:
    images, labels, texts, candidates = problem(seed, 60, 5, 6)
    whole = tally_column(images, labels, texts, 2, candidates, logit_scale=30.0)
    left, right = (
        tally_column(images[part], labels[part], texts, 2, candidates, logit_scale=30.0)
        for part in (slice(cut), slice(cut, None))
    )
    assert torch.equal((left + right).images, whole.images)
    assert torch.equal((left + right).correct, whole.correct)
    assert torch.allclose((left + right).loss, whole.loss, atol=1e-4, rtol=0)


def test_words_of_a_bundled_task_in_half_precision_are_scored_like_the_whole_table() -> None:
    task = demo.load("pixel-animals", shots=4, model=DEMO_VIT)
    backbone = task.program.backbone
    images = encode_images(backbone, [example.image for example in task.trainset]).features.half()
    labels = torch.tensor([task.classes.index(label) for label in task.trainset.labels()])
    template = [Template.parse("a pixel art sprite of a <CLASS>.")]
    texts = class_features(backbone, template, task.classes)[0]
    candidates = class_features(backbone, template, ["small pet", "wild animal", "bird", "insect"])[0]
    for column in range(len(task.classes)):
        assert_same_as_whole_table(images, labels, texts, column, candidates, backbone.logit_scale)

"""The dtype of stored features, and its effect on scores."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

from ipo_dspy.clip import feature_dtype as rest
from ipo_dspy.clip.feature_dtype import FeatureBuffer, storage_dtype, to_scoring_device, to_storage_dtype
from ipo_dspy.scoring.metrics import tally_templates


def test_a_gibibyte_is_the_border() -> None:
    assert storage_dtype(2**19, 512) == torch.float32
    assert storage_dtype(2**19 + 1, 512) == torch.float16
    assert storage_dtype(1_280_000, 512) == torch.float16


def test_few_features_are_kept_as_they_are() -> None:
    features = torch.randn(10, 4)
    assert to_storage_dtype(features) is features


def test_many_features_are_rounded_to_nearest_even(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "LIMIT", 4 * 100 * 8 - 1)
    features = F.normalize(torch.randn(100, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    features[0, :2] = torch.tensor([1 + 2**-11, 1 + 3 * 2**-11])  # halfway between two numbers of float16
    kept = to_storage_dtype(features)
    assert kept.dtype == torch.float16
    assert kept[0, :2].tolist() == [1.0, 1 + 2**-9]
    assert np.array_equal(kept.numpy(), features.numpy().astype(np.float16))  # NumPy rounds so, by IEEE 754
    assert to_storage_dtype(kept[:5]) is not kept
    assert torch.equal(to_storage_dtype(kept[:5]), kept[:5])  # stored features are converted once


@pytest.mark.parametrize("seed", range(3))
def test_rounding_hardly_moves_a_score(seed: int) -> None:
    """Images near their class, as those of a good model are: cosine 0.25 with its text, of others 0.0 to 0.2."""
    draw = torch.Generator().manual_seed(seed)
    text = F.normalize(torch.randn(200, 512, generator=draw), dim=-1)  # [C, D]
    labels = torch.randint(200, (4000,), generator=draw)
    images = F.normalize(0.15 * text[labels] + F.normalize(torch.randn(4000, 512, generator=draw), dim=-1), dim=-1)
    whole = tally_templates(images, labels, text[None], logit_scale=100.0)[0].score
    kept = tally_templates(images.half(), labels, text[None], logit_scale=100.0)[0].score
    assert 0.01 < whole.loss < 2.0
    assert kept.loss == pytest.approx(whole.loss, abs=1e-4)
    assert kept.accuracy == pytest.approx(whole.accuracy, abs=0.1)


@pytest.mark.parametrize(("limit", "dtype"), [(2**30, torch.float32), (100, torch.float16)])
def test_rows_rest_as_a_whole_table_would(limit: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "LIMIT", limit)
    features, rows = torch.randn(7, 8), FeatureBuffer(7)
    assert rows.features.numel() == 0
    for part in (features[:3], features[3:3], features[3:]):
        rows.add(list(part))
    assert rows.features.dtype == dtype
    assert torch.equal(rows.features, to_storage_dtype(features))


def test_a_processor_takes_features_where_they_are() -> None:
    features = torch.randn(3, 4)
    assert to_scoring_device(features, torch.device("cpu")) is features


@pytest.mark.gpu
def test_a_gpu_holds_what_fits_and_gets_the_rest_from_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    features, device = torch.randn(1000, 64), torch.device("cuda")
    assert to_scoring_device(features, device).device.type == "cuda"
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 1000))
    pinned = to_scoring_device(features, device)
    assert (pinned.device.type, pinned.is_pinned()) == ("cpu", True)
    labels, text = torch.randint(10, (1000,)), torch.randn(2, 10, 64)
    here = tally_templates(features, labels, text, logit_scale=1.0)
    for near in (features.to(device), pinned):
        there = tally_templates(near, labels, text.to(device), logit_scale=1.0)
        for a, b in zip(here, there, strict=True):
            assert a.correct == b.correct
            assert a.score.loss == pytest.approx(b.score.loss, abs=1e-5)

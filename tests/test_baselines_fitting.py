"""Laws of every method that learns: the loss falls, the seed decides, the backbone stays as it was."""

import copy
import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.baseline_toys import CLASSES, deep_toy, few_shots, pictures
from helpers.clip_toys import shared_toy
from ipo_dspy.baselines import build_method
from ipo_dspy.baselines.base import FittedClassifier, evaluate
from ipo_dspy.errors import InputError

CONTEXTS = ("coop", "cocoop")
METHODS = (*CONTEXTS, "maple", "vpt", "promptsrc", "coprompt")
NOVEL = ("horse", "sea gull", "tram")
SETTINGS = {"coop": {"epochs": 3, "batch_size": 4}, **{name: {"epochs": 2} for name in METHODS[1:]}}
FAST = {"epochs": 10, "batch_size": 4, "lr": 1.0}
SLOW = {"epochs": 30, "batch_size": 4, "lr": 0.3}


def fit(name: str, seed: int = 0, **settings: Any) -> FittedClassifier:
    return build_method(name, **{**SETTINGS[name], **settings}).fit(few_shots(), seed=seed)


def learned(fitted: Any) -> list[torch.Tensor]:
    if hasattr(fitted, "model"):
        return list(fitted.model.parameters)
    return [fitted.context] if hasattr(fitted, "context") else list(fitted.learned)


@pytest.mark.parametrize(
    ("name", "settings", "share"),
    [("coop", FAST, 0.8), ("cocoop", FAST, 0.8), ("maple", SLOW, 0.8), ("vpt", SLOW, 0.9)],
)
def test_the_loss_falls_and_training_images_are_reported_apart_better(
    name: str, settings: dict[str, Any], share: float
) -> None:
    few = few_shots()
    fitted: Any = build_method(name, **settings).fit(few, seed=0)
    assert fitted.losses[-1] < share * fitted.losses[0]
    before = evaluate(build_method("clip").fit(few), few.images, few.labels, few.classes)
    after = evaluate(fitted, few.images, few.labels, few.classes)
    assert after.loss < before.loss
    assert after.accuracy > before.accuracy


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("name", "n_ctx"),
    [
        *((name, n_ctx) for name in CONTEXTS for n_ctx in (None, 2)),
        ("maple", 2),
        ("maple", 6),
        *((name, 2) for name in ("vpt", "promptsrc", "coprompt")),
    ],
)
def test_the_seed_decides_to_the_last_bit(name: str, n_ctx: int | None) -> None:
    first, again, other = (fit(name, seed, n_ctx=n_ctx) for seed in (0, 0, 1))
    images = pictures(2, seed=1)[0]
    assert torch.equal(first.logits(images, CLASSES), again.logits(images, CLASSES))
    assert not torch.equal(first.logits(images, CLASSES), other.logits(images, CLASSES))
    assert all(torch.equal(*pair) for pair in zip(learned(first), learned(again), strict=True))


@pytest.mark.parametrize(
    ("name", "setting", "said"),
    [
        ("coop", {"epochs": 2.5}, "epochs must be an integer or None, got 2.5; for example epochs=None"),
        ("cocoop", {"n_ctx": True}, "n_ctx must be an integer or None, got True"),
        ("maple", {"depth": "9"}, "depth must be an integer, got '9'; for example depth=9"),
        ("vpt", {"lr": math.inf}, "lr must be a finite number, got inf; for example lr=0.0025"),
        ("promptsrc", {"ctx_init": 5}, "ctx_init must be a string, got 5; for example ctx_init='a photo of a'"),
        (
            "coprompt",
            {"consistency_weight": "x"},
            "consistency_weight must be a finite number, got 'x'; for example consistency_weight=1.0",
        ),
    ],
)
def test_settings_of_another_kind_are_refused(name: str, setting: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        build_method(name, **setting)


@pytest.mark.parametrize("name", METHODS)
def test_nothing_else_changes(name: str) -> None:
    model = deep_toy().model
    before, random = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    fitted = fit(name)
    fitted.logits(pictures(1)[0], CLASSES)
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module.training for module in model.modules())
    assert torch.equal(torch.random.get_rng_state(), random)


@pytest.mark.parametrize("name", METHODS)
def test_everything_that_is_learned_moves(name: str) -> None:
    start, end = (learned(fit(name, lr=lr)) for lr in (1e-12, 0.1))
    for one, other in zip(start, end, strict=True):
        assert not other.requires_grad
        assert (one - other).abs().max() > 1e-4


@pytest.mark.parametrize("name", METHODS)
def test_novel_classes_are_named_when_it_is_asked(name: str) -> None:
    fitted, images = fit(name), pictures(2, seed=1)[0]
    base, novel = fitted.logits(images, CLASSES), fitted.logits(images, NOVEL)
    assert (base.shape, novel.shape, novel.dtype) == ((8, 4), (8, 3), torch.float32)
    together = fitted.logits(images, [*CLASSES, *NOVEL])
    torch.testing.assert_close(together, torch.cat([base, novel], dim=1), rtol=0, atol=1e-3)
    assert torch.equal(fitted.logits(images, CLASSES), base)
    assert not base.requires_grad


@pytest.mark.parametrize("name", METHODS)
def test_progress_counts_all_steps(name: str) -> None:
    reported: list[tuple[int, int]] = []
    build_method(name, epochs=2, batch_size=5).fit(few_shots(), progress=lambda *at: reported.append(at))
    assert reported == [(done, 6) for done in range(1, 7)]


@pytest.mark.parametrize("name", CONTEXTS)
@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"n_ctx": -1}, "n_ctx must be >= 0, got -1"),
        ({"ctx_init": ""}, "ctx_init is empty, got ''"),
        ({"epochs": 0}, "epochs must be >= 1, got 0"),
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"lr": 0.0}, "lr must be positive, got 0.0"),
        ({"shots": 16}, "has no setting 'shots'; known: n_ctx, ctx_init, "),
    ],
)
def test_bad_settings_are_reported_at_once(name: str, setting: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        build_method(name, **setting)


@pytest.mark.parametrize("name", CONTEXTS)
def test_towers_that_take_no_tokens_are_reported(name: str) -> None:
    with pytest.raises(InputError, match="does not support learned tokens"):
        build_method(name).fit(few_shots(shared_toy("siglip")))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("coop", {"words": "one", "batch": 3}, {"ctx_init": "one", "batch_size": 3}),
        ("vpt", {"batch": 3}, {"batch_size": 3}),
        (
            "coprompt",
            {"weight": 2.0, "image_share": 0.3, "text_share": 0.4},
            {"consistency_weight": 2.0, "image_adapter_ratio": 0.3, "text_adapter_ratio": 0.4},
        ),
    ],
)
def test_settings_are_taken_by_their_old_names_with_a_warning(
    name: str, old: dict[str, Any], new: dict[str, Any]
) -> None:
    method = build_method(name, **new)
    for build in (partial(build_method, name), type(method)):
        with pytest.warns(DeprecationWarning, match="is deprecated") as warned:
            assert build(**old) == method
        assert [str(one.message) for one in warned] == [
            f"{one}= is deprecated and will be removed in version 0.3; use {other}="
            for one, other in zip(old, new, strict=True)
        ]
        assert {Path(one.filename).name for one in warned} == {Path(__file__).name}


def test_a_setting_by_both_names_and_one_of_another_method_are_refused() -> None:
    with pytest.raises(InputError, match="batch is an earlier name of batch_size; pass batch_size only"):
        build_method("coop", batch=3, batch_size=4)
    with pytest.raises(InputError, match="coop has no setting 'weight'"):
        build_method("coop", weight=3.0)

"""The shared descent: full batches of an epoch's images, the published schedule, and the seed decides everything."""

from collections import Counter

import pytest
import torch
from torch import Tensor

from ipo_dspy.baselines.training import SGDConfig, train
from ipo_dspy.errors import InputError


def regress(recipe: SGDConfig, seed: int = 0) -> tuple[Tensor, tuple[float, ...], list[list[int]]]:
    inputs = torch.randn(10, 3, generator=torch.Generator().manual_seed(7))  # [N, 3]
    weight, seen = torch.zeros(3, requires_grad=True), list[list[int]]()

    def loss(indices: Tensor) -> Tensor:
        seen.append(indices.tolist())
        return ((inputs[indices] @ weight - inputs[indices].sum(dim=1)) ** 2).mean()

    means = train([weight], loss, 10, recipe=recipe, generator=torch.Generator().manual_seed(seed))
    return weight.detach(), means, seen


@pytest.mark.parametrize(
    ("batch", "sizes"), [(1, [1] * 10), (4, [4, 4]), (5, [5, 5]), (9, [9]), (10, [10]), (32, [10])]
)
def test_an_epoch_has_full_batches_or_one_of_all_images(batch: int, sizes: list[int]) -> None:
    _, means, seen = regress(SGDConfig(epochs=2, batch_size=batch, lr=0.01))
    assert [len(indices) for indices in seen] == sizes * 2
    first, second = seen[: len(sizes)], seen[len(sizes) :]
    for epoch in (first, second):
        shown = [index for indices in epoch for index in indices]
        assert len(set(shown)) == len(shown) == sum(sizes)
    assert first != second
    assert len(means) == 2


def test_an_image_that_sits_out_an_epoch_is_in_another() -> None:
    _, _, seen = regress(SGDConfig(epochs=20, batch_size=4, lr=0.01))
    counts = Counter(index for indices in seen for index in indices)
    assert len(counts) == 10
    assert min(counts.values()) > 10


def test_the_loss_falls_and_the_seed_decides() -> None:
    recipe = SGDConfig(epochs=60, batch_size=5, lr=0.1, weight_decay=0.0)
    weight, means, _ = regress(recipe)
    assert means[-1] < 1e-3 < means[0]
    assert torch.allclose(weight, torch.ones(3), atol=0.05)
    assert torch.equal(weight, regress(recipe)[0])
    assert not torch.equal(weight, regress(recipe, seed=1)[0])


def test_the_first_epoch_is_slow_and_the_rest_follow_the_cosine() -> None:
    """The figures of Dassl's scheduler, written out by hand."""
    recipe = SGDConfig(epochs=4, batch_size=1, lr=2.0)
    assert [recipe.rate(epoch) for epoch in range(4)] == pytest.approx([1e-5, 2.0, 1 + 2**-0.5, 1.0])


def test_the_rate_is_what_moves_the_parameters() -> None:
    """One step of plain SGD an epoch on a loss whose gradient is one."""
    recipe, places = SGDConfig(epochs=4, batch_size=10, lr=2.0, momentum=0.0, weight_decay=0.0), list[float]()
    weight = torch.zeros(1, requires_grad=True)
    train(
        [weight],
        lambda indices: weight.sum(),
        10,
        recipe=recipe,
        generator=torch.Generator(),
        after_epoch=lambda _: places.append(-weight.item()),
    )
    assert places == pytest.approx([sum(recipe.rate(epoch) for epoch in range(done + 1)) for done in range(4)])


def test_progress_counts_all_steps() -> None:
    reported: list[tuple[int, int]] = []
    weight, recipe = torch.zeros(1, requires_grad=True), SGDConfig(epochs=2, batch_size=4, lr=0.1)
    train(
        [weight],
        lambda indices: weight.sum(),
        10,
        recipe=recipe,
        generator=torch.Generator(),
        progress=lambda *at: reported.append(at),
    )
    assert reported == [(done, 4) for done in range(1, 5)]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"epochs": 0}, "epochs must be >= 1, got 0"),
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"lr": 0.0}, "lr must be positive, got 0.0"),
    ],
)
def test_settings_that_learn_nothing_are_reported(setting: dict[str, float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        SGDConfig(**{"epochs": 1, "batch_size": 1, "lr": 0.1, **setting})  # type: ignore[arg-type]

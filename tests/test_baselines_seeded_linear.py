"""Linear layers as `torch.nn.Linear` has them, from a generator of ours."""

import torch

from ipo_dspy.baselines.seeded_linear import Linear, init_linear

CPU = torch.device("cpu")


def drawn(inputs: int, outputs: int, seed: int = 0) -> Linear:
    return init_linear(inputs, outputs, CPU, torch.Generator().manual_seed(seed))


def test_it_is_the_layer_of_torch() -> None:
    layer, x = drawn(6, 4), torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0))
    plain = torch.nn.Linear(6, 4)
    plain.load_state_dict(layer._asdict())
    assert torch.equal(layer(x), plain(x))


def test_weights_are_drawn_within_the_bound_of_torch() -> None:
    layer = drawn(400, 300)
    for one in layer:
        assert 0.98 / 20 < one.abs().max().item() <= 1 / 20
        assert one.min() < -0.98 / 20
        assert one.requires_grad
        assert one.is_leaf


def test_the_generator_decides_and_the_global_one_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    first, again, other = drawn(5, 3), drawn(5, 3), drawn(5, 3, seed=1)
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert not torch.equal(first.weight, other.weight)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_copy_has_leaves_of_its_own() -> None:
    layer = drawn(5, 3)
    copy = layer.copied()
    assert all(torch.equal(*pair) for pair in zip(layer, copy, strict=True))
    with torch.no_grad():
        for one in copy:
            assert one.is_leaf
            assert one.requires_grad
            one.add_(1)
    assert not any(torch.equal(*pair) for pair in zip(layer, copy, strict=True))

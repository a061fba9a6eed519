"""The linear probe: its fit against Newton's method, its search, and what it classifies on a bundled task."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor
from torch.autograd.functional import hessian, jacobian

from ipo_dspy import demo
from ipo_dspy.baselines import build_method
from ipo_dspy.baselines.base import FewShotTask, evaluate
from ipo_dspy.baselines.linear_probe import ProbeClassifier, cross_validation_splits, fit_logistic, search_strength
from ipo_dspy.data import ImageDataset
from ipo_dspy.errors import DataError, InputError
from ipo_dspy.template import Template

PHOTO = Template.parse("a photo of a <CLASS>.")


def images(dataset: ImageDataset) -> list[object]:
    return [example.image for example in dataset]


@pytest.fixture(scope="module")
def few(task: demo.DemoTask) -> FewShotTask:
    train, val = task.trainset, task.valset
    return FewShotTask(
        task.program.backbone, images(train), train.labels(), task.classes, PHOTO, images(val), val.labels()
    )


def newton(features: Tensor, targets: Tensor, count: int, inverse_strength: float) -> Tensor:
    """Return the same minimum by Newton's method with the full Hessian; biases have one direction without curvature."""
    inputs = torch.cat([features.double(), torch.ones(len(features), 1, dtype=torch.float64)], dim=1)

    def objective(flat: Tensor) -> Tensor:
        weight = flat.view(count, -1)
        loss = F.cross_entropy(inputs @ weight.T, targets, reduction="sum")
        return inverse_strength * loss + weight[:, :-1].square().sum() / 2

    flat = torch.zeros(count * inputs.shape[1], dtype=torch.float64)
    for _ in range(30):
        gradient = jacobian(objective, flat)  # type: ignore[no-untyped-call]  # of torch
        curvature = hessian(objective, flat)  # type: ignore[no-untyped-call]  # of torch
        flat = flat - torch.linalg.pinv(curvature, rtol=1e-12) @ gradient
    return flat.view(count, -1)


@pytest.mark.parametrize("inverse_strength", [0.1, 1.0, 10.0])
def test_the_fit_is_that_of_newtons_method(inverse_strength: float) -> None:
    generator = torch.Generator().manual_seed(0)
    features, targets = torch.randn(20, 3, generator=generator), torch.arange(20) % 4
    found = fit_logistic(features, targets, 4, inverse_strength)
    expected = newton(features, targets, 4, inverse_strength)
    assert expected[:, -1].abs().max() > 0.01
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_the_search_halves_its_steps_around_the_best_strength() -> None:
    tried: list[float] = []
    progress: list[tuple[int, int]] = []

    def score(inverse_strength: float) -> tuple[float, float]:
        exponent = torch.tensor(inverse_strength).log10().item()
        tried.append(exponent)
        return 0.0, abs(exponent - 1.3)

    found = search_strength(score, lambda done, total: progress.append((done, total)))
    assert found == pytest.approx(10**1.25)  # the nearest of eight in a decade
    assert tried[:7] == pytest.approx([-6, -4, -2, 0, 2, 4, 6], abs=1e-5)
    assert tried[7:] == pytest.approx([1, 3, 0.5, 1.5, 1.25, 1.75, 1.125, 1.375], abs=1e-5)
    assert progress[-1] == (15, 15)


def test_fewer_errors_count_before_the_loss_and_the_stronger_penalty_wins_a_tie() -> None:
    assert search_strength(lambda c: (float(c != 100.0), c), lambda done, total: None) == 100.0
    assert search_strength(lambda c: (0.0, 0.0), lambda done, total: None) < 1e-6


def test_it_classifies_better_than_the_template_that_it_replaces(task: demo.DemoTask, few: FewShotTask) -> None:
    shown, labels = images(task.testset)[::4], task.testset.labels()[::4]
    fitted = build_method("linear-probe").fit(few)
    accuracy = evaluate(fitted, shown, labels, task.classes).accuracy
    assert accuracy > evaluate(build_method("clip").fit(few), shown, labels, task.classes).accuracy + 20
    assert isinstance(fitted, ProbeClassifier)
    assert "weight" not in repr(fitted)
    again = build_method("linear-probe").fit(few, seed=5)
    assert torch.equal(fitted.logits(shown, task.classes), again.logits(shown, task.classes))


def test_it_knows_only_its_classes(task: demo.DemoTask, few: FewShotTask) -> None:
    fitted = build_method("linear-probe").fit(few)
    shown = images(task.testset)[:3]
    whole = fitted.logits(shown, task.classes)
    assert (whole.shape, whole.dtype) == ((3, len(task.classes)), torch.float32)
    assert torch.equal(fitted.logits(shown, task.classes[3:1:-1]), whole[:, [3, 2]])
    with pytest.raises(InputError, match=r"classes must be among .* was fitted to \(bat, .*, got 'unicorn'; fit it to"):
        fitted.logits(shown, ["bat", "unicorn"])


def test_without_validation_images_it_is_cross_validated(few: FewShotTask) -> None:
    train = demo.load("pixel-animals", shots=2).trainset.subset(few.classes[:4])
    alone = FewShotTask(few.backbone, images(train), train.labels(), train.classes, PHOTO)
    fitted = build_method("linear-probe").fit(alone)
    assert isinstance(fitted, ProbeClassifier)
    first = [alone.labels.index(name) for name in alone.classes]
    one_each = replace(alone, images=[alone.images[i] for i in first], labels=alone.classes)
    without_search = build_method("linear-probe").fit(one_each)
    assert isinstance(without_search, ProbeClassifier)
    assert (without_search.inverse_strength, fitted.inverse_strength != 1.0) == (1.0, True)


def test_a_fold_has_an_image_of_each_class() -> None:
    targets = torch.tensor([0, 0, 1, 1, 0, 1, 1, 0, 1])
    splits = cross_validation_splits(torch.arange(9.0)[:, None], targets, 2)
    assert len(splits) == 4
    assert all(set(part.tolist()) == {0, 1} for _, kept, _, held_out in splits for part in (kept, held_out))
    assert sorted(float(x) for _, _, others, _ in splits for x in others) == list(range(9))
    assert not any(set(kept.flatten().tolist()) & set(others.flatten().tolist()) for kept, _, others, _ in splits)
    assert cross_validation_splits(torch.zeros(3, 1), torch.tensor([0, 0, 1]), 2) == []


def test_validation_images_need_labels_of_the_classes(few: FewShotTask) -> None:
    with pytest.raises(DataError, match="1 images and 0 labels; pass one label per image"):
        replace(few, validation_images=few.images[:1], validation_labels=())
    with pytest.raises(DataError, match="an image has"):
        replace(few, validation_images=few.images[:1], validation_labels=("unicorn",))

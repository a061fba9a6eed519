"""Draws follow the published protocol image for image, and every split is a partition."""

import copy
import logging
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipo_dspy.data import ImageDataset, base_novel, few_shot, split_classes
from ipo_dspy.data.dataset import example
from ipo_dspy.data.sampling import select, train_test
from ipo_dspy.errors import DataError
from ipo_dspy.scoring.score import harmonic_mean

label_lists = st.lists(st.sampled_from("badc"), max_size=40)
seeds = st.integers(0, 1000)


def reference_draw(items: list[tuple[int, str]], k: int, rng: random.Random) -> list[int]:
    """The protocol in its plainest form: (position, label) items grouped by label as they first appear."""
    groups: dict[str, list[int]] = {}
    for position, label in items:
        groups.setdefault(label, []).append(position)
    out = []
    for group in groups.values():
        out += group if len(group) < k else rng.sample(group, k)
    return out


def dataset(counts: dict[str, int]) -> ImageDataset:
    items = [example(f"{name}/{i}.jpg", name) for name, n in counts.items() for i in range(n)]
    return ImageDataset(items, classes=tuple(counts))


@given(train=label_lists, val=label_lists, shots=st.integers(1, 8), seed=seeds)
def test_few_shot_is_the_protocol(train: list[str], val: list[str], shots: int, seed: int) -> None:
    rng = random.Random(seed)
    expected = reference_draw(list(enumerate(train)), shots, rng)
    expected_val = reference_draw(list(enumerate(val)), min(shots, 4), rng)
    assert few_shot(train, val, shots=shots, seed=seed) == (expected, expected_val)


@given(train=label_lists, shots=st.integers(1, 8), seed=seeds)
def test_few_shot_draws_each_class_k_times_without_repeats(train: list[str], shots: int, seed: int) -> None:
    drawn = few_shot(train, shots=shots, seed=seed).train
    assert len(set(drawn)) == len(drawn)
    assert Counter(train[row] for row in drawn) == {x: min(n, shots) for x, n in Counter(train).items()}


def test_few_shot_is_pinned() -> None:
    """Figures of an earlier run: a change of them makes old results incomparable."""
    drawn = few_shot(["b", "a"] * 20, ["a", "b"] * 10, shots=5, seed=1)
    assert drawn.train == [8, 36, 4, 16, 6, 31, 29, 39, 25, 13]
    assert drawn.val == [2, 14, 0, 12, 13, 19, 1, 11]


def test_few_shot_leaves_the_global_generator_alone() -> None:
    random.seed(5)
    before = random.getstate()
    select(["a", "b"] * 5, shots=2, test=0.5, seed=3)
    assert random.getstate() == before


def test_few_shot_reports_short_classes_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        drawn = few_shot(["a", "a", "b"], shots=2, seed=0)
    assert sorted(drawn.train) == [0, 1, 2]
    assert [record.message for record in caplog.records] == [
        "1 class has fewer than 2 training images; using all of them: b (1)"
    ]


@pytest.mark.parametrize("shots", [0, -1, 2.0, True, "16"])
def test_few_shot_refuses_shots(shots: int) -> None:
    with pytest.raises(
        DataError,
        match=r"^shots must be an integer of at least 1, or None for all, got .*; for example shots=16$",
    ):
        few_shot(["a"], shots=shots, seed=0)


@given(
    sizes=st.dictionaries(st.sampled_from("abcd"), st.integers(2, 12), min_size=1),
    test=st.floats(0.3, 0.7),
    seed=seeds,
    order=st.randoms(use_true_random=False),
)
def test_split_is_a_stratified_partition(sizes: dict[str, int], test: float, seed: int, order: random.Random) -> None:
    labels = [name for name, n in sizes.items() for _ in range(n)]
    order.shuffle(labels)
    train, held_out = train_test(labels, test=test, seed=seed)
    assert sorted(train + held_out) == list(range(len(labels)))
    assert (train, held_out) == (sorted(train), sorted(held_out))
    assert Counter(labels[row] for row in held_out) == {x: int(n * test + 0.5) for x, n in sizes.items()}
    assert train_test(labels, test=test, seed=seed) == (train, held_out)


def test_split_is_pinned() -> None:
    """Figures of an earlier run: a change of them makes old results incomparable."""
    data = ImageDataset((example(str(row), "ba"[row % 2]) for row in range(24)), classes=("b", "a"))
    train, test = data.split(test=0.3, shots=2, seed=1)
    assert [int(item.image) for item in train] == [8, 12, 7, 9]
    assert [int(item.image) for item in test] == [3, 4, 5, 6, 14, 17, 21, 22]
    assert data.split(test=0.3, seed=1)[1] == test
    assert train.classes == test.classes == ("b", "a")


@given(counts=st.lists(st.integers(1, 30), min_size=1, max_size=6), data=st.data(), seed=seeds)
def test_split_by_number_meets_it_and_keeps_proportions(counts: list[int], data: st.DataObject, seed: int) -> None:
    labels = [str(label) for label, count in enumerate(counts) for _ in range(count)]
    most = len(labels) - len(counts)
    with pytest.raises(DataError, match=rf"test must leave one training image per class, got .*; pass {most} or less"):
        train_test(labels, test=most + 1, seed=seed)
    if not most:
        return
    test = data.draw(st.integers(1, most))
    train, held_out = train_test(labels, test=test, seed=seed)
    assert sorted(train + held_out) == list(range(len(labels)))
    assert len(held_out) == test
    assert {labels[row] for row in train} == set(labels)
    sizes = [sum(labels[row] == str(label) for row in held_out) for label in range(len(counts))]
    for count, size in zip(counts, sizes, strict=True):
        assert size >= min(count * test // len(labels), count - 1)
        if 1 not in counts:
            assert size <= count * test / len(labels) + len(counts)


@pytest.mark.parametrize("number", [2, 4, 6])
def test_split_by_number_is_that_of_the_fraction_where_both_are_even(number: int) -> None:
    labels = ["a", "b"] * 10
    assert train_test(labels, test=number, seed=3) == train_test(labels, test=number / 20, seed=3)


def test_sums_and_copies_keep_the_classes() -> None:
    cats, dogs = dataset({"cat": 2, "ant": 1}), dataset({"dog": 1, "cat": 1})
    both = cats + dogs
    assert both.classes == ("cat", "ant", "dog")
    assert both.counts() == {"cat": 3, "ant": 1, "dog": 1}
    assert (cats + list(cats)).classes == cats.copy().classes == copy.copy(cats).classes == ("cat", "ant")
    assert len(cats) == 3
    with pytest.raises(DataError, match="has the unknown label 'dog'; expected one of"):
        cats + list(dogs)
    cats += dogs
    assert cats.counts() == both.counts()


def test_split_depends_on_the_seed() -> None:
    labels = ["a"] * 20 + ["b"] * 20
    assert len({str(train_test(labels, test=0.5, seed=seed)) for seed in range(5)}) == 5


@pytest.mark.parametrize("test", [0, -1, 1.0, 1.5, -0.1, True, float("nan"), "0.5"])
def test_split_refuses_shares(test: float) -> None:
    with pytest.raises(
        DataError, match=r"^test must be a fraction between 0 and 1 or a number .*, got .*; for example test=0\.5$"
    ):
        train_test(["a", "a"], test=test, seed=0)


@pytest.mark.parametrize(
    ("labels", "test", "message"),
    [
        (["a"] * 9 + ["b"] * 3, 0.1, "too few images to test 1 class: b (3)"),
        (["a"] * 3, 0.9, ""),
        (["a", "a", "b"], 0.5, "too few images to test 1 class: b (1)"),
    ],
)
def test_each_class_is_trained_on_and_small_ones_are_not_tested(
    labels: list[str], test: float, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    train, held_out = train_test(labels, test=test, seed=0)
    assert {labels[row] for row in train} == set(labels)
    assert held_out
    assert caplog.messages == [message] * bool(message)


def test_a_split_without_any_test_image_is_refused() -> None:
    fact = r"test must leave at least one class with a test image, got"
    with pytest.raises(DataError, match=rf"{fact} 0\.5; add images: each class has only one"):
        train_test(["a", "b"], test=0.5, seed=0)
    with pytest.raises(DataError, match=rf"{fact} 0\.01; raise it, or add images"):
        train_test(["a", "a", "b"], test=0.01, seed=0)


@given(labels=label_lists.filter(lambda labels: not labels or min(Counter(labels).values()) > 1), seed=seeds)
def test_select_draws_from_the_train_part_only(labels: list[str], seed: int) -> None:
    train, test = select(labels, shots=None, test=0.5, seed=seed)
    few, same_test = select(labels, shots=2, test=0.5, seed=seed)
    assert same_test == test
    assert set(few) <= set(train)
    assert select(labels, shots=None, test=None, seed=seed) == (list(range(len(labels))), None)


@given(st.lists(st.integers(), unique=True))
def test_base_takes_the_larger_half_in_order(classes: list[int]) -> None:
    base, novel = split_classes(classes)
    assert [*base, *novel] == classes
    assert len(base) - len(novel) in (0, 1)


def test_base_novel_halves_images_and_names() -> None:
    data = dataset({"zebra": 2, "cat": 1, "empty": 0, "dog": 3, "ant": 1, "bee": 1})
    base, novel = base_novel(data)
    assert base.counts() == {"zebra": 2, "cat": 1, "dog": 3}
    assert novel.counts() == {"ant": 1, "bee": 1}
    assert [*base, *novel] == [*data]


def test_base_novel_refuses_three_classes() -> None:
    with pytest.raises(DataError, match=r"images of 3 classes; a base/novel split needs at least four"):
        base_novel(dataset({"a": 1, "b": 1, "c": 1, "d": 0}))


@pytest.mark.parametrize(("base", "novel", "mean"), [(0, 0, 0), (50, 50, 50), (100, 0, 0), (82.69, 63.22, 71.66)])
def test_harmonic_mean(base: float, novel: float, mean: float) -> None:
    assert harmonic_mean(base, novel) == pytest.approx(mean, abs=0.005)


@pytest.mark.parametrize("value", [-1, 100.1, float("nan")])
def test_harmonic_mean_refuses(value: float) -> None:
    with pytest.raises(DataError, match="from 0 to 100"):
        harmonic_mean(50, value)


def test_dataset_is_a_list_that_keeps_its_classes() -> None:
    data = dataset({"cat": 2, "dog": 2})
    assert isinstance(data, list)
    assert repr(data[1:3]) == "ImageDataset(2 images, 2 classes)"
    assert data[:1].counts() == {"cat": 1, "dog": 0}
    assert data.pick([3, 0]).labels() == ["dog", "cat"]
    assert data.subset(["dog", "cat"]).classes == ("dog", "cat")
    assert data.subset(["dog"]).labels() == ["dog", "dog"]
    for twin in (copy.copy(data), copy.deepcopy(data)):
        assert (twin, twin.classes) == (data, data.classes)
    assert data[0].inputs().keys() == ["image"]
    assert data[0].source == "cat/0.jpg"


def test_class_names_are_spelled_as_those_of_a_program() -> None:
    data = dataset({"beer_mug": 2, "tea cup": 1, "dog": 1})
    spelled = data.spelled_as(["tea_cup", "beer mug", "cat"])
    assert spelled.classes == ("beer mug", "tea_cup", "dog")
    assert spelled.labels() == ["beer mug", "beer mug", "tea_cup", "dog"]
    assert [item.source for item in spelled] == [item.source for item in data]
    assert data.spelled_as(["beer_mug", "cat"]) is data
    assert data.spelled_as(["beer mug", "beer  mug"]) is data
    both = dataset({"beer_mug": 1, "beer mug": 1})
    assert both.spelled_as(["beer mug", "cat"]) is both


def test_dataset_refuses_labels_outside_its_classes() -> None:
    with pytest.raises(DataError, match=r"'x\.jpg' has the unknown label 'cta'; expected 'cat'"):
        ImageDataset([example("x.jpg", "cta")], classes=["cat", "dog"])
    with pytest.raises(DataError, match=r"the subset has the unknown label 'cow'; expected one of 'cat', 'dog'"):
        dataset({"cat": 1, "dog": 1}).subset(["cow"])

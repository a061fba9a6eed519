"""Texts of classes that a frozen model is shown one at a time: whose they are, how often each, and what is refused."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from baseline_toys import CLASSES, deep_toy
from ipo_dspy.baselines.sentences import SentenceFeatures, check_sentences
from ipo_dspy.baselines.templates import imagenet_templates
from ipo_dspy.errors import InputError

SENTENCES = {"cat": ["a cat."], "dog": ["a dog.", "it barks.", "not a wolf."], "owl": ["owl."] * 2, "bus": ["a bus."]}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def own(*texts: str) -> Tensor:
    return deep_toy().encode_tokens_plain(deep_toy().token_ids(texts))


def which(row: Tensor, features: Tensor) -> int:
    """The feature that a row is."""
    apart = (features - row).abs().amax(dim=1)
    assert apart.min() < 1e-5
    return int(apart.argmin())


def test_each_class_gets_its_own_texts_each_of_them_equally_often() -> None:
    features, generator = SentenceFeatures(deep_toy(), CLASSES, SENTENCES), seeded()
    known, counts = {name: own(*SENTENCES[name]) for name in CLASSES}, Counter[tuple[str, int]]()
    for _ in range(300):
        drawn = features.draw(generator)
        assert drawn.shape == (4, 16)
        counts.update((name, which(row, known[name])) for name, row in zip(CLASSES, drawn, strict=True))
    assert counts["cat", 0] == counts["bus", 0] == 300
    assert all(70 < counts["dog", index] < 130 for index in range(3))


def test_classes_are_drawn_independently() -> None:
    both = {"cat": ["one", "two"], "dog": ["one", "two"]}
    features, generator, known = SentenceFeatures(deep_toy(), ("cat", "dog"), both), seeded(), own("one", "two")
    pairs = {tuple(which(row, known) for row in features.draw(generator)) for _ in range(40)}
    assert pairs == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_the_templates_for_imagenet_stand_in() -> None:
    features, generator = SentenceFeatures(deep_toy(), ["sea_gull"]), seeded()
    known = own(*imagenet_templates().fill("sea gull"))
    assert len({which(features.draw(generator)[0], known) for _ in range(500)}) > 60


def test_the_generator_decides() -> None:
    features = SentenceFeatures(deep_toy(), CLASSES)
    assert torch.equal(features.draw(seeded()), features.draw(seeded()))
    assert not torch.equal(features.draw(seeded()), features.draw(seeded(1)))


def test_a_class_without_sentences_is_told() -> None:
    with pytest.raises(InputError, match=r"class 'owl' has no sentences; write sentences=\{'owl': \['...'\], ...\}"):
        SentenceFeatures(deep_toy(), CLASSES, {"cat": ["a"], "dog": ["a"]})


def test_a_sentence_that_does_not_fit_is_told() -> None:
    long = {**SENTENCES, "dog": ["a dog.", "very " * 90 + "old dog."]}
    with pytest.raises(
        InputError, match=r"sentence 'very very .* has 9\d tokens and the model takes 77; write a shorter"
    ):
        SentenceFeatures(deep_toy(), CLASSES, long)


@pytest.mark.parametrize("some", ["cat", "a cat.", [], [""], ["a cat.", 3], [b"cat"]])
def test_what_is_no_list_of_texts_is_told(some: Any) -> None:
    with pytest.raises(InputError, match=r"sentences\['cat'\] is .*; write a list of texts, e\.g\. \['a cat is seen"):
        check_sentences({"cat": some})


def test_what_is_no_mapping_is_told() -> None:
    given: Any = ["a cat."]
    with pytest.raises(InputError, match=r"sentences=\['a cat\.'\] is no mapping; write \{'cat': \['a cat has"):
        check_sentences(given)
    check_sentences(None)
    check_sentences(SENTENCES)

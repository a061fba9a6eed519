"""Texts of classes that a frozen model is shown one at a time: whose they are, how often each, and what is refused."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.baseline_toys import CLASSES, deep_toy
from ipo_dspy.baselines import class_sentences as sentences
from ipo_dspy.baselines.class_sentences import SentenceFeatures, check_sentences, read_sentences
from ipo_dspy.errors import InputError
from ipo_dspy.scoring.imagenet_prompts import imagenet_templates

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


def test_all_classes_get_the_text_at_one_place() -> None:
    both = {"cat": ["one", "two"], "dog": ["one", "two"], "owl": ["one", "one", "two", "two"]}
    features, generator, known = SentenceFeatures(deep_toy(), ("cat", "dog", "owl"), both), seeded(), own("one", "two")
    places = {tuple(which(row, known) for row in features.draw(generator)) for _ in range(40)}
    assert places == {(0, 0, 0), (1, 1, 1)}


def test_the_templates_for_imagenet_stand_in() -> None:
    features, generator = SentenceFeatures(deep_toy(), ["sea_gull"]), seeded()
    known = own(*imagenet_templates().fill("sea gull"))
    assert len({which(features.draw(generator)[0], known) for _ in range(500)}) > 60


def test_the_generator_decides() -> None:
    features = SentenceFeatures(deep_toy(), CLASSES)
    assert torch.equal(features.draw(seeded()), features.draw(seeded()))
    assert not torch.equal(features.draw(seeded()), features.draw(seeded(1)))


@pytest.mark.parametrize(("name", "key"), [("apple_pie", "apple pie"), ("apple pie", "apple_pie"), ("apple_pie",) * 2])
def test_names_are_compared_as_they_are_spoken(name: str, key: str) -> None:
    features = SentenceFeatures(deep_toy(), (name, "cat"), {key: ["a pie."], "cat": ["a cat."]})
    assert which(features.draw(seeded())[0], own("a pie.", "a cat.")) == 0


def test_a_class_without_sentences_is_reported() -> None:
    with pytest.raises(InputError, match=r"class 'owl' has no sentences; pass sentences=\{'owl': \['...'\], ...\}"):
        SentenceFeatures(deep_toy(), CLASSES, {"cat": ["a"], "dog": ["a"]})


def test_a_sentence_that_does_not_fit_is_reported() -> None:
    long = {**SENTENCES, "dog": ["a dog.", "very " * 90 + "old dog."]}
    with pytest.raises(
        InputError, match=r"sentence 'very very .* has 9\d tokens and the model takes 77; use a shorter"
    ):
        SentenceFeatures(deep_toy(), CLASSES, long)


@pytest.mark.parametrize("some", ["cat", "a cat.", [], [""], ["a cat.", 3], [b"cat"], 5, None, {"a": "cat"}, b"cat"])
def test_anything_but_a_list_of_texts_is_reported(some: Any) -> None:
    with pytest.raises(
        InputError, match=r"sentences\['cat'\] must be a list of texts, .*; for example \['a cat is seen"
    ):
        check_sentences({"cat": some})


def test_anything_but_a_mapping_is_reported() -> None:
    given: Any = ["a cat."]
    with pytest.raises(
        InputError, match=r"sentences must be a mapping, got \['a cat\.'\]; for example \{'cat': \['a cat has"
    ):
        check_sentences(given)
    with pytest.raises(InputError, match=r"read_sentences\(FILE\) for a JSON file of that form"):
        check_sentences("file.json")  # type: ignore[arg-type]
    check_sentences(None)
    check_sentences(SENTENCES)


def test_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "food101_prompt.json"
    file.write_text(json.dumps(SENTENCES))
    assert read_sentences(file) == read_sentences(str(file)) == SENTENCES


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "must be a JSON file, got .*file.json' .*for example"),
        (b"\xff\xfe\x00", "must be a JSON file, got .*file.json'"),
        (b"[" * 100_000, "must be a JSON file, got .*file.json'"),
        (b"null", "must be a JSON file with lists of texts by class name, got .*file.json'"),
        (b'["cat"]', "must be a JSON file with lists of texts by class name"),
        (b'{"cat": "a cat."}', r"sentences\['cat'\] must be a list of texts, got 'a cat.'"),
        (b'{"cat": 5}', r"sentences\['cat'\] must be a list of texts, got 5"),
    ],
)
def test_a_file_of_another_form_is_reported(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "file.json").write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_sentences(tmp_path / "file.json")


def test_a_file_that_cannot_be_read_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"must be a JSON file, got .*nowhere.json' \(No such file or directory\)"):
        read_sentences(tmp_path / "nowhere.json")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"pipe' \(it is a named pipe, not a regular file\)"):
        read_sentences(tmp_path / "pipe")
    monkeypatch.setattr(sentences, "MAX_BYTES", 5)
    (tmp_path / "large.json").write_text(json.dumps(SENTENCES))
    with pytest.raises(InputError, match=r"more than the 5 that are read"):
        read_sentences(tmp_path / "large.json")

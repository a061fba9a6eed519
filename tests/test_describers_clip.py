"""The built-in describer on the bundled CLIP."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from helpers.openai_server import Writer, text_of
from ipo_dspy import IPO, demo, write_report
from ipo_dspy.describers import ClipDescriber, Descriptions
from ipo_dspy.phrase_bank import BANK


def test_descriptions_are_phrases_of_the_bank_without_class_names() -> None:
    task = demo.load(demo.names()[0], shots=1)
    describer = ClipDescriber(task.program.backbone)
    images = [example.image for example in task.trainset]
    described = describer.describe(images, task.trainset.labels())
    known = {phrase.text for phrase in BANK}
    assert len(described.texts) == len(images)
    descriptions = [text for text in described.texts if text]
    assert len(descriptions) == describer.max_classes  # one image per class here; the classes beyond go without
    assert all(set(text.split(", ")) <= known for text in descriptions)
    assert all(len(text.split(", ")) <= describer.per_image for text in described.texts)
    assert described.guessed
    assert described == describer.describe(images, task.trainset.labels())


def test_the_described_classes_are_spread_over_all() -> None:
    class Noted(ClipDescriber):
        def describe(self, images: Any, class_names: Any, *, once: Any = None) -> Descriptions:
            described = super().describe(images, class_names, once=once)
            asked.append([*class_names])
            reported.append([name for name, text in zip(class_names, described.texts, strict=True) if text])
            return described

    task = demo.load("grey-food", shots=2)  # 25 classes
    names, asked, reported = task.trainset.labels()[::2], list[list[str]](), list[list[str]]()
    for limit in (10, 30):
        describer = Noted(task.program.backbone, max_classes=5)
        IPO(proposer="evolution", steps=0, describer=describer, max_described_images=limit).compile(
            task.program, task.trainset
        )
    assert asked[0] == [names[i] for i in (0, 2, 5, 7, 10, 12, 15, 17, 20, 22)]
    assert reported[0] == [names[i] for i in (0, 5, 10, 15, 20)]
    assert asked[1] == sorted([*names, *(names[i] for i in (0, 5, 10, 15, 20))], key=names.index)
    assert set(reported[1]) == {names[i] for i in (0, 5, 10, 15, 20)}


@pytest.mark.usefixtures("no_cache")
def test_requests_and_report_say_that_the_phrases_are_guesses(tmp_path: Path) -> None:
    task = demo.load("pixel-animals", shots=1)
    with Writer() as server:
        optimizer = IPO(prompt_model=server.lm(), steps=1, describer="clip", log_dir=tmp_path)
        optimizer.compile(task.program, task.trainset)
        assert "share of images, guessed by CLIP, some are wrong" in next(
            text for text in map(text_of, server.requests) if "Write" in text
        )
    assert "CLIP&#39;s guesses from a list of phrases" in write_report(tmp_path).read_text()


def test_pixel_art_is_described_as_such() -> None:
    task = demo.load("pixel-animals", shots=2)
    describer = ClipDescriber(task.program.backbone)
    described = describer.describe([e.image for e in task.trainset], task.trainset.labels())
    phrases = Counter(phrase for text in described.texts for phrase in text.split(", "))
    fitting = ("pixel", "bitmap", "sprite", "blocky", "mosaic", "screenshot")
    usual = [phrase for phrase, _ in phrases.most_common(6)]
    assert sum(any(word in phrase for word in fitting) for phrase in usual) >= 2, usual

"""The embedded describer on the bundled CLIP."""

from collections import Counter

from ipo_dspy import demo
from ipo_dspy.describers import ClipDescriber
from ipo_dspy.vocabulary import BANK


def test_descriptions_are_phrases_of_the_bank_without_class_names() -> None:
    task = demo.load(demo.names()[0], shots=1)
    describer = ClipDescriber(task.program.backbone)
    images = [example.image for example in task.trainset]
    described = describer.describe(images, task.trainset.labels())
    known = {phrase.text for phrase in BANK}
    assert len(described.texts) == len(images)
    descriptions = [text for text in described.texts if text]
    assert len(descriptions) == describer.max_classes  # one image a class here; the classes beyond go without
    assert all(set(text.split(", ")) <= known for text in descriptions)
    assert all(len(text.split(", ")) <= describer.per_image for text in described.texts)
    assert described == describer.describe(images, task.trainset.labels())


def test_pixel_art_is_described_as_such() -> None:
    task = demo.load("pixel-animals", shots=2)
    describer = ClipDescriber(task.program.backbone)
    described = describer.describe([e.image for e in task.trainset], task.trainset.labels())
    phrases = Counter(phrase for text in described.texts for phrase in text.split(", "))
    fitting = ("pixel", "bitmap", "sprite", "blocky", "mosaic", "screenshot")
    usual = [phrase for phrase, _ in phrases.most_common(6)]
    assert sum(any(word in phrase for word in fitting) for phrase in usual) >= 2, usual

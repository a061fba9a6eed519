"""Images of concurrent awaited calls share passes of the tower, and nothing else."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dspy
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ipo_dspy.classifier import ClipClassifier
from ipo_dspy.clip import batching
from ipo_dspy.clip.lru import TensorLRU
from ipo_dspy.errors import ImageError


class Passes:
    """Counts the passes of a tower; holds them back until `go` is set."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.began, self.go = threading.Event(), threading.Event()
        self.go.set()


@pytest.fixture
def classifier(monkeypatch: pytest.MonkeyPatch) -> Iterator[ClipClassifier]:
    """A classifier that has seen no image."""
    monkeypatch.setenv("IPO_DSPY_CACHE", "off")
    program = ClipClassifier(["cat", "dog", "cow"], model="demo")
    monkeypatch.setattr(program.backbone, "image_memo", TensorLRU(100_000))
    yield program
    assert not [thread for thread in threading.enumerate() if thread.name == "ipo-encode" and not _ends(thread)]


@pytest.fixture
def passes(classifier: ClipClassifier, monkeypatch: pytest.MonkeyPatch) -> Passes:
    encode, seen = classifier.backbone.encode_pixels, Passes()

    def counted(pixels: Tensor) -> Tensor:
        seen.sizes.append(len(pixels))
        seen.began.set()
        assert seen.go.wait(60)
        return encode(pixels)

    monkeypatch.setattr(classifier.backbone, "encode_pixels", counted)
    return seen


def _ends(thread: threading.Thread) -> bool:
    thread.join(60)
    return not thread.is_alive()


def pictures(count: int, seed: int = 0) -> list[Image.Image]:
    noise = np.random.default_rng(seed).integers(0, 256, (count, 40, 40, 3), dtype=np.uint8)
    return [Image.fromarray(pixels) for pixels in noise]


async def ask_all(classifier: ClipClassifier, images: list[Any]) -> list[Any]:
    return await asyncio.gather(*(classifier.acall(image=image) for image in images), return_exceptions=True)


def test_calls_made_together_are_one_batch_with_the_answers_of_single_calls(
    classifier: ClipClassifier, passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = pictures(batching.BATCH_SIZE)
    together = asyncio.run(ask_all(classifier, images))
    assert passes.sizes == [batching.BATCH_SIZE]
    monkeypatch.setattr(classifier.backbone, "image_memo", TensorLRU(100_000))
    for image, answer in zip(images, together, strict=True):
        alone = classifier(image=image)
        assert (answer.label, list(answer.scores)) == (alone.label, list(alone.scores))
        assert list(answer.scores.values()) == pytest.approx(list(alone.scores.values()), abs=1e-5)


def test_what_waits_during_a_pass_is_the_next_batch(classifier: ClipClassifier, passes: Passes) -> None:
    images = pictures(1 + batching.BATCH_SIZE + 3)

    async def first_then_rest() -> None:
        passes.go.clear()
        first = asyncio.create_task(classifier.acall(image=images[0]))
        await asyncio.to_thread(passes.began.wait, 60)
        rest = asyncio.create_task(ask_all(classifier, images[1:]))
        while len(asyncio.all_tasks()) < len(images):
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        passes.go.set()
        await asyncio.gather(first, rest)

    asyncio.run(first_then_rest())
    assert passes.sizes == [1, batching.BATCH_SIZE, 3]


def test_an_unreadable_image_fails_its_own_call_only(classifier: ClipClassifier, passes: Passes) -> None:
    images = [*pictures(3), "nowhere.png", [1, 2], np.zeros((3, 8, 8)), *pictures(2, seed=1)]
    answers = asyncio.run(ask_all(classifier, images))
    assert [isinstance(answer, dspy.Prediction) for answer in answers] == [True] * 3 + [False] * 3 + [True] * 2
    assert [type(answer) for answer in answers[3:6]] == [ImageError] * 3
    assert "nowhere.png" in str(answers[3])
    assert "a list of 2" in str(answers[4])
    assert passes.sizes == [5]
    for alone in asyncio.run(ask_all(classifier, ["a.png", "b.png"])):  # no good one among them
        assert str(alone).count(".png") == 1


def test_a_pass_that_fails_is_tried_image_by_image(classifier: ClipClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = classifier.backbone.encode_pixels

    def of_little_memory(pixels: Tensor) -> Tensor:
        if len(pixels) > 1:
            raise torch.OutOfMemoryError("a batch too large")
        return encode(pixels)

    monkeypatch.setattr(classifier.backbone, "encode_pixels", of_little_memory)
    answers = asyncio.run(ask_all(classifier, pictures(3)))
    assert {answer.label for answer in answers} <= {"cat", "dog", "cow"}


def test_a_canceled_call_takes_no_other_with_it(classifier: ClipClassifier, passes: Passes) -> None:
    images = pictures(6)

    async def cancel_some() -> list[Any]:
        passes.go.clear()
        running = asyncio.create_task(classifier.acall(image=images[0]))
        await asyncio.to_thread(passes.began.wait, 60)
        waiting = [asyncio.create_task(classifier.acall(image=image)) for image in images[1:]]
        await asyncio.sleep(0)
        for task in (running, waiting[0], waiting[2]):
            task.cancel()
        await asyncio.sleep(0)
        passes.go.set()
        return await asyncio.gather(running, *waiting, return_exceptions=True)

    answers = asyncio.run(cancel_some())
    canceled = [isinstance(answer, asyncio.CancelledError) for answer in answers]
    assert canceled == [True, True, False, True, False, False]
    assert passes.sizes == [1, 3]  # the canceled ones that had not begun are not encoded
    assert asyncio.run(ask_all(classifier, images))[2].label == answers[2].label


def test_all_calls_canceled_leave_nothing_behind(classifier: ClipClassifier, passes: Passes) -> None:
    async def give_up() -> None:
        passes.go.clear()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ask_all(classifier, list(pictures(4))), 0.01)
        passes.go.set()

    asyncio.run(give_up())
    assert asyncio.run(classifier.acall(image=pictures(1, seed=2)[0])).label in {"cat", "dog", "cow"}


def test_several_event_loops_share_a_model(classifier: ClipClassifier, passes: Passes) -> None:
    groups = [pictures(8, seed) for seed in range(4)]
    with ThreadPoolExecutor(len(groups)) as pool:
        answers = list(pool.map(lambda images: asyncio.run(ask_all(classifier, images)), groups))
    assert sum(passes.sizes) == 32
    expected = [[classifier(image=image).label for image in images] for images in groups]
    assert [[answer.label for answer in row] for row in answers] == expected


def test_each_call_has_its_own_classes_and_trace(classifier: ClipClassifier) -> None:
    async def traced(image: Image.Image, classes: list[str]) -> tuple[Any, list[Any]]:
        with dspy.context(trace=[]):
            answer = await classifier.acall(image=image, classes=classes)
            return answer, list(dspy.settings.trace)

    async def both() -> Any:
        first, second = pictures(2)
        return await asyncio.gather(traced(first, ["fox", "owl"]), traced(second, ["car", "bus"]))

    (fox, fox_trace), (car, car_trace) = asyncio.run(both())
    assert (set(fox.scores), set(car.scores)) == ({"fox", "owl"}, {"car", "bus"})
    assert ([step[2] for step in fox_trace], [step[2] for step in car_trace]) == ([fox], [car])


def test_awaited_instructions_that_are_no_template_abstain(classifier: ClipClassifier) -> None:
    classifier.signature = classifier.signature.with_instructions("Classify the image carefully.")
    assert asyncio.run(classifier.acall(image=pictures(1)[0])).label is None


def test_an_address_is_refused_or_fetched_before_it_waits(classifier: ClipClassifier, passes: Passes) -> None:
    answers = asyncio.run(ask_all(classifier, ["http://127.0.0.1:9/a.png", *pictures(2)]))
    assert "allow_url=True" in str(answers[0])
    classifier.allow_url = True
    assert isinstance(asyncio.run(ask_all(classifier, ["http://127.0.0.1:9/a.png"]))[0], ImageError)
    assert passes.sizes == [2]

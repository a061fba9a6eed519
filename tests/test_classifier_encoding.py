"""Texts and images are encoded once by a classifier, and kept in memory, or on disk if it has a cache."""

import asyncio
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pytest
import torch
from PIL import Image

from helpers.classifiers import correct, fresh
from ipo_dspy import demo
from ipo_dspy.classifier import ClipClassifier
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.lru import TensorLRU
from ipo_dspy.errors import InputError


class CountsTexts:
    """Counts the token lists that a text tower is given."""

    def __init__(self, backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
        self.encoded = 0
        encode = backbone.encode_shared

        def counted(ids: Any) -> Any:
            self.encoded += len(ids)
            return encode(ids)

        monkeypatch.setattr(backbone, "encode_shared", counted)


def test_text_is_encoded_once_for_many_images(task: demo.DemoTask, monkeypatch: pytest.MonkeyPatch) -> None:
    program = fresh(task, template="text counted once, <CLASS>.")
    counter = CountsTexts(program.backbone, monkeypatch)
    examples = list(task.testset[:12])
    program.batch(examples, num_threads=3, disable_progress_bar=True)
    dspy.Evaluate(devset=examples, metric=correct, num_threads=3)(program)
    for example in examples:
        program(image=example.image)
    assert counter.encoded == len(task.classes)


def test_the_model_and_the_class_names_are_ready_after_a_warm_up(
    task: demo.DemoTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = fresh(task, template="a warmed up picture of a <CLASS>.")
    assert program.warm_up() is program
    texts = CountsTexts(program.backbone, monkeypatch)
    program(image=task.testset[0].image)
    assert texts.encoded == 0
    ClipClassifier(model="demo").warm_up()  # its class names are not known yet


def noise(seed: int, count: int = 3) -> list[Image.Image]:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 40, 40, 3), dtype=np.uint8)
    return [Image.fromarray(image) for image in pixels]


def test_single_calls_leave_nothing_on_disk(
    task: demo.DemoTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPO_DSPY_CACHE", str(tmp_path / "cache"))
    program, images = fresh(task), noise(11, count=5)
    program(image=images[0])
    asyncio.run(program.acall(image=images[1]))
    signature = dspy.Signature("image: dspy.Image -> animal: Literal['cat', 'dog']")
    decide = dspy.Predict(signature.with_updated_fields("animal", desc="the animal"))
    decide.lm = program.lm
    decide(image=dspy.Image(images[2]))
    assert not (tmp_path / "cache").exists()
    program.encode(images[3:])
    assert (tmp_path / "cache").exists()


def test_without_a_cache_nothing_is_kept_on_disk(
    task: demo.DemoTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ipo_dspy.optimizer.evaluation import evaluate

    monkeypatch.setenv("IPO_DSPY_CACHE", str(tmp_path / "cache"))
    program = fresh(task, cache=False)
    images = noise(12, count=8)
    labeled = [
        dspy.Example(image=image, label=task.classes[i % 2]).with_inputs("image") for i, image in enumerate(images)
    ]
    program.encode(images[:2])
    program.deepcopy().batch(images[2:4], disable_progress_bar=True)
    program.calibrate(labeled[4:6])
    evaluate(program, labeled[6:])
    assert not (tmp_path / "cache").exists()
    with pytest.raises(InputError, match="cache must be True or False"):
        fresh(task, cache="off")


def test_more_images_than_memory_holds_are_encoded_once_by_a_batch(
    task: demo.DemoTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPO_DSPY_CACHE", str(tmp_path / "cache"))
    program, encoded = fresh(task), 0
    monkeypatch.setattr(program.backbone, "image_memo", TensorLRU(1000))  # 7 images
    encode = program.backbone.encode_pixels

    def counted(pixels: torch.Tensor) -> torch.Tensor:
        nonlocal encoded
        encoded += len(pixels)
        return encode(pixels)

    monkeypatch.setattr(program.backbone, "encode_pixels", counted)
    assert None not in program.batch(noise(13, count=20), disable_progress_bar=True)
    assert encoded == 20

"""Half precision against float32 with the bundled model: the check says what is, and says it once."""

import dataclasses
import logging
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

from helpers.clip_toys import toy_backbone, write_model
from ipo_dspy import ClipClassifier, demo
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.image_features import encode_images
from ipo_dspy.clip.loading import load_backbone, with_dtype
from ipo_dspy.clip.text_features import plain_class_features
from ipo_dspy.errors import ModelError
from ipo_dspy.optimizer.evaluation import evaluate
from ipo_dspy.scoring.half_precision_check import TEMPLATES, Agreement, check_precision, compare

SHOTS = 2
"""Of the fixture `task`."""


def model(dtype: str, device: str = "cpu") -> Backbone:
    return load_backbone(f"local-dir:{demo.model_path()}", None, device=device, dtype=dtype)


def test_a_model_agrees_with_itself(task: demo.DemoTask) -> None:
    full, images = model("float32"), [example.image for example in task.trainset]
    found = compare(full, full, images, task.trainset.labels(), task.classes)
    assert found == Agreement("float32", len(images), same=1.0, loss=0.0)
    assert found.passes


def test_the_comparison_is_the_formula(task: demo.DemoTask) -> None:
    low, full = model("bfloat16"), model("float32")
    images, labels = [example.image for example in task.trainset], task.trainset.labels()
    found = compare(low, full, images, labels, task.classes, templates=TEMPLATES[:2])
    targets, given, losses = torch.tensor([task.classes.index(label) for label in labels]), [], []
    for one in (low, full):
        text = plain_class_features(one, TEMPLATES[:2], task.classes)  # [T, C, D]
        scores = full.logit_scale * torch.einsum("nd,tcd->tnc", encode_images(one, images).features, text)
        given.append(scores.argmax(dim=2))  # [T, N]
        losses.append(torch.stack([F.cross_entropy(of_one.double(), targets) for of_one in scores]))  # [T]
    # The plain text path rounds elsewhere in half precision, so single images may fall the other way.
    assert found.same == pytest.approx((given[0] == given[1]).double().mean().item(), abs=0.05)
    assert found.loss == pytest.approx((losses[0] - losses[1]).abs().max().item(), abs=5e-3)
    assert (found.dtype, found.images) == ("bfloat16", len(images))
    assert found.same > 0.9
    assert 0 < found.loss < 0.05


@pytest.mark.parametrize(("same", "loss", "passes"), [(0.999, 1e-3, True), (0.9989, 0.0, False), (1.0, 1.1e-3, False)])
def test_the_bar(same: float, loss: float, passes: bool) -> None:
    assert Agreement("float16", 1000, same=same, loss=loss).passes == passes


def test_half_precision_that_falls_short_is_reported_once(
    task: demo.DemoTask, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    copied = tmp_path / "model"
    copied.symlink_to(demo.model_path(), target_is_directory=True)
    program = ClipClassifier(task.classes, model=f"local-dir:{copied}", device="cpu", dtype="bfloat16")
    evaluate(program, task.trainset)
    (warning,) = [record for record in caplog.records if record.name == "ipo_dspy.scoring.half_precision_check"]
    assert warning.levelno == logging.WARNING
    assert warning.message.startswith("bfloat16 predicts the class of float32 for 9")
    assert "(minimum 99.9%)" in warning.message
    assert warning.message.endswith("template ranking may change; use dtype='float32' for exact scores")
    caplog.clear()
    evaluate(program, task.valset)
    assert not caplog.records


def test_float32_is_not_compared(task: demo.DemoTask) -> None:
    images = [example.image for example in task.valset]
    assert check_precision(model("float32"), images, task.valset.labels(), task.classes) is None


def test_a_model_file_that_is_gone_skips_the_comparison_with_a_message(
    task: demo.DemoTask, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    folder = write_model(tmp_path / "model")
    low = load_backbone(f"local-dir:{folder}", device="cpu", dtype="float16")
    (folder / "open_clip_model.safetensors").unlink()
    images = [example.image for example in task.valset]
    assert check_precision(low, images, task.valset.labels(), task.classes) is None
    assert "cannot compare float16 with float32: " in caplog.text


def test_a_reloaded_model_is_the_same_in_another_format(tmp_path: Path) -> None:
    full = toy_backbone(tmp_path)
    again = with_dtype(full, "bfloat16")
    assert again is not full
    assert (again.dtype, again.fingerprint) == (torch.bfloat16, full.fingerprint)
    assert load_backbone(full.name, device="cpu", dtype="bfloat16") is not again
    write_model(tmp_path, seed=1)
    with pytest.raises(ModelError, match="gave other weights when read again; pass pretrained= if they are random"):
        with_dtype(full, "float32")


def test_a_batch_is_a_stack() -> None:
    images = list(torch.randn(3, 3, 8, 8))
    batch = model("float32").batch(images)
    assert torch.equal(batch, torch.stack(images))
    assert not batch.is_pinned()


def test_long_class_names_do_not_end_a_run(task: demo.DemoTask, caplog: pytest.LogCaptureFixture) -> None:
    names = [f"{name} {'very ' * 72}" for name in task.classes]
    of = dict(zip(task.classes, names, strict=True))
    low = with_dtype(model("float32"), "float16")
    images, labels = [example.image for example in task.valset], [of[label] for label in task.valset.labels()]
    assert check_precision(low, images, labels, names) is None
    assert "cannot compare float16 with float32: template" in caplog.text


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_on_a_gpu_is_near_float32_on_a_processor(task: demo.DemoTask, dtype: str) -> None:
    images, labels = [example.image for example in task.testset], task.testset.labels()
    found = compare(model(dtype, "cuda"), model("float32"), images, labels, task.classes)
    assert found.same > 0.95
    assert found.loss < 0.05


@pytest.mark.gpu
def test_a_gpu_scores_as_a_processor_does(task: demo.DemoTask) -> None:
    here, there = (ClipClassifier(task.classes, model="demo", device=device) for device in ("cpu", "cuda"))
    (mine,), (theirs,) = evaluate(here, task.testset), evaluate(there, task.testset)
    assert theirs.score.accuracy == pytest.approx(mine.score.accuracy, abs=0.2)
    assert theirs.score.loss == pytest.approx(mine.score.loss, abs=1e-4)
    assert there.backbone.batch(list(torch.randn(2, 3, 8, 8))).is_pinned()
    assert dataclasses.astuple(theirs.score) == dataclasses.astuple(evaluate(there, task.testset)[0].score)

"""VPT + IPO: the search sees the images as the learned prompts show them, and goes on with the same prompts."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.bench_small import SmallSuite, grid, results, run
from ipo_dspy.baselines import build_method
from ipo_dspy.baselines.base import FewShotTask, evaluate
from ipo_dspy.baselines.deep_prompts import PromptedClassifier, Prompts
from ipo_dspy.baselines.vpt import VisualPrompts
from ipo_dspy.baselines.zero_shot import TemplateClassifier
from ipo_dspy.bench.cells import Grid
from ipo_dspy.bench.result_rows import ROWS
from ipo_dspy.bench.runner import CELLS
from ipo_dspy.bench.settings import Settings
from ipo_dspy.bench.vpt_ipo import KEPT
from ipo_dspy.clip.bundled import DEMO_VIT, resolve_model_name
from ipo_dspy.clip.loading import load_backbone
from ipo_dspy.template import Template

SETTINGS = Settings(model=DEMO_VIT, steps=2, prompts_per_step=2, arguments={"vpt+ipo": {"epochs": 2, "n_ctx": 2}})


def one(**settings: object) -> Grid:
    given = replace(SETTINGS, **settings)  # type: ignore[arg-type]  # of Settings
    return grid(datasets=("grey-food",), methods=("vpt+ipo",), seeds=(1,), settings=given)


def kept(folder: Path, cells: Grid) -> Path:
    return folder / CELLS / cells.cells()[0].folder / KEPT


def test_it_is_scored_with_the_prompts_that_vpt_learns(tmp_path: Path) -> None:
    (row,) = run(tmp_path, one()).rows.values()
    assert row.error is None
    assert row.template is not None
    split = SmallSuite().load("grey-food", shots=1, seed=1)
    backbone = load_backbone(resolve_model_name(DEMO_VIT), None, device="cpu")
    images = [example.image for example in split.train]
    task = FewShotTask(backbone, images, split.train.labels(), split.train.classes, split.template)
    fitted = build_method("vpt", epochs=2, n_ctx=2).fit(task, seed=1)
    assert isinstance(fitted, PromptedClassifier)
    assert isinstance(fitted.model, VisualPrompts)
    seen = backbone.with_image_encoder(fitted.model.image_features, "as VPT has learned them")
    for half, loss in ((split.base, row.base_loss), (split.novel, row.novel_loss)):
        shown = [example.image for example in half]
        found = [
            evaluate(TemplateClassifier(model, Template.parse(row.template)), shown, half.labels(), half.classes).loss
            for model in (seen, backbone)
        ]
        assert found[0] == pytest.approx(loss, abs=1e-5)
        assert found[1] != pytest.approx(loss, abs=1e-3)


def test_a_cell_that_was_killed_goes_on_with_the_prompts_that_it_had(tmp_path: Path) -> None:
    first = run(tmp_path, one())
    (tmp_path / ROWS).write_text("")
    path = kept(tmp_path, one())
    before = path.read_bytes(), path.stat().st_mtime_ns
    assert results(run(tmp_path, one()).rows) == results(first.rows)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_damaged_prompts_are_reported_with_a_remedy(tmp_path: Path) -> None:
    run(tmp_path, one())
    (tmp_path / ROWS).write_text("")
    path = kept(tmp_path, one())
    path.write_bytes(path.read_bytes()[:100])
    (row,) = run(tmp_path, one()).rows.values()
    assert row.error is not None
    assert "prompts.safetensors' is damaged; delete its folder to restart the cell" in row.error


def test_hyper_parameters_are_those_of_vpt_and_decide_the_cell() -> None:
    few, many = one(), one(arguments={"vpt+ipo": {"n_ctx": 4}})
    assert few.cells()[0].key != many.cells()[0].key


def test_prompts_are_learned_tensors_of_every_block(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    run(tmp_path, one())
    found = load_file(kept(tmp_path, one()))
    assert list(found) == ["000", "001", "002", "003"]
    prompts = Prompts(found["000"], (found["001"],))
    assert all(part.shape == (2, 192) for part in prompts.parameters)
    assert all(torch.isfinite(part).all() for part in found.values())

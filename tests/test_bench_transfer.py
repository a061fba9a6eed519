"""Learned on one data set, tested on others: rows against what is computed by hand, their table, the command."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers.bench_small import SmallSuite, grid, results, run
from helpers.cli_calls import call
from helpers.data_trees import IDS, class_names, plant, plant_dtd, plant_imagenet
from ipo_dspy import demo
from ipo_dspy.baselines import build_method
from ipo_dspy.baselines.base import evaluate
from ipo_dspy.baselines.zero_shot import TemplateClassifier
from ipo_dspy.bench import suites
from ipo_dspy.bench.aggregate import MeanWithError, transferred
from ipo_dspy.bench.cells import Cell
from ipo_dspy.bench.markdown_page import Content, page
from ipo_dspy.bench.result_rows import Row
from ipo_dspy.bench.settings import Settings
from ipo_dspy.bench.suites import DemoSuite, FullDataset, PaperSuite, chosen_transfer
from ipo_dspy.bench.sweep import SweepResult
from ipo_dspy.bench.tables import render, transfer_table
from ipo_dspy.errors import DataError
from ipo_dspy.template import Template

TARGETS = ("pixel-animals", "faint-places")
GRID = grid(datasets=("grey-food",), targets=TARGETS, methods=("clip", "ipo"))
OWN = {"pixel-animals": "pixel art of a <CLASS>.", "grey-food": "a grey <CLASS>."}
"""Hand-written templates; the third data set has the usual one."""


class OwnTemplates(SmallSuite):
    """Each data set has a template of its own, as those of the paper have."""

    def whole(self, name: str, *, shots: int | None = None, seed: int = 1) -> FullDataset:
        found = super().whole(name, shots=shots, seed=seed)
        return replace(found, template=Template.parse(OWN.get(name, str(found.template))))


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> SweepResult:
    return run(tmp_path_factory.mktemp("transfer"), GRID, suite=OwnTemplates())


def accuracy(name: str, template: str) -> float:
    """Of a template on all classes of a data set."""
    backbone, test = demo.load(name).program.backbone, SmallSuite().whole(name).test
    fitted = TemplateClassifier(backbone, Template.parse(template))
    return evaluate(fitted, [e.image for e in test], test.labels(), test.classes).accuracy


@pytest.mark.end_to_end
def test_what_learns_takes_its_template_along_and_clip_that_of_each_data_set(swept: SweepResult) -> None:
    assert not swept.failed
    assert [row.method for row in swept.rows.values()] == ["clip", "ipo", "ipo"]
    for row in swept.rows.values():
        found = {"grey-food": row.source, **row.targets}
        assert list(row.targets) == list(TARGETS)
        assert (row.base, row.novel, row.h) == (None, None, None)
        for name in found:
            own = OWN.get(name, "a photo of a <CLASS>.")
            template = own if row.method == "clip" else row.template
            assert template is not None
            assert found[name] == accuracy(name, template)


@pytest.mark.end_to_end
def test_all_classes_are_learned_from(swept: SweepResult) -> None:
    """The first five here, of which base to novel takes half."""
    assert {row.train_images for row in swept.rows.values()} == {5}
    classes = demo.load("grey-food", classes="all").classes
    assert SmallSuite().whole("grey-food", shots=1).train.classes == classes[:5]
    assert DemoSuite().whole("grey-food", shots=2).train.counts() == dict.fromkeys(classes, 2)


@pytest.mark.end_to_end
def test_a_sweep_resumes_and_base_to_novel_cells_are_others(swept: SweepResult, tmp_path: Path) -> None:
    one = replace(GRID, methods=("clip",))
    suite = OwnTemplates()
    assert len(run(tmp_path, one, suite=suite).rows) == 1
    both = run(tmp_path, one, replace(one, targets=()), suite=suite)
    assert [row.source is None for row in both.rows.values()] == [False, True]
    assert results(run(tmp_path, GRID, suite=suite).rows) == results(swept.rows)


def test_a_linear_probe_is_tested_on_the_targets_whose_classes_it_knows(tmp_path: Path) -> None:
    class Variant(SmallSuite):
        """The second target has some of the classes of the source, as the variants of ImageNet do."""

        def whole(self, name: str, *, shots: int | None = None, seed: int = 1) -> FullDataset:
            if name != "pixel-animals":
                return super().whole(name, shots=shots, seed=seed)
            source = super().whole("grey-food", shots=shots, seed=seed)
            return replace(source, test=source.test.subset(source.test.classes[1:3]))

    probed = replace(GRID, methods=("linear-probe",), seeds=(1,))
    swept = run(tmp_path, probed, suite=Variant())
    (row,) = swept.rows.values()
    assert row.error is None
    assert list(row.targets) == ["pixel-animals"]
    lines = render([transfer_table(probed, swept.rows, DemoSuite(), 1)], "md").splitlines()
    assert "| average | Linear probe | - |" in lines
    assert "| faint-places | Linear probe | - |" in lines
    assert f"| pixel-animals | Linear probe | {row.targets['pixel-animals']:.1f} |" in lines
    alone = replace(probed, targets=("faint-places",))
    (row,) = run(tmp_path, alone, suite=Variant()).rows.values()
    assert row.source is not None
    assert (row.base, row.targets) == (None, {})


@pytest.mark.parametrize(
    ("method", "home", "away"),
    [
        ("maple", {}, {"depth": 3, "lr": 0.0026, "epochs": 2}),
        ("promptsrc", {}, {"depth": 3, "gpa_mean": 6, "gpa_std": 10}),
        ("coop", {"epochs": 50}, {"epochs": 50}),
        ("cocoop", {}, {}),
        ("vpt", {}, {}),
        ("coprompt", *[{"depth": 12, "n_ctx": 4, "consistency_weight": 8.0}] * 2),
    ],
)
def test_hyper_parameters_are_those_of_the_authors_for_transfer(
    method: str, home: dict[str, Any], away: dict[str, Any]
) -> None:
    cell = Cell("paper", "imagenet", method, 16, 1, Settings())
    carried = replace(cell, targets=("dtd", "eurosat"))
    assert cell.arguments == home
    assert carried.arguments == away
    build_method(method, **away)
    own = Settings(arguments={method: {"epochs": 7}})
    assert replace(carried, settings=own).arguments == {**away, "epochs": 7}
    assert replace(carried, suite="demo", dataset="grey-food").arguments == {}


def test_targets_are_in_the_key_in_any_order() -> None:
    cell = Cell("demo", "grey-food", "ipo", 1, 1, Settings())
    carried = replace(cell, targets=TARGETS)
    assert carried.key == replace(cell, targets=TARGETS[::-1]).key
    assert len({cell.key, carried.key, replace(cell, targets=TARGETS[:1]).key}) == 3
    assert "protocol" not in cell.decisive
    assert "targets" not in cell.decisive
    assert str(carried) == "ipo, grey-food to 2 others, 1-shot, seed 1"


MARKDOWN = """\
**1-shot, learned on grey-food**

| data set | method | accuracy |
|---|---|---:|
| grey-food (source) | CLIP | 20.0 ± 0.0 |
| grey-food (source) | IPO | 62.0 ± 2.0 |
| average | CLIP | 50.0 ± 0.0 |
| average | IPO | 52.0 ± 2.0 |
| pixel-animals | CLIP | 40.0 ± 0.0 |
| pixel-animals | IPO | 45.0 ± 5.0 |
| faint-places | CLIP | 60.0 ± 0.0 |
| faint-places | IPO | 59.0 ± 1.0 |"""

CLIP, IPO = (20.0, (40.0, 60.0)), {1: (60.0, (40.0, 60.0)), 2: (64.0, (50.0, 58.0))}


def measured() -> dict[str, Row]:
    found = {}
    for cell in GRID.cells():
        source, targets = CLIP if cell.method == "clip" else IPO[cell.seed]
        row = Row(cell.key, cell.suite, cell.dataset, cell.method, cell.shots, cell.seed, cell.decisive)
        tested = dict(zip(TARGETS, targets, strict=True))
        found[cell.key] = replace(row, source=source, targets=tested, template=f"a {cell.method} <CLASS>.")
    return found


def test_the_table_has_the_means_computed_by_hand() -> None:
    table = transfer_table(GRID, measured(), DemoSuite(), 1)
    assert render([table], "md") == MARKDOWN
    assert r"average & IPO & $52.0 \pm 2.0$ \\" in render([table], "latex").splitlines()
    lines = list(csv.DictReader(io.StringIO(render([table], "csv"))))
    assert list(lines[0]) == ["table", "data set", "method", "accuracy", "accuracy error"]
    assert (float(lines[5]["accuracy"]), float(lines[5]["accuracy error"])) == (45.0, 5.0)


def test_failed_cells_are_left_out() -> None:
    rows = measured()
    failed = GRID.cell("grey-food", "ipo", 1, 2).key
    rows[failed] = replace(rows[failed], source=None, targets={}, error="RuntimeError: no")
    assert transferred(GRID, rows, TARGETS, "ipo", 1) == MeanWithError(50.0, None)
    assert transferred(GRID, {}, TARGETS, "ipo", 1) is None
    assert "| average | IPO | - |" in render([transfer_table(GRID, {}, DemoSuite(), 1)], "md")


def test_the_page_shows_source_and_targets_of_each_template() -> None:
    table, rows = transfer_table(GRID, measured(), DemoSuite(), 1), list(measured().values())
    text = page(Content([table], rows, len(rows), DemoSuite(), "x"))
    assert "| data set | method | shots | seed | template | source | targets |" in text
    assert "| grey-food | IPO | 1 | 2 | `a ipo <CLASS>.` | 64.0 | 54.0 |" in text


def test_variants_of_imagenet_have_an_average_of_their_own(tmp_path: Path) -> None:
    suite = PaperSuite(tmp_path)
    source, targets = chosen_transfer("ImageNet", None, suite)
    assert (source, len(targets)) == ("imagenet", 10 + 4)
    carried = replace(GRID, suite="paper", datasets=(source,), targets=targets)
    titles = [group[0][0] for group in transfer_table(carried, {}, suite, 1).groups]
    assert titles[:4] == ["ImageNet (source)", "average", "average of data sets", "average of variants"]
    assert titles[-4:] == ["ImageNetV2", "ImageNet-Sketch", "ImageNet-A", "ImageNet-R"]


def test_the_papers_data_sets_are_read_whole(tmp_path: Path) -> None:
    plant_imagenet(tmp_path)
    for key in IDS:
        plant(class_names(tmp_path / "imagenet-sketch") / "images" / key, "sketch_0.JPEG")
    suite = PaperSuite(tmp_path)
    suite.check(("imagenet", "imagenet_sketch"))
    one = suite.whole("imagenet", shots=2, seed=1)
    assert (len(one.train), len(one.test), len(one.test.classes)) == (10, 10, 5)
    assert len(suite.whole("imagenet").train) == 5  # not its million
    sketch = suite.whole("imagenet_sketch")
    assert (len(sketch.train), len(sketch.test)) == (0, 5)
    assert sketch.test.classes == one.test.classes
    assert str(sketch.template) == "a photo of a <CLASS>."


def test_unusable_sources_and_targets_are_reported() -> None:
    suite = PaperSuite(Path())
    with pytest.raises(DataError, match=r"ImageNet-A is for testing only; choose a source from imagenet, caltech101,"):
        chosen_transfer("imagenet_a", None, suite)
    with pytest.raises(DataError, match=r"transfer needs at least one target data set other than dtd; choose from"):
        chosen_transfer("DTD", ["dtd"], suite)
    with pytest.raises(DataError, match=r"has no data set 'cars'; known: imagenet, .*imagenet_r"):
        chosen_transfer("dtd", ["cars"], suite)
    assert chosen_transfer("dtd", ["ImageNet-R", "dtd"], suite) == ("dtd", ("imagenet_r",))


BENCH = ("bench", "--shots", "1", "--seeds", "1", "--steps", "1")


@pytest.mark.end_to_end
def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "DemoSuite", SmallSuite)
    monkeypatch.chdir(tmp_path)
    asked = ("--transfer", "grey-food", "--datasets", "pixel-animals", "--methods", "clip,ipo")
    code, out, err = call(capsys, *BENCH, *asked)
    assert code == 0
    assert out.startswith("**1-shot, learned on grey-food**\n\n| data set | method | accuracy |")
    assert "ipo, grey-food, 1-shot, seed 1: source " in err
    assert ", average of 1 target " in err
    assert Path("runs", "bench", "transfer-curves-1-shot.svg").stat().st_size > 5000
    code, text, err = call(capsys, *BENCH, *asked, "--json")
    assert (code, "source" in err) == (0, False)
    assert [list(row["targets"]) for row in json.loads(text)["rows"]] == [["pixel-animals"]] * 2
    code, _, err = call(capsys, *BENCH, *asked, "--ablate", "history")
    assert (code, "use either --transfer or --ablate" in err) == (2, True)


def test_a_dry_run_counts_the_images_of_all_classes(capsys: pytest.CaptureFixture[str]) -> None:
    asked = (
        "--methods",
        "ipo",
        "--prompt-model",
        "openai/gpt-4o-mini",
        "--description-model",
        "openai/gpt-4o-mini",
        "--dry-run",
        "--json",
    )
    _, out, _ = call(capsys, *BENCH, "--transfer", "grey-food", *asked)
    classes = len(demo.load("grey-food", classes="all").classes)
    assert json.loads(out)["calls"] == 1 + classes + 1 + 1  # a ping, a description of each image, templates, rewordings


def test_missing_targets_are_reported_before_anything_is_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plant_dtd(tmp_path)
    where = ("--suite", "paper", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--methods", "clip,ipo")
    code, _, err = call(capsys, *BENCH, *where, "--transfer", "dtd", "--datasets", "eurosat,imagenet_a")
    assert code == 2
    assert "eurosat: " in err
    assert "imagenet_a: " in err
    assert "dtd: " not in err
    assert not (tmp_path / "out").exists()

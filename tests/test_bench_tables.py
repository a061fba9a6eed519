"""The tables against numbers computed by hand, in three formats."""

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from ipo_dspy.bench.ablations import ABLATIONS, ablation, variant_names
from ipo_dspy.bench.aggregate import MeanWithError, entry
from ipo_dspy.bench.cells import Grid
from ipo_dspy.bench.markdown_page import Content, page, write_page
from ipo_dspy.bench.method_runners import build_ipo
from ipo_dspy.bench.result_rows import Row
from ipo_dspy.bench.settings import Settings
from ipo_dspy.bench.suites import DemoSuite, PaperSuite, build_suite, select_datasets
from ipo_dspy.bench.tables import ablation_table, paper_table, published, render
from ipo_dspy.errors import DataError, InputError, JournalError, LanguageModelError

GRID = Grid("demo", ("grey-food", "pixel-animals"), ("clip", "ipo"), (1,), (1, 2), Settings())
IPO = {("grey-food", 1): (60.0, 40.0), ("grey-food", 2): (64.0, 48.0)}
IPO |= {("pixel-animals", 1): (80.0, 60.0), ("pixel-animals", 2): (84.0, 64.0)}
CLIP = {"grey-food": (50.0, 30.0), "pixel-animals": (20.0, 40.0)}


def rows(grid: Grid = GRID, ipo: Mapping[tuple[str, int], tuple[float, float] | None] = IPO) -> dict[str, Row]:
    found = {}
    for cell in grid.cells():
        pair = CLIP[cell.dataset] if cell.method == "clip" else ipo.get((cell.dataset, cell.seed))
        base, novel = pair or (None, None)
        row = Row(cell.key, cell.suite, cell.dataset, cell.method, cell.shots, cell.seed, cell.decisive, base, novel)
        found[cell.key] = row if pair else replace(row, error="RuntimeError: no")
    return found


def test_means_and_errors_are_those_computed_by_hand() -> None:
    one = entry(GRID, rows(), "grey-food", "ipo", 1)
    assert one.base == MeanWithError(62.0, 2.0)
    assert one.novel == MeanWithError(44.0, 4.0)
    assert one.h is not None
    first, second = 48.0, 2 * 64 * 48 / 112
    assert one.h.value == pytest.approx((first + second) / 2)
    assert one.h.error == pytest.approx(abs(first - second) / 2)


def test_the_average_is_taken_seed_by_seed_and_its_h_is_of_the_averages() -> None:
    one = entry(GRID, rows(), "average", "ipo", 1)
    assert one.base == MeanWithError(72.0, 2.0)  # 70 and 74
    assert one.novel is not None
    assert (one.novel.value, one.novel.error) == pytest.approx((53.0, 3.0))  # 50 and 56
    assert one.h is not None
    assert one.h.value == pytest.approx((2 * 70 * 50 / 120 + 2 * 74 * 56 / 130) / 2)


def test_a_seed_with_a_failed_cell_is_left_out_of_the_average() -> None:
    broken = rows(ipo={**IPO, ("grey-food", 2): None})
    one = entry(GRID, broken, "average", "ipo", 1)
    assert (one.base, one.novel) == (MeanWithError(70.0, None), MeanWithError(50.0, None))
    nothing = entry(GRID, {}, "average", "ipo", 1)
    assert (nothing.base, nothing.h) == (None, None)


MARKDOWN = """\
**1-shot, base to novel**

| data set | method | base | novel | H |
|---|---|---:|---:|---:|
| average | CLIP | 35.0 ± 0.0 | 35.0 ± 0.0 | 35.0 ± 0.0 |
| average | IPO | 72.0 ± 2.0 | 53.0 ± 3.0 | 61.0 ± 2.7 |
| grey-food | CLIP | 50.0 ± 0.0 | 30.0 ± 0.0 | 37.5 ± 0.0 |
| grey-food | IPO | 62.0 ± 2.0 | 44.0 ± 4.0 | 51.4 ± 3.4 |
| pixel-animals | CLIP | 20.0 ± 0.0 | 40.0 ± 0.0 | 26.7 ± 0.0 |
| pixel-animals | IPO | 82.0 ± 2.0 | 62.0 ± 2.0 | 70.6 ± 2.0 |"""


def test_markdown() -> None:
    assert render([paper_table(GRID, rows(), DemoSuite(), 1)], "md") == MARKDOWN


def test_latex() -> None:
    text = render([paper_table(GRID, rows(), DemoSuite(), 1)], "latex").splitlines()
    assert text[1:4] == [r"\begin{tabular}{llrrr}", r"\toprule", r"data set & method & base & novel & H \\"]
    assert r"grey-food & IPO & $62.0 \pm 2.0$ & $44.0 \pm 4.0$ & $51.4 \pm 3.4$ \\" in text
    assert text.count(r"\midrule") == 3
    assert text[-2:] == [r"\bottomrule", r"\end{tabular}"]


def test_csv_has_full_precision() -> None:
    lines = list(csv.DictReader(io.StringIO(render([paper_table(GRID, rows(), DemoSuite(), 1)], "csv"))))
    assert len(lines) == 6
    assert float(lines[1]["base"]) == 72.0
    assert float(lines[3]["H"]) == pytest.approx((48 + 2 * 64 * 48 / 112) / 2, rel=1e-12)
    assert float(lines[3]["novel error"]) == 4.0


def test_missing_figures_are_dashes() -> None:
    assert "| grey-food | IPO | - | - | - |" in render([paper_table(GRID, {}, DemoSuite(), 1)], "md")


def test_a_method_without_novel_accuracy_has_its_base_accuracy_and_no_h() -> None:
    probed = replace(GRID, methods=("linear-probe",))
    found = {key: replace(row, novel=None) for key, row in rows(probed).items()}
    lines = render([paper_table(probed, found, DemoSuite(), 1)], "md").splitlines()
    assert "| average | Linear probe | 72.0 ± 2.0 | - | - |" in lines
    assert "| grey-food | Linear probe | 62.0 ± 2.0 | - | - |" in lines
    table = render([paper_table(probed, found, DemoSuite(), 1)], "csv")
    first = next(csv.DictReader(io.StringIO(table)))
    assert (float(first["base"]), first["novel"], first["H"], first["H error"]) == (72.0, "", "", "")
    text = page(Content([], list(found.values()), 4, DemoSuite(), "ipo-dspy bench"))
    note = "Linear probe: classifies only the classes of its training images, so other columns have no value."
    assert note in text
    assert note not in page(Content([], list(rows().values()), 6, DemoSuite(), "ipo-dspy bench"))


def test_the_papers_figures_stand_next_to_ours_where_they_are_about_the_same() -> None:
    suite = PaperSuite(Path())
    names = tuple(suite.titles)
    assert len(names) == 11
    all_of_them = Grid("paper", names, ("clip", "ipo"), (1, 16), (1,), Settings())
    text = render([paper_table(all_of_them, {}, suite, shots) for shots in (1, 16)], "md")
    assert "| average | IPO | - | - | - | 71.76 | 77.00 | 74.29 |" in text
    assert "| average | IPO | - | - | - | 79.92 | 80.51 | 80.21 |" in text
    assert "| EuroSAT | IPO | - | - | - | 64.97 | 82.13 | 72.54 |" in text
    some = replace(all_of_them, datasets=names[:2])
    assert "| average | IPO | - | - | - | - | - | - |" in render([paper_table(some, {}, suite, 1)], "md")


def test_published_figures_hold_together() -> None:
    """H is the harmonic mean of base and novel, but for the one figure that the paper prints otherwise."""
    for name in ("average", *PaperSuite(Path()).titles):
        for method in ("clip", "coop", "cocoop", "maple", "promptsrc", "coprompt", "ipo"):
            base, novel, h = published(name, method, 1)
            assert base is not None
            assert novel is not None
            assert h is not None
            ours = 2 * base * novel / (base + novel)
            assert math.isclose(h, ours, abs_tol=0.011) or (name, method) == ("oxford_pets", "ipo"), (name, method)


def test_every_ablation_has_its_table() -> None:
    models = {"lm": ("openai/gpt-4o-mini",), "vlm": ("openai/gpt-4o",)}
    for name in ABLATIONS:
        grid = ablation(name, GRID, models)
        lines = render([ablation_table(name, grid, {}, DemoSuite(), 1)], "md").splitlines()
        assert len(lines) == 4 + 3 * len(grid.variants)
    history = ablation("history", GRID, models)
    assert list(history.variants) == ["0", "1", "5", "10", "20", "50", "100"]
    usual = {GRID.cell("grey-food", "ipo", 1, 1).key}
    assert usual <= {cell.key for cell in ablation("feedback", GRID, models).cells()}


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_variant_of_an_ablation_makes_an_optimizer(name: str) -> None:
    """Also the one without descriptions, if a model is named that writes them."""
    grid = replace(GRID, settings=replace(GRID.settings, lm="openai/gpt-4o-mini", vlm="openai/gpt-4o"))
    split = DemoSuite().load("grey-food", shots=1, seed=1)
    for cell in ablation(name, grid, {"lm": ["openai/gpt-4o"], "vlm": ["openai/gpt-4o-mini"]}).cells():
        optimizer = build_ipo(cell, split)
        assert (optimizer.config.description_model is None) == (not cell.settings.descriptions or not cell.settings.vlm)


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(InputError, match="unknown ablation 'x'; known: descriptions, history"):
        ablation("x", GRID, {})
    with pytest.raises(
        LanguageModelError, match="this ablation compares language models, but none is given; pass prompt_model="
    ):
        ablation("lm", GRID, {})
    with pytest.raises(InputError, match="unknown suite 'x'; choose from demo, paper"):
        build_suite("x")
    with pytest.raises(DataError, match="has no data set 'x'; known: faint-places, grey-food"):
        select_datasets(["x"], DemoSuite())
    with pytest.raises(InputError, match="format must be one of md, latex, csv, got 'x'"):
        render([], "x")


def test_the_page_shows_templates_price_and_source() -> None:
    found = rows()
    whole = [
        replace(
            row,
            template="a <CLASS>." if row.method == "clip" else f"drawing {row.seed} of a <CLASS>.",
            seconds=float(row.seed),
            calls=2 if row.method == "ipo" else 0,
            tokens=30 if row.method == "ipo" else 0,
            cost=None if row.dataset == "grey-food" and row.method == "ipo" else 0.0,
            commit=f"c{row.seed}",
            machine={"processor": "x86_64", "threads": 2, "python": "3.11.7", "gpu": None},
            versions={"torch": "2.13.0"},
        )
        for row in found.values()
    ]
    failed = replace(whole[0], seed=9, error="RuntimeError: no", template="not this <CLASS>.")
    suite = DemoSuite()
    table = paper_table(GRID, found, suite, 1)
    content = Content([table], [*whole, failed], 8, suite, "ipo-dspy bench --seeds 1,2", {whole[-1].key: "history: 5"})
    text = page(content)
    assert text.startswith("# Results: the bundled tasks\n\n")
    assert "over the seeds 1, 2, 9. The tasks are small" in text
    assert "| average | IPO | 72.0 ± 2.0 |" in text
    assert "| grey-food | IPO | 1 | 2 | `drawing 2 of a <CLASS>.` | 64.0 | 48.0 |" in text
    assert "`a <CLASS>.`" not in text  # nobody searched it
    assert "not this" not in text
    assert "**Incomplete:** of 8 cells, 1 failed and 1 have not run." in text
    assert f"- clip, {failed.dataset}, 1-shot, seed 9: `RuntimeError: no`" in text
    assert "| CLIP | none | 2 | 0 | 0 | 0.00 | 1.0 ± 0.0 |" in text
    assert "| IPO | 1 | 3 | 6 | 90 | unknown | 1.3 ± 0.3 |" in text
    assert "| IPO, history: 5 | 1 | 1 | 2 | 30 | 0.00 | 2.0 |" in text
    assert "command at commit c1 and c2; x86_64, threads: 2, Python 3.11.7; torch 2.13.0." in text
    assert "```console\n$ ipo-dspy bench --seeds 1,2\n```" in text


def test_a_page_that_cannot_be_written_names_it(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=r"nowhere/results.md' cannot be written"):
        write_page(tmp_path / "nowhere" / "results.md", Content([], [], 0, DemoSuite(), "ipo-dspy bench"))


def test_any_template_stays_one_cell_of_the_table() -> None:
    row = next(row for row in rows().values() if row.method == "ipo")
    odd = replace(row, template="a | `<CLASS>`\nthe <CLASS>.")
    text = page(Content([], [odd], 1, DemoSuite(), "ipo-dspy bench"))
    assert "| 1 | 1 | `` a \\| `<CLASS>` ``<br>`the <CLASS>.` | 60.0 | 40.0 |" in text
    assert "Incomplete" not in text


def test_cells_of_several_ablations_have_all_their_names() -> None:
    grids = {name: ablation(name, GRID, {}) for name in ("descriptions", "feedback")}
    names = variant_names(grids)
    assert len(names) == (2 + 2) * 4  # with descriptions is with both scores
    assert "descriptions: with, feedback: loss and accuracy" in names.values()

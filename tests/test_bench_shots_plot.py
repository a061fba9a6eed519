"""Figures and table over the number of shots, against rows made by hand and as the command writes them."""

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.bench_small import SmallSuite, grid
from ipo_dspy.bench import suites
from ipo_dspy.bench.result_rows import Row
from ipo_dspy.bench.shots_plot import panels, shots_table, write_shots
from ipo_dspy.bench.suites import DemoSuite
from ipo_dspy.bench.tables import render
from ipo_dspy.cli import main
from ipo_dspy.errors import JournalError
from ipo_dspy.report.figures import ErrorBarSeries, draw_points

GRID = grid(shots=(16, 1))
CLIP, IPO = (50.0, 30.0), {(1, 1): (60.0, 40.0), (1, 2): (64.0, 48.0), (16, 1): (80.0, 60.0), (16, 2): (84.0, 60.0)}


def rows() -> dict[str, Row]:
    """The same on both data sets."""
    found = {}
    for cell in GRID.cells():
        base, novel = CLIP if cell.method == "clip" else IPO[cell.shots, cell.seed]
        row = Row(cell.key, cell.suite, cell.dataset, cell.method, cell.shots, cell.seed, cell.decisive)
        found[cell.key] = replace(row, base=base, novel=novel)
    return found


def test_points_are_means_and_errors_in_the_order_of_shots() -> None:
    found = panels(GRID, rows(), "average")
    assert list(found) == ["base, %", "novel, %", "H, %"]
    assert found["base, %"] == {
        "CLIP": ErrorBarSeries((1, 16), (50.0, 50.0), (0.0, 0.0)),
        "IPO": ErrorBarSeries((1, 16), (62.0, 82.0), (2.0, 2.0)),
    }
    assert found["novel, %"]["IPO"].errors == (4.0, 0.0)
    one_seed = panels(replace(GRID, seeds=(1,)), rows(), "grey-food")
    assert one_seed["base, %"]["IPO"] == ErrorBarSeries((1, 16), (60.0, 80.0), (0.0, 0.0))


def test_missing_results_are_not_drawn() -> None:
    some = {key: row for key, row in rows().items() if row.method == "clip" or row.shots == 16}
    assert panels(GRID, some, "average")["H, %"]["IPO"].at == (16,)
    assert list(panels(replace(GRID, seeds=(3,)), some, "average")["H, %"]) == ["CLIP"]


def test_the_table_has_a_column_for_shots() -> None:
    table = shots_table(GRID, rows(), DemoSuite())
    lines = list(csv.DictReader(io.StringIO(render([table], "csv"))))
    assert len(lines) == 3 * 2 * 2
    assert [(line["data set"], line["method"], line["shots"]) for line in lines[:4]] == [
        ("average", "CLIP", "1"),
        ("average", "CLIP", "16"),
        ("average", "IPO", "1"),
        ("average", "IPO", "16"),
    ]
    assert (float(lines[2]["base"]), float(lines[2]["base error"])) == (62.0, 2.0)
    assert float(lines[0]["H"]) == pytest.approx(2 * 50 * 30 / 80)


@pytest.mark.end_to_end
def test_files_are_written_for_each_data_set_and_the_average(tmp_path: Path) -> None:
    files = write_shots(tmp_path, GRID, rows(), DemoSuite())
    names = [f"shots-{name}.{kind}" for name in ("average", *GRID.datasets) for kind in ("svg", "png")]
    assert [file.name for file in files] == ["shots.csv", *names]
    before = {file: file.read_bytes() for file in files}
    assert write_shots(tmp_path, GRID, rows(), DemoSuite()) == files
    assert {file: file.read_bytes() for file in files} == before
    drawn = (tmp_path / "shots-average.svg").read_text()
    assert [label in drawn for label in ("training images per class", "novel, %", "IPO")] == [True] * 3


def test_a_method_without_a_measure_keeps_the_colors_and_the_legend(tmp_path: Path) -> None:
    points = ErrorBarSeries((1, 16), (50.0, 60.0), (0.0, 0.0))
    file, _ = draw_points(
        {"base": {"Linear probe": points, "IPO": points}, "H": {"IPO": points}}, tmp_path / "x", axis="", title=""
    )
    first, second = file.read_text().split('<g id="axes_2">')
    second, legend = second.split('<g id="legend_1">')
    blue, orange = "#1f77b4", "#ff7f0e"
    assert [color in part for part in (first, second, legend) for color in (blue, orange)] == [
        *(True, True),
        *(False, True),
        *(True, True),
    ]
    assert "Linear probe" in legend


def test_one_number_of_shots_and_nothing_measured_make_no_files(tmp_path: Path) -> None:
    assert write_shots(tmp_path, replace(GRID, shots=(1,)), rows(), DemoSuite()) == ()
    assert write_shots(tmp_path, replace(GRID, targets=("faint-places",)), rows(), DemoSuite()) == ()
    assert write_shots(tmp_path, GRID, {}, DemoSuite()) == ()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.end_to_end
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "shots.csv").mkdir()
    with pytest.raises(JournalError, match=rf"'{tmp_path}/shots.csv' cannot be written .*name another folder"):
        write_shots(tmp_path, GRID, rows(), DemoSuite())


@pytest.mark.end_to_end
def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "DemoSuite", SmallSuite)
    asked = ("--datasets", "grey-food", "--methods", "clip,ipo", "--shots", "2,1", "--seeds", "1", "--steps", "1")
    with pytest.raises(SystemExit) as ended:
        main(["bench", *asked, "--out", str(tmp_path)])
    assert not ended.value.code
    err = capsys.readouterr().err
    assert f"shots   {tmp_path / 'shots.csv'}, shots-*.svg, shots-*.png" in err
    lines = list(csv.DictReader((tmp_path / "shots.csv").open()))
    assert re.findall(r"\w+-food", str(lines)) == ["grey-food"] * 4
    assert [line["shots"] for line in lines] == ["1", "2"] * 2

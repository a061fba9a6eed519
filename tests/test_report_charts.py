"""The charts of accuracy and loss over the trials."""

import itertools
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from xml.etree import ElementTree

import pytest

from helpers.report_journals import START, begin, sample_run, search, trial
from helpers.report_pages import dots, drawn_in, text_of
from ipo_dspy.report import render_report
from ipo_dspy.run.journal import Journal


@pytest.mark.parametrize("accuracies", [[0.0], [100.0], [50.0, 50.0], [50.0, 50.0 + 1e-14], [0.0, 100.0]])
@pytest.mark.parametrize("loss", [0.0, 1e-12, 1e12])
def test_draws_whatever_was_measured(tmp_path: Path, accuracies: list[float], loss: float) -> None:
    with Journal(tmp_path) as journal:
        for index, accuracy in enumerate(accuracies):
            trial(journal, index, START, accuracy, loss)
    drawn = re.findall(r"<svg.*?</svg>", render_report(tmp_path), flags=re.DOTALL)
    assert len(drawn) == 2
    assert "nan" not in "".join(drawn)


def test_the_best_so_far_is_the_trial_that_ranks_first(tmp_path: Path) -> None:
    scores = [(50.0, 1.0, 0.0), (90.0, 0.4, 3.0), (60.0, 1.2, 0.0), (55.0, 0.6, 0.0)]  # the second misses a floor
    with Journal(tmp_path) as journal:
        begin(journal, settings={"min_recall": {"apple": 0.5}})
        search(journal)
        for i, (accuracy, loss, missed) in enumerate(scores):
            trial(journal, i, f"{i} <CLASS>", accuracy, loss, missed=missed)
    page = render_report(tmp_path)
    for chart in drawn_in(page):
        (line,) = (
            part.get("d", "")
            for part in chart.iter("path")
            if "var(--accent)" in part.get("style", "") and "width: 2" in part.get("style", "")
        )
        heights = [float(y) for y in re.findall(r"[ML] [\d.]+ ([\d.]+)", line)]
        placed = [y for _, y in dots(chart)]
        assert sorted({*heights}) == sorted({placed[0], placed[2]})
        assert heights[-1] == placed[2]
    assert "ordered by points below recall floors, then accuracy" in text_of(page)
    assert "best so far by recall floors, then accuracy" in text_of(page)


def test_draws_every_trial_inside_the_frame_and_counts_what_lies_beyond(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        for index in range(100):
            trial(journal, index, START, 1.0 if index == 50 else 60 + index / 10, 1.0 + index / 100)
    page = render_report(tmp_path)
    assert re.search(r"1 trial below 5\d\.\d %", text_of(page))
    points = [point for chart in drawn_in(page) for point in dots(chart)]
    assert len(points) == 200
    assert all(40 < x < 440 and 25 < y < 250 for x, y in points)


def test_drawings_are_xml_in_colors_of_the_page_and_refer_to_nothing(sample_page: str) -> None:
    first, second = drawn_in(sample_page)
    described = "Accuracy of 201 trials: 55.8\u00a0% at the start, 81.2\u00a0% for the best template"
    assert first.get("aria-label") == described
    for chart in (first, second):
        assert chart.get("role") == "img"
        assert chart.get("width") is None
        parts = list(chart.iter())
        assert {part.tag for part in parts} == {"svg", "path", "text"}
        assert not {"id", "href", "clip-path"} & {name for part in parts for name in part.attrib}
        styles = " ".join(part.get("style", "") for part in parts)
        assert "#" not in styles
        assert "font" not in styles
        style = (files("ipo_dspy.report") / "style.css").read_text()
        assert all(f"{name}:" in style for name in re.findall(r"var\((--\w+)\)", styles))


def test_axes_have_a_few_round_numbers(sample_page: str) -> None:
    for chart, numbers in zip(drawn_in(sample_page), ("50 60 70 80", "0.8 1.0 1.2 1.4 1.6 1.8"), strict=True):
        labels = [part.text for part in chart.iter("text")]
        for axis in ("step", "trial", "0 50 100 150 200", "0 5 10 15 20 25", numbers):
            assert set(axis.split()) <= set(labels)


def step_labels(chart: ElementTree.Element) -> dict[int, float]:
    """Numbers on the axis of the steps, which is the one above the trials, and their places in pixels."""
    texts = [part for part in chart.iter("text") if float(part.get("y", "")) < 20 and part.text != "step"]
    return {int(part.text or ""): float(part.get("x", "")) for part in texts}


def steps_run(folder: Path, sizes: Sequence[int]) -> ElementTree.Element:
    """The accuracy chart of a run with these numbers of trials in its steps."""
    index = 0
    with Journal(folder) as journal:
        for step, size in enumerate(sizes):
            for _ in range(size):
                trial(journal, index, f"{index} <CLASS>", 50.0, 1.0, step=step)
                index += 1
    return drawn_in(render_report(folder))[0]


@pytest.mark.parametrize(
    "sizes", [[1, *[8] * 10], [2, *[5] * 10], [4, *[3] * 40], [1, 30, 1, 1, 1, 30, 30], [1, *[8] * 3, 90], [3, 3]]
)
def test_labels_of_steps_are_regular(tmp_path: Path, sizes: Sequence[int]) -> None:
    labels = step_labels(steps_run(tmp_path, sizes))
    assert len(labels) >= 2
    assert len({second - first for first, second in itertools.pairwise(labels)}) == 1
    assert all(second - first > 30 for first, second in itertools.pairwise(labels.values()))


@pytest.mark.parametrize("sizes", [[5], [1, 1, 400]])
def test_steps_that_do_not_fit_have_no_axis(tmp_path: Path, sizes: Sequence[int]) -> None:
    assert "step" not in [part.text for part in steps_run(tmp_path, sizes).iter("text")]


def test_readers_settings_of_matplotlib_neither_show_nor_change(tmp_path: Path) -> None:
    import matplotlib as mpl

    run = sample_run(tmp_path, trials=20, finished=False)
    plain = render_report(run)
    with mpl.rc_context({"lines.linewidth": 9, "font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        before = dict(mpl.rcParams)
        assert render_report(run) == plain
        assert dict(mpl.rcParams) == before

"""The score table of the report: base and novel classes, the prompts for ImageNet, intervals."""

import re
from pathlib import Path

import pytest

from helpers.report_journals import START, begin, evaluation, imagenet, search, trial
from helpers.report_pages import text_of
from ipo_dspy.report import render_report
from ipo_dspy.run.journal import Journal
from ipo_dspy.scoring.score import harmonic_mean


def test_lists_best_prompts_in_the_stated_order(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        begin(journal)
        search(journal)
        for i, (name, accuracy, loss, tokens) in enumerate(
            [("e", 50, 1, 5), ("d", 60, 1, 9), ("b", 60, 0.5, 9), ("c", 60, 1, 8), ("a", 70, 2, 9)]
        ):
            trial(journal, i, f"{name} <CLASS>", accuracy, loss, tokens=tokens)
    table = text_of("</style>" + render_report(tmp_path).split('class="prompts"')[1].split("</table>")[0])
    assert re.findall(r"\b([a-e]) <CLASS>", table) == ["a", "b", "c", "d", "e"]


def test_adds_the_harmonic_mean_of_base_and_novel(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        begin(journal)
        search(journal)
        trial(journal, 0, START, 50.0, 1.0)
        for role, base, novel in (("start", 60.0, 30.0), ("best", 80.0, 40.0)):
            evaluation(journal, role, base, part="base", per_class={"apple": [3, 5]})
            evaluation(journal, role, novel, part="novel", per_class={"wizard": [1, 5]})
    text = text_of(render_report(tmp_path))
    assert "Test, harmonic mean (H) 40.0 % 53.3 % +13.3" in text
    assert "+13.3 points of harmonic mean" in text
    assert "apple" in text
    assert "wizard" in text


def test_prompts_for_imagenet_stand_between_start_and_best_on_the_same_images(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        begin(journal)
        search(journal)
        trial(journal, 0, START, 50.0, 1.0)
        for role, base, novel in (("start", 60.0, 30.0), ("best", 80.0, 40.0)):
            evaluation(journal, role, base, part="base")
            evaluation(journal, role, novel, part="novel")
        imagenet(journal, "base", 60.5, 70.0)
        imagenet(journal, "novel", 39.0, 35.0)
        imagenet(journal, "all", 1.5, 2.5)  # images that start and best were not evaluated on
    page = render_report(tmp_path)
    text = text_of(page)
    assert "Start Best of 80 Ensemble of 80 Best so far Points" in text
    assert "500 images 60.0 % loss 1.000 60.5 % loss 0.750 70.0 % loss 0.875 80.0 %" in text
    assert "Test, harmonic mean (H) 40.0 % 47.4 % 46.7 % 53.3 % +13.3" in text
    assert "published for ImageNet" in text
    assert "in a video &amp; game." in page
    assert not {"1.5 %", "2.5 %"} & set(re.findall(r"[\d.]+ %", text))


def test_prompts_for_imagenet_on_images_of_an_earlier_session_are_not_shown(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        begin(journal)
        search(journal)
        trial(journal, 0, START, 50.0, 1.0)
        for role in ("start", "best"):
            evaluation(journal, role, 60.0)
        imagenet(journal, "all", 61.5, 62.5, images=499)
    assert "500 images 60.0 % loss 1.000 \u2013 \u2013 60.0 %" in text_of(render_report(tmp_path))


def test_journals_without_prompts_for_imagenet_have_no_column_for_them(sample_page: str) -> None:
    assert "ImageNet" not in sample_page
    assert "Images Start Best Points" in text_of(sample_page)


@pytest.mark.parametrize(("base", "novel", "mean"), [(60.0, 30.0, 40.0), (0.0, 0.0, 0.0), (0.0, 50.0, 0.0)])
def test_harmonic_mean(base: float, novel: float, mean: float) -> None:
    assert harmonic_mean(base, novel) == mean


def test_test_accuracies_have_an_interval(sample_page: str) -> None:
    assert "500 test images (95 % interval of the best: 77.3 to 84.2)" in text_of(sample_page)

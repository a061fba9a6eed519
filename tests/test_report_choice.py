"""The choice of the template in the report: candidates, phrases, reasons, and warnings."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from helpers.report_journals import CLASSES, begin, chosen_run, evaluation, search
from helpers.report_pages import drawn_in, notes, text_of
from ipo_dspy.report import render_report
from ipo_dspy.run.journal import Journal


def test_says_what_to_expect_and_sets_a_gain_on_images_that_chose_apart(tmp_path: Path) -> None:
    chosen_run(tmp_path)
    with Journal(tmp_path) as journal:
        for role, accuracy, right in (("start", 74.0, 1), ("best", 80.0, 4)):
            evaluation(journal, role, accuracy, split="train", per_class={"owl": [right, 5]}, images=400)
    page = render_report(tmp_path)
    text = text_of(page)
    assert "77.5 % on new images of these classes, 95 % interval 69.0 to 85.0" in text
    assert "cannot be told apart from the start template: +3.5 points, standard error 2.5" in text
    assert (
        "3 of 57 templates compared in pairs are as good within the tolerance; with 95 % confidence the most accurate "
        "one is among 11" in text
    )
    assert re.findall(r'class="big">(.*?)</p>', page) == ["77.5\u00a0%"]
    assert "77.5 % expected on new images, 95 % interval 69.0 to 85.0" in text
    grey = [text_of("</style>" + line) for line in re.findall(r'<p class="seen">.*?</p>', page, flags=re.DOTALL)]
    assert [line.strip() for line in grey] == [
        "74.0 % on the 400 images used for selection",
        "80.0 %, +6.0 points, on the 400 images used for selection",
    ]
    assert "Accuracy on training images by class, start → best, on the 5 images used for selection" in text
    assert '<table class="classes seen">' in page
    assert 'class="gain"' not in page
    assert "track gain" not in page
    assert "known" not in text.partition("What to expect")[0]


def test_draws_the_candidates_with_error_bars_and_the_tied_ones_on_shaded_ground(tmp_path: Path) -> None:
    picture = drawn_in(chosen_run(tmp_path))[0]
    assert picture.get("aria-label") == "Accuracy of the 4 best candidates with standard errors; 3 are tied"
    styles = [part.get("style", "") for part in picture.iter("path")]
    assert sum("fill: var(--tint)" in style for style in styles) == 3
    assert sum("var(--dot)" in style for style in styles) == 4
    assert sum("var(--loss)" in style for style in styles) == 1


@pytest.mark.parametrize(
    ("objective", "leader", "measures"),
    [
        ("accuracy", "the one with the lowest loss", "Its accuracy and loss are worse"),
        ("macro_f1", "the best one by macro F1", "Its macro F1 and loss are worse"),
        ("loss", "the best one by loss", "Its loss is worse"),
    ],
)
def test_says_what_tied_means(tmp_path: Path, objective: str, leader: str, measures: str) -> None:
    chosen_run(tmp_path, objective=objective)
    lines = (tmp_path / "journal.jsonl").read_text().splitlines()
    begun, started = json.loads(lines[0]), json.loads(lines[1])
    begun["settings"] |= {"tolerance": 1.5}
    rows = [begun, {**started, "objective": objective}, *map(json.loads, lines[2:])]
    (tmp_path / "journal.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert (
        f"cannot be told apart from the leading one, {leader}. {measures} by no more than chance explains "
        "( --tolerance 1.5 , in standard errors). Of the tied ones the template with the fewest words is chosen."
    ) in text_of(render_report(tmp_path))


@pytest.mark.parametrize(("describer", "column"), [("clip", "CLIP's guess"), ("lm", "Described")])
def test_phrases_have_their_worth_and_how_often_they_are_described(tmp_path: Path, describer: str, column: str) -> None:
    page = chosen_run(tmp_path, describer=describer)
    assert ("CLIP's guesses from a list of phrases" in text_of(page)) == (describer == "clip")
    table = text_of("</style>" + page.split('class="phrases"')[1].split("</table>")[0])
    assert f"Loss rises by {column} grey +3.0 ± 1.8 +0.100 ± 0.020 2 of 3" in table
    assert "black and upside down +3.0 ± 1.8 +0.100 ± 0.020 0 of 3 upside 2 down 2" in table
    tied = text_of("</style>" + page.split('aria-label="Tied templates"')[1].split("</table>")[0])
    assert re.findall(r"trial (\d)(?: · chosen)? (\d+\.\d %)", tied) == [
        ("0", "80.0 %"),
        ("1", "78.0 %"),
        ("2", "76.0 %"),
    ]


def test_warns_of_few_images_and_of_classes_that_are_never_right(tmp_path: Path) -> None:
    assert "one per class" not in text_of(chosen_run(tmp_path / "many"))
    text = text_of(chosen_run(tmp_path / "few", images=25, is_spread_known=False))
    assert "Only 25 images decided, at most one per class" in text
    with Journal(tmp_path / "never") as journal:
        begin(journal)
        search(journal)
        for role, right in (("start", 4), ("best", 0)):
            evaluation(journal, role, 50.0, per_class={"owl": [right, 5], "<i>key": [right, 5], "ship": [1, 5]})
    page = render_report(tmp_path / "never")
    assert (
        "2 classes never predicted correctly on test images: &lt;i&gt;key, owl; pass other words for such a class"
        in page
    )


@pytest.mark.parametrize(("images", "few"), [(99, "as few as 3 per class"), (100, None)])
def test_warns_of_fewer_than_four_images_per_class(tmp_path: Path, images: int, few: str | None) -> None:
    found = notes(chosen_run(tmp_path, images=images).replace("\n", " "))
    assert [note for note in found if "decided" in note] == (
        [f"Only 99 images decided, {few}; use more training images, or validation images (--val)."] if few else []
    )


def test_counts_the_images_of_the_smallest_class(tmp_path: Path) -> None:
    chosen_run(tmp_path)
    counts = {name: [1, 5] for name in CLASSES} | {"owl": [1, 2]}
    with Journal(tmp_path) as journal:
        evaluation(journal, "best", 50.0, split="train", per_class=counts, images=122)
    assert "as few as 2 per class" in render_report(tmp_path)


@pytest.mark.parametrize(("optimism", "warned"), [(3.0, False), (3.1, True)])
def test_warns_of_optimism_without_test_images(tmp_path: Path, optimism: float, warned: bool) -> None:
    found = [note for note in notes(chosen_run(tmp_path, optimism=optimism)) if "Overfitting" in note]
    assert len(found) == warned
    assert all("is about 3.1 points too high" in note and note.endswith("(--val), or --tolerance 2.") for note in found)


@pytest.mark.parametrize(
    ("accuracy", "part", "warned"), [(60.0, "all", 1), (60.0, "base", 1), (60.0, "novel", 0), (75.0, "all", 0)]
)
def test_warns_of_training_accuracy_beyond_test_accuracy(
    tmp_path: Path, accuracy: float, part: str, warned: int
) -> None:
    """The intervals of 80 % on 400 training images and of 75 % on 500 test images overlap."""
    chosen_run(tmp_path)
    with Journal(tmp_path) as journal:
        for role in ("start", "best"):
            evaluation(journal, role, accuracy, part=part)
    found = [note for note in notes(render_report(tmp_path)) if "Overfitting" in note]
    assert len(found) == warned
    assert all("80.0 % on training images and 60.0 % on test images differ beyond chance" in note for note in found)


@pytest.mark.parametrize(
    ("fields", "accuracy", "loss"),
    [
        ({}, None, None),
        ({"losses": (0.5, 0.6, 0.4, 0.3)}, None, "Trial 3, a photo of a <CLASS>. , has the lowest loss, with an "
         "accuracy of 74.0 % against 80.0 % of the chosen template, but was not chosen: accuracy comes first."),
        ({"losses": (0.5, 0.4, 0.6, 0.6)}, None, "Trial 1, a grey blocky sprite of a <CLASS>. , has the lowest loss, "
         "with an accuracy of 78.0 % against 80.0 % of the chosen template, but was not chosen: of the tied "
         "ones, the template with the fewest words wins"),
        ({"winner": 2}, "Trial 0, a grey <CLASS>. , has the highest accuracy, 80.0 % against 76.0 % of the "
         "chosen template, but was not chosen: of the tied ones, the template with the fewest words wins", None),
        ({"winner": 2, "tied_from": 1, "losses": (0.6, 0.5, 0.4, 0.5)}, "Trial 0, a grey <CLASS>. , has the highest "
         "accuracy, 80.0 % against 76.0 % of the chosen template, but was not chosen: it is not within the tolerance "
         "of the leading one", None),
        ({"listed": 2, "losses": (0.5, 0.5, 0.4, 0.5)}, None, "Trial 2, a <CLASS> as an icon. , has the lowest loss, "
         "with an accuracy of 76.0 % against 80.0 % of the chosen template, but was not chosen: of the tied "
         "ones, the template with the fewest words wins"),
        ({"winner": 3, "selected_on": "validation"}, "Trial 0, a grey <CLASS>. , has the highest accuracy, 80.0 % "
         "against 74.0 % of the chosen template, but was not chosen: the validation images decide, on which "
         "it has 80.0 % against 74.0 %, and of the tied ones", None),
    ],
)  # fmt: skip
def test_says_why_a_template_that_is_better_by_one_measure_is_not_chosen(
    tmp_path: Path, fields: dict[str, Any], accuracy: str | None, loss: str | None
) -> None:
    drawn = chosen_run(tmp_path, **fields).partition("<h3>The search</h3>")[2].partition("<h3>")[0]
    for figure, expected in zip(
        re.findall(r"<figure>.*?</figure>", drawn, flags=re.DOTALL), (accuracy, loss), strict=True
    ):
        text = text_of("</style>" + figure.partition("</svg>")[2])
        assert text.strip().startswith(expected) if expected else not text.strip()


def test_one_image_draws_and_says_that_nothing_is_known(tmp_path: Path) -> None:
    text = text_of(chosen_run(tmp_path, images=1, gain_error=1e9))
    assert "one image gives no standard error" in text

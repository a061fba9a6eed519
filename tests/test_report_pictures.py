"""Pictures of a real run: confusion matrix, worst images, map of images and words, and the same as PNG files."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image
from sklearn import metrics
from sklearn.decomposition import PCA

from helpers.browser import browser, needs_browser
from ipo_dspy import ClipClassifier, demo
from ipo_dspy.cli import main
from ipo_dspy.data import load_image_folder
from ipo_dspy.errors import JournalError
from ipo_dspy.report import pictures, render_report, slides, write_label_report, write_word_report
from ipo_dspy.report.figures import set_title
from ipo_dspy.run.events import Event, misfits
from ipo_dspy.run.journal import replay
from ipo_dspy.run.state import RunState
from ipo_dspy.scoring.confusion import confusion_matrix
from ipo_dspy.scoring.map_projection import project

HOSTILE = "<i>owl & $x_1$"
"""Stands for `owl`."""
FILES = ["search.png", "candidates.png", "confusion.png", "classes.png", "embedding.png"]


def call(*arguments: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert not end.value.code


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over six classes, one with a hostile name, with test images."""
    place = tmp_path_factory.mktemp("pictures")
    demo.export("pixel-animals", place / "all")
    for name in ("cat", "dog", "ox", "cow", "owl", "zebra"):
        shutil.copytree(place / "all" / name, place / "photos" / (HOSTILE if name == "owl" else name))
    given = ("--model", "demo", "--shots", "3", "--test", "0.5", "--steps", "1", "--log-dir", str(place / "run-7"))
    call("optimize", str(place / "photos"), *given)
    return place / "run-7"


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return (run / "report.html").read_text()


def events(run: Path, kind: str) -> list[Any]:
    """The events of a kind, of test images if they have a split."""
    return [one for one in replay(run) if one["event"] == kind and one.get("split", "test") == "test"]


def best_evaluation(run: Path) -> Any:
    return next(one for one in events(run, "evaluation") if one["role"] == "best")


def drawing(page: str, label: str) -> ElementTree.Element:
    """The drawing in the region with this label."""
    inside = page.partition(f'role="region" aria-label="{label}"')[2]
    return ElementTree.fromstring(inside[inside.index("<svg") : inside.index("</svg>") + 6])


# Confusion matrix


def test_the_matrix_has_the_counts_of_the_evaluation(run: Path, page: str) -> None:
    event = best_evaluation(run)
    matrix, names = event["matrix"], event["matrix"]["classes"]
    assert names == sorted(event["per_class"])
    counts = np.array(matrix["counts"])
    assert {name: [counts[i, i], counts[i].sum()] for i, name in enumerate(names)} == event["per_class"]
    off = {(one["label"], one["predicted"]): one["images"] for one in event["confusions"]}
    assert {(names[i], names[j]): counts[i, j] for i, j in np.argwhere(counts) if i != j} == off

    svg = drawing(page, "Confusion matrix")
    drawn = [text for cell in svg.iter("g") if cell.get("class") == "cell" for text in [cell.findtext("text") or "0"]]
    assert drawn == [str(count) for count in counts[:, :-1].ravel()]  # all classes are shown
    titles = [cell.findtext("title") for cell in svg.iter("g") if cell.get("class") == "cell"]
    total = counts[0].sum()
    assert titles[0] == f"{counts[0, 0]} of {total} images of {names[0]} are recognized"
    assert titles[1] == f"{counts[0, 1]} of {total} images of {names[0]} are predicted as {names[1]}"
    about = f"Confusion matrix of 6 classes: {np.trace(counts)} of {counts.sum()} images are recognized"
    assert (svg.get("role"), svg.get("aria-label"), svg.findtext("title")) == ("img", about, about)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("abcdef")), min_size=1), st.integers(1, 7))
def test_the_counts_are_those_of_scikit_learn(pairs: list[tuple[str, str]], most: int) -> None:
    labels, predicted = zip(*pairs, strict=True)
    shown, rows = confusion_matrix(labels, predicted, "abcdef", most=most)
    full = metrics.confusion_matrix(labels, predicted, labels=list("abcdef"))
    index = ["abcdef".index(name) for name in shown]
    assert index == sorted(index)
    assert len(index) == min(most, 6)
    np.testing.assert_array_equal(np.array(rows)[:, :-1], full[np.ix_(index, index)])
    np.testing.assert_array_equal(np.sum(rows, axis=1), full[index].sum(axis=1))
    errors = full.sum(axis=0) + full.sum(axis=1) - 2 * np.diag(full)
    hidden = set(range(6)) - set(index)
    assert not hidden or min(errors[index]) >= max(errors[list(hidden)])


def test_classes_that_are_not_shown_are_one_column() -> None:
    shown, rows = confusion_matrix("aabbc", "abacb", "abc", most=2)
    svg = ElementTree.fromstring(pictures.draw_matrix({"classes": shown, "counts": rows}))
    assert [text.text for text in svg.iter("text")][2:5] == [*shown, "others"]
    assert "1 of 2 images of b are predicted as another class" in [title.text for title in svg.iter("title")]


# Worst images


def test_the_worst_images_are_the_most_confident_mistakes(run: Path, page: str) -> None:
    mistakes = events(run, "mistake")
    classifier = ClipClassifier.from_file(run / "best.json")
    wrong = {}
    sources = [one["source"] for one in mistakes]
    folder = load_image_folder(run.parent / "photos", shots=None)
    tested = best_evaluation(run)["images"]
    assert len(mistakes) == min(12, tested - sum(right for right, _ in best_evaluation(run)["per_class"].values()))
    for example in folder:
        answer = classifier(image=example.image)
        if answer.label != example.label:
            wrong[example.source] = (example.label, answer.label, answer.confidence)
    for one in mistakes:
        label, predicted, confidence = wrong[one["source"]]
        assert (one["label"], one["predicted"]) == (label, predicted)
        assert one["probability"] == pytest.approx(confidence, abs=1e-3)
    assert sources == sorted(sources, key=lambda source: -wrong[source][2])

    card = page.partition("Most confident mistakes")[2].partition("</section>")[0]
    assert card.count("<img") == len(mistakes)
    percents = [float(value) for value in re.findall(r"([\d.]+)\u00a0%", card)]
    assert percents == [pytest.approx(100 * one["probability"], abs=0.06) for one in mistakes]


# Map


def test_the_map_has_every_class_and_a_sample_of_the_images(run: Path, page: str) -> None:
    (drawn,) = events(run, "embedding_map")
    per_class = best_evaluation(run)["per_class"]
    assert drawn["classes"] == sorted(per_class)
    counts = Counter(drawn["labels"])
    assert [counts[i] for i in range(6)] == [per_class[name][1] for name in drawn["classes"]]  # fewer than the limit
    right = Counter(label for label, is_right in zip(drawn["labels"], drawn["correct"], strict=True) if is_right)
    assert [right[i] for i in range(6)] == [per_class[name][0] for name in drawn["classes"]]

    svg = drawing(page, "Map of images and words")
    parts = {
        kind: [one for one in svg.iter() if one.get("class") == kind] for kind in ("dots", "crosses", "word", "mean")
    }
    assert sum((one.get("d") or "").count("h0") for one in parts["dots"]) == sum(drawn["correct"])
    assert sum((one.get("d") or "").count("M") for one in parts["crosses"]) == len(drawn["correct"]) - sum(
        drawn["correct"]
    )
    assert len(parts["word"]) == len(parts["mean"]) == 6
    assert [text.text for text in svg.iter("text")] == drawn["classes"]
    assert "each kind is centered and scaled separately" in page


def test_a_map_is_the_principal_components_of_both_kinds() -> None:
    random = np.random.default_rng(0)
    images, words = random.normal(size=(30, 8)), random.normal(size=(30, 8)) * 5 + 100  # the gap
    kinds = [kind - kind.mean(axis=0) for kind in (images, words)]
    stacked = np.concatenate([kind / np.sqrt(np.square(kind).sum(axis=1).mean()) for kind in kinds])
    fitted = PCA(2).fit(stacked)
    expected = fitted.transform(stacked)
    *points, shown = project(images, words)
    np.testing.assert_allclose(np.abs(np.concatenate(points)), np.abs(expected), atol=1e-9)
    assert shown == pytest.approx(100 * fitted.explained_variance_ratio_.sum())


@pytest.mark.parametrize("same", [1, 2])
def test_identical_features_are_one_point(same: int) -> None:
    images, words, shown = project(np.ones((same, 3)), np.ones((same, 3)))
    assert not images.any()
    assert not words.any()
    assert shown == 0.0


@given(st.integers(0, 10_000))
def test_names_on_a_map_stay_inside_and_off_the_words(seed: int) -> None:
    random = np.random.default_rng(seed)
    names = [f"class {i}" * int(random.integers(1, 4)) for i in range(20)]
    points = random.normal(size=(40, 2)).tolist()
    drawn: Any = {
        "classes": names,
        "words": points[:20],
        "images": points[20:],
        "labels": [*range(20)],
        "correct": [True] * 20,
    }
    laid = pictures.lay_out_map(drawn)
    for (x, y), name in zip(laid.names, names, strict=True):
        assert 0 <= x <= pictures.WIDTH - 6 * len(pictures.clipped(name))
        assert 10 <= y <= pictures.HEIGHT
    for points_of_kind in (laid.words, laid.images):
        assert (points_of_kind >= 0).all()
        assert (points_of_kind <= (pictures.WIDTH, pictures.HEIGHT)).all()


# Hostile, old and damaged journals


def test_names_are_escaped(page: str) -> None:
    assert HOSTILE not in page
    for label in ("Confusion matrix", "Map of images and words"):
        texts = [text.text for text in drawing(page, label).iter("text")]
        assert HOSTILE in texts


def test_a_resumed_run_draws_the_new_outcome(run: Path) -> None:
    state = RunState(replay(run))
    assert state.searches["self"].mistakes
    state.fold({"event": "run_resumed", "started": "", "changed": {}, "versions": {}})
    assert not state.searches["self"].mistakes
    assert not state.searches["self"].maps


def without(run: Path, folder: Path) -> Path:
    """The same journal as an earlier version wrote it."""
    folder.mkdir()
    lines = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    kept = [
        {k: v for k, v in one.items() if k != "matrix"}
        for one in lines
        if one["event"] not in ("mistake", "embedding_map")
    ]
    (folder / "journal.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in kept))
    return folder


def test_older_journals_have_the_other_pictures(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = without(run, tmp_path / "old")
    text = render_report(old)
    assert "Most confused classes" in text
    assert not [title for title in ("Confusion matrix", "Most confident mistakes", "Map of images") if title in text]
    call("report", str(old), "--png", str(tmp_path / "png"))
    names = [Path(line).name for line in capsys.readouterr().out.splitlines()]
    assert names == ["report.html", "search.png", "candidates.png", "classes.png"]


@pytest.mark.parametrize(
    ("kind", "field", "value", "message"),
    [
        ("evaluation", "matrix", {"classes": ["cat"], "counts": [[1]]}, "counts must have a row"),
        ("evaluation", "matrix", {"classes": ["cat"], "counts": [[1, -1]]}, "counts must have a row"),
        ("embedding_map", "words", [[0.0, 1.0]], "words and images must have a point"),
        ("embedding_map", "labels", [99], "words and images must have a point"),
        ("embedding_map", "images", [[0.0]], "words and images must have a point"),
    ],
)
def test_damaged_numbers_are_named(run: Path, kind: str, field: str, value: object, message: str) -> None:
    event = cast(Event, {**events(run, kind)[-1], field: value})
    assert not list(misfits(event))
    with pytest.raises(JournalError, match=message):
        RunState([event])


# Slides


def test_the_command_writes_pictures_with_titles(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    titles = []

    def listen(figure: Any, title: str) -> None:
        titles.append(title)
        set_title(figure, title)

    monkeypatch.setattr(slides, "CLASSES_DRAWN", 1)
    monkeypatch.setattr(slides, "set_title", listen)
    monkeypatch.setattr("ipo_dspy.report.figures.set_title", listen)
    call("report", str(run), "--png", str(tmp_path / "new" / "png"))
    files = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [file.name for file in files] == ["report.html", *FILES]
    for file in files[1:]:
        with Image.open(file) as image:
            assert image.format == "PNG"
            assert image.width >= 600
            assert len(image.convert("RGB").getcolors(1 << 22) or []) > 40  # not blank
    assert len(titles) == len(FILES)
    assert all("photos · run run-7" in title for title in titles)
    assert any(", 1 largest gains, 1 largest losses or smallest gains, " in title for title in titles)


def test_a_run_without_a_trial_has_no_pictures(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(run, tmp_path / "run")
    journal = tmp_path / "run" / "journal.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:2]))
    call("report", str(tmp_path / "run"), "--png", str(tmp_path / "png"))
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert not (tmp_path / "png").exists()


def test_the_best_so_far_on_a_slide_misses_no_floor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"event": "trial", "predictor": "self", "loss": 1.0, "step": 0, "tokens": 5}
    rows = [
        {**given, "index": i, "key": str(i), "template": f"{i} <CLASS>", "accuracy": accuracy, "missed": missed}
        for i, (accuracy, missed) in enumerate([(50.0, 0.0), (90.0, 3.0), (60.0, 0.0), (55.0, 0.0)])
    ]
    drawn: list[Figure] = []

    def keep(figure: Figure, *_: object) -> tuple[Path, ...]:
        drawn.append(figure)
        return ()

    monkeypatch.setattr(slides, "save_figure", keep)
    slides.draw_slides(RunState(cast("list[Event]", rows)), "1", tmp_path)
    (line,) = (one for one in drawn[0].axes[0].lines if one.get_label() == "best so far")
    assert np.column_stack(line.get_data()).tolist() == [[0, 50.0], [2, 60.0], [3, 60.0]]


def test_a_folder_that_cannot_be_written_is_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as end:
        main(["report", str(run), "--png", str(tmp_path / "file")])
    assert end.value.code == 2
    assert "cannot be written" in capsys.readouterr().err


# A phone


def without_part(removed: str, kind: str, main: float) -> dict[str, Any]:
    template = f"{removed} a long photograph of one satellite <CLASS>"
    worth = {"accuracy": 93.0 - main, "accuracy_error": 0.3, "loss": 0.1, "loss_error": 0.01}
    scores = {"all": {"accuracy": main, "loss": 1.0}}
    row = {"removed": removed, "kind": kind, "template": template, "h": None, "main": main, "is_noise": False}
    return row | {"scores": scores, "worth": {"all": worth} if removed else {}}


EXPLANATION: dict[str, Any] = {
    "start": "a photo of a <CLASS>.",
    "finding": "1 phrase can be told apart from noise",
    "images": {"all": 1200},
    "rows": [
        without_part("", "whole", 93.0),
        without_part("low", "phrase", 91.0),
        without_part("sculpture", "phrase", 87.5),
    ],
    "confusions": [{"part": "all", "label": "sculpture", "taken_for": "satellite", "before": 3, "after": 9}],
}


def test_the_page_of_words_names_its_data_and_puts_the_most_valuable_part_first(tmp_path: Path) -> None:
    text = write_word_report(EXPLANATION, tmp_path / "words.html", data="<b>photos").read_text()
    assert re.search(r"<p class=\"muted\">&lt;b&gt;photos · 1,200 images · \d{4}-\d\d-\d\d</p>", text)
    assert text.index("sculpture</q>") < text.index("low</q>")
    assert "<span>85</span><span>95\u00a0%</span>" in text.replace("&nbsp;", "\u00a0")
    assert [f"left:{at}%" in text for at in ("80.0", "60.0", "25.0")] == [True] * 3


@pytest.fixture(scope="module")
def pages(run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pages")
    checked = {"images": 2, "template": "a <CLASS>", "suspicious": [
        {"source": "/a/b.jpg", "label": "cat", "probability": 0.1, "suggested": "dog", "suggested_probability": 0.8}
    ]}  # fmt: skip
    return [
        run / "report.html",
        write_word_report(EXPLANATION, folder / "words.html", data="photos"),
        write_label_report(checked, folder / "labels.html", data="photos"),
    ]


@pytest.mark.slow
@needs_browser
def test_nothing_overflows_or_is_squeezed_on_a_phone(pages: list[Path], tmp_path: Path) -> None:
    beyond = """
        const isScrolled = one => one.closest(".scroll, details:not([open])") && !one.matches(".scroll");
        return [...document.querySelectorAll("body *")].filter(one => !isScrolled(one))
            .filter(one => one.getBoundingClientRect().right > innerWidth + 0.5)
            .map(one => one.outerHTML.slice(0, 120))"""
    narrow = """
        return [...document.querySelectorAll("th:first-child:not(.num)")].filter(one => one.offsetParent)
            .filter(one => one.getBoundingClientRect().width < 60).map(one => one.outerHTML)"""
    with browser(tmp_path / "profile") as window:
        for page in pages:
            window.open(page.resolve().as_uri())
            for dark in (False, True):
                window.look(tmp_path / "shot.png", width=360, dark=dark)
                assert window.run("return [innerWidth, document.documentElement.scrollWidth]") == [360, 360]
                assert window.run(beyond) == []
                assert window.run(narrow) == []
        assert window.complaints == []

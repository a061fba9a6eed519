"""Words left out of a template, and the change of the scores."""

import json
from pathlib import Path

import pytest

from ipo_dspy import ClipClassifier, demo
from ipo_dspy.analysis.word_ablation import AblationResult, Explanation, explain, leave_one_out_templates
from ipo_dspy.cli import main
from ipo_dspy.data import ImageDataset, base_novel
from ipo_dspy.errors import InputError, JournalError
from ipo_dspy.optimizer.evaluation import evaluate
from ipo_dspy.report import write_word_report
from ipo_dspy.scoring.score import Score
from ipo_dspy.template import Template

TEXT = "pixel art of a <CLASS>, in one color at night."
SCORED = {"all": Score(loss=1.0, accuracy=50.0)}


def test_each_word_and_each_phrase_is_left_out_once() -> None:
    found = leave_one_out_templates(Template.parse(TEXT))
    assert [(one.kind, one.removed, str(one.template)) for one in found] == [
        ("whole", "", TEXT),
        ("word", "pixel", "art of a <CLASS>, in one color at night."),
        ("word", "art", "pixel of a <CLASS>, in one color at night."),
        ("word", "of", "pixel art a <CLASS>, in one color at night."),
        ("word", "a", "pixel art of <CLASS>, in one color at night."),
        ("word", "in", "pixel art of a <CLASS>, one color at night."),
        ("word", "one", "pixel art of a <CLASS>, in color at night."),
        ("word", "color", "pixel art of a <CLASS>, in one at night."),
        ("word", "at", "pixel art of a <CLASS>, in one color night."),
        ("word", "night", "pixel art of a <CLASS>, in one color at."),
        ("phrase", "pixel art", "of a <CLASS>, in one color at night."),
        ("phrase", "of a", "pixel art <CLASS>, in one color at night."),
        ("phrase", "in one color", "pixel art of a <CLASS>, at night."),
        ("phrase", "at night", "pixel art of a <CLASS>, in one color."),
        ("phrase", "pixel art of a", "<CLASS>, in one color at night."),
        ("phrase", "in one color at night", "pixel art of a <CLASS>."),
        ("phrase", "all but <CLASS>", "<CLASS>."),
    ]


@pytest.mark.parametrize(("text", "left"), [("<CLASS>", []), ("<CLASS>.", []), ("a <CLASS>", ["<CLASS>"])])
def test_little_to_leave_out(text: str, left: list[str]) -> None:
    assert [str(one.template) for one in leave_one_out_templates(Template.parse(text))] == [text, *left]


def left_out(text: str) -> list[tuple[str, str]]:
    return [(one.removed, str(one.template)) for one in leave_one_out_templates(Template.parse(text))[1:]]


def test_punctuation_is_not_a_word() -> None:
    assert left_out("a photo (of a <CLASS>)") == [
        ("a", "photo (of a <CLASS>)"),
        ("photo", "a (of a <CLASS>)"),
        ("of", "a photo (a <CLASS>)"),
        ("a", "a photo (of <CLASS>)"),
        ("a photo", "(of a <CLASS>)"),
        ("of a", "a photo (<CLASS>)"),
        ("a photo (of a", "<CLASS>"),
    ]
    words = ["a", "grainy", "photo", "of", "an", "old", "'s", "face"]
    assert [one for one, _ in left_out('a "grainy" photo - of an (old) <CLASS>\'s face!')][: len(words)] == words


@pytest.mark.parametrize(
    ("text", "removed", "left"),
    [
        ("a (very old) <CLASS>", "very old", "a <CLASS>"),
        ("an old [grainy] <CLASS>.", "grainy", "an old <CLASS>."),
        ('"pixel" art of a <CLASS>', "pixel", "art of a <CLASS>"),
        ("art of the “<CLASS>”", "of the", "art “<CLASS>”"),
        ("(<CLASS>) at night", "at night", "(<CLASS>)"),
    ],
)
def test_nothing_is_left_hanging(text: str, removed: str, left: str) -> None:
    assert dict(left_out(text))[removed] == left


def test_an_ensemble_is_refused_with_a_line_of_it() -> None:
    with pytest.raises(InputError, match=r"ensemble of 2 lines; explain one of them, e.g. template='a <CLASS>'"):
        leave_one_out_templates(Template.parse("a <CLASS>\nthe <CLASS>"))


@pytest.fixture(scope="module")
def held_out() -> ImageDataset:
    dataset = demo.load("pixel-animals", shots=1, classes="all").testset
    return ImageDataset(dataset[::40], classes=dataset.classes)


def test_scores_are_those_of_an_evaluation_and_pairs_those_of_its_predictions(held_out: ImageDataset) -> None:
    program = ClipClassifier(held_out.classes, model="demo", device="cpu")
    start, template = Template.parse("a photo of a <CLASS>."), Template.parse("pixel art of a <CLASS>.")
    found = explain(program, {"all": held_out}, start, template)
    rows = {str(row.occlusion.template): row.scores["all"] for row in found.rows}
    for one in evaluate(program, held_out, templates=[template, Template.parse("art of a <CLASS>.")]):
        assert rows[str(one.template)] == one.score
    before, after = evaluate(program, held_out, templates=[start, template])
    wrong = [sum(p != e.label for p, e in zip(one.predicted, held_out, strict=True)) for one in (before, after)]
    assert [sum(c.before for c in found.confusions), sum(c.after for c in found.confusions)] == wrong


def test_the_command_scores_both_halves_of_a_program_and_draws(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    task = demo.load("pixel-animals", shots=1)
    program = ClipClassifier(task.classes, template="pixel art of a <CLASS>.", model="demo")
    program.save(str(tmp_path / "best.json"))
    files = ["--plot", str(tmp_path / "words.png"), "--report", str(tmp_path / "words")]
    with pytest.raises(SystemExit) as exit:
        main(["explain", str(tmp_path / "best.json"), "pixel-animals", "--json", *files])
    assert exit.value.code in (0, None)
    found = json.loads(capsys.readouterr().out)
    whole = found["rows"][0]
    assert set(whole["scores"]) == {"base", "novel"}
    base, novel = (whole["scores"][half]["accuracy"] for half in ("base", "novel"))
    assert whole["h"] == pytest.approx(2 * base * novel / (base + novel))
    assert all((tmp_path / f"words.{kind}").stat().st_size > 3000 for kind in ("svg", "png", "html"))


def test_the_page_holds_every_row_and_nothing_of_it_is_markup(held_out: ImageDataset, tmp_path: Path) -> None:
    program = ClipClassifier(held_out.classes, model="demo", device="cpu")
    start, template = Template.parse("a photo of a <CLASS>."), Template.parse("pixel <b>art</b> of a <CLASS>.")
    halves = dict(zip(("base", "novel"), base_novel(held_out), strict=True))
    for parts in ({"all": held_out}, halves):
        found = explain(program, parts, start, template)
        text = write_word_report(found.plain(), tmp_path / "deep" / "words.html").read_text(encoding="utf-8")
        assert text.startswith("<!DOCTYPE html>")
        assert "<b>art" not in text
        assert "&lt;b&gt;art&lt;/b&gt;" in text
        for row in found.rows:
            assert all(
                f">{score.accuracy:.1f}\u00a0%<small>loss {score.loss:.3f}<" in text for score in row.scores.values()
            )
            assert (row.h is None) or f">{row.h:.1f}\u00a0%</td>" in text
        assert ("Harmonic mean" in text) == (len(parts) == 2)
        assert found.confusions[0].taken_for in text


def test_a_page_that_cannot_be_written_names_it(held_out: ImageDataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = Explanation(
        Template.parse("<CLASS>"), (AblationResult(leave_one_out_templates(Template.parse("<CLASS>"))[0], SCORED),), ()
    )
    with pytest.raises(JournalError, match=r"words\.html' cannot be written .*; name a writable file"):
        write_word_report(found.plain(), tmp_path / "file" / "words.html")


def test_the_command_on_classes_that_are_not_split_prints_accuracy_and_loss(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["explain", "grey-food", "--template", "a grey drawing of a <CLASS>.", "--model", "demo"])
    assert exit.value.code in (0, None)
    output = capsys.readouterr().out
    assert "accuracy" in output
    assert "loss" in output
    assert "(nothing)" in output
    assert "a drawing of a <CLASS>." in output


def test_the_command_without_a_template_or_program_says_what_to_write(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["explain", "pixel-animals"])
    assert exit.value.code == 2
    assert "for example explain PROGRAM DATA" in capsys.readouterr().err

"""Phrases, words, and lines left out of a template, and what they are worth."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from markupsafe import escape

from ipo_dspy import ClipClassifier, demo
from ipo_dspy.analysis.word_ablation import AblationResult, Explanation, explain, leave_one_out_templates
from ipo_dspy.cli import main
from ipo_dspy.data import ImageDataset, base_novel
from ipo_dspy.errors import JournalError
from ipo_dspy.optimizer.evaluation import encode_examples
from ipo_dspy.report import write_word_report
from ipo_dspy.scoring.part_worth import Worth
from ipo_dspy.scoring.score import Score
from ipo_dspy.template import Template
from ipo_dspy.template_phrases import phrases

TEXT = "pixel art of a <CLASS>, in one color at night."
SCORED = {"all": Score(loss=1.0, accuracy=50.0)}


def left_out(text: str) -> list[tuple[str, str, str]]:
    return [(one.kind, one.removed, str(one.template)) for one in leave_one_out_templates(Template.parse(text))]


def test_each_phrase_is_left_out_and_each_word_of_a_phrase_of_several() -> None:
    assert left_out(TEXT) == [
        ("whole", "", TEXT),
        ("phrase", "pixel art", "a <CLASS>, in one color at night."),
        ("phrase", "in one color", "pixel art of a <CLASS> at night."),
        ("phrase", "at night", "pixel art of a <CLASS>, in one color."),
        ("word", "pixel", "art of a <CLASS>, in one color at night."),
        ("word", "art", "pixel of a <CLASS>, in one color at night."),
        ("word", "one", "pixel art of a <CLASS>, in color at night."),
        ("word", "color", "pixel art of a <CLASS>, in one at night."),
        ("word", "night", "pixel art of a <CLASS>, in one color at."),
        ("phrase", "all but <CLASS>", "<CLASS>."),
    ]


@pytest.mark.parametrize(
    "text", ["a dark satellite photo of an old <CLASS>.", "a blue <CLASS>, a type of land use.", TEXT]
)
def test_every_phrase_is_left_out_even_if_the_rest_is_not_a_sentence(text: str) -> None:
    assert set(phrases(text)) <= {removed for kind, removed, _ in left_out(text) if kind == "phrase"}


@pytest.mark.parametrize(("text", "left"), [("<CLASS>", []), ("<CLASS>.", []), ("a <CLASS>", ["<CLASS>"])])
def test_little_to_leave_out(text: str, left: list[str]) -> None:
    assert [template for _, _, template in left_out(text)] == [text, *left]


def test_each_line_of_an_ensemble_is_left_out() -> None:
    assert left_out("a <CLASS>\nthe <CLASS>\n<CLASS> at night")[1:] == [
        ("line", "a <CLASS>", "the <CLASS>\n<CLASS> at night"),
        ("line", "the <CLASS>", "a <CLASS>\n<CLASS> at night"),
        ("line", "<CLASS> at night", "a <CLASS>\nthe <CLASS>"),
    ]


@pytest.fixture(scope="module")
def held_out() -> ImageDataset:
    dataset = demo.load("pixel-animals", shots=1, classes="all").testset
    return ImageDataset(dataset[::40], classes=dataset.classes)


@pytest.mark.parametrize("text", ["pixel art of a <CLASS>.", "a photo of a <CLASS>.\npixel art of a <CLASS>."])
def test_a_worth_is_the_mean_difference_over_the_images_with_its_standard_error(
    text: str, held_out: ImageDataset
) -> None:
    program = ClipClassifier(held_out.classes, model="demo", device="cpu")
    start, template = Template.parse("a photo of a <CLASS>."), Template.parse(text)
    explanation = explain(program, {"all": held_out}, start, template)
    encoded, labels = encode_examples(program, held_out), held_out.labels()
    right = {}
    for row in explanation.rows:
        one = encoded.evaluate(row.occlusion.template)
        right[str(one.template)] = 100.0 * np.array([a == b for a, b in zip(one.predicted, labels, strict=True)])
        assert row.scores["all"].accuracy == one.score.accuracy
        assert row.scores["all"].loss == pytest.approx(one.score.loss, abs=1e-6)
    whole = explanation.rows[0]
    for row in explanation.rows[1:]:
        difference, worth = right[text] - right[str(row.occlusion.template)], row.worth["all"]
        assert worth.accuracy == pytest.approx(difference.mean())
        assert worth.accuracy_error == pytest.approx(difference.std(ddof=1) / len(labels) ** 0.5)
        assert worth.loss == pytest.approx(row.scores["all"].loss - whole.scores["all"].loss)
        assert worth.loss_error > 0
    wrong = [sum(a != b for a, b in zip(encoded.evaluate(t).predicted, labels, strict=True)) for t in (start, template)]
    assert [sum(c.before for c in explanation.confusions), sum(c.after for c in explanation.confusions)] == wrong


def test_what_is_worth_nothing_is_called_noise(held_out: ImageDataset) -> None:
    program = ClipClassifier(held_out.classes, model="demo", device="cpu")
    start = Template.parse("a photo of a <CLASS>.")
    equal = Template.parse("pixel art of a <CLASS>.\npixel art of a <CLASS>.")
    assert explain(program, {"all": held_out}, start, equal).finding == (
        "2 of 2 lines cannot be told apart from noise: 'pixel art of a <CLASS>.', 'pixel art of a <CLASS>.'"
    )
    clear = explain(program, {"all": held_out}, start, Template.parse("pixel art of a <CLASS>."))
    assert clear.finding == "2 phrases can be told apart from noise"  # and the class alone
    single = explain(program, {"all": ImageDataset(held_out[:1], classes=held_out.classes)}, start, start)
    assert single.finding == "2 of 2 phrases cannot be told apart from noise: 'photo', 'all but <CLASS>'"


def test_noise_on_one_half_only_is_not_noise() -> None:
    clear, noise = Worth(5.0, 1.0, 0.0, 0.1), Worth(1.0, 1.0, 0.1, 0.1)
    ablation = leave_one_out_templates(Template.parse("a <CLASS>"))[1]
    for base, novel in ((clear, noise), (noise, clear), (noise, noise)):
        row = AblationResult(ablation, {}, {"base": base, "novel": novel})
        assert row.is_noise == (clear not in (base, novel))
    assert not AblationResult(ablation, {}, {}).is_noise


@pytest.mark.end_to_end
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
    assert (whole["worth"], whole["is_noise"]) == ({}, False)
    assert all(set(row["worth"]) == {"base", "novel"} for row in found["rows"][1:])
    assert found["finding"] == "2 phrases can be told apart from noise"
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
            for worth in row.worth.values():
                for figure in (
                    f"{worth.accuracy:+.1f}<small>± {worth.accuracy_error:.1f}<",
                    f"<small>± {worth.loss_error:.3f}<",
                ):
                    assert figure.replace("-", "\u2212") in text
        assert escape(found.finding) in text
        assert ("Harmonic mean" in text) == (len(parts) == 2)
        assert found.confusions[0].taken_for in text


def test_a_page_that_cannot_be_written_names_it(held_out: ImageDataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = Explanation(
        Template.parse("<CLASS>"),
        (AblationResult(leave_one_out_templates(Template.parse("<CLASS>"))[0], SCORED, {}),),
        (),
    )
    with pytest.raises(JournalError, match=r"words\.html' cannot be written .*; name a writable file"):
        write_word_report(found.plain(), tmp_path / "file" / "words.html")


@pytest.mark.end_to_end
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
    assert re.search(
        r"grey +│ a drawing of a <CLASS>\. +│ +[\d.]+ │ +[+-][\d.]+ ± [\d.]+ │ +[+-][\d.]+ ± [\d.]+ │", output
    )
    assert "told apart from noise" in output


def test_the_command_without_a_template_or_program_says_what_to_write(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["explain", "pixel-animals"])
    assert exit.value.code == 2
    assert "for example explain PROGRAM DATA" in capsys.readouterr().err

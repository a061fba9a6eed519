"""Text of a journal that could be markup, script, or damage: the report shows it as text, or names it."""

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import pytest

from helpers.report_journals import (
    CLASSES,
    HOSTILE,
    START,
    begin,
    change,
    chosen_run,
    evaluation,
    search,
    trial,
)
from helpers.report_pages import outside_addresses, scripts, text_of
from ipo_dspy._internal.untrusted import printable
from ipo_dspy.errors import JournalError
from ipo_dspy.report import render_report, write_word_report
from ipo_dspy.run.journal import Journal


def test_every_text_of_the_journal_is_escaped(tmp_path: Path) -> None:
    name = "self" + HOSTILE
    with Journal(tmp_path) as journal:
        begin(journal, settings={HOSTILE: HOSTILE, "list": [HOSTILE, 1]})
        search(journal, name, [HOSTILE, "b"], start=HOSTILE)
        journal.append({"event": "description", "predictor": name, "source": HOSTILE, "text": HOSTILE})
        trial(journal, 0, HOSTILE + "<CLASS>", 50.0, 1.0, predictor=name)
        journal.append(
            {"event": "rejection", "predictor": name, "step": 1, "text": HOSTILE, "reason": HOSTILE, "message": HOSTILE}
        )
        journal.append({"event": "error", "predictor": name, "step": 1, "message": HOSTILE})
        change(journal, HOSTILE, HOSTILE, "b", HOSTILE, predictor=name)
        for role in ("start", "best"):
            evaluation(journal, role, 50.0, predictor=name, per_class={HOSTILE: [1, 2]}, template=HOSTILE)
        journal.append({"event": "run_finished", "status": HOSTILE, "seconds": 1.0, "calls": 1, "tokens": 1})
    page = render_report(tmp_path)
    assert len(scripts(page)) == 1
    assert "<img" not in page
    assert page.count("</style>") == 1
    assert "{{ 7*7 }}" in page
    assert text_of(page).count("alert(1)") > 8


def test_phrases_of_a_template_are_shown_as_text(tmp_path: Path) -> None:
    page = chosen_run(tmp_path, phrase=HOSTILE)
    assert len(scripts(page)) == 1
    assert page.count("</style>") == 1
    assert "alert(1)" in text_of(page)


def test_described_images_are_named_with_their_folder(sample_page: str) -> None:
    assert f"{CLASSES[0]}/0001.png" in text_of(sample_page)
    assert "/photos/" not in sample_page


def test_the_placeholder_shows_as_text(sample_page: str) -> None:
    assert "<CLASS>" not in sample_page
    assert "&lt;CLASS&gt;" in sample_page


def test_names_nothing_outside_itself(sample_page: str) -> None:
    assert outside_addresses(sample_page) == []
    assert "default-src 'none'" in sample_page
    assert "@import" not in sample_page


def test_permits_one_constant_script_by_its_hash_and_hides_what_needs_it(sample_page: str, tmp_path: Path) -> None:
    (script,) = scripts(sample_page)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src "
    assert f"""content="{policy}'sha256-{digest}'">""" in sample_page
    assert scripts(chosen_run(tmp_path)) == [script]
    buttons = re.findall(r"<button[^>]*>", sample_page)
    assert set(buttons) == {'<button type="button" class="copy" hidden>'}
    word = {"template": "a <CLASS>", "kind": "whole", "removed": "", "main": 50.0, "h": None, "scores": {}, "worth": {}}
    explanation = {"rows": [word | {"is_noise": False}], "confusions": [], "start": START, "finding": "None"}
    other = write_word_report(explanation, tmp_path / "words.html").read_text()
    assert scripts(other) == []
    assert "script-src" not in other


def test_hidden_characters_are_shown_by_number() -> None:
    assert printable("a\u202eb\x00\ud800 c\u200dd\n") == "a[U+202E]b[U+0000][U+D800] c\u200dd\n"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("accuracy", "high"),
        ("accuracy", 101.0),
        ("loss", None),
        ("index", 1.5),
        ("index", 10**400),
        ("loss", 10**400),
        ("template", ["a"]),
        ("template", "a photo of a dog."),
        ("accuracy", True),
    ],
)
def test_a_field_of_another_type_is_named(tmp_path: Path, field: str, value: object) -> None:
    fields = {"index": 0, "template": START, "accuracy": 50.0, "loss": 1.0, field: value}
    with Journal(tmp_path) as journal:
        journal.append({"event": "trial", "predictor": "self", "step": 0, "tokens": 5, "key": "k", **fields})
    with pytest.raises(JournalError, match=f"trial.*{field}"):
        render_report(tmp_path)


@pytest.mark.parametrize("counts", [{"a": 3}, {"a": [3, 2]}, {"a": ["1", 2]}])
def test_per_class_counts_of_another_form_are_named(tmp_path: Path, counts: dict[str, Any]) -> None:
    with Journal(tmp_path) as journal:
        evaluation(journal, "best", 50.0, per_class=counts)
    with pytest.raises(JournalError, match="per_class"):
        render_report(tmp_path)

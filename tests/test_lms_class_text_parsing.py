"""Texts of classes in the answers of language models, whatever their form."""

import time

import pytest
from dspy.utils.exceptions import AdapterParseError
from hypothesis import given
from hypothesis import strategies as st

from ipo_dspy.lms.adapters import ClassTextAdapter
from ipo_dspy.lms.class_text_parsing import LONGEST_TEXT, check_proposed_text, read_class_texts, texts_of_labels
from ipo_dspy.lms.signatures import ClassMistakes, ProposeClassTexts

LABELS = ["crane", "nail", "bus: stop"]
FOUND = {"crane": ["crane bird", "wading bird"], "nail": ["metal nail"]}
FORMS = {
    "as asked": "<INS>crane: crane bird | wading bird</INS>\n<INS>nail: metal nail</INS>",
    "one tag": "<INS>\ncrane: crane bird | wading bird\nnail: metal nail\n</INS>",
    "no tags": "Here are the texts:\n\n- **crane**: crane bird | wading bird\n- `nail`: metal nail,\n",
    "numbered and quoted": "1. \"crane\": 'crane bird' | 'wading bird'\n2) nail: \"metal nail\"",
    "JSON": '```json\n{"crane": ["crane bird", "wading bird"], "nail": "metal nail"}\n```',
    "thoughts": "<think>crane: hoist</think><INS>crane: crane bird | wading bird</INS>\n<INS>nail: metal nail</INS>",
    "other labels": "<INS>crane: crane bird | wading bird</INS>\n<INS>Crane: x</INS>\n<INS>nail: metal nail</INS>",
    "repeated": "<INS>crane: crane bird</INS>\n<INS>crane: wading bird | crane bird</INS>\n<INS>nail: metal nail</INS>",
}


@pytest.mark.parametrize("form", FORMS)
def test_answers_of_many_forms_are_read(form: str) -> None:
    assert texts_of_labels(read_class_texts(FORMS[form]), LABELS, count=8) == FOUND


def test_labels_are_matched_exactly_and_texts_are_bounded() -> None:
    lines = ["bus: stop: bus shelter", "bus: coach", "nail: " + " | ".join(map(str, range(20)))]
    assert texts_of_labels(lines, LABELS, count=8) == {
        "bus: stop": ["bus shelter"],
        "nail": ["0", "1", "2", "3", "4", "5", "6", "7"],
    }
    assert check_proposed_text("x" * LONGEST_TEXT) is None
    assert check_proposed_text("x" * (LONGEST_TEXT + 1)) == "too long"


def test_the_last_text_of_a_truncated_answer_is_dropped() -> None:
    assert read_class_texts("<INS>nail: metal nail</INS>\n<INS>crane: crane bird | wading bi", cut=True) == [
        "nail: metal nail",
        "crane: crane bird",
    ]


@given(st.text(alphabet=st.sampled_from(list("ab:|<>/INS{}[]\"'\n \\,1.-*`\u2022"))), st.booleans())
def test_no_answer_breaks_the_reader(answer: str, cut: bool) -> None:
    for line in read_class_texts(answer, cut):
        assert "\n" not in line
        texts_of_labels([line], ["a", "b"], count=3)


@pytest.mark.parametrize("piece", ["<INS>a: b", "{", '{"a": [', "a: |", "a" * 9000, "[[", "\n-"])
def test_a_runaway_answer_is_read_in_bounded_time(piece: str) -> None:
    began = time.perf_counter()
    read_class_texts(piece * (200_000 // len(piece)))
    assert time.perf_counter() - began < 5


def test_the_adapter_reads_its_own_demonstrations() -> None:
    adapter = ClassTextAdapter()
    lines = ["crane: crane bird | wading bird", "nail: metal nail"]
    message = adapter.format_assistant_message_content(ProposeClassTexts, {"texts": lines})
    assert adapter.parse(ProposeClassTexts, message) == {"texts": lines}
    with pytest.raises(AdapterParseError):
        adapter.parse(ProposeClassTexts, "I cannot help with that.")


def test_a_request_says_what_a_label_is_taken_for_and_what_was_tried() -> None:
    crane = ClassMistakes(
        label="crane", texts=["crane"], images=16, correct=3, taken_for=["stork 9", "tower 4"], tried=["hoist"]
    )
    inputs = {
        "task": "Tell apart.",
        "template": "a <CLASS>.\nart of <CLASS>",
        "classes": [crane],
        "rejected": [],
        "count": 8,
    }
    (_, message) = ClassTextAdapter().format(ProposeClassTexts, [], inputs)
    said = str(message["content"])
    assert "crane: read as 'crane'; 3 of 16 images recognized, the others taken for stork 9, tower 4" in said
    assert "tried, the best first, each with the images recognized: hoist" in said
    assert "Template: a <CLASS>. | art of <CLASS>" in said

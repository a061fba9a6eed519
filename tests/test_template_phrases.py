"""The phrases of a template, the sentences without one of them, and the articles of English."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ipo_dspy.phrase_bank import BANK
from ipo_dspy.template import PLACEHOLDER, Template
from ipo_dspy.template_phrases import FUNCTION_WORDS, phrases, shorter_texts, tidy


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a low resolution, black-and-white photo of a <CLASS>.", ["low resolution", "black-and-white", "photo"]),
        ("There is an image that shows the <CLASS>, hard to see", ["image", "hard to see"]),
        ("Pixel Art: <CLASS> (on a WHITE background)", ["Pixel Art", "on a WHITE background"]),
        ("a fine-grained <CLASS>, a driver's view", ["fine-grained", "driver's", "view"]),
        ("the <CLASS>", []),
        ("", []),
    ],
)
def test_phrases_are_those_of_the_bank_and_words_with_a_meaning(text: str, expected: list[str]) -> None:
    assert phrases(text) == expected


@pytest.mark.parametrize(
    ("text", "shorter"),
    [
        ("<CLASS>", {}),
        ("pixel art of a <CLASS>.", {"a <CLASS>.": "pixel art"}),
        (
            "a dark, old photo of a small <CLASS>, hard to see.",
            {
                "an old photo of a small <CLASS>, hard to see.": "dark",
                "a dark photo of a small <CLASS>, hard to see.": "old",
                "a small <CLASS>, hard to see.": "dark, old photo",
                "a dark, old photo of a <CLASS>, hard to see.": "small",
                "a dark, old photo of a small <CLASS>.": "hard to see",
            },
        ),
        (
            "<CLASS>, a photo tinted green.",
            {"<CLASS> tinted green.": "photo", "<CLASS>, a photo.": "tinted green"},
        ),
        (
            "a <CLASS> on a table, at night, in color.",
            {
                "a <CLASS> at night, in color.": "on a table",
                "a <CLASS> on a table, in color.": "at night",
                "a <CLASS> on a table, at night.": "in color",
            },
        ),
        (
            "<CLASS> at night, a blurry photo in low contrast.",
            {
                "<CLASS>, a blurry photo in low contrast.": "at night",
                "<CLASS> at night, a photo in low contrast.": "blurry",
                "<CLASS> at night in low contrast.": "blurry photo",
                "<CLASS> at night, a blurry photo.": "in low contrast",
            },
        ),
        (
            "an image that shows a <CLASS> with a dark, moody atmosphere.",
            {
                "a <CLASS> with a dark, moody atmosphere.": "image",
                "an image that shows a <CLASS> with a moody atmosphere.": "dark",
                "an image that shows a <CLASS> with a dark atmosphere.": "moody",
                "an image that shows a <CLASS>.": "dark, moody atmosphere",
            },
        ),
        (
            "a photo of a <CLASS>, a type of pet.",
            {"a <CLASS>, a type of pet.": "photo", "a photo of a <CLASS>.": "type of pet"},
        ),
        ("a [very old] “grainy” <CLASS>.", {"a “grainy” <CLASS>.": "very old", "a [very old] <CLASS>.": "grainy"}),
        ("a <CLASS> (photo, blurry).", {"a <CLASS> (blurry).": "photo", "a <CLASS> (photo).": "blurry"}),
    ],
)
def test_what_is_left_without_a_phrase(text: str, shorter: dict[str, str]) -> None:
    assert shorter_texts(text) == shorter


WORDS = st.sampled_from([*sorted(FUNCTION_WORDS), *(phrase.text for phrase in BANK), "moody", "RGB", "habitat"])
MARKS = st.sampled_from(["", "", "", ",", ":", "."])
SENTENCES = st.builds(
    lambda before, behind: " ".join([*(word + mark for word, mark in before), PLACEHOLDER, *map("".join, behind)]),
    st.lists(st.tuples(WORDS, MARKS), max_size=6),
    st.lists(st.tuples(WORDS, MARKS), max_size=6),
)

HANGING = re.compile(r"\b(?:an?|the|of|in|with)(?:[,.:]|$)|\b(?:an?|the) (?:an?|the|of|in)\b|  | [,.:]", re.IGNORECASE)


@given(SENTENCES)
def test_shorter_texts_keep_the_class_name_and_no_word_hangs_in_the_air(text: str) -> None:
    for shorter, removed in shorter_texts(text).items():
        assert shorter.count(PLACEHOLDER) == 1
        assert Template.parse(shorter)
        assert removed in text
        assert len(phrases(shorter)) < len(phrases(text)) or len(shorter) < len(tidy(text))
        assert tidy(shorter) == shorter
        assert not HANGING.search(shorter)


@given(SENTENCES)
@example("a ( , ) , . <CLASS>:")
def test_tidy_changes_nothing_twice(text: str) -> None:
    assert tidy(tidy(text)) == tidy(text)


@pytest.mark.parametrize("word", sorted({word for phrase in BANK for word in phrase.text.split()} - {"a", "the"}))
def test_the_quick_rule_for_articles_agrees_with_inflect(word: str) -> None:
    import inflect  # slow, and every test process imports this file

    assert tidy(f"a {word}") == tidy(f"an {word}") == inflect.engine().a(word)


@pytest.mark.parametrize(
    "text",
    [
        "an RGB photo of a <CLASS>.",
        "a uniform <CLASS>.",
        "an hour-old <CLASS>.",
        "A one-colored print of an unidentified <CLASS>.",
        "a European <CLASS>, an x-ray, a USB toy, an MRI scan.",
        "an 8-bit <CLASS>, an 18th-century print, a 16-bit sprite, an 11th one, a 3d rendering, a 1980s photo.",
        "a <CLASS> in a book",
    ],
)
def test_articles_that_are_right_are_left_alone(text: str) -> None:
    assert tidy(text) == text
    wrong = re.sub(r"\b(a)(n?)(?= (?!<))", lambda match: match[1] + ("" if match[2] else "n"), text, flags=re.I)
    assert wrong != text
    assert tidy(wrong) == text


SEARCH = """
import sys; sys.path.insert(0, sys.argv[1])
import ipo_dspy
from ipo_dspy.template_phrases import shorter_texts
from test_proposers import evolve
texts = [str(trial.template) for trial in evolve(0, 3)]
print(sum(map(len, map(shorter_texts, texts))), "inflect" in sys.modules)
"""


def test_a_search_over_the_bank_does_not_load_inflect() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SEARCH, Path(__file__).parent],
        capture_output=True,
        text=True,
        check=True,
    )
    count, loaded = done.stdout.split()
    assert int(count) > 20
    assert loaded == "False"

"""The captions of the built-in proposer are English, and none contradicts or repeats itself."""

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipo_dspy.history import Trial
from ipo_dspy.phrase_bank import BANK, Phrase
from ipo_dspy.proposers import EvolutionProposer, ProposalRequest
from ipo_dspy.proposers.captions import DETERMINERS, OF_IMAGE, Caption, CaptionReader
from ipo_dspy.scoring.score import Score
from ipo_dspy.template import Template
from ipo_dspy.template_phrases import shorter_texts

READER = CaptionReader(BANK)


def alternatives(texts: list[str]) -> str:
    return "(?:" + "|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True)) + ")"


BARE_NOUNS = ["pixel art", "clip art", "vector art", "graffiti", "embroidery"]
AFTER_A_COMMA = ["white on black", "black on white", "out of focus", "hard to see", "barely visible"]
NOUN = alternatives([p.text for p in BANK if p.position == "noun" and p.text not in BARE_NOUNS])
ADJECTIVES = f"(?:{alternatives([p.text for p in BANK if p.position == 'adjective'])} )*"
CLAUSES = [p.text for p in BANK if p.position == "after"]
CLAUSE, ATTACHED = alternatives(CLAUSES), alternatives([text for text in CLAUSES if text not in AFTER_A_COMMA])
ENDING = f"(?: {ATTACHED}(?:, {CLAUSE})*|(?:, {alternatives(AFTER_A_COMMA)})(?:, {CLAUSE})*)?"
MEDIUM = f"(?:an? {ADJECTIVES}{NOUN}|{ADJECTIVES}{alternatives(BARE_NOUNS)})"
THING = f"(?:an? |the )?{ADJECTIVES}<CLASS>"
GRAMMAR = re.compile(rf"(?:(?:{MEDIUM} of )?{THING}{ENDING}|<CLASS>{ENDING}, {MEDIUM}{ENDING})\.")
LEFTOVER = re.compile(GRAMMAR.pattern.replace(ENDING, f"(?:,? {CLAUSE})?{ENDING}"))
"""A comma stays when the first of several clauses goes."""
WRONG_ARTICLE = re.compile(r"\ba (?:[aeiou]|x-)|\ban (?!(?:[aeiou]|x-))")
OPINION, COLOR = "weird|nice|good|bad", "red|green|blue|yellow|orange|purple|pink|brown|white|black|gr[ae]y"
SIZE = "tiny|small|little|large|big|huge"
MISORDERED = re.compile(
    rf"\b(?:{COLOR}) (?:{SIZE}|{OPINION}|old|blurry|smooth)\b|\b(?:{SIZE}) (?:{OPINION})\b|\b(?:\S+ed) (?:{SIZE})\b"
)


def test_the_grammar_of_this_test_rejects_what_no_one_says() -> None:
    for text in (
        "<CLASS>, an in shades of grey at an angle, rendering in one color.",
        "a yellow detailed blue of <CLASS>.",
        "a pixel art of a <CLASS>.",
        "blurry photo of a <CLASS>.",
        "a photo of a <CLASS> hard to see.",
        "a photo of a <CLASS> on a table at night.",
    ):
        assert not GRAMMAR.fullmatch(text), text
    assert GRAMMAR.fullmatch("<CLASS> on a table, a small black and white photo in low contrast.")


def assert_is_english(text: str, grammar: re.Pattern[str] = GRAMMAR) -> None:
    assert grammar.fullmatch(text), text
    assert not WRONG_ARTICLE.search(text), text
    assert not MISORDERED.search(text), text


def assert_excludes_nothing_of_itself(caption: Caption) -> None:
    groups = [group for phrase in caption.phrases for group in phrase.groups]
    assert len(groups) == len(set(groups)), (str(caption), groups)


def generated(seed: int, steps: int) -> Iterator[str]:
    """Templates of a search whose scores are random."""
    rng, proposer = np.random.default_rng(seed), EvolutionProposer()
    trials = [Trial(Template.parse("a photo of a <CLASS>."), Score(50.0, 1.0), index=0, step=0, tokens=7, key="")]
    for step in range(1, steps + 1):
        shown = tuple(sorted(trials, key=lambda trial: trial.rank, reverse=True))
        request = ProposalRequest(step=step, count=10, shown=shown, trials=tuple(trials), seed=seed)
        for text in proposer.propose(request).texts:
            score = Score(float(rng.uniform(0, 100)), float(rng.uniform(0, 4)))
            trials.append(Trial(Template.parse(text), score, index=len(trials), step=step, tokens=9, key=text))
            yield text


@pytest.mark.end_to_end
def test_hundreds_of_generated_templates_parse_and_none_contradicts_itself() -> None:
    texts = [text for seed in range(10) for text in generated(seed, 4)]
    assert len(texts) == 400
    for text in texts:
        assert_is_english(text)
        assert_excludes_nothing_of_itself(READER.read(text))
        assert str(READER.read(text)) == text
        for shorter in shorter_texts(text):
            assert_is_english(shorter, LEFTOVER)


def test_no_article_is_missing_before_the_class_name() -> None:
    label = READER.read("<CLASS>, a small drawing.")
    assert str(label.without([label.medium] if label.medium else [])) == "a small <CLASS>."
    determined = re.compile(r"^<CLASS>|\b(?:an?|the) (?:(?! of ).)*<CLASS>")
    assert not [text for seed in range(3) for text in generated(seed, 5) if not determined.search(text)]


PHRASES = st.lists(st.tuples(st.sampled_from(BANK), st.booleans()), max_size=6)


@given(PHRASES, st.sampled_from(DETERMINERS), st.booleans())
def test_a_caption_of_any_phrases_is_english_and_reads_as_it_was_written(
    added: list[tuple[Phrase, bool]], determiner: str, is_label: bool
) -> None:
    caption = Caption(determiner=determiner)
    for phrase, to_object in added:
        caption = caption.add(phrase, to_object=to_object)
        assert phrase in caption.phrases
        assert_excludes_nothing_of_itself(caption)
    if is_label and caption.medium:
        caption = replace(caption, look=(*caption.look, *caption.object), object=(), is_label=True)
    text, read = str(caption), READER.read(str(caption))
    assert_is_english(text)
    assert (str(read), set(read.phrases)) == (text, set(caption.phrases))
    for phrase in caption.phrases:
        left = caption.without([phrase])
        assert phrase not in left.phrases
        assert_is_english(str(left))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("grey", "red"),
        ("gray", "in black and white"),
        ("colorful", "in shades of grey"),
        ("saturated", "grayscale"),
        ("dark", "in bright light"),
        ("sunlit", "at night"),
        ("outdoor", "indoors"),
        ("outdoor", "in nature"),
        ("outdoor", "on a white background"),
        ("indoor", "aerial photo"),
        ("screenshot", "on a screen"),
        ("postcard", "on paper"),
        ("photo", "drawn in outline"),
        ("pixel art", "made of pixels"),
        ("pixel art", "high-resolution"),
        ("x-ray", "sunlit"),
        ("emoji", "with film grain"),
        ("blurry", "sharp"),
        ("blurry", "detailed"),
        ("good", "clear"),
        ("bad", "in poor quality"),
        ("clean", "covered in noise"),
        ("plain", "detailed"),
        ("plain", "cluttered"),
        ("faint", "high-contrast"),
        ("pale", "high-contrast"),
        ("close-up", "seen from far away"),
        ("off-center", "filling the frame"),
        ("tilted", "at an angle"),
        ("inverted", "white on black"),
        ("black", "on a black background"),
        ("striped", "on a striped background"),
        ("abstract", "realistic"),
    ],
)
def test_contradictions_and_doubled_meanings_are_known(one: str, other: str) -> None:
    groups = [{group for p in BANK if p.text == text for group in p.groups} for text in (one, other)]
    assert groups[0] & groups[1]


def test_every_adjective_of_images_is_in_the_bank() -> None:
    assert {p.text for p in BANK if p.position == "adjective"} >= OF_IMAGE


def of(text: str, *, position: str | None = None) -> Phrase:
    return next(p for p in BANK if p.text == text and position in (None, p.position))


def test_an_adjective_of_images_brings_a_picture() -> None:
    assert str(Caption().add(of("noisy"))) == "a noisy picture of a <CLASS>."
    assert str(Caption().add(of("tiny")).add(of("noisy"))) == "a noisy picture of a tiny <CLASS>."
    assert str(Caption(of("photo")).add(of("sharp"), to_object=True)) == "a sharp photo of a <CLASS>."
    assert str(Caption(of("photo")).add(of("sharp")).add(of("painted"))) == "a painted <CLASS>."
    assert str(Caption(of("picture")).add(of("toy"))) == "a toy <CLASS>."


def test_clauses_stand_where_they_belong() -> None:
    caption = Caption()
    for text in ("in low contrast", "on a table", "made of lines"):
        caption = caption.add(of(text))
    assert str(caption) == "a <CLASS> made of lines, on a table, in low contrast."
    label = replace(caption.add(of("image")), is_label=True)
    assert str(label) == "<CLASS> on a table, an image made of lines, in low contrast."
    assert str(Caption(of("photo"), after=(of("hard to see"),))) == "a photo of a <CLASS>, hard to see."


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ("A low resolution, black-and-white <CLASS>", "a low-resolution picture of a black and white <CLASS>."),
        ("a close up photo of a <CLASS>.", "a close-up photo of a <CLASS>."),
        ("This is an image that shows a small <CLASS>.", "an image of a small <CLASS>."),
        ("In this picture, there is a <CLASS>.", "a picture of a <CLASS>."),
        ("In a blurry photo, <CLASS>", "a blurry photo of <CLASS>."),
        ("photos of my <CLASS>", "a photo of my <CLASS>."),
        ('a photo of a "<CLASS>".', "a photo of a <CLASS>."),
        ("line art of a <CLASS>, dark and grainy.", "grainy dark line art of a <CLASS>."),
        ("a <CLASS> with a dark, moody atmosphere.", "a <CLASS> with a dark, moody atmosphere."),
        ("<CLASS> rendered as pixel art", "<CLASS> rendered as pixel art."),
        ("<CLASS>: a negative photo", "<CLASS>, a negative photo."),
        ("a small drawing of <CLASS>s on a table. The background is blurry.",
         "a small drawing of <CLASS> on a table, The background is blurry."),
        ("a photo of a <CLASS>, a type of pet, at night", "a photo of a <CLASS>, a type of pet, at night."),
        ("a red photo of a blue <CLASS>", "a photo of a blue <CLASS>."),
        ("an RGB photo of a <CLASS>", "an RGB photo of a <CLASS>."),
        ("<CLASS>", "<CLASS>."),
    ],
)  # fmt: skip
def test_templates_of_a_language_model_are_read(text: str, caption: str) -> None:
    assert str(READER.read(text)) == caption


def test_a_bank_of_ones_own_says_what_excludes_what() -> None:
    mammogram = Phrase("mammogram", "medium", "noun")
    dense = Phrase("dense", "quality", "adjective", groups=("density",))
    fatty = Phrase("fatty", "quality", "adjective", groups=("density", "color"))
    implants = Phrase("with implants", "setting", "after", groups=("implants",))
    bank = (*BANK, mammogram, dense, fatty, implants)
    reader = CaptionReader(bank)
    caption = Caption(mammogram).add(dense).add(of("blurry")).add(implants)
    assert str(caption) == "a blurry dense mammogram of a <CLASS> with implants."
    assert str(caption.add(fatty)) == "a blurry fatty mammogram of a <CLASS> with implants."
    assert str(caption.add(fatty).add(of("red"))) == "a blurry red mammogram of a <CLASS> with implants."
    assert set(reader.read(str(caption)).phrases) == set(caption.phrases)
    start = Trial(Template.parse("a mammogram of a <CLASS>."), Score(50.0, 1.0), index=0, step=0, tokens=7, key="")
    request = ProposalRequest(step=1, count=200, shown=(start,), trials=(start,), descriptions=("dense, fatty",) * 9)
    texts = EvolutionProposer(phrases=bank).propose(request).texts
    assert any("dense" in text for text in texts)
    assert any("fatty" in text for text in texts)
    assert not any("dense" in text and "fatty" in text for text in texts)

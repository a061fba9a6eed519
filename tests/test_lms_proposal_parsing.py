"""Answers of language models and the templates that are meant: whatever they are dressed in, and nothing else."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ipo_dspy.lms.proposal_parsing import FORMS, parse_templates, read_answer, read_proposal
from ipo_dspy.lms.template_text import repaired, undressed

ANSWERS = json.loads((Path(__file__).parent / "data" / "answers.json").read_text())
THREE = ["pixel art of a <CLASS>.", "a sprite of a <CLASS>.", "a mosaic of a <CLASS>."]


def _tagged(texts: list[str]) -> str:
    return "\n".join(f"<INS>{text}</INS>" for text in texts)


def _lines(form: str) -> Callable[[list[str]], str]:
    return lambda texts: "\n".join(form.format(text, n=i, letter="abcdefgh"[i - 1]) for i, text in enumerate(texts, 1))


def _row(text: str) -> str:
    return f"| {text} | plain |"


DRESSES: dict[str, Callable[[list[str]], str]] = {
    "tags": _tagged,
    "tags in a fence": lambda texts: f"```\n{_tagged(texts)}\n```",
    "no closing tags": _lines("<INS>{}"),
    "one pair of tags": lambda texts: "<INS>\n" + "\n".join(texts) + "\n</INS>",
    "a numbered list in one pair of tags": lambda texts: "<INS>" + _lines("{n}. {}")(texts) + "</INS>",
    "tags after words that name them": lambda texts: f"Each stands between <INS> and </INS>.\n{_tagged(texts)}\nBye!",
    "words that name the tags, then a list": lambda texts: f"I use <INS> and </INS>.\n\n{_lines('{n}. {}')(texts)}",
    "escaped for HTML": lambda texts: _tagged(texts).replace("<", "&lt;").replace(">", "&gt;"),
    "a thought before": lambda texts: f"<think>Try <INS>a draft of a <CLASS>.</INS>?</think>\n{_tagged(texts)}",
    "a thought without its opening mark": lambda texts: f"<INS>a draft <CLASS></INS>.\n</think>\n\n{_tagged(texts)}",
    "[THINK]": lambda texts: f"[THINK]1. a draft of a <CLASS>[/THINK]{_lines('{n}. {}')(texts)}",
    "<reasoning>": lambda texts: f"<reasoning>\na draft of a <CLASS>\n</reasoning>\n{json.dumps(texts)}",
    "channels": lambda texts: (
        "<|channel|>analysis<|message|>- a draft <CLASS><|end|><|start|>assistant<|channel|>final<|message|>"
        f"{_tagged(texts)}<|return|>"
    ),
    "channels without their marks": lambda texts: f"analysisWe try a draft <CLASS>.assistantfinal{_tagged(texts)}",
    "{n}.": _lines("{n}. {}"),
    "{n})": _lines("{n}) {}"),
    "({n})": _lines("({n}) {}"),
    "[{n}]": _lines("[{n}] {}"),
    "{n}:": _lines("{n}: {}"),
    "**{n}.**": _lines("**{n}.** {}"),
    "({letter})": _lines("({letter}) {}"),
    "-": _lines("- {}"),
    "*": _lines("* {}"),
    "bullets": _lines("  \u2022 {}"),
    "quotation": _lines("> {}"),
    "quotes": _lines('{n}. "{}"'),
    "curled quotes": _lines("{n}. \u201c{}\u201d"),
    "bold": _lines("{n}. **{}**"),
    "bold and quotes": _lines('- **"{}"**'),
    "bold with an explanation": _lines("{n}. **{}** - short and plain"),
    "backticks with an explanation": _lines("- `{}`: fits the blocks"),
    "quotes with an explanation": _lines('{n}. "{}" (emphasises grain, and says so)'),
    "label": _lines("Template {n}: {}"),
    "bold label": _lines("**Template {n}:** {}"),
    "label and quotes": _lines('Prompt {n} - "{}"'),
    "scores": _lines("{n}. {} (loss 1.2345, accuracy 50.00 %)"),
    "tags of XML": lambda texts: "<templates>" + _lines("<template>{}</template>")(texts) + "</templates>",
    "tags of XML on one line": lambda texts: "".join(
        f'<prompt id="{i}">{text}</prompt>' for i, text in enumerate(texts)
    ),
    "HTML list": lambda texts: "<ul>" + _lines("<li><b>{}</b></li>")(texts) + "</ul>",
    "JSON": json.dumps,
    "pretty JSON": lambda texts: json.dumps(texts, indent=2),
    "JSON object": lambda texts: json.dumps({"templates": texts}),
    "JSON in a fence": lambda texts: (
        f"Here:\n```json\n{json.dumps({'new_templates': texts}, indent=1)}\n```\nBye <CLASS>!"
    ),
    "JSON objects": lambda texts: json.dumps([{"template": text, "why": f"{text} fits"} for text in texts]),
    "JSON lines": lambda texts: "\n".join(json.dumps({"prompt": text, "loss": 1.5}) for text in texts),
    "JSON by number": lambda texts: json.dumps({str(i): text for i, text in enumerate(texts)}),
    "JSON with scores": lambda texts: json.dumps(dict.fromkeys(texts, 0.5)),
    "JSON with a comma too many": lambda texts: "[" + ", ".join(map(json.dumps, texts)) + ",]",
    "JSON in one pair of tags": lambda texts: f"<INS>{json.dumps(texts)}</INS>",
    "escaped JSON": lambda texts: json.dumps(texts).replace("<", "\\u003c").replace(">", "\\u003e"),
    "table": lambda texts: "\n".join(["| template with <CLASS> | why |", "|---|:---|", *map(_row, texts)]),
    "DSPy's form": lambda texts: (
        f"[[ ## reasoning ## ]]\na <CLASS>?\n\n[[ ## templates ## ]]\n{json.dumps(texts)}\n\n[[ ## completed ## ]]"
    ),
    "DSPy's form with a list": lambda texts: (
        f"[[ ## templates ## ]]\n{_lines('{n}. {}')(texts)}\n[[ ## completed ## ]]"
    ),
    "words around": lambda texts: (
        f"Sure! Here are new templates with <CLASS>:\n\n{_lines('{n}. {}')(texts)}\n\n"
        "Each template must hold <CLASS> once.\nI would try the first <CLASS> template first."
    ),
}


@pytest.mark.parametrize("given", ANSWERS, ids=[given["kind"] for given in ANSWERS])
def test_recorded_answers(given: dict[str, Any]) -> None:
    assert parse_templates(given["answer"]) == given["templates"]


FORM_OF = {
    "tags": "tags",
    "one pair of tags": "tags",
    "no closing tags": "tags",
    "JSON": "JSON",
    "pretty JSON": "JSON",
    "JSON objects": "JSON",
    "JSON with a comma too many": "JSON",
    "table": "table",
    "{n}.": "lines",
    "bold with an explanation": "lines",
    "label": "lines",
    "words around": "lines",
}


@pytest.mark.parametrize("dress", FORM_OF)
def test_a_form_is_read_by_itself_and_by_none_before_it(dress: str) -> None:
    answer, names = DRESSES[dress](THREE), [name for name, _ in FORMS]
    for name, read in FORMS[: names.index(FORM_OF[dress]) + 1]:
        texts = [undressed(text) for text in read(answer) if "<CLASS>" in text]
        assert (texts[-3:] == THREE) == (name == FORM_OF[dress])


@pytest.mark.parametrize("dress", DRESSES.values(), ids=DRESSES)
def test_templates_are_read_in_any_dress(dress: Callable[[list[str]], str]) -> None:
    assert parse_templates(dress(THREE)) == THREE


PLAIN = [
    "a photo of a <CLASS>",
    "a 3D render of a <CLASS>, 4k.",
    "a photo of the loss of a <CLASS>.",
    'a "retro" photo of a <CLASS>.',
    '"old" <CLASS> in a "new" frame',
    "the cat's <CLASS>, kids' toys",
    "'90s photo of a <CLASS>, kids' toys",
    "news: a <CLASS> (blurry, at 5 o'clock) was seen.",
    "a well-lit, black-and-white <CLASS> - tilted",
    "16-bit pixel art; a <CLASS> in 1990",
    "itap of my <CLASS>!",
    "i love my <CLASS>!",
    "a <CLASS> 50 % smaller [cropped]",
    "a photo, by an artist, of a <CLASS> (or two)",
    "here is a <CLASS>.",
    "a 1.5x zoom on a <CLASS>.",
    "a <CLASS> & its shadow",
]
SAFE = ("tags", "JSON", "pretty JSON", "JSON object", "{n}.", "-", "JSON objects", "one pair of tags", "label",
        "a thought before", "DSPy's form", "JSON lines", "no closing tags", "({n})")  # fmt: skip


@given(
    texts=st.lists(st.sampled_from(PLAIN), min_size=2, max_size=8, unique=True),
    dress=st.sampled_from([DRESSES[name] for name in SAFE]),
)
def test_what_is_inside_of_a_template_is_its_own(texts: list[str], dress: Callable[[list[str]], str]) -> None:
    assert parse_templates(dress(texts)) == texts


@pytest.mark.parametrize("text", PLAIN)
def test_a_template_without_a_dress_stays_as_it_is(text: str) -> None:
    assert undressed(text) == text
    assert str(read_proposal(text)) == text
    assert str(read_proposal(f'"{text}"')) == text or '"' in text


WORDS = st.lists(st.from_regex(r"[a-z0-9]{1,8}[,']?[a-z]{1,3}", fullmatch=True), max_size=5).map(" ".join)


@given(
    texts=st.lists(
        st.builds(lambda a, b: f"a {a} <CLASS> {b}x.".replace("  ", " "), WORDS, WORDS),
        min_size=2,
        max_size=8,
        unique=True,
    ),
    dress=st.sampled_from(list(DRESSES.values())),
)
def test_any_list_reads_back_from_any_dress(texts: list[str], dress: Callable[[list[str]], str]) -> None:
    assert parse_templates(dress(texts)) == texts


@pytest.mark.parametrize(
    "form",
    ["{class}", "{CLASS}", "{class_name}", "{{class}}", "[CLASS]", "[class name]", "<class_name>", "<CLASS_NAME>",
     "\\<CLASS\\>", "&lt;CLASS&gt;", "{}", "%s", "CLASS", "{category}", "$CLASS",
     "< class >", "`<CLASS>`", "**<CLASS>**"],
)  # fmt: skip
def test_what_is_meant_as_the_placeholder_is_taken_for_it(form: str) -> None:
    (read,) = map(read_proposal, parse_templates(f"<INS>pixel art of a {form}.</INS>"))
    assert str(read) == "pixel art of a <CLASS>."


@pytest.mark.parametrize(
    ("answer", "texts"),
    [
        ("", []),
        ("I cannot help with that request.", []),
        ("<INS>a dog.</INS>", ["a dog."]),  # rejected with its reason
        ("<INS>a <CLASS>.</INS>\n2. <INS>a dog.</INS> <INS>x</INS>", ["a <CLASS>.", "a dog.", "x"]),
        ("Put it between <INS> and </INS>.\n<INS>a <CLASS>.</INS>", ["a <CLASS>."]),
        ("The template must hold <CLASS> once.", []),
        ("Sure! Here is one with <CLASS>:", []),
        ("**Templates with <CLASS>:**", []),
        ('Here is one: "a grainy <CLASS>." which emphasises grain', ["a grainy <CLASS>."]),
        ('a grainy <CLASS>." - emphasises grain', ["a grainy <CLASS>."]),
        ('a grainy <CLASS>.",', ["a grainy <CLASS>."]),
        ('"a grainy <CLASS>.', ["a grainy <CLASS>."]),
        ('"a <CLASS> called \\"Rex\\"."', ['a <CLASS> called "Rex".']),
        ('{"template": "a grainy <CLASS>.", "why": "x"},', ["a grainy <CLASS>."]),
        ("<think>Perhaps <INS>a <CLASS>.</INS>", []),
        ("<INS>a <CLASS>.</INS><think>and <INS>another <CLASS>", ["a <CLASS>."]),
        ("<INS>a <CLASS>.</INS>\n<INS>a <CLASS>.</INS>", ["a <CLASS>.", "a <CLASS>."]),  # a duplicate is reported
        ("<INS>a <CLASS>.</INS>\n<INS>a CLASS in ink.</INS>", ["a <CLASS>.", "a <CLASS> in ink."]),
        ("Format: <INS>... <CLASS> ...</INS>\n<INS>a <CLASS>.</INS>", ["a <CLASS>."]),
        ("First I had <INS>a draft <CLASS></INS>, too weak.\n<INS>a <CLASS>.</INS>", ["a <CLASS>."]),
        ("## Draft\n1. a draft <CLASS>\n\n## Final templates\n1. a <CLASS>.", ["a <CLASS>."]),
        ("<INS>a <CLASS>.\n\nI hope these help with <CLASS>!", ["a <CLASS>."]),
        ("<INS>a <CLASS>.\nIt is plain.</INS>", ["a <CLASS>."]),
        ("1. a <CLASS>. 2. the <CLASS>.", ["a <CLASS>.", "the <CLASS>."]),
        ("Try `a <CLASS>.` or `the <CLASS>.`", ["a <CLASS>.", "the <CLASS>."]),
        ("<INS>a <CLASS>\n<INS>the <CLASS>\nI hope these help!", ["a <CLASS>", "the <CLASS>"]),
        ("<INS>a blurry photo\nof a <CLASS>\nin snow</INS>", ["a blurry photo of a <CLASS> in snow"]),
        ("1. a <CLASS> -> plain\n2. the <CLASS> [2]", ["a <CLASS>", "the <CLASS>"]),
        ("1. a <CLASS> - plain\n2. the <CLASS> - plain too", ["a <CLASS>", "the <CLASS>"]),
        ("1. a <CLASS>.\n   - Why: shows the <CLASS>\n2. the <CLASS>.", ["a <CLASS>.", "the <CLASS>."]),
        ("1. **Ink**: `an inked <CLASS>.`\n2. **Oil:** an oil <CLASS>.", ["an inked <CLASS>.", "an oil <CLASS>."]),
        ("['a cat\\'s <CLASS>.', 'the <CLASS>.']", ["a cat's <CLASS>.", "the <CLASS>."]),
        ("| why | it |\n|---|---|\n| a <CLASS>! | a <CLASS>. |\n| - | the <CLASS>. |", ["a <CLASS>.", "the <CLASS>."]),
        ("I kept <CLASS> in each of them.\n\na <CLASS>.\nthe <CLASS>.", ["a <CLASS>.", "the <CLASS>."]),
        ("The <CLASS> placeholder is unclear to me.", []),
        ("What should <CLASS> be?", []),
        ("<INS>a {style} photo of a <CLASS>.</INS>", []),
        ("- a <b <CLASS>", []),
        ("def fill(name): return f'a photo of a {name}'", []),
    ],
)
def test_odd_answers(answer: str, texts: list[str]) -> None:
    assert parse_templates(answer) == texts


@pytest.mark.parametrize(
    ("answer", "texts"),
    [
        ("<INS>a <CLASS>.</INS>\n<INS>art of a <CLASS>", ["a <CLASS>.", "<INS>art of a <CLASS>"]),
        ("<INS>a <CLASS>.\n<INS>art of a <CLASS>", ["a <CLASS>.", "<INS>art of a <CLASS>"]),
        ("1. a <CLASS>.\n2. art of a <CLASS> in", ["a <CLASS>.", "<INS>art of a <CLASS> in"]),
        ('["a <CLASS>.", "art of a <CLASS>", "and a <CLA', ["a <CLASS>.", "art of a <CLASS>"]),
        ('{"templates": ["a <CLASS>.", "art of a <CLASS> in', ["a <CLASS>.", "<INS>art of a <CLASS> in"]),
        ("<INS>a <CLASS>.</INS> <INS>a photo of", ["a <CLASS>.", "<INS>a photo of"]),
        ("<INS>a <CLASS>.</INS> <INS>the <CLASS>.</INS>", ["a <CLASS>.", "the <CLASS>."]),
    ],
)
def test_what_was_cut_off_is_not_tried(answer: str, texts: list[str]) -> None:
    assert parse_templates(answer, cut=True) == texts
    assert not any(text.startswith("<INS>") for text in parse_templates(answer))  # the finish reason does not say so


def test_a_repaired_placeholder_differs_from_a_written_one() -> None:
    texts = read_answer(
        "<INS>a <CLASS>.</INS><INS>a {class}.</INS><INS>a &lt;CLASS&gt; [cropped].</INS><INS>a dog.</INS>"
    )
    assert [text != repaired(text) for text in texts] == [False, True, True, False]
    assert list(map(repaired, texts)) == ["a <CLASS>.", "a <CLASS>.", "a <CLASS> [cropped].", "a dog."]


PIECES = [
    *[
        "<INS>",
        "</INS>",
        "<ins >",
        "<CLASS>",
        "{class}",
        "[CLASS]",
        "CLASS",
        "&lt;CLASS&gt;",
        "&lt;",
        "<think>",
        "</think>",
    ],
    *[
        "**",
        "*",
        "__",
        "`",
        "```",
        "```json",
        "| ",
        "|---|",
        "\n",
        "\n\n",
        " ",
        "- ",
        "1. ",
        "# ",
        "> ",
        '"',
        "'",
        "\\",
    ],
    *[
        "[",
        "]",
        "{",
        "}",
        '["',
        '"]',
        '", "',
        '{"template": "',
        '"}',
        ": ",
        "(",
        ")",
        "<b>",
        "</li>",
        "<",
        ">",
        "\\u003c",
    ],
    *[
        "a photo of a ",
        "an old ",
        ".",
        "Template 2: ",
        "Final answer:",
        "[[ ## templates ## ]]",
        "\x00",
        "\ud83d",
        "\u2028",
    ],
]


@example("<INS>- 0", False)
@settings(max_examples=300)
@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=30).map("".join)), st.booleans())
def test_no_text_raises_or_yields_a_template_with_markup(answer: str, cut: bool) -> None:
    for text in parse_templates(answer, cut):
        if not text.startswith("<INS>"):
            assert not re.search(r"[<>|`{}\\*]|__|&lt;|^(?:[-#>]\s|\d+[.)]\s)", text.replace("<CLASS>", "x")), text


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    "piece",
    ["[", "[[", '["', '[{"', "{", '"', "|", "| <CLASS> |\n", "a <CLASS>\n", "<CLASS> ", "'<CLASS>", "**<CLASS>", "(1) ",
     "<think>", "</think>", "<b", "<b <CLASS>", '"<CLASS>" ', "\\", "&lt;", "{class} ", "1. <CLASS>. - x\n", "(loss "],
)  # fmt: skip
def test_hostile_answers_are_read_in_linear_time(piece: str) -> None:
    """A quadratic reader needs hours for these; nobody would miss that."""
    for start in ("", "<CLASS>"):
        short, long = (parse_templates(start + piece * (size // len(piece))) for size in (5_000, 500_000))
        assert len(long) <= len(short) <= 2

"""Templates: the text that is searched for is the text that is read, kept and filled."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipo_dspy.errors import DataError, TemplateError
from ipo_dspy.template import MAX_CHARACTERS, MAX_LINES, PLACEHOLDER, Template, check_classes, display_class_name

plain = st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs"]), max_size=20)
form = st.sampled_from(["<CLASS>", "<class>", "< Class >", "<CLASS\u3000>"])
line = st.builds(lambda a, p, b: f"{a}{p} {b}", plain, form, plain)


def parsed(text: str) -> Template | None:
    try:
        return Template.parse(text)
    except TemplateError:
        return None


@given(st.lists(line, min_size=1, max_size=4))
def test_what_str_writes_parses_to_the_same_template(lines: list[str]) -> None:
    template = parsed("\n".join(lines))
    if template is not None:
        assert Template.parse(str(template)) == template


@given(st.text(max_size=60))
def test_any_text_is_a_template_or_a_template_error(text: str) -> None:
    template = parsed(text)
    assert template is None or all(PLACEHOLDER in one for one in template.lines)


words = st.text("abcdefg ,.<>{}\u00e9\u4e2d", max_size=15)


@given(words, words, st.text("hijk_\\g<0>", min_size=1, max_size=9).filter(lambda name: bool(display_class_name(name))))
def test_fill_replaces_every_placeholder_and_nothing_else(before: str, after: str, name: str) -> None:
    template = Template.parse(f"{before}<CLASS>{after}<class>")
    (filled,) = template.fill(name)
    assert filled == display_class_name(name).join(template.lines[0].split(PLACEHOLDER))
    assert template.lines[0].count(PLACEHOLDER) == 2


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("  a\tphoto \u00a0 of a <Class>. ", "a photo of a <CLASS>."),
        ("a < class >.\r\n\n \nthe <CLASS>.", "a <CLASS>.\nthe <CLASS>."),
        ("un cafe\u0301 <CLASS>", "un caf\u00e9 <CLASS>"),
        ("a <CLASS>.\u2028the <CLASS>.", "a <CLASS>.\nthe <CLASS>."),
    ],
)
def test_normal_form(text: str, normal: str) -> None:
    assert str(Template.parse(text)) == normal


@pytest.mark.parametrize(
    ("text", "reason", "message"),
    [
        (
            "",
            "empty",
            "template '' is empty; write <CLASS> where the class name goes, e.g. 'a photo of a <CLASS>.'",
        ),
        (" \n\t", "empty", "is empty"),
        (
            "a photo of a dog.",
            "no class placeholder",
            "'a photo of a dog.' has no <CLASS>; write <CLASS> where",
        ),
        ("a <CLASS>.\na dog.", "no class placeholder", "template 'a dog.' has no <CLASS>;"),
        ("a photo of a {}.", "no class placeholder", r"has no <CLASS> \('\{\}' is not a placeholder\)"),
        ("a photo of a [CLASS].", "no class placeholder", r"\('\[CLASS\]' is not a placeholder\)"),
        ("a \x1b[31m<CLASS>", "control characters", r"U\+001B; type it again without hidden characters"),
        ("a \u202e<CLASS>", "control characters", r"U\+202E"),
        ("a \u200b<CLASS>", "control characters", r"U\+200B"),
        ("a \u200e<CLASS>", "control characters", r"U\+200E"),
        ("a \u00ad<CLASS>", "control characters", r"U\+00AD"),
        ("a \ufeff<CLASS>", "control characters", r"U\+FEFF"),
        ("a \ud800<CLASS>", "control characters", r"U\+D800"),
        ("a <CLASS>\n" * (MAX_LINES + 1), "too many lines", "has 1001 lines, more than 1000; keep at most 1000"),
        ("a" * MAX_CHARACTERS + "<CLASS>", "too long", "has 5007 characters in a line; keep at most 5000"),
    ],
)
def test_errors_say_what_to_write(text: str, reason: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message) as caught:
        Template.parse(text)
    assert caught.value.reason == reason
    assert len(str(caught.value)) < 400


def test_classes_keep_their_order_and_their_own_spelling() -> None:
    assert check_classes(["polar_bear", "Cat", "\u00e9clair"]) == ("polar_bear", "Cat", "\u00e9clair")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (5, r"classes is 5; pass a list of names, e.g. \['cat', 'dog'\]"),
        (["cat", "\u200d"], "must be a non-empty string"),
        (["cat", "ca\u200dt"], "indistinguishable in a prompt"),
        (["cat", "d\u00adog"], r"U\+00AD"),
        ("cat", r"classes is the string 'cat'; pass a list of names, e.g. \['cat', 'dog'\]"),
        ({"cat"}, r"classes must be a list of names, got the unordered \{'cat'\}; pass sorted\(classes\)"),
        (["cat"], r"a classifier needs at least two classes, e\.g\. \['cat', 'dog'\], got \['cat'\]"),
        (["cat", " _ "], "class name ' _ ' must be a non-empty string; for example 'cat'"),
        (["cat", 3], "class name 3 must be a non-empty string"),
        (["polar bear", "Polar_Bear"], "'polar bear' and 'Polar_Bear' are indistinguishable in a prompt; rename one"),
        (["\u00e9clair", "e\u0301clair"], "indistinguishable in a prompt"),
        (["cat", "d\u202eog"], r"contains the control character U\+202E; remove it"),
    ],
)
def test_classes_that_cannot_be_told_apart(classes: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_classes(classes)


def test_the_keys_of_a_mapping_are_in_an_order() -> None:
    assert check_classes({"dog": 1, "cat": 2}.keys()) == ("dog", "cat")  # type: ignore[arg-type]


def test_joiners_belong_to_the_spelling_of_persian_and_of_emoji() -> None:
    names = ("\u0645\u06cc\u200c\u0631\u0648\u062f", "\U0001f469\u200d\U0001f692")
    assert check_classes(names) == names
    for name in names:
        assert Template.parse(f"{name} <CLASS>").fill(name) == (f"{name} {name}",)


@pytest.mark.parametrize("lines", [(), ("foo",), ("a <CLASS>.", "foo"), "a <CLASS>.", (5,), None])
def test_no_template_without_a_placeholder_can_be_made(lines: Any) -> None:
    with pytest.raises(TemplateError, match=r"template .*<CLASS>"):
        Template(lines)


@pytest.mark.parametrize("text", [None, 5, b"a <CLASS>."])
def test_anything_but_text_is_not_a_template(text: Any) -> None:
    with pytest.raises(
        TemplateError, match=r"template must be a string .*, got (None|5|b'a <CLASS>\.'); for example 'a photo"
    ):
        Template.parse(text)


@pytest.mark.parametrize("mark", ["\n", "\r", "\x0b", "\u2028"])
def test_a_line_holds_no_line_break(mark: str) -> None:
    with pytest.raises(TemplateError, match="has a line break within a line; type it again without hidden"):
        Template((f"a <CLASS>{mark}the <CLASS>",))

"""The paper's form of the question, and answers read from whatever a model wrote."""

from typing import Any

import dspy
import pytest
from dspy.utils.exceptions import AdapterParseError
from hypothesis import given
from hypothesis import strategies as st

from ipo_dspy.history import Trial
from ipo_dspy.lms.adapters import PaperAdapter
from ipo_dspy.lms.proposal_parsing import parse_templates
from ipo_dspy.lms.signatures import DescribeImage, ProposePrompts, ScoredTemplate
from ipo_dspy.proposers import LMProposer, ProposalRequest
from ipo_dspy.scoring.score import Score
from ipo_dspy.template import Template

INPUTS: dict[str, Any] = {
    "task": "Tell apart images of 2 classes: cat, dog.",
    "descriptions": ["blurry, dark", "grainy"],
    "history": [
        ScoredTemplate(template="a photo of a <CLASS>.", loss=1.25, accuracy=50.0),
        ScoredTemplate(template="a <CLASS>.\nthe <CLASS>.", loss=0.5, accuracy=75.0),
    ],
    "rejected": ["a dog (no class placeholder)"],
    "count": 8,
}


def question(**changes: Any) -> str:
    system, user = PaperAdapter().format(ProposePrompts, [], {**INPUTS, **changes})
    assert system == {"role": "system", "content": ProposePrompts.instructions}
    assert user["role"] == "user"
    return str(user["content"])


def test_parts_stand_in_the_order_of_the_paper() -> None:
    text = question()
    parts = [
        "Task: Tell apart",
        "How some training images look:\n- blurry, dark\n- grainy",
        "- a photo of a <CLASS>.  (loss 1.2500, accuracy 50.00 %)\n- a <CLASS>. | the <CLASS>.  (loss 0.5000, accuracy",
        "Loss is the mean cross-entropy",
        "- a dog (no class placeholder)",
        "Write 8 new template(s)",
        "between <INS> and </INS>",
    ]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


def test_what_stays_the_same_comes_first() -> None:
    one, other = question(), question(history=INPUTS["history"][:1], count=3)
    assert one.split("Templates tried")[0] == other.split("Templates tried")[0]


def test_empty_parts_are_left_out() -> None:
    text = question(descriptions=[], history=[], rejected=[])
    assert "images look" not in text
    assert "tried so far" not in text
    assert "could not be used" not in text
    assert "\n\n\n" not in text


def test_other_signatures_are_refused() -> None:
    with pytest.raises(
        TypeError, match=r"PaperAdapter lays out \(ProposePrompts, RewordPrompts\), got DescribeImage; "
    ):
        PaperAdapter().format(DescribeImage, [], {"image": None})


def test_a_demonstration_is_written_as_it_is_read() -> None:
    demo = {**INPUTS, "templates": ["a <CLASS>.", "the <CLASS>."]}
    *_, assistant, _ = PaperAdapter().format(ProposePrompts, [demo], INPUTS)
    assert parse_templates(assistant["content"]) == demo["templates"]


@pytest.mark.parametrize(
    ("completion", "answers"),
    [
        ("<INS>a <CLASS>.</INS>\n<INS>the <CLASS>.</INS>", ["a <CLASS>.", "the <CLASS>."]),
        ("Sure!\n< ins >\n a\n<class>.\n< / Ins > Bye", ["a <CLASS>."]),
        ("<INS><INS>a <CLASS>.</INS></INS>", ["a <CLASS>."]),
        ("<INS>note: <INS>a <CLASS>.</INS>", ["a <CLASS>."]),
        ("<INS>a <CLASS>.<INS>the <CLASS>.<INS>", ["a <CLASS>.", "the <CLASS>."]),
        ("<INS>a <CLASS>.</INS> <INS>a photo of a <CLASS> in", ["a <CLASS>.", "a photo of a <CLASS> in"]),
        ("<INS>a <CLASS>.</INS> <INS>", ["a <CLASS>."]),
        ("a <CLASS>.</INS>", ["a <CLASS>."]),
        ("<INS></INS>", []),
        ("Here are two:\n1. a <CLASS>.\n2) the <class>.\n- an old <CLASS>.\n* x <CLASS>\nBye", None),
        ("nothing", []),
        ("", []),
    ],
)
def test_answers_are_read_tolerantly(completion: str, answers: list[str] | None) -> None:
    expected = ["a <CLASS>.", "the <CLASS>.", "an old <CLASS>.", "x <CLASS>"] if answers is None else answers
    assert parse_templates(completion) == expected


def test_an_answer_without_templates_is_an_error() -> None:
    assert PaperAdapter().parse(ProposePrompts, "<INS>a <CLASS>.</INS>") == {"templates": ["a <CLASS>."]}
    with pytest.raises(AdapterParseError):
        PaperAdapter().parse(ProposePrompts, "I would rather not.")


@given(st.lists(st.sampled_from(["<INS>", "</INS>", "< / ins >", "<", "/", " ", "INS", ">", "<CLASS>", "\n", "x"])))
def test_no_tag_survives_in_an_answer(pieces: list[str]) -> None:
    for answer in parse_templates("".join(pieces)):
        inner = answer.removeprefix("<INS>").lower().replace(" ", "").replace("\n", "")
        assert "<ins>" not in inner
        assert "</ins>" not in inner


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    "piece",
    [
        "<INS>",
        "</INS>",
        "<INS>a <CLASS>",
        "< ",
        "</ ",
        "<" + " " * 200,
        "<ins" + " " * 50,
        "<INS></INS>",
        "1. \t",
        "\n",
    ],
)
def test_runaway_answers_are_read_in_linear_time(piece: str) -> None:
    """A quadratic reader needs minutes for a megabyte; nobody would miss that."""
    size = 1_000_000 if piece == "<INS>" else 500_000
    answer = piece * (size // len(piece))
    assert len(parse_templates(answer)) in (0, answer.count("<INS>"))


def test_asking_for_a_description_asks_to_leave_the_name_out() -> None:
    (system, user) = dspy.ChatAdapter().format(DescribeImage, [], {"image": dspy.Image("data:image/png;base64,AAAA")})
    assert "Do not name the main subject" in system["content"]
    assert user["role"] == "user"


def test_an_adapter_derived_from_that_of_the_paper_gets_its_request() -> None:
    class Own(PaperAdapter):
        def format_system_message(self, signature: type[dspy.Signature]) -> str:
            return "Write templates."

    start = Trial(Template.parse("a <CLASS>."), Score(50.0, 1.0), index=0, step=0, tokens=5, key="0")
    ask = ProposalRequest(step=1, count=8, shown=(start,), trials=(start,), task="Cats and dogs.")
    calls, tokens = LMProposer(dspy.LM("openai/toy"), adapter=Own()).measure(ask)
    assert calls == 1
    assert tokens < LMProposer(dspy.LM("openai/toy"), adapter=PaperAdapter()).measure(ask)[1]

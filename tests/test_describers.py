"""Descriptions by a multimodal language model, over a real server on loopback."""

import base64
import io
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from helpers.openai_server import KEY, OpenAIServer, Reply, images_of, text_of
from ipo_dspy.describers import LMDescriber, without_class_name
from ipo_dspy.describers.lm import LONGEST_SIDE
from ipo_dspy.errors import LanguageModelError, NoAnswerError
from ipo_dspy.run.ledger import Budget, Ledger

pytestmark = pytest.mark.usefixtures("no_cache")


def picture(width: int = 8, height: int = 8, color: str = "red") -> Image.Image:
    return Image.new("RGB", (width, height), color)


def test_images_arrive_as_small_data_uris_and_the_class_name_goes() -> None:
    reply = "A blurry photo of two Polar-Bears on ice."
    with OpenAIServer({"Do not name the main subject": reply}) as server:
        ledger = Ledger()
        described = LMDescriber(server.lm()).describe(
            [picture(3000, 1500)], ["polar_bear"], once=partial(ledger.once, "self")
        )
    assert described.texts == ("A blurry photo of two subject on ice.",)
    assert (ledger.spent.calls, ledger.spent.tokens, described.faults) == (1, server.tokens, ())
    (body,) = server.requests
    (url,) = images_of(body)
    kind, data = url.split(",", 1)
    assert kind.startswith("data:image/")
    with Image.open(io.BytesIO(base64.b64decode(data))) as sent:
        assert sent.size == (LONGEST_SIDE, LONGEST_SIDE // 2)
    assert "polar" not in text_of(body).lower()
    assert server.unseen == []


@pytest.mark.parametrize(
    ("size", "longest_side", "arrives"),
    [
        ((64, 64), LONGEST_SIDE, (224, 224)),
        ((100, 50), LONGEST_SIDE, (448, 224)),
        ((60, 600), LONGEST_SIDE, (77, 768)),
        ((224, 300), LONGEST_SIDE, (224, 300)),
        ((64, 64), 100, (100, 100)),
        ((640, 8), 640, (640, 8)),
    ],
)
def test_small_images_are_enlarged_within_the_limit(
    size: tuple[int, int], longest_side: int, arrives: tuple[int, int]
) -> None:
    with OpenAIServer({"main subject": "dark"}) as server:
        LMDescriber(server.lm(), longest_side=longest_side).describe([picture(*size)], ["cat"])
    (url,) = images_of(server.requests[0])
    with Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1]))) as sent:
        assert sent.size == arrives


@pytest.mark.parametrize("num_threads", [1, 4])
def test_many_images_in_threads_keep_their_order_and_all_tokens_count(num_threads: int, tmp_path: Path) -> None:
    class ByColour(OpenAIServer):
        def answer(self, body: dict[str, object]) -> Reply:
            self.requests.append(body)
            (url,) = images_of(body)
            with Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1]))) as sent:
                return Reply(f"level {sent.convert('RGB').getpixel((0, 0))[0]}")  # type: ignore[index]

    paths = []
    for level in range(0, 250, 25):
        paths.append(tmp_path / f"{level}.png")
        picture(color=f"rgb({level},0,0)").save(paths[-1])
    with ByColour({}) as server:
        ledger = Ledger()
        describer = LMDescriber(server.lm(), num_threads=num_threads)
        described = describer.describe(paths, ["cat"] * len(paths), once=partial(ledger.once, "self"))
        assert described.texts == tuple(f"level {level}" for level in range(0, 250, 25))
        assert (ledger.spent.calls, ledger.spent.tokens) == (10, server.tokens)
        again = describer.describe([picture(color="rgb(50,0,0)")], ["cat"], once=partial(ledger.once, "self"))
        assert (again.texts, len(server.requests)) == (("level 50",), 10)  # the same picture in another wrapping


def test_a_failed_image_leaves_an_empty_text_and_a_fault(tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(b"\x89PNG")
    with OpenAIServer({"main subject": ("dark")}) as server:
        described = LMDescriber(server.lm()).describe([tmp_path / "cut.png", picture()], ["cat", "dog"])
    assert described.texts == ("", "dark")
    (fault,) = described.faults
    assert "cut.png" in fault


def test_a_refused_key_stops_at_once_and_is_not_shown() -> None:
    with OpenAIServer({"main subject": Reply(f"wrong key: {KEY}", status=401)}) as server:
        describer = LMDescriber(server.lm(), num_threads=2)
        with pytest.raises(LanguageModelError, match=r"wrong key: \[hidden\].*set OPENAI_API_KEY to a valid API key"):
            describer.describe([picture()] * 5, ["cat"] * 5)
        assert len(server.requests) == 1


@pytest.mark.parametrize(("images", "max_consecutive_errors", "asked"), [(9, 3, 3), (9, 5, 5), (2, 3, 2)])
def test_a_server_that_fails_for_all_images_stops_it(images: int, max_consecutive_errors: int, asked: int) -> None:
    pictures = [picture(color=f"rgb({level},0,0)") for level in range(images)]
    with OpenAIServer({"main subject": Reply("busy", status=503)}) as server:
        describer = LMDescriber(server.lm(), max_consecutive_errors=max_consecutive_errors)
        with pytest.raises(NoAnswerError, match=r"failed to describe images: .*busy"):
            describer.describe(pictures, ["cat"] * images)
        assert len(server.requests) == asked


def test_a_limit_leaves_the_other_images_without_a_description() -> None:
    pictures = [picture(color=f"rgb({level},0,0)") for level in range(9)]
    with OpenAIServer({"main subject": ("dark")}) as server:
        once = partial(Ledger(limits=Budget(max_lm_calls=4)).once, "self")
        described = LMDescriber(server.lm(), num_threads=3).describe(pictures, ["cat"] * 9, once=once)
        assert (sorted(described.texts), len(server.requests)) == ([""] * 5 + ["dark"] * 4, 4)
    (fault,) = described.faults
    assert "the limit of 4 LLM calls is reached (4 spent)" in fault


def test_no_images_no_requests() -> None:
    with OpenAIServer({}) as server:
        assert LMDescriber(server.lm()).describe([], []).texts == ()


@pytest.mark.parametrize(
    ("text", "name", "left"),
    [
        ("A CAT on a mat, cats!", "cat", "A subject on a mat, subject!"),
        ("a category of catfish, a bobcat", "cat", "a category of catfish, a bobcat"),
        ("two foxes and a fox", "fox", "two subject and a subject"),
        ("red cherries, a cherry", "cherry", "red subject, a subject"),
        ("a T shirt, T-shirts and a tshirt", "t-shirt", "a subject, subject and a subject"),
        ("polar\nbear,  polar_bears", "polar_bear", "subject, subject"),
        ("written in c++.", "c++", "written in subject."),
        ("a (x) .* b", ".*", "a (x) subject b"),
        ("nothing to hide", "_", "nothing to hide"),
    ],
)
def test_class_names_are_taken_out_as_whole_words(text: str, name: str, left: str) -> None:
    assert without_class_name(text, name) == left


@pytest.mark.parametrize(
    ("text", "name", "left"),
    [
        ("一只猫在桌子上", "猫", "一只subject在桌子上"),
        ("テーブルの上の猫です", "猫", "テーブルの上のsubjectです"),
        ("고양이가 어두운 방에", "고양이", "subject가 어두운 방에"),
        ("ภาพแมวเบลอ", "แมว", "ภาพsubjectเบลอ"),
        ("a dark women\u2019s shoe", "women's shoe", "a dark subject"),
        ("a “cat” in the dark", "cat", "a “subject” in the dark"),
        ("a cafe\u0301 at night", "café", "a subject at night"),
    ],
)
def test_class_names_of_any_script_are_taken_out(text: str, name: str, left: str) -> None:
    assert without_class_name(text, name) == left


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("<think>It is a dark cat.</think>A grainy picture.", "A grainy picture."),
        ("It looks like a cat.\n</think>\n\nA grainy picture.", "A grainy picture."),
        ("[THINK]A cat?[/THINK]A grainy picture.", "A grainy picture."),
        ("<|channel|>analysis<|message|>A cat?<|end|><|start|>assistant<|channel|>final<|message|>A grainy picture.",
         "A grainy picture."),
    ],
)  # fmt: skip
def test_thoughts_are_no_description(answer: str, text: str) -> None:
    with OpenAIServer({"main subject": answer}) as server:
        described = LMDescriber(server.lm()).describe([picture()], ["bird"])
    assert described.texts == (text,)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("I'm sorry, but I can't view images.", "the model refuses: \"I'm sorry, but I can't view images.\""),
        ("I\u2019m unable to see the picture you sent.", "the model refuses"),
        ("As an AI language model, I cannot see images.", "the model refuses"),
        ("Please upload the image, and I will describe it.", "the model refuses"),
        ("No image was provided.", "the model refuses"),
        ("It looks like you haven't attached an image.", "the model refuses"),
        ("I'd be happy to help! Could you share it?", "the model refuses"),
        ("I cannot help with that.", "the model refuses"),
        ("I\u2019m not able to do that.", "the model refuses"),
        ("I can't fulfill this request.", "the model refuses"),
        ("I'm afraid I can't see it.", "the model refuses"),
        ("I must decline.", "the model refuses"),
        ("<think>The picture is dark and", "the answer was cut off within its thoughts; raise max_tokens"),
    ],
)
def test_a_refusal_is_a_fault_and_no_description(answer: str, fault: str) -> None:
    with OpenAIServer({"main subject": answer}) as server, pytest.raises(NoAnswerError, match=fault):
        LMDescriber(server.lm()).describe([picture()], ["cat"])


@pytest.mark.parametrize(
    "answer",
    [
        "A dark picture; I can't see the ground.",
        "No image noise, sharp and bright.",
        "It looks like a poster attached to a wall.",
        "It seems not sharp, seen from above.",
        "I can't help but notice the grain.",
    ],
)
def test_a_description_that_speaks_of_seeing_is_one(answer: str) -> None:
    with OpenAIServer({"main subject": answer}) as server:
        assert LMDescriber(server.lm()).describe([picture()], ["cat"]).texts == (answer,)

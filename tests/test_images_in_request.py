"""Images that the best template gets wrong, in the requests to a multimodal model that proposes templates."""

import base64
import io
import itertools
import re
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from helpers.openai_server import Reply, Writer, images_of, parts_of, text_of
from ipo_dspy import IPO, LMProposer, RayScorer, demo
from ipo_dspy.cli import main
from ipo_dspy.clip.image_io import open_image
from ipo_dspy.errors import InputError, JournalError, LanguageModelError
from ipo_dspy.lms.adapters import PaperAdapter
from ipo_dspy.optimizer.evaluation import encode_examples
from ipo_dspy.optimizer.mistakes import Mistakes
from ipo_dspy.optimizer.results import DetailedResults
from ipo_dspy.run.journal import FILE_NAME
from ipo_dspy.template import Template

pytestmark = pytest.mark.usefixtures("no_cache")
SHOTS = 4
STEPS = 3
CAPTION = re.compile(r"- a picture of (.+), taken for (.+) \((0\.\d\d|1\.00)\): $")


def run(server: Writer, task: demo.DemoTask, folder: Path | None = None, **options: Any) -> DetailedResults:
    given = {"steps": STEPS, "prompts_per_step": 3, "log_dir": folder, "describer": None, "images_in_request": 4}
    proposer = {} if "proposer" in options else {"prompt_model": server.lm()}
    results: DetailedResults = (
        IPO(**{**given, **proposer, **options}).compile(task.program, task.trainset).detailed_results
    )
    return results


def asked(server: Writer) -> list[dict[str, Any]]:
    return [body for body in server.requests if "new template" in text_of(body)]


def pixels(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))


def captions(body: dict[str, Any]) -> list[tuple[str, str, float]]:
    """Label, predicted class and probability in front of each image."""
    parts = parts_of(body)
    texts = [before["text"] for before, part in itertools.pairwise(parts) if part["type"] == "image_url"]
    found = [CAPTION.search(text) for text in texts]
    return [(match[1], match[2], float(match[3])) for match in found if match]


@pytest.mark.parametrize("prefetch", [True, False])
def test_a_request_shows_what_the_best_template_so_far_gets_wrong(task: demo.DemoTask, prefetch: bool) -> None:
    with Writer() as server:
        results = run(server, task, prefetch=prefetch)
    judged = encode_examples(task.program, task.trainset)
    assert [len(images_of(body)) for body in server.requests] == [
        1,
        *[4] * STEPS,
        0,
    ]  # connectivity check, steps, rewordings
    searched = [trial for trial in results.trials if trial.stage == "search"]
    tops = []
    for step, body in enumerate(asked(server), start=1):
        visible = [t for t in searched if t.step == 0 or t.step < step - prefetch]
        tops.append(min(visible, key=lambda trial: trial.rank))
        predicted = judged.scorer.predict_with_probability(tops[-1].template)  # type: ignore[attr-defined]
        rows = zip(judged.images.labels, predicted, strict=True)
        wrong = sorted(((round(p, 2), label, name) for label, (name, p) in rows if name != label), reverse=True)
        highest = {label: p for p, label, _ in reversed(wrong)}
        shown = captions(body)
        assert [p for *_, p in shown] == sorted(highest.values(), reverse=True)[:4]
        assert len({label for label, *_ in shown}) == 4
        assert {(p, label, name) for label, name, p in shown} <= set(wrong)
    assert len({top.key for top in tops}) > 1
    assert tops[0].step == 0


def test_the_images_are_those_of_the_captions_enlarged(task: demo.DemoTask) -> None:
    with Writer() as server:
        run(server, task, steps=1)
    predicted = encode_examples(task.program, task.trainset).scorer.predict(task.program.template)
    originals = np.stack([small(open_image(example.image)) for example in task.trainset])
    (body,) = asked(server)
    for url, (label, name, _) in zip(images_of(body), captions(body), strict=True):
        assert pixels(url).size == (224, 224)
        which = int(abs(originals - small(pixels(url))).mean(axis=(1, 2, 3)).argmin())
        assert (task.trainset[which].label, predicted[which]) == (label, name)


def small(image: Image.Image) -> NDArray[np.float64]:
    return np.asarray(image.convert("RGB").resize((32, 32)), np.float64)


def test_a_large_photo_is_scaled_down(task: demo.DemoTask, tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        Image.effect_noise((1200, 900), 90).convert("RGB").save(tmp_path / label / "1.png")
    examples = [
        dspy.Example(image=str(tmp_path / label / "1.png"), label=label).with_inputs("image")
        for label in ("cat", "dog")
    ]
    classifier = type(task.program)(["cat", "dog"], model="demo")
    judged = encode_examples(classifier, examples)
    mistakes = Mistakes(judged.images, 4)
    plain = Template.parse("a photo of a <CLASS>.")
    (mistake,) = mistakes.of(judged.scorer, plain)  # type: ignore[arg-type]  # one of two images of noise is wrong
    assert pixels(mistake.image.url).size == (512, 384)


def test_without_it_no_request_has_images(task: demo.DemoTask) -> None:
    with Writer() as server:
        run(server, task, images_in_request=0)
    assert not any(map(images_of, server.requests))
    assert "gets wrong" not in str(server.requests)


def test_a_template_without_mistakes_has_no_images(task: demo.DemoTask) -> None:
    predicted = encode_examples(task.program, task.trainset).scorer.predict(task.program.template)
    right = [example for example, name in zip(task.trainset, predicted, strict=True) if example.label == name]
    with Writer() as server:
        given: dict[str, Any] = {"steps": 1, "describer": None, "images_in_request": 4, "polish": False}
        IPO(prompt_model=server.lm(), **given).compile(task.program, right)
    assert [len(images_of(body)) for body in server.requests] == [1, 0]
    assert "gets wrong" not in text_of(server.requests[1])


def test_a_resumed_run_asks_the_same_and_the_journal_has_no_images(task: demo.DemoTask, tmp_path: Path) -> None:
    with Writer() as server:
        whole = run(server, task, tmp_path / "whole")
        first = list(server.requests)
        server.requests.clear()
        run(server, task, tmp_path / "cut", max_lm_calls=2)
        resumed = run(server, task, tmp_path / "cut")
        assert server.requests == first
        with pytest.raises(JournalError, match="images_in_request"):
            run(server, task, tmp_path / "cut", images_in_request=2)
    assert (resumed.trials, resumed.best) == (whole.trials, whole.best)
    journal = (tmp_path / "cut" / FILE_NAME).read_text(encoding="utf-8")
    assert "base64" not in journal
    assert images_of(first[1])[0][30:90] not in journal


def test_other_adapters_and_single_requests_show_them(task: demo.DemoTask) -> None:
    class Chat(Writer):
        def answer(self, body: dict[str, Any]) -> Reply:
            self.requests.append(body)
            return Reply('[[ ## templates ## ]]\n["a dark <CLASS>.", "a small <CLASS>."]\n\n[[ ## completed ## ]]')

    with Chat() as server:
        results = run(server, task, proposer=LMProposer(server.lm(), adapter=dspy.ChatAdapter()), steps=1, polish=False)
    assert [len(images_of(body)) for body in server.requests] == [1, 4]
    assert '"predicted": ' in text_of(server.requests[1])
    assert len(results.trials) >= 3
    with Writer() as single:
        run(single, task, proposer=LMProposer(single.lm(), request_mode="single"), steps=1, polish=False)
    assert [len(images_of(body)) for body in single.requests] == [1, 4, 4, 4]


def test_images_are_left_out_when_the_prompt_overflows(task: demo.DemoTask) -> None:
    overflow = Reply("This model's maximum context length is 4096 tokens", status=400)
    with Writer({0: overflow}) as server:
        run(server, task, steps=1, polish=False)
    assert [len(images_of(body)) for body in asked(server)] == [4, 2]


def test_a_model_without_eyes_is_found_out_before_the_search(task: demo.DemoTask) -> None:
    class Blind(Writer):
        def answer(self, body: dict[str, Any]) -> Reply:
            refusal = Reply("this model does not support image input", status=400)
            return refusal if images_of(body) else super().answer(body)

    with Blind() as server:
        with pytest.raises(LanguageModelError, match="choose a multimodal model, or pass images_in_request=0"):
            run(server, task)
        assert server.requests == []


def test_an_image_that_is_gone_is_recorded_and_the_search_continues(task: demo.DemoTask, tmp_path: Path) -> None:
    examples = []
    for i, example in enumerate(task.trainset):
        open_image(example.image).save(tmp_path / f"{i}.png")
        examples.append(dspy.Example(image=str(tmp_path / f"{i}.png"), label=example.label).with_inputs("image"))

    def remove(event: Any) -> None:
        if event["event"] == "trial":
            for file in tmp_path.glob("*.png"):
                file.unlink()
        if event["event"] == "error":
            messages.append(event["message"])

    messages: list[str] = []
    with Writer() as server:
        given: dict[str, Any] = {"steps": 1, "describer": None, "images_in_request": 4, "polish": False}
        best = IPO(prompt_model=server.lm(), observers=[remove], **given).compile(task.program, examples)
    assert best.detailed_results.status == "finished"
    assert [len(images_of(body)) for body in server.requests] == [1, 0]
    assert messages[0].startswith("the request has no images: image ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"proposer": "evolution"}, "images_in_request must be 0 if the proposer does not show images .* got 4; pass"),
        ({"proposer": LMProposer(adapter=PaperAdapter())}, "images_in_request must be 0 if the proposer does not show"),
        ({"backend": RayScorer("local")}, "images_in_request must be 0 with a backend, because only its workers read"),
        ({"images_in_request": -1}, "images_in_request must be an integer of at least 0, got -1"),
    ],
)
def test_what_cannot_show_images_is_refused_at_construction(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        IPO(**{"images_in_request": 4, **options})


def test_the_estimate_counts_them(task: demo.DemoTask) -> None:
    with Writer() as server:
        given: dict[str, Any] = {"prompt_model": server.lm(), "steps": 5, "polish": False}
        plain, shown = (
            IPO(images_in_request=n, **given).estimate(task.program, task.trainset).total.prompt_tokens for n in (0, 4)
        )
    assert shown - plain == 765 * (1 + 5 * 4)


@pytest.mark.end_to_end
def test_the_option_of_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ["demo", "--steps", "1", "--images-in-request", "2", "--log-dir", str(tmp_path / "run")]
    with Writer() as server, pytest.raises(SystemExit, match="0"):
        main([*options, "--prompt-model", "openai/toy", "--prompt-model-kwargs", f"api_base={server.url}"])
    assert [len(images_of(body)) for body in server.requests][:2] == [1, 2]
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        main(options)
    assert "pass --prompt-model openai/gpt-4o-mini" in capsys.readouterr().err

"""Whatever a language model or its server does, over real HTTP: the run ends well, and nothing paid for is lost."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import dspy
import pytest

from helpers.openai_server import KEY, OpenAIServer, Reply, Writer, images_of, text_of
from ipo_dspy import IPO, LMProposer, demo, write_report
from ipo_dspy.errors import LanguageModelError, NoAnswerError
from ipo_dspy.history import Trial
from ipo_dspy.lms import retry_notices as retries
from ipo_dspy.run.journal import replay

STEPS, COUNT = 4, 3


pytestmark = pytest.mark.usefixtures("no_cache")


def compile_with(server: OpenAIServer, task: demo.DemoTask, lm: dict[str, Any] | None = None, **options: Any) -> Any:
    given: dict[str, Any] = {"steps": STEPS, "prompts_per_step": COUNT, "describer": None, "choose": "best", **options}
    return IPO(prompt_model=server.lm(**(lm or {})), **given).compile(task.program, task.trainset)


@pytest.fixture(scope="module")
def undisturbed(task: demo.DemoTask) -> tuple[Trial, ...]:
    with Writer() as server:
        trials: tuple[Trial, ...] = compile_with(server, task, {"cache": False}).detailed_results.trials
    return trials


def faults(folder: Path) -> list[str]:
    return [event["message"] for event in replay(folder) if event["event"] == "error"]


PASSING = {
    "429 with Retry-After": Reply("slow down", status=429, headers=(("Retry-After", "0"),)),
    "500": Reply("oops", status=500, headers=(("Retry-After", "0"),)),
    "503": Reply("overloaded", status=503, headers=(("Retry-After", "0"),)),
    "time-out": Reply("too late", delay=3.0),
    "reset in mid-body": Reply("a <CLASS>.", cut_at=40),
}


@pytest.mark.end_to_end
@pytest.mark.parametrize("reply", PASSING.values(), ids=PASSING)
def test_passing_faults_are_retried_and_change_nothing(
    reply: Reply, task: demo.DemoTask, undisturbed: tuple[Trial, ...], tmp_path: Path
) -> None:
    with Writer({1: reply}) as server:
        best = compile_with(server, task, {"num_retries": 2, "timeout": 1.5}, log_dir=tmp_path / "run")
        assert server.asked == STEPS + 1
    assert best.detailed_results.trials == undisturbed
    assert (best.detailed_results.status, faults(tmp_path / "run")) == ("finished", [])


UNREADABLE = {
    "invalid JSON": Reply(body=b'{"choices": [{"message": {"con'),
    "HTML instead of JSON": Reply(body=b"<html><script>alert(1)</script></html>"),
    "empty object": Reply(body=b"{}"),
    "error page with status 500": Reply(status=500, body=b"<html>bad gateway</html>"),
    "content policy": Reply(
        status=400, body=json.dumps({"error": {"message": "flagged", "code": "content_policy_violation"}}).encode()
    ),
}


@pytest.mark.end_to_end
@pytest.mark.parametrize("reply", UNREADABLE.values(), ids=UNREADABLE)
def test_no_answer_is_recorded_and_the_step_is_asked_again(
    reply: Reply, task: demo.DemoTask, undisturbed: tuple[Trial, ...], tmp_path: Path
) -> None:
    with Writer({1: reply}) as server:
        best = compile_with(server, task, log_dir=tmp_path / "run")
        assert server.asked == STEPS + 1
    assert best.detailed_results.trials == undisturbed
    (fault,) = faults(tmp_path / "run")
    assert "gave no proposals" in fault


USELESS = {
    "empty choices": Reply(
        body=json.dumps(
            {"id": "1", "object": "chat.completion", "created": 1, "model": "toy", "choices": [], "usage": {}}
        ).encode()
    ),
    "refusal": Reply("I'm sorry, but I can't help with that."),
    "content filter": Reply("", finish_reason="content_filter"),
    "no tags": Reply("What a nice task! Here are my ideas."),
    "half a tag": Reply("<INS a <CLA"),
    "1 MB": Reply("<INS>" + "very " * 200_000 + "</INS>"),
    "200 kB of tags": Reply("<INS>" * 40_000),
    "control characters": Reply("<INS>a \x00\x1b[2J <CLASS>.</INS>"),
    "bidi": Reply("<INS>a \u202e photo \u2066 of a <CLASS>.</INS>"),
    "no class": Reply("<INS>a photo of a dog.</INS>"),
    "cut by the token limit": Reply("<INS>a blurry picture of a <CLASS> in the", finish_reason="length"),
    "copies the start template": Reply("<INS>a photo of a <CLASS>.</INS>" * 3),
}


@pytest.mark.end_to_end
@pytest.mark.parametrize("reply", USELESS.values(), ids=USELESS)
def test_useless_answers_are_recorded_and_the_run_continues(
    reply: Reply, task: demo.DemoTask, undisturbed: tuple[Trial, ...], tmp_path: Path
) -> None:
    with Writer(dict.fromkeys((1, 2, 3), reply)) as server:  # where one text comes, the other two are asked for
        best = compile_with(server, task, max_consecutive_errors=9, log_dir=tmp_path / "run")
    results = best.detailed_results
    assert results.status == "finished"
    assert 2 not in {trial.step for trial in results.trials} >= {0, 1}
    assert faults(tmp_path / "run") or results.rejections
    assert results.best.rank <= results.baseline.rank
    assert max(len(line) for line in (tmp_path / "run" / "journal.jsonl").read_bytes().splitlines()) < 20_000
    page = write_report(tmp_path / "run").read_text()
    assert "\x00" not in page
    assert "\u202e" not in page


USABLE = {
    "nested tags": (Reply("<INS><INS>a nested <CLASS>.</INS></INS>"), "a nested <CLASS>."),
    "another language": (
        Reply("<INS>\u4e00\u5f20<CLASS>\u7684\u7167\u7247</INS>"),
        "\u4e00\u5f20<CLASS>\u7684\u7167\u7247",
    ),
    "no closing slash": (Reply("<INS>a careless <CLASS>.<INS>"), "a careless <CLASS>."),
    "a list": (Reply("Sure!\n1. a listed <CLASS>.\n2. dog"), "a listed <CLASS>."),
}


@pytest.mark.parametrize(("reply", "template"), USABLE.values(), ids=USABLE)
def test_odd_answers_that_can_be_used_are_used(
    reply: Reply, template: str, task: demo.DemoTask, tmp_path: Path
) -> None:
    with Writer({1: reply}) as server:
        best = compile_with(server, task, log_dir=tmp_path / "run", prefetch=False)
    assert template in [str(trial.template) for trial in best.detailed_results.trials]


def test_a_template_with_markup_is_not_used_but_shown(task: demo.DemoTask, tmp_path: Path) -> None:
    with Writer({1: Reply("<INS>a <script>alert(1)</script> <CLASS>.</INS>")}) as server:
        best = compile_with(server, task, log_dir=tmp_path / "run", prefetch=False)
    assert not any("alert" in str(trial.template) for trial in best.detailed_results.trials)
    assert "alert(1)</script> <CLASS>." in faults(tmp_path / "run")[0]
    assert "<script>alert(1)" not in write_report(tmp_path / "run").read_text()


def test_a_server_that_only_repeats_itself_is_not_asked_for_ever(task: demo.DemoTask) -> None:
    reply = Reply("<INS>a photo of a <CLASS>.</INS>\n" * COUNT)
    with Writer(dict.fromkeys(range(1000), reply)) as server:
        best = compile_with(server, task, steps=50)
        assert (best.detailed_results.searches[0].status, server.asked) == ("errors", 3)
    assert best.template == task.program.template


def test_a_server_that_dies_at_step_7_and_comes_back_changes_nothing(
    task: demo.DemoTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first retry is refused, the second is answered."""
    with Writer() as server:
        whole = compile_with(server, task, steps=9).detailed_results.trials
    down, refused, back = (threading.Event() for _ in range(3))
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 1:
            down.wait(60)
        else:
            refused.set()
            back.wait(60)

    monkeypatch.setattr(retries, "_sleep", pause)

    class Dies(Writer):
        def answer(self, body: dict[str, Any]) -> Reply:
            reply = super().answer(body)
            if self.asked == 7:
                threading.Thread(target=self.restart).start()
                return Reply("dying", cut_at=0)
            return reply

        def restart(self) -> None:
            self.__exit__()
            down.set()
            refused.wait(60)
            self.second = Writer(port=self.port)
            self.second.__enter__()
            back.set()

    server = Dies()
    with server:
        best = compile_with(server, task, {"num_retries": 4}, steps=9, log_dir=tmp_path / "run")
        server.second.__exit__()
    assert server.asked == 7
    assert server.second.asked == 3
    assert pauses == [1.0, 2.0]
    assert best.detailed_results.trials == whole


def test_a_server_that_never_comes_back_ends_the_run_with_its_best_and_another_session_resumes(
    task: demo.DemoTask, undisturbed: tuple[Trial, ...], tmp_path: Path
) -> None:
    gone = dict.fromkeys(range(2, 1000), Reply("gone", status=503))
    options: dict[str, Any] = {"log_dir": tmp_path / "run", "max_consecutive_errors": 3}
    with Writer(gone) as server:
        best = compile_with(server, task, **options)
        assert server.asked == 2 + 3
    results = best.detailed_results
    assert results.status == "errors"
    assert results.trials == tuple(t for t in undisturbed if t.step <= 2)
    assert len(faults(tmp_path / "run")) == 3
    saved = json.loads((tmp_path / "run" / "best.json").read_text())
    assert str(best.template) in json.dumps(saved)
    end: Any = replay(tmp_path / "run")[-1]
    assert (end["event"], end["status"]) == ("run_finished", "errors")

    with Writer() as server:
        again = compile_with(server, task, **options)
        assert server.asked == STEPS - 2
    assert again.detailed_results.trials == undisturbed
    assert again.detailed_results.status == "finished"


def test_a_dead_server_in_the_second_of_two_searches_leaves_the_first_result(
    task: demo.DemoTask, undisturbed: tuple[Trial, ...]
) -> None:
    class Twice(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = task.program.deepcopy(), task.program.deepcopy()

        def forward(self, image: Any) -> Any:
            self.second(image=image)
            return self.first(image=image)

    gone = dict.fromkeys(range(STEPS, 1000), Reply("gone", status=503))
    with Writer(gone) as server:
        given: dict[str, Any] = {"steps": STEPS, "prompts_per_step": COUNT, "describer": None, "choose": "best"}
        best = IPO(prompt_model=server.lm(), **given).compile(Twice(), task.trainset)
    assert [search.status for search in best.detailed_results.searches] == ["finished", "errors"]
    assert best.detailed_results.trials == undisturbed
    assert str(best.second.template) == "a photo of a <CLASS>."


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (
            Reply(f"Incorrect API key provided: {KEY}", status=401),
            "set OPENAI_API_KEY to a valid API key",
        ),
        (
            Reply("The model `toy` does not exist", status=404),
            "choose a model that the server provides, or correct api_base: most servers want it to end in /v1",
        ),
        (
            Reply("Unsupported parameter: 'temperature' is not supported with this model.", status=400),
            r"remove its setting temperature: set it to None \(null on the command line\)",
        ),
        (
            Reply("Unsupported value: 'top_p' does not support 0.9 with this model.", status=400),
            r"remove its setting top_p: set it to None \(null on the command line\)",
        ),
        (
            Reply(message={"role": "assistant", "content": "", "reasoning_content": "hm"}, finish_reason="length"),
            r"the token limit was spent on thinking before a word was written; raise its setting max_tokens",
        ),
        (
            Reply("later", status=429, headers=(("Retry-After", "3600"),)),
            "the server asks to wait 3600 s, more than the 120 s that a run waits; run it again after that time",
        ),
        (
            Reply(
                status=429, body=json.dumps({"error": {"message": "no quota", "code": "insufficient_quota"}}).encode()
            ),
            "add credit to the provider's account",
        ),
    ],
    ids=["wrong key", "unknown model", "temperature", "top_p", "all thinking", "a long pause", "no credit"],
)
@pytest.mark.parametrize("role", ["prompt_model", "description_model"])
def test_an_error_that_no_retry_fixes_shows_at_once_before_images_are_encoded(
    reply: Reply, message: str, role: str, task: demo.DemoTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: Any, **__: Any) -> None:
        raise AssertionError("images were encoded before the key was tried")

    monkeypatch.setattr("ipo_dspy.clip.image_features._encode", explode)
    program = demo.load("pixel-animals", shots=1).program
    with OpenAIServer({"": reply}) as refuses, Writer() as answers:
        other = {"prompt_model": answers.lm(), "description_model": answers.lm(model="openai/eyes")}
        models: dict[str, Any] = {**other, role: refuses.lm(num_retries=3, model=f"openai/{role}")}
        with pytest.raises(LanguageModelError, match=message) as caught:
            IPO(**models, log_dir=tmp_path / "run").compile(program, task.trainset)
        assert len(refuses.requests) == 1
    assert f"{role} 'openai/{role}' does not answer" in str(caught.value)
    assert KEY not in str(caught.value)
    assert KEY not in (tmp_path / "run" / "journal.jsonl").read_text()


def test_a_key_that_is_revoked_in_the_middle_stops_at_once_with_what_was_found(task: demo.DemoTask) -> None:
    with Writer({2: Reply("revoked", status=401)}) as server:
        best = compile_with(server, task, {"num_retries": 3})
        assert server.asked == 3
    assert best.detailed_results.status == "errors"
    assert "revoked" in best.detailed_results.searches[0].fault


def test_a_context_overflow_is_asked_again_with_less_and_said(task: demo.DemoTask, tmp_path: Path) -> None:
    class Small(Writer):
        def answer(self, body: dict[str, Any]) -> Reply:
            if len(text_of(body)) > 2500:
                error = {"message": "maximum context length is 600 tokens", "code": "context_length_exceeded"}
                return Reply(status=400, body=json.dumps({"error": error}).encode())
            return super().answer(body)

    class Wordy:
        def describe(self, images: Any, class_names: Any, *, once: Any = None) -> Any:
            from ipo_dspy.describers.base import Descriptions

            return Descriptions(tuple(f"a grainy picture, number {i}, {'dark ' * 20}" for i in range(len(images))))

    with Small() as server:
        best = compile_with(server, task, describer=Wordy(), log_dir=tmp_path / "run")
    assert best.detailed_results.status == "finished"
    assert any(
        "exceeds the context window of openai/toy; retrying with 50.0%" in fault for fault in faults(tmp_path / "run")
    )


@pytest.mark.parametrize("text", ["a \ud83d <CLASS>.", "a \ud83d dog."])
def test_half_a_surrogate_pair_harms_no_later_request(text: str, task: demo.DemoTask, tmp_path: Path) -> None:
    with Writer({0: Reply(f"<INS>{text}</INS>")}) as server:
        best = compile_with(server, task, log_dir=tmp_path / "run")
        assert best.detailed_results.status == "finished"
        again = compile_with(server, task, log_dir=tmp_path / "run")
    assert again.detailed_results.trials == best.detailed_results.trials


def test_a_limit_that_the_pings_use_up_ends_the_run_as_usual(task: demo.DemoTask) -> None:
    with Writer() as server:
        eyes = server.lm(model="openai/eyes")
        best = compile_with(server, task, describer="lm", description_model=eyes, max_lm_calls=1)
        assert len(server.requests) == 1
    assert best.detailed_results.status == "max_lm_calls"
    assert str(best.template) == "a photo of a <CLASS>."


def test_a_refusal_is_a_failure_and_no_description(task: demo.DemoTask, tmp_path: Path) -> None:
    class Squeamish(Writer):
        def answer(self, body: dict[str, Any]) -> Reply:
            self.looked += bool(images_of(body))
            usual = super().answer(body)
            return Reply("I'm sorry, but I can't view images.") if self.looked in (2, 4) and images_of(body) else usual

        looked = -1  # the connectivity check sends an image

    with Squeamish() as server:
        eyes = server.lm(model="openai/eyes")
        given: dict[str, Any] = {"describer": "lm", "description_model": eyes, "max_described_images": 5}
        best = compile_with(server, task, num_threads=1, log_dir=tmp_path / "run", **given)
        (first, *_) = [text_of(body) for body in server.requests if "Write 3 new" in text_of(body)]
    assert best.detailed_results.status == "finished"
    assert "sorry" not in first
    assert "guess" not in first
    assert first.count("- a grainy pixel art picture") == 3
    refused = "an image could not be described: the model refuses: \"I'm sorry, but I can't view images.\""
    assert faults(tmp_path / "run") == [refused] * 2
    page = write_report(tmp_path / "run").read_text()
    assert 'failures <span class="muted">2</span>' in page


@pytest.mark.parametrize("prefetch", [False, True])
def test_a_budget_that_ends_between_steps_changes_nothing_in_the_end(
    prefetch: bool, task: demo.DemoTask, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"prefetch": prefetch}
    with Writer() as server:
        whole = compile_with(server, task, **options).detailed_results
        calls = whole.calls
    for allowed in (4, calls - 1, None):
        with Writer() as server:
            best = compile_with(server, task, max_lm_calls=allowed, log_dir=tmp_path / "run", **options)
    assert best.detailed_results.trials == whole.trials
    assert best.detailed_results.calls == calls


def test_a_name_that_was_mistyped_does_not_block_its_folder(task: demo.DemoTask, tmp_path: Path) -> None:
    with OpenAIServer({"": Reply("no such model", status=404)}) as server, pytest.raises(LanguageModelError):
        compile_with(server, task, {"model": "openai/tyo"}, log_dir=tmp_path / "run")
    with Writer() as server:
        best = compile_with(server, task, log_dir=tmp_path / "run")
    assert best.detailed_results.status == "finished"
    assert [e["settings"]["prompt_model"] for e in replay(tmp_path / "run") if e["event"] == "run_started"] == [
        "openai/toy"
    ]


def test_descriptions_that_are_all_withheld_stop_it(task: demo.DemoTask) -> None:
    class Blind(Writer):
        def answer(self, body: dict[str, Any]) -> Reply:
            reply = super().answer(body)
            return Reply("", finish_reason="content_filter") if images_of(body) else reply

    with Blind() as server:
        with pytest.raises(NoAnswerError, match="content filter withheld the answer"):
            compile_with(server, task, describer="lm", description_model=server.lm())
        assert sum(bool(images_of(body)) for body in server.requests) == 3


def test_stopping_is_seen_during_descriptions_too(task: demo.DemoTask) -> None:
    class Reports(Writer):
        def answer(self, body: dict[str, Any]) -> Reply:
            if len(self.requests) == 4:
                optimizer.stop()
            return super().answer(body)

    with Reports() as server:
        lm = server.lm()
        optimizer = IPO(prompt_model=lm, description_model=lm, steps=STEPS, num_threads=1)
        best = optimizer.compile(task.program, task.trainset)
        assert len(server.requests) == 5
    assert best.detailed_results.status == "interrupted"


def test_draws_that_an_engine_would_make_one_by_one_are_asked_for_as_singles(task: demo.DemoTask) -> None:
    with Writer() as server:
        lm = dspy.LM("openai/toy", api_base=server.url, api_key=KEY, temperature=1.0)  # DSPy's own engine
        proposer = LMProposer(lm, request_mode="samples")
        best = IPO(proposer=proposer, describer=None, steps=2, prompts_per_step=3, polish=False).compile(
            task.program, task.trainset
        )
        assert best.detailed_results.calls == len(server.requests) == 1 + 2 * 3


def test_a_parallel_request_that_fails_leaves_its_trace(task: demo.DemoTask, tmp_path: Path) -> None:
    with Writer({1: Reply("revoked", status=401)}) as server:
        proposer = LMProposer(server.lm(), request_mode="single", num_threads=1)
        IPO(proposer=proposer, describer=None, steps=1, prompts_per_step=3, log_dir=tmp_path / "run").compile(
            task.program, task.trainset
        )
    (fault,) = faults(tmp_path / "run")
    assert "one of the parallel requests failed" in fault
    assert "revoked" in fault


EMPTY = {
    "all thinking": (
        Reply(message={"role": "assistant", "content": "", "reasoning_content": "hm"}, finish_reason="length"),
        "the token limit was spent on thinking; raise its setting max_tokens, or disable its thinking",
    ),
    "cut before a word": (Reply("", finish_reason="length"), "the token limit was spent on thinking"),
    "thoughts alone": (
        Reply(message={"role": "assistant", "content": None, "reasoning_content": "hm"}),
        "the answer has only reasoning and no text",
    ),
    "a tool's call": (
        Reply(
            message={
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "draw", "arguments": "{}"}}],
            },
            finish_reason="tool_calls",
        ),
        "the answer calls a tool and has no text",
    ),
    "nothing": (Reply(""), "the answer is empty"),
}


@pytest.mark.parametrize("engine", ["litellm", "auto"])
@pytest.mark.parametrize(("reply", "fact"), EMPTY.values(), ids=EMPTY)
def test_an_answer_without_text_says_why(
    reply: Reply, fact: str, engine: str, task: demo.DemoTask, tmp_path: Path
) -> None:
    with Writer({1: reply}) as server:
        lm = dspy.LM("openai/toy", api_base=server.url, api_key=KEY, engine=engine, num_retries=0)
        given: dict[str, Any] = {"steps": 2, "prompts_per_step": COUNT, "describer": None, "prefetch": False}
        IPO(prompt_model=lm, log_dir=tmp_path / "run", **given).compile(task.program, task.trainset)
    (fault,) = faults(tmp_path / "run")
    assert fact in fault


def test_a_pause_that_is_too_long_ends_a_run_with_what_it_has(
    task: demo.DemoTask, undisturbed: tuple[Trial, ...]
) -> None:
    tomorrow = Reply("used up", status=429, headers=(("Retry-After", "86400"),))
    with Writer({2: tomorrow}) as server:
        best = compile_with(server, task, {"num_retries": 3})
        assert server.asked == 3
    assert best.detailed_results.status == "errors"
    assert "the server asks to wait 86400 s" in best.detailed_results.searches[0].fault
    assert best.detailed_results.trials == tuple(trial for trial in undisturbed if trial.step <= 2)


@pytest.mark.end_to_end
@pytest.mark.parametrize("prefetch", [False, True])
def test_a_server_that_falls_silent_ends_a_run_in_its_time(prefetch: bool, task: demo.DemoTask) -> None:
    with Writer(dict.fromkeys(range(1, 9), Reply(delay=100.0))) as server:
        began = time.monotonic()
        best = compile_with(server, task, {"num_retries": 5, "timeout": 90}, max_seconds=1, prefetch=prefetch)
        assert time.monotonic() - began < 80  # far from the 90 s of a request, whatever else this machine does
    assert best.detailed_results.status == "max_seconds"
    assert {trial.step for trial in best.detailed_results.trials} <= {0, 1}

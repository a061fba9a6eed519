"""Limits on tokens and cost hold whatever a server says of usage; over real HTTP, by the requests that it answered."""

import contextlib
import json
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.utils.exceptions import LMError

from helpers.openai_server import HONEST, KEY, MISSING, OpenAIServer, Reply, Writer, text_of
from ipo_dspy import IPO, demo
from ipo_dspy.errors import InputError
from ipo_dspy.lms.requests import ping, request
from ipo_dspy.lms.response_bodies import usual_form
from ipo_dspy.lms.usage import cost_usd, price_of, tokens_in, usage_of

pytestmark = pytest.mark.usefixtures("no_cache")

BAD = {
    "missing": MISSING,
    "null": None,
    "empty": {},
    "a list": [1, 2],
    "zeros": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    "ones": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    "a total alone": {"total_tokens": 500},
    "other names": {"input_tokens": 300, "output_tokens": 30},
    "negative": {"prompt_tokens": -400, "completion_tokens": -20, "total_tokens": -420},
    "fractions": {"prompt_tokens": 300.5, "completion_tokens": 30.5, "total_tokens": 331},
    "texts": {"prompt_tokens": "300", "completion_tokens": "30"},
    "booleans": {"prompt_tokens": True, "completion_tokens": True},
    "2e18": {"prompt_tokens": 2 * 10**18, "completion_tokens": 2 * 10**18, "total_tokens": 4 * 10**18},
    "1e308": {"prompt_tokens": 1e308, "completion_tokens": 1e308, "total_tokens": 1e308},
    "a billion": {"prompt_tokens": 10**9, "completion_tokens": 10**9, "total_tokens": 2 * 10**9},
}


class Says(Writer):
    """Writes templates, and reports the usage that it is given."""

    def __init__(self, usage: Any) -> None:
        super().__init__()
        self.usage = usage

    def answer(self, body: dict[str, Any]) -> Reply:
        return Reply(super().answer(body).text, usage=self.usage)


def run(server: OpenAIServer, task: demo.DemoTask, *, cache: bool = False, **limits: Any) -> Any:
    """A search of 20 steps that a limit is to end."""
    lm = server.lm(model="openai/gpt-4o-mini", cache=cache)
    optimizer = IPO(prompt_model=lm, describer=None, steps=20, prompts_per_step=2, prefetch=False, **limits)
    return optimizer.compile(task.program, task.trainset).detailed_results


@pytest.fixture(scope="module")
def honest(task: demo.DemoTask) -> tuple[int, int]:
    """Requests of a run of at most 1,000 tokens where the server counts as it should, and the tokens it counted."""
    with Says(HONEST) as server:
        results = run(server, task, max_tokens=1000)
        assert (results.status, results.spent.estimated) == ("max_tokens", 0)
        assert results.tokens == server.tokens
        return len(server.requests), server.tokens


@pytest.mark.end_to_end
@pytest.mark.parametrize("usage", BAD.values(), ids=BAD)
def test_a_limit_on_tokens_holds_whatever_a_server_says(
    usage: Any, task: demo.DemoTask, honest: tuple[int, int]
) -> None:
    with Says(usage) as server:
        results = run(server, task, max_tokens=1000)
        assert len(server.requests) == honest[0]
        assert results.tokens == pytest.approx(server.tokens, rel=0.2)
    assert results.status == "max_tokens"
    assert results.calls == honest[0]
    assert results.spent.estimated >= honest[0] - 1  # of the ping, one token may be true
    assert "tokens (estimated)" in repr(results.spent)


@pytest.mark.end_to_end
@pytest.mark.parametrize("usage", BAD.values(), ids=BAD)
def test_a_limit_on_cost_holds_whatever_a_server_says(usage: Any, task: demo.DemoTask, honest: tuple[int, int]) -> None:
    allowed = cost_usd("openai/gpt-4o-mini", 1000, 50)
    with Says(usage) as server:
        results = run(server, task, max_cost=allowed)
        assert len(server.requests) <= honest[0] + 1
    assert results.status == "max_cost"
    assert allowed is not None
    assert allowed <= results.spent.cost < 2 * allowed


def test_requests_count_where_no_usage_is_sent_and_dspy_keeps_a_cache(task: demo.DemoTask) -> None:
    with Says(MISSING) as server:
        results = run(server, task, cache=True, max_lm_calls=4)
        assert (len(server.requests), results.calls) == (4, 4)


class Entry(dict[str, Any]):
    """A record of DSPy's of a request of 400 letters and an answer of 40."""

    def __init__(self, usage: Any, **more: Any) -> None:
        given = {"messages": [{"role": "user", "content": "look " * 80}], "outputs": ["dark " * 8], "usage": usage}
        super().__init__({**given, **more})


def counts(prompt: Any, completion: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion}


LM = dspy.LM("openai/toy", engine="litellm", api_key=KEY)
SENT, WRITTEN = tokens_in("look " * 80), tokens_in("dark " * 8)


@pytest.mark.parametrize(
    ("said", "taken", "estimated"),
    [
        (counts(SENT, WRITTEN), (SENT, WRITTEN), False),
        (counts(SENT // 8 + 1, 2), (SENT // 8 + 1, 2), False),  # another tokenizer
        (counts(SENT // 8 - 1, 2), (SENT, 2), True),  # far below the text
        (counts(400 + 10_000, WRITTEN), (400 + 10_000, WRITTEN), False),  # a long system prompt
        (counts(400 + 10_001, WRITTEN), (SENT, WRITTEN), True),
        (counts(SENT, 1_000_000), (SENT, 1_000_000), False),  # thoughts that are not shown
        (counts(SENT, 1_000_001), (SENT, WRITTEN), True),
        (counts(SENT, 0), (SENT, WRITTEN), True),
    ],
)
def test_the_border_of_what_can_be_true(said: dict[str, int], taken: tuple[int, int], estimated: bool) -> None:
    found = usage_of(LM, Entry(said))
    assert (found.prompt_tokens, found.completion_tokens, found.estimated) == (*taken, estimated)


def test_a_limit_on_an_answer_is_one_on_its_usage() -> None:
    lm = LM.copy(max_tokens=50)
    assert not usage_of(lm, Entry(counts(SENT, 1200))).estimated
    assert usage_of(lm, Entry(counts(SENT, 1201))).completion_tokens == WRITTEN
    assert not usage_of(lm, Entry(counts(SENT, 2400), outputs=["dark " * 8, "a cat"])).estimated  # two completions


def test_images_and_thoughts_count() -> None:
    picture = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    plain, seen = (
        usage_of(LM, Entry({}, messages=[{"role": "user", "content": content}])) for content in ("look", picture)
    )
    assert seen.prompt_tokens - plain.prompt_tokens == 765
    thought = usage_of(LM, Entry({}, outputs=[{"text": None, "reasoning_content": "a few words of thought"}]))
    assert thought.completion_tokens == tokens_in("a few words of thought")


@pytest.mark.parametrize("cost", [None, 0, -5.0, float("nan"), float("inf"), 1e308, 3.75e12, 1e-15])
def test_a_cost_far_from_the_price_is_not_believed(cost: Any) -> None:
    lm = dspy.LM("openai/gpt-4o-mini", engine="litellm", api_key=KEY)
    said = counts(SENT, WRITTEN)
    assert usage_of(lm, Entry(said, cost=cost)).cost == cost_usd(lm.model, SENT, WRITTEN)
    discount = (cost_usd(lm.model, SENT, WRITTEN) or 0) / 2
    assert usage_of(lm, Entry(said, cost=discount)).cost == discount


def test_what_is_estimated_is_priced_by_the_rates_of_the_model() -> None:
    lm = dspy.LM("openai/my-own", engine="litellm", input_cost_per_token=1e-3, output_cost_per_token=1e-2)
    found = usage_of(lm, Entry({}))
    assert found.cost == pytest.approx(SENT * 1e-3 + WRITTEN * 1e-2)
    assert price_of(LM, 1, 1) is None


def test_long_texts_are_counted_in_time() -> None:
    assert tokens_in("x" * 2_000_000) == pytest.approx(2_000_000 / 8, rel=0.5)
    assert tokens_in("word " * 400_000) == pytest.approx(400_000, rel=0.1)


@pytest.mark.parametrize("engine", ["litellm", "auto"])
@pytest.mark.parametrize("usage", BAD.values(), ids=BAD)
def test_no_usage_gives_budget_back(usage: Any, engine: str) -> None:
    with OpenAIServer({"": Reply("ready", usage=usage)}) as server:
        lm = dspy.LM("openai/toy", api_base=server.url, api_key=KEY, engine=engine, num_retries=0)
        answers = []
        with contextlib.suppress(LMError):  # DSPy's own client refuses some
            answers.append(ping(lm))
        assert answers or engine == "auto"
        for answer in answers:
            assert answer.calls == 1
            assert answer.prompt_tokens >= 1
            assert answer.completion_tokens >= 1
        assert "ready" in text_of(server.requests[0])


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "a dark <CLASS>"}, {"type": "text", "text": "."}], "a dark <CLASS>."),
        (["a ", "<CLASS>."], "a <CLASS>."),
        ([{"type": "thinking", "thinking": []}, {"type": "text", "text": "a <CLASS>."}], "a <CLASS>."),
        ([], ""),
        (None, None),
    ],
)
def test_content_as_parts_is_an_answer(content: Any, text: str | None) -> None:
    body = json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode()
    assert json.loads(usual_form(body))["choices"][0]["message"]["content"] == text


def test_a_run_reads_content_that_comes_in_parts(task: demo.DemoTask) -> None:
    class Parts(Writer):
        def answer(self, body: dict[str, Any]) -> Reply:
            text = super().answer(body).text
            parts = [{"type": "text", "text": text[:9]}, {"type": "text", "text": text[9:]}]
            return Reply(text, message={"role": "assistant", "content": parts})

    with Parts() as server:
        results = run(server, task, max_lm_calls=3)
    assert len(results.trials) > 1
    assert dict(results.rejections) == {}


@pytest.mark.parametrize(
    "rates",
    [
        {"input_cost_per_token": 1e-6},
        {"output_cost_per_token": 1e-6},
        {"input_cost_per_token": 1e-6, "output_cost_per_token": -1.0},
        {"input_cost_per_token": "free", "output_cost_per_token": 0},
        {"input_cost_per_token": float("nan"), "output_cost_per_token": 0},
    ],
)
def test_rates_that_name_no_price_are_refused(rates: dict[str, Any], task: demo.DemoTask) -> None:
    lm = dspy.LM("openai/my-own", engine="litellm", api_key=KEY, **rates)
    with pytest.raises(InputError, match="pass both input_cost_per_token and output_cost_per_token"):
        IPO(prompt_model=lm, max_cost=1.0).check_models()


@pytest.mark.parametrize("usage", [HONEST, MISSING], ids=["honest", "missing"])
def test_an_answer_from_the_cache_costs_nothing_and_none_else_is_taken_for_one(usage: Any, tmp_path: Path) -> None:
    dspy.configure_cache(enable_disk_cache=True, enable_memory_cache=False, disk_cache_dir=str(tmp_path))
    with OpenAIServer({"": Reply("a text", usage=usage)}) as server:
        calls = [
            request(
                server.lm(cache=True),
                dspy.ChatAdapter(use_json_adapter_fallback=False),
                dspy.Signature("q -> a"),
                {"q": "x"},
                field="a",
                read=all_of,
            )
            for _ in range(2)
        ]
        assert len(server.requests) == 1
    assert [(answer.calls, answer.texts) for answer in calls] == [(1, ("a text",)), (0, ("a text",))]
    assert calls[1].prompt_tokens == calls[1].completion_tokens == calls[1].estimated == 0


def all_of(completion: str, cut: bool) -> list[str]:
    return [completion]

"""The dry run: what it expects is close to what a run then costs, and it asks nothing."""

from typing import Any

import dspy
import pytest

from helpers.openai_server import Writer, text_of
from ipo_dspy import IPO, LMProposer, demo
from ipo_dspy.describers import LMDescriber
from ipo_dspy.lms.usage import cost_usd

pytestmark = pytest.mark.usefixtures("no_cache")


@pytest.mark.parametrize("asking", ["batch", "single", "samples"])
def test_it_expects_the_calls_that_a_run_makes(asking: Any) -> None:
    task = demo.load("pixel-animals", shots=1)
    with Writer() as server:
        lm = server.lm()
        given: dict[str, Any] = {"steps": 3, "prompts_per_step": 2, "max_described_images": 4}
        optimizer = IPO(proposer=LMProposer(lm, request_mode=asking), description_model=lm, **given)
        expected = optimizer.estimate(task.program, task.trainset)
        assert server.requests == []
        spent = optimizer.compile(task.program, task.trainset).detailed_results.spent
        asked = [text_of(body) for body in server.requests if "Write" in text_of(body)]
    # A step of "draws" is one request; this server ignores n and gives one completion.
    assert expected.total.calls == spent.calls == len(server.requests)
    (templates,) = (item for item in expected.items if item.what == "templates")
    assert 0.8 * max(map(len, asked)) / 4 <= templates.prompt_tokens / templates.calls
    assert templates.prompt_tokens / templates.calls <= 3000
    assert expected.total.unpriced == expected.total.calls


def test_prices_are_those_of_litellm_and_an_unknown_one_is_said() -> None:
    task = demo.load("pixel-animals", shots=1)
    lm = dspy.LM("openai/gpt-3.5-turbo", api_key="none", engine="litellm")
    expected = IPO(prompt_model=lm, steps=10).estimate(task.program, task.trainset)
    total = expected.total
    assert total.unpriced == 0
    assert total.cost == pytest.approx(cost_usd("openai/gpt-3.5-turbo", total.prompt_tokens, total.completion_tokens))
    assert cost_usd("openai/a-model-of-ones-own", 1, 1) is None
    assert cost_usd("transformers/a-directory", 1, 1) == 0.0


def test_without_a_language_model_nothing_is_expected() -> None:
    task = demo.load("pixel-animals", shots=1)
    assert IPO(proposer="evolution").estimate(task.program, task.trainset).items == ()


def test_a_summary_is_not_asked_for_and_counted() -> None:
    task = demo.load("pixel-animals", shots=2)
    with Writer() as server:
        lm = server.lm()
        proposer = LMProposer(lm, descriptions="summary", description_tokens=20)
        estimate = IPO(proposer=proposer, description_model=lm, steps=3).estimate(task.program, task.trainset)
        assert server.requests == []
    assert [(item.what, item.calls) for item in estimate.items if item.what == "summary"] == [("summary", 1)]


def test_rates_of_a_model_price_its_estimate() -> None:
    task = demo.load("pixel-animals", shots=1)
    rates = {"input_cost_per_token": 1e-3, "output_cost_per_token": 1e-3}
    lm = dspy.LM("openai/my-own", engine="litellm", api_key="none", **rates)
    total = IPO(prompt_model=lm, steps=3).estimate(task.program, task.trainset).total
    assert total.cost == pytest.approx(total.tokens * 1e-3)


def test_a_model_inside_a_describer_is_counted_as_one_that_is_named() -> None:
    task = demo.load("pixel-animals", shots=1)
    lm = dspy.LM("openai/gpt-4o-mini", engine="litellm", api_key="none")
    inside = IPO(proposer="evolution", describer=LMDescriber(lm)).estimate(task.program, task.trainset)
    named = IPO(proposer="evolution", description_model=lm).estimate(task.program, task.trainset)
    assert inside == named
    assert inside.total.calls > 1


def test_an_estimate_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    task = demo.load("pixel-animals", shots=1)
    optimizer = IPO(prompt_model="openai/gpt-4o-mini", description_model="openai/gpt-4o-mini", steps=3)
    assert optimizer.estimate(task.program, task.trainset).total.calls > 3

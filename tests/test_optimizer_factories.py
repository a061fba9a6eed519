"""Arguments that name models: what contradicts itself is refused, and a model inside an object is seen like a name."""

from typing import Any

import dspy
import pytest

from ipo_dspy import IPO, LMProposer
from ipo_dspy.describers import LMDescriber
from ipo_dspy.errors import InputError, LanguageModelError


def model(**settings: Any) -> dspy.LM:
    return dspy.LM("openai/my-own", engine="litellm", **{"api_key": "none", **settings})


@pytest.fixture(autouse=True)
def _no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_BASE", raising=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"prompt_model": "openai/gpt-4o-mini", "proposer": "evolution"},
            r"prompt_model must be None beside proposer='evolution', .* got 'openai/gpt-4o-mini'; leave one",
        ),
        (
            {"prompt_model": "openai/gpt-4o-mini", "proposer": LMProposer(model())},
            r"prompt_model must be None beside proposer=LMProposer",
        ),
        (
            {"description_model": model(), "describer": "clip"},
            r"description_model must be None beside describer='clip', .* got 'openai/my-own'",
        ),
        ({"description_model": model(), "describer": None}, r"description_model must be None beside describer=None"),
        (
            {"description_model": model(), "describer": LMDescriber(model())},
            r"description_model must be None beside describer=LMDescriber",
        ),
    ],
)
def test_a_model_that_nobody_would_ask_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        IPO(**{"proposer": "evolution", **arguments} if "prompt_model" not in arguments else arguments).check_models()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"proposer": LMProposer()}, r"LMProposer\(\) has no language model to ask; pass LMProposer\(dspy\.LM"),
        (
            {"proposer": "evolution", "describer": LMDescriber()},
            r"LMDescriber\(\) has no language model to ask; pass LMDescriber\(dspy\.LM",
        ),
    ],
)
def test_an_object_without_a_model_is_refused_before_anything_is_done(arguments: dict[str, Any], message: str) -> None:
    with dspy.context(lm=None), pytest.raises(LanguageModelError, match=message):
        IPO(**arguments).check_models()
    lm = model()
    with dspy.context(lm=lm):
        assert list(IPO(**arguments).check_models().values()) == [lm]


def test_a_model_inside_a_describer_meets_every_check() -> None:
    free = IPO(proposer="evolution", describer=LMDescriber(model()))
    assert list(free.check_models()) == ["description_model"]
    with pytest.raises(InputError, match=r"max_cost=1 cannot be kept: LiteLLM has no price for description_model"):
        IPO(proposer="evolution", describer=LMDescriber(model()), max_cost=1.0).check_models()
    with pytest.raises(LanguageModelError, match="description_model='openai/my-own' needs a key"):
        IPO(proposer="evolution", describer=LMDescriber(model(api_key=None))).check_models()
    assert IPO(proposer="evolution", describer=LMDescriber(model()), max_descriptions=0).check_models() == {}

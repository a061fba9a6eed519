"""Arguments that name models: what contradicts itself is refused, and a model inside an object is seen like a name."""

import re
from typing import Any

import dspy
import pytest

from ipo_dspy import IPO, LMProposer, demo
from ipo_dspy.describers import Descriptions, LMDescriber
from ipo_dspy.errors import InputError, LanguageModelError
from ipo_dspy.proposers import ProposalRequest, Proposals


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
            r"prompt_model must be None with proposer='evolution', .* got 'openai/gpt-4o-mini'; pass one of the two",
        ),
        (
            {"prompt_model": "openai/gpt-4o-mini", "proposer": LMProposer(model())},
            r"prompt_model must be None with proposer=LMProposer",
        ),
        (
            {"description_model": model(), "describer": "clip"},
            r"description_model must be None with describer='clip', .* got 'openai/my-own'",
        ),
        ({"description_model": model(), "describer": None}, r"description_model must be None with describer=None"),
        (
            {"description_model": model(), "describer": LMDescriber(model())},
            r"description_model must be None with describer=LMDescriber",
        ),
        (
            {"description_model": model(), "optimize": "class_texts", "candidates": {"crane": "crane bird"}},
            r"description_model must be None if templates are not searched, got 'openai/my-own'; omit it, or pass opt",
        ),
    ],
)
def test_a_model_that_nobody_would_ask_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        IPO(**{"proposer": "evolution", **arguments} if "prompt_model" not in arguments else arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"proposer": LMProposer()}, r"LMProposer\(\) has no language model; pass LMProposer\(dspy\.LM"),
        (
            {"proposer": "evolution", "describer": LMDescriber()},
            r"LMDescriber\(\) has no language model; pass LMDescriber\(dspy\.LM",
        ),
    ],
)
def test_an_object_without_a_model_is_refused_before_anything_is_done(arguments: dict[str, Any], message: str) -> None:
    with dspy.context(lm=None), pytest.raises(LanguageModelError, match=message):
        IPO(**arguments).check_models()
    lm = model()
    with dspy.context(lm=lm):
        assert list(IPO(**arguments).check_models().values()) == [lm]


@pytest.mark.parametrize(
    ("made", "arguments", "message"),
    [
        (
            LMProposer,
            {"lm": "openai/toy"},
            "lm must be a dspy.BaseLM or None, got 'openai/toy'; for example lm=dspy.LM",
        ),
        (LMDescriber, {"lm": 5}, "lm must be a dspy.BaseLM or None, got 5"),
        (LMProposer, {"num_threads": -1}, "num_threads must be an integer of at least 1, got -1"),
        (LMDescriber, {"num_threads": -1}, "num_threads must be an integer of at least 1, got -1"),
        (LMProposer, {"description_tokens": -1}, "description_tokens must be an integer of at least 0, got -1"),
        (LMDescriber, {"longest_side": 0}, "longest_side must be an integer of at least 1, got 0"),
        (LMDescriber, {"max_consecutive_errors": 0}, "max_consecutive_errors must be an integer of at least 1, got 0"),
        (LMDescriber, {"allow_url": "no"}, "allow_url must be True or False, got 'no'"),
    ],
)
def test_wrong_arguments_are_refused_when_an_object_is_made(
    made: type[LMProposer] | type[LMDescriber], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        made(**arguments)


def test_a_model_inside_a_describer_meets_every_check() -> None:
    free = IPO(proposer="evolution", describer=LMDescriber(model()))
    assert list(free.check_models()) == ["description_model"]
    with pytest.raises(
        InputError, match=r"max_cost cannot be enforced: LiteLLM has no price for .* description_model="
    ):
        IPO(proposer="evolution", describer=LMDescriber(model()), max_cost=1.0).check_models()
    with pytest.raises(LanguageModelError, match="description_model 'openai/my-own' needs a key"):
        IPO(proposer="evolution", describer=LMDescriber(model(api_key=None))).check_models()
    assert IPO(proposer="evolution", describer=LMDescriber(model()), max_described_images=0).check_models() == {}


class OwnProposer:
    """A caller's proposer that asks a language model."""

    def __init__(self, lm: dspy.BaseLM) -> None:
        self.lm = lm

    def propose(self, ask: ProposalRequest) -> Proposals:
        raise NotImplementedError


class OwnDescriber:
    """A caller's describer that asks a language model."""

    def __init__(self, lm: dspy.BaseLM) -> None:
        self.lm = lm

    def describe(self, images: Any, class_names: Any, *, once: Any = None) -> Descriptions:
        raise NotImplementedError


def test_a_model_inside_an_object_of_the_callers_own_meets_every_check() -> None:
    arguments: dict[str, Any] = {"proposer": OwnProposer(model()), "describer": OwnDescriber(model())}
    assert list(IPO(**arguments).check_models()) == ["prompt_model", "description_model"]
    with pytest.raises(
        InputError,
        match=r"max_cost cannot be enforced: LiteLLM has no price for 'openai/my-own'; pass .*prompt_model=",
    ):
        IPO(**arguments, max_cost=1.0).check_models()
    with pytest.raises(LanguageModelError, match="description_model 'openai/my-own' needs a key"):
        IPO(proposer="evolution", describer=OwnDescriber(model(api_key=None))).check_models()
    task = demo.load("pixel-animals", shots=1)
    items = IPO(**arguments, max_described_images=4).estimate(task.program, task.trainset).items
    assert [(item.what, item.calls) for item in items if item.what == "descriptions"] == [("descriptions", 4)]

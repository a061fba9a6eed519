"""`/v1/systemone`: decisions of a server are those of a decider in this process."""

import asyncio
import functools
import importlib.util
from typing import Any, Literal

import dspy
import httpx
import pytest
from dspy.experimental import Choice, Noul

from helpers.serving import ask, serving
from ipo_dspy import ClipDecider
from ipo_dspy.clip.image_features import open_image
from ipo_dspy.demo import DemoTask

ANIMAL: Any = Choice[("cat", None), ("cow", ["cow", "bull"]), ("duck", "water bird")]


FLIES: Any = Noul[(True, "bird"), (False, "mammal")]


class Look(dspy.Signature):
    """pixel art of a <CLASS>."""

    image: dspy.Image = dspy.InputField()
    animal: ANIMAL = dspy.OutputField(desc="the animal")
    name: Literal["bat", "bear"] = dspy.OutputField(desc="a name")
    flies: FLIES = dspy.OutputField(desc="a drawing of a <CLASS>.")


class Wire:
    """Sends what DSPy asks a decision client as `TypeSafe` sends it."""

    supports_decision_requests = True

    def __init__(self, client: httpx.Client) -> None:
        self.client = client

    def __call__(self, state: Any, questions: Any) -> Any:
        body = {"model": "jev-latest", "state": state, "questions": questions}
        response = self.client.post("/v1/systemone", json=body).raise_for_status().json()
        assert set(response) == {"model", "answers", "usage"}
        assert [answer["type"] for answer in response["answers"].values()] == ["choice", "choice", "noul"]
        return response["answers"]


def test_decisions_are_those_of_a_decider(client: httpx.Client, task: DemoTask) -> None:
    image = dspy.Image(open_image(task.testset[0].image))
    local = dspy.Predict(Look)(image=image, lm=ClipDecider("demo"))
    remote = dspy.Predict(Look)(image=image, lm=Wire(client))
    assert remote.animal.value == local.animal.value
    assert remote.animal.probabilities == pytest.approx(local.animal.probabilities, abs=1e-5)
    assert remote.flies.probability == pytest.approx(local.flies.probability, abs=1e-5)
    assert remote.name == local.name


@pytest.mark.skipif(importlib.util.find_spec("typesafe_sdk") is None, reason="typesafe-sdk is not installed")
@pytest.mark.usefixtures("no_cache")
def test_typesafe_talks_to_a_clip(task: DemoTask) -> None:
    image = dspy.Image(open_image(task.testset[0].image))
    stars = {"stars": {"type": "score", "instructions": "stars", "criteria": ["bad", "good"]}}
    local = dspy.Predict(Look)(image=image, lm=ClipDecider("demo"))
    with serving(task.program, token="a-token-of-ours") as client:
        connect = functools.partial(dspy.experimental.TypeSafe, base_url=str(client.base_url), cache=False)
        remote = dspy.Predict(Look)(image=image, lm=connect(api_key="a-token-of-ours"))
        awaited = asyncio.run(dspy.Predict(Look).acall(image=image, lm=connect(api_key="a-token-of-ours")))
        with pytest.raises(Exception, match="Authorization: Bearer"):
            dspy.Predict(Look)(image=image, lm=connect(api_key="another"))
        with pytest.raises(Exception, match="instead of a Score use a Choice"):
            connect(api_key="a-token-of-ours")({"inputs": {"image": image.url}}, stars)
    assert remote.animal.probabilities == pytest.approx(local.animal.probabilities, abs=1e-5)
    assert awaited.animal.probabilities == pytest.approx(local.animal.probabilities, abs=1e-5)


def test_a_question_without_a_template_is_answered_with_that_of_the_program(task: DemoTask) -> None:
    program = task.program.deepcopy()
    program.template = "a drawing of a <CLASS>."
    question = {"animal": {**ask()["questions"]["animal"], "instructions": "a drawing of a <CLASS>."}}
    with serving(program) as client:
        responses = [client.post("/v1/systemone", json=body).json() for body in (ask(), ask(questions=question))]
    assert responses[0] == responses[1]
    assert set(responses[0]["answers"]["animal"]["probabilities"]) == {"cat", "dog"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (ask(state="a text"), "the state must be an object"),
        (ask(questions={}), "the questions must be an object"),
        (ask(questions={"a": "cat"}), "the questions must be an object"),
        (ask(state={"inputs": {}}), "a decision by CLIP is about one image, got 0"),
        (ask(state={"inputs": {"image": "data:image/png;base64,é"}}), "the image must be an image as base64"),
        (ask(state={"inputs": {"image": "data:image/png;base64,AAAA"}}), "cannot be read as an image"),
        (ask(questions={"a": {"type": "score", "criteria": ["bad", "good"]}}), "instead of a Score use a Choice"),
        (ask(questions={"a": {"type": "noul"}}), "'a' must have criteria for both outcomes"),
        (ask(questions={"a": {"type": "choice", "criteria": {"x": {"deep": 1}, "y": None}}}), ""),
        (ask(questions={"a": {"type": "choice", "criteria": {"x": "long " * 500, "y": None}}}), ""),
        (ask(questions={"a": {"type": "choice", "criteria": {f"c{i}": None for i in range(1001)}}}), "at most 1000"),
        (ask(questions={"a": {"type": "choice", "criteria": {"x": ["y"] * 1001}}}), "at most 1000"),
        (ask(state={**ask()["state"], "instructions": "a <CLASS>.\n" * 501}), "at most 1000 prompts, got 1002"),
    ],
)
def test_wrong_decisions_are_refused(client: httpx.Client, body: dict[str, Any], message: str) -> None:
    response = client.post("/v1/systemone", json=body)
    assert 400 <= response.status_code < 500
    assert set(response.json()) == {"error"}
    assert message in response.json()["error"]


def test_an_image_on_the_network_is_not_fetched(client: httpx.Client) -> None:
    body = ask()
    image = dspy.Image(url="http://127.0.0.1:9/cat.png")
    body["state"]["inputs"]["image"] = image.model_dump(mode="json")
    response = client.post("/v1/systemone", json=body)
    assert (response.status_code, "URLs are not fetched" in response.json()["error"]) == (400, True)

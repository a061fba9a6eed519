"""The endpoints of a server give the answers of its classifier, to clients that are not ours."""

import base64
import re
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from helpers.serving import ask, files, png, samples, serving
from ipo_dspy import ClipClassifier, demo
from ipo_dspy.demo import DemoTask
from ipo_dspy.errors import DataError
from ipo_dspy.serve.app import create_app


@pytest.mark.parametrize("form", ["form", "base64", "data URI"])
def test_images_get_the_answers_of_the_classifier(client: httpx.Client, task: DemoTask, form: str) -> None:
    images = [png(task, i) for i in range(3)]
    texts = [base64.b64encode(image).decode() for image in images]
    if form == "form":
        response = client.post("/classify", files=files(*images))
    else:
        prefix = "data:image/png;base64," if form == "data URI" else ""
        response = client.post("/classify", json={"images": [prefix + text for text in texts]})
    assert response.status_code == 200
    results = response.json()["results"]
    for image, result in zip(images, results, strict=True):
        expected = task.program(image=image)
        assert result["label"] == expected.label
        assert result["confidence"] == pytest.approx(expected.confidence, abs=1e-5)
        assert list(result["scores"]) == list(expected.scores)
        assert result["scores"] == pytest.approx(expected.scores, abs=1e-5)


@pytest.mark.parametrize("has_unknown", [False, True])
def test_a_threshold_and_class_weights_are_applied(task: DemoTask, has_unknown: bool) -> None:
    rule: Any = {"unknown": task.testset[::50], "coverage": 0.5} if has_unknown else {"threshold": 0.5}
    calibrated = task.program.calibrate(task.testset[::20], **rule, unknown_label="other")
    images = [png(task, i) for i in range(0, 600, 40)]
    with serving(calibrated) as client:
        results = client.post("/classify", files=files(*images)).json()["results"]
        program = client.get("/program").json()
    assert program["threshold"] == calibrated.class_weights().threshold
    assert program["threshold_score"] == ("in_distribution" if has_unknown else "confidence")
    expected = [calibrated(image=image) for image in images]
    assert [result["label"] for result in results] == [each.label for each in expected]
    assert "other" in [each.label for each in expected]
    assert [r["confidence"] for r in results] == pytest.approx([e.confidence for e in expected], abs=1e-5)


def test_the_program_and_its_page_are_shown(client: httpx.Client, task: DemoTask) -> None:
    program = client.get("/program").json()
    identity = task.program.class_weights().model
    assert program == {
        "template": str(task.program.template),
        "classes": list(task.classes),
        "model": "demo",
        "pretrained": identity["pretrained"],
        "fingerprint": identity["fingerprint"],
        "threshold": 0.0,
        "threshold_score": "confidence",
    }
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert client.get("/page.js").headers["content-type"].startswith("text/javascript")
    assert client.get("/healthz").json() == {"status": "ready"}


def test_no_endpoint_shows_where_the_model_lies(task: DemoTask, tmp_path: Path) -> None:
    shutil.copytree(demo.model_path(), tmp_path / "secret-folder" / "my-clip")
    program = ClipClassifier(task.classes, model=f"local-dir:{tmp_path}/secret-folder/my-clip")
    with serving(program) as client:
        answers = [client.get(path) for path in ("/program", "/healthz", "/metrics", "/docs", "/openapi.json", "/")]
        answers.append(client.post("/v1/systemone", json=ask()))
    assert [answer.status_code for answer in answers] == [200] * len(answers)
    assert [answers[i].json()["model"] for i in (0, -1)] == ["my-clip", "my-clip"]
    assert not [answer.url for answer in answers if "secret-folder" in answer.text + str(answer.headers)]


def test_the_interface_is_described(client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()
    assert {"/classify", "/v1/systemone", "/program", "/healthz", "/metrics"} == set(described["paths"])
    assert set(described["paths"]["/classify"]["post"]["requestBody"]["content"]) == {
        "multipart/form-data",
        "application/json",
    }


def test_unknown_endpoints_and_methods_are_refused(client: httpx.Client) -> None:
    assert client.get("/nothing").status_code == 404
    assert client.get("/nothing").json()["error"] == "no such endpoint; /openapi.json lists the endpoints"
    wrong = client.get("/classify")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert wrong.json()["error"].startswith("no GET here")
    assert samples(client)["ipo_dspy_requests_total", "other", "404"] >= 2


def test_the_page_of_the_endpoints_loads_nothing_from_elsewhere(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    linked = re.findall(r'(?:href|src)="(?!data:)(.*?)"', page.text)
    assert sorted(linked) == ["api.js", "swagger-ui-bundle.js", "swagger-ui.css"]
    types = {name: client.get(f"/{name}").headers["content-type"].partition(";")[0] for name in linked}
    assert types == {name: "text/css" if name.endswith(".css") else "text/javascript" for name in linked}


def test_a_program_without_classes_is_refused() -> None:
    with pytest.raises(DataError, match="a program without class names cannot be served"):
        create_app(ClipClassifier(model="demo"))

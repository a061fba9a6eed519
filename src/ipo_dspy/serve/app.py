"""The endpoints of a classifier: images in, labels out.

Everything that a client sends is bounded (`serve.limits`), URLs are not fetched, and no image touches the disk. Images
of all requests that wait are encoded together (`serve.batches`). An image that cannot be read is the error of that
image; the others are answered.

Letters: N images, C classes, D width of the features.
"""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from ipo_dspy import __version__
from ipo_dspy.clip.model_spec import name_alone, names_alone
from ipo_dspy.decisions import Question, answer_questions, find_image, parse_question
from ipo_dspy.errors import DataError, ImageError, InputError
from ipo_dspy.serve.batches import Features, ImageEncoder
from ipo_dspy.serve.bodies import BodyReader, decode_image, read_images, read_json
from ipo_dspy.serve.errors import RequestError, busy
from ipo_dspy.serve.limits import Limits
from ipo_dspy.serve.middleware import Gate
from ipo_dspy.serve.monitoring import Monitor
from ipo_dspy.serve.static_files import api_page, static_files

if TYPE_CHECKING:
    from ipo_dspy.classifier import ClipClassifier
    from ipo_dspy.template import Template

MAX_PROMPTS = 1000
"""Texts of all options in one request to `/v1/systemone`, times the lines of the templates: each is encoded."""
_T = TypeVar("_T")


class Result(BaseModel):
    """The answer for one image, or the reason for having none."""

    label: str | None = None
    labels: list[str] | None = None
    confidence: float | None = None
    scores: dict[str, float] | None = None
    error: str | None = None


class Results(BaseModel):
    """The answers for all images of a request, in their order."""

    results: list[Result]


class Fault(BaseModel):
    """The reason for refusing a request."""

    error: str


class Files(BaseModel):
    """Images as files of a form."""

    files: list[bytes]


class Images(BaseModel):
    """Images as base64 or as data URIs with base64."""

    images: list[str]


class Questions(BaseModel):
    """Decisions about an image, as DSPy's `TypeSafe` asks for them."""

    model: str = ""
    state: dict[str, Any]
    questions: dict[str, Any]


def _body(**models: type[BaseModel]) -> dict[str, Any]:
    """Return the description of a body that is read here, not by FastAPI, by its content type."""
    types = {"form": "multipart/form-data", "json": "application/json"}
    content = {types[name]: {"schema": model.model_json_schema()} for name, model in models.items()}
    return {"requestBody": {"required": True, "content": content}}


_FAULTS: dict[int | str, dict[str, Any]] = {status: {"model": Fault} for status in (400, 401, 408, 413, 415, 422, 503)}


def create_app(classifier: "ClipClassifier", *, limits: Limits | None = None, token: str | None = None) -> FastAPI:
    """Return the ASGI application of a classifier, for this or any other ASGI server.

    Args:
        classifier: its model is loaded, and its classes are encoded, before this returns.
        limits: limits of requests.
        token: what clients must send as `Authorization: Bearer TOKEN`, except for the page and `/healthz`. Without one,
            requests that name another host than this machine, or come from a page of another site, are refused.

    Raises:
        DataError: the classifier has no class names.
        TemplateError: its instructions are not a template.
        ModelError: its model cannot be loaded.
    """
    prepare(classifier)
    service = _Service(classifier, limits or Limits())
    app = FastAPI(title="ipo-dspy", version=__version__, docs_url=None, redoc_url=None, lifespan=service.lifespan)

    @app.post("/classify", responses={200: {"model": Results}, **_FAULTS}, openapi_extra=_body(form=Files, json=Images))
    async def classify(request: Request) -> Response:
        """Classify images: files of a form, or base64 texts in JSON."""
        return await service.classify(request)

    @app.post("/v1/systemone", responses=_FAULTS, openapi_extra=_body(json=Questions))
    async def system_one(request: Request) -> Response:
        """Answer decisions about one image, as DSPy's `TypeSafe` asks for them."""
        return await service.system_one(request)

    @app.get("/program")
    async def program() -> Response:
        """Return the template, the classes, the model, and the score below which an image is unknown."""
        weights = service.weights
        program = {"template": "\n".join(weights.template), "classes": list(weights.labels)}
        model = {**names_alone(weights.model), "fingerprint": weights.model["fingerprint"]}
        limit = {"threshold": weights.threshold, "threshold_score": weights.threshold_score}
        return JSONResponse({**program, **model, **limit})

    @app.get("/healthz")
    async def healthz() -> Response:
        """Return `{"status": "ready"}`: the server answers only when its model is loaded."""
        return JSONResponse({"status": "ready"})

    @app.get("/metrics")
    async def metrics() -> Response:
        """Return counts, durations, and sizes of batches for Prometheus."""
        return Response(service.monitor.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    open_paths = {"/healthz", "/openapi.json"}
    for path, file in (static_files("page") | api_page()).items():
        response = functools.partial(Response, file.content, media_type=file.media_type)
        app.get(f"/{path}", include_in_schema=False)(_always(response))
        open_paths.add(f"/{path}")
    app.exception_handler(RequestError)(_refused)
    app.exception_handler(HTTPException)(_not_served)
    app.exception_handler(Exception)(_failed)
    app.add_middleware(Gate, monitor=service.monitor, token=token, open_paths=frozenset(open_paths))
    return app


def prepare(classifier: "ClipClassifier") -> None:
    """Load the model of a classifier and encode its classes; raises as `create_app`."""
    if classifier.classes is None:
        raise DataError("a program without class names cannot be served; save it with ClipClassifier(classes=[...])")
    classifier.warm_up()


def _always(response: Callable[[], Response]) -> Callable[[], Awaitable[Response]]:
    async def endpoint() -> Response:
        return response()

    return endpoint


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return error.response()


async def _not_served(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = {404: "no such endpoint", 405: f"no {request.method} here"}.get(error.status_code, str(error.detail))
    return RequestError(error.status_code, f"{message}; /openapi.json lists the endpoints", error.headers).response()


async def _failed(_request: Request, _error: Exception) -> Response:
    return RequestError(500, "internal server error; see the server's log").response()


class _Service:
    """The work of the endpoints."""

    def __init__(self, classifier: "ClipClassifier", limits: Limits) -> None:
        self._limits, self.monitor = limits, Monitor()
        self._name, self._template = name_alone(classifier.model_name), classifier.template
        self._backbone = classifier.backbone
        self.weights, self._top_k = classifier.class_weights(), classifier.top_k
        self._bodies = BodyReader(limits)
        self._encoder = ImageEncoder(self._backbone, limits, self.monitor.note_batch)
        self._texts = ThreadPoolExecutor(1)  # a separate one: else texts keep the bodies from the other threads

    @contextlib.asynccontextmanager
    async def lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        """Run the encoders."""
        with self._texts, self._encoder:
            yield

    async def classify(self, request: Request) -> Response:
        async with self._bodies.read(request) as body:
            outcomes = await self._in_time(self._classify(request, body))
        readable = [features for features in outcomes if not isinstance(features, ImageError)]
        if not readable:
            raise RequestError(422, str(outcomes[0]))
        features = np.stack(readable)  # [N, D]
        scores, rows = self.weights.scores(features), self.weights.probabilities(features)
        answers = iter(self.weights.answers(rows, scores, self._top_k))
        results = [{"error": str(each)} if isinstance(each, ImageError) else next(answers) for each in outcomes]
        return JSONResponse({"results": results})

    async def system_one(self, request: Request) -> Response:
        async with self._bodies.read(request) as body:
            answers = await self._in_time(self._decide(body))
        usage = {"input_tokens": 0, "output_tokens": 0}
        return JSONResponse({"model": self._name, "answers": answers, "usage": usage})

    async def _classify(self, request: Request, body: bytes) -> Sequence[Features | ImageError]:
        return await self._encode(await read_images(request, body, self._limits))

    async def _decide(self, body: bytes) -> dict[str, dict[str, Any]]:
        import torch

        image, asked = await asyncio.to_thread(read_questions, body, self._template)
        (features,) = await self._encode([image])
        if isinstance(features, ImageError):
            raise RequestError(422, str(features))
        try:
            row = torch.from_numpy(features[None])  # [1, D]
            work = functools.partial(answer_questions, self._backbone, row, asked)
            answers = await asyncio.get_running_loop().run_in_executor(self._texts, work)
        except InputError as error:  # a text that is too long for the model
            raise RequestError(422, str(error)) from None
        return {name: _typed(asked[name].kind, answer) for name, answer in answers.items()}

    async def _encode(self, images: list[bytes]) -> Sequence[Features | ImageError]:
        outcomes = await self._encoder.encode(images)
        unreadable = sum(isinstance(each, ImageError) for each in outcomes)
        self.monitor.note_images(len(outcomes) - unreadable, unreadable)
        return outcomes

    async def _in_time(self, work: Awaitable[_T]) -> _T:
        try:
            async with asyncio.timeout(self._limits.request_seconds):
                return await work
        except TimeoutError:
            raise busy(f"no answer within {self._limits.request_seconds:g} seconds") from None


def read_questions(body: bytes, template: "Template") -> tuple[bytes, dict[str, Question]]:
    """Return the image and the questions of a request as DSPy's `TypeSafe` sends it.

    Raises:
        RequestError: another form, no image or several, or a question that CLIP cannot answer.
    """
    content = read_json(body)
    state, questions = content.get("state"), content.get("questions")
    if not isinstance(state, dict):
        raise RequestError(422, 'the state must be an object, e.g. {"inputs": {"image": "data:image/png;base64,..."}}')
    if (
        not isinstance(questions, dict)
        or not questions
        or not all(isinstance(each, dict) for each in questions.values())
    ):
        raise RequestError(422, "the questions must be an object with an object for each question")
    try:
        asked, count = {}, 0
        for name, each in questions.items():
            _check_count(count + _count_texts(each.get("criteria")))  # reading them takes time and memory
            asked[name] = question = parse_question(name, each, state.get("instructions"), template)
            count += len(question.template.lines) * sum(map(len, question.texts))
            _check_count(count)
        image = find_image(state.get("inputs"))
    except InputError as error:
        raise RequestError(422, str(error)) from None
    return decode_image(image, "the image"), asked


def _count_texts(criteria: object) -> int:
    options = criteria.values() if isinstance(criteria, dict) else ()
    return sum(len(texts) if isinstance(texts, list) else 1 for texts in options)


def _check_count(count: int) -> None:
    if count > MAX_PROMPTS:
        fact = f"the options, times the lines of the template, must be at most {MAX_PROMPTS} prompts"
        raise RequestError(422, f"{fact}, got {count} or more; ask fewer at once")


def _typed(kind: str, answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer with its type, and with the most probable option of a choice."""
    shares = answer.get("probabilities")
    return {"type": kind, **({"choice": max(shares, key=shares.get)} if shares else {}), **answer}

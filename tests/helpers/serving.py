"""A real server on a port of this machine, and what its clients send."""

import base64
import contextlib
import io
import threading
from collections.abc import Iterator
from typing import Any

import httpx
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from ipo_dspy import ClipClassifier
from ipo_dspy.clip.image_features import open_image
from ipo_dspy.demo import DemoTask
from ipo_dspy.serve import server
from ipo_dspy.serve.app import create_app
from ipo_dspy.serve.limits import Limits


def png(task: DemoTask, index: int) -> bytes:
    """An image of a task as a file."""
    file = io.BytesIO()
    open_image(task.testset[index].image).save(file, "PNG")
    return file.getvalue()


def files(*images: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("files", ("image.png", image)) for image in images]


@contextlib.contextmanager
def serving(classifier: ClipClassifier, *, token: str | None = None, **limits: Any) -> Iterator[httpx.Client]:
    """Serve in a thread."""
    bounds = Limits(**limits)
    with server.listen("127.0.0.1", 0, token=token) as listener:
        running = server.Server(server.config(create_app(classifier, limits=bounds, token=token), bounds))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=60) as client:
                yield client
        finally:
            running.should_exit = True
            thread.join(60)
            assert not thread.is_alive()


def samples(client: httpx.Client) -> dict[tuple[str, ...], float]:
    """Values of the metrics by name and labels."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def post(length: int) -> bytes:
    """The header of a request with a JSON body."""
    lines = (
        "POST /classify HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {length}",
        "",
        "",
    )
    return "\r\n".join(lines).encode()


def ask(**changes: Any) -> dict[str, Any]:
    """A request whose question is answered with the template of the program."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    uri = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    question = {"type": "choice", "criteria": {"cat": None, "dog": None}}
    return {"state": {"inputs": {"image": uri}}, "questions": {"animal": question}} | changes

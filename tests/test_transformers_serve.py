"""A server that is not ours: `transformers serve` with a tiny model, over HTTP on loopback."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dspy
import httpx
import pytest

from helpers import local_toys as toys
from ipo_dspy.clip.loading import import_open_clip
from ipo_dspy.lms import build_lm
from ipo_dspy.proposers import LMProposer, ProposalError, ProposalRequest
from ipo_dspy.proposers.lm import RequestMode

pytest.importorskip("uvicorn", reason="pip install 'transformers[serving]'")
pytest.importorskip("fastapi", reason="pip install 'transformers[serving]'")
import_open_clip()

pytestmark = pytest.mark.end_to_end

SERVE = """
from ipo_dspy.clip.loading import import_open_clip
import_open_clip()  # fixes a torchvision that is built for another torch; nothing else here is ours
from transformers.cli.transformers import main
main()
"""


@dataclass(frozen=True)
class Served:
    """The address of the server, and its models."""

    base: str
    says: Path
    babbles: Path
    proposes: Path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("serve")
    says, babbles = toys.qwen2(root / "says"), toys.qwen2(root / "babbles", last=None)
    proposes = toys.qwen2(root / "proposes", sentence=toys.PROPOSAL)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", SERVE, "serve", "--host", "127.0.0.1", "--port", port, "--device", "cpu"]
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    try:
        _wait(f"http://127.0.0.1:{port}/health", process, root / "log")
        yield Served(f"http://127.0.0.1:{port}/v1", says, babbles, proposes)
    finally:
        process.kill()
        process.wait()


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(log.read_text())


def lm(model: Path, served: Served, **settings: object) -> dspy.LM:
    given = {"api_base": served.base, "api_key": "none", "cache": False, "num_retries": 0, "max_tokens": 20}
    return dspy.LM(f"openai/{model}", engine="litellm", temperature=1.0, **{**given, **settings})


def ask() -> ProposalRequest:
    return ProposalRequest(
        step=1, count=3, shown=(), trials=(), descriptions=("grey and blurry",), task="distinguish dog from cat"
    )


def test_an_answer_comes_with_its_tokens(served: Served) -> None:
    model = lm(served.says, served)
    assert model("What is this?") == [toys.SENTENCE]
    assert model.history[-1]["usage"]["completion_tokens"] == len(toys.SENTENCE.split()) + 1


def test_an_answer_that_the_limit_cut_is_known_as_such(served: Served) -> None:
    model = lm(served.says, served, max_tokens=3)
    assert model("What is this?") == ["a blurry grey"]
    assert model.history[-1]["response"].choices[0].finish_reason == "length"


def test_it_says_what_the_model_says_in_this_process(served: Served) -> None:
    here = build_lm(dspy.LM(f"transformers/{served.babbles}", engine="litellm", cache=False), role="prompt_model")
    settings = {"temperature": 0, "max_tokens": 20}
    assert here("What is this?", **settings) == lm(served.babbles, served)("What is this?", **settings)


@pytest.mark.parametrize("asking", ["auto", "batch", "single"])
def test_its_proposals_arrive(asking: RequestMode, served: Served) -> None:
    proposals = LMProposer(lm(served.proposes, served, max_tokens=100), request_mode=asking).propose(ask())
    assert set(proposals.texts) == {toys.PROPOSAL}
    assert len(proposals.texts) == (3 if asking == "single" else 1)


def test_an_answer_without_a_template_is_reported(served: Served) -> None:
    model = lm(served.says, served, max_tokens=100)
    with pytest.raises(ProposalError, match=f"nothing in the answer can be used: '{toys.SENTENCE}'"):
        LMProposer(model, request_mode="batch").propose(ask())
    assert model.history[-1]["usage"]["prompt_tokens"] > 100


def test_a_model_that_it_does_not_have_is_reported(served: Served) -> None:
    with pytest.raises(ProposalError, match="the language model gave no proposals: "):
        LMProposer(lm(Path("no-such/model"), served)).propose(ask())

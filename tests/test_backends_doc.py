"""The lines of docs/backends.md: LiteLLM knows every name, and the request that goes out is the one meant."""

import base64
import io
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import dspy
import litellm
import pytest
from PIL import Image

from helpers.loopback import LoopbackServer
from helpers.openai_server import OpenAIServer, images_of, text_of
from ipo_dspy import LMDescriber, LMProposer
from ipo_dspy.lms import build_lm, register_transformers
from ipo_dspy.lms.usage import cost_usd
from ipo_dspy.proposers import ProposalRequest

PAGE = (Path(__file__).parent.parent / "docs" / "backends.md").read_text()
PYTHON = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
TABLES = [line.split("|")[1:-1] for line in PAGE.splitlines() if line.startswith("|")]
LINES = [cells[1].strip() for cells in TABLES if cells[1].strip().startswith('`"')]
NAME = re.compile(r'"([a-z_]+/[^"]+)"')
NAMES = sorted({name for text in (PYTHON, *LINES, PAGE) for name in NAME.findall(text) if "..." not in name})
PROPOSING = "<INS>a blurry photo of a <CLASS>.</INS>"
DESCRIBING = "blurry and red"


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = dspy.cache
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("GEMINI_API_KEY", "key-test")
    yield
    dspy.cache = before


def test_the_page_has_a_line_for_each_model_of_the_paper() -> None:
    first = {cells[0].strip() for cells in TABLES if cells[1].strip() in LINES}
    proposing = {"GPT-3.5-turbo", "PaLM 2", "Phi-2", "Phi-3"}
    assert first == proposing | {"MiniCPM-V-2", "BLIP-2", "FUYU-8B", "Qwen-VL-Chat", "LLaVA-Llama-3"}
    assert len(NAMES) > 20


@pytest.mark.parametrize("name", NAMES)
def test_litellm_knows_every_name(name: str) -> None:
    register_transformers()
    model, provider, *_ = litellm.get_llm_provider(name)
    assert f"{provider}/{model}" == name
    assert build_lm(name, role="prompt_model").model == name


@pytest.mark.parametrize("name", [name for name in NAMES if name.split("/")[0] in {"openai", "gemini", "vertex_ai"}])
def test_names_of_providers_are_on_the_price_list(name: str) -> None:
    if "api_base" not in next(line for line in PAGE.splitlines() if f'"{name}"' in line):
        assert {name, name.removeprefix("openai/")} & set(litellm.model_cost)


def test_the_last_day_of_gpt_3_5_is_the_one_on_the_list() -> None:
    assert "23 October 2026" in PAGE
    assert litellm.model_cost["gpt-3.5-turbo"]["deprecation_date"] == "2026-10-23"


@pytest.mark.parametrize("name", ["openai/gpt-4o-mini", "gemini/gemini-3.8-flash"])
def test_the_costs_are_those_of_the_list(name: str) -> None:
    (said,) = re.findall(rf"([\d.]+) USD with `{name}`", PAGE)
    each = cost_usd(name, 5000, 400)
    assert each is not None
    assert round(100 * each, 2) == float(said)


def test_the_code_of_the_page_compiles_and_its_models_can_be_made() -> None:
    compile(PYTHON, "backends.md", "exec")
    made = [eval(line, {"dspy": dspy}) for line in PYTHON.splitlines() if line.startswith("dspy.LM(")]
    assert len(made) == 6
    assert all(isinstance(lm, dspy.LM) for lm in made)


# At the wire: servers that speak as OpenAI does


def propose(lm: dspy.BaseLM) -> tuple[str, ...]:
    asked = ProposalRequest(
        step=1, count=1, shown=(), trials=(), descriptions=("grey",), task="distinguish cats from dogs"
    )
    return LMProposer(lm, request_mode="batch").propose(asked).texts


def describe(lm: dspy.BaseLM) -> tuple[str, ...]:
    return LMDescriber(lm).describe([Image.new("RGB", (6, 4), "red")], ["cat"]).texts


def size(data: str) -> tuple[int, int]:
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return image.size


def local_names(*providers: str) -> list[str]:
    return [name for name in NAMES if name.split("/")[0] in providers]


@pytest.mark.parametrize("name", local_names("openai", "hosted_vllm"))
def test_what_openai_like_servers_are_sent(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with OpenAIServer({"distinguish cats from dogs": PROPOSING, "Do not name the main subject": DESCRIBING}) as server:
        monkeypatch.setenv("OPENAI_API_BASE", server.url)
        monkeypatch.setenv("HOSTED_VLLM_API_BASE", server.url)
        lm = build_lm(name, role="prompt_model")
        assert propose(lm) == ("a blurry photo of a <CLASS>.",)
        assert describe(lm) == ("blurry and red",)
    asked, shown = server.requests
    assert asked["model"] == shown["model"] == name.partition("/")[2]
    assert asked["temperature"] == 1.0
    assert [message["role"] for message in asked["messages"]] == ["system", "user"]
    assert "- grey" in text_of(asked)
    (url,) = images_of(shown)
    assert size(url.partition(",")[2]) == (336, 224)  # enlarged
    assert server.unseen == []


# At the wire: Ollama and Gemini have forms of their own


class Recorder:
    """Answers every POST by the first path that fits, and keeps what it was sent."""

    def __init__(self, answers: dict[str, dict[str, Any]]) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                answer = next((answer for path, answer in answers.items() if path in self.path), None)
                if answer is not None:
                    owner.sent.append((self.path, body))
                payload = json.dumps(answer or {}).encode()
                self.send_response(200 if answer else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = LoopbackServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> "Recorder":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.mark.parametrize("name", local_names("ollama_chat"))
def test_what_ollama_is_sent(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"role": "assistant", "content": DESCRIBING}
    answer = {"message": said, "done": True, "done_reason": "stop", "prompt_eval_count": 7, "eval_count": 3}
    with Recorder({"/api/chat": answer}) as server:
        monkeypatch.setenv("OLLAMA_API_BASE", server.url)
        assert describe(build_lm(name, role="description_model")) == ("blurry and red",)
    ((path, body),) = server.sent
    assert path == "/api/chat"
    assert body["model"] == name.partition("/")[2]
    assert body["options"]["temperature"] == 1.0
    system, user = body["messages"]
    assert (system["role"], user["role"]) == ("system", "user")
    assert "Do not name the main subject" in system["content"]
    (data,) = user["images"]
    assert size(data) == (336, 224)  # enlarged


def test_the_context_length_of_ollama_can_be_set() -> None:
    said = {"message": {"role": "assistant", "content": PROPOSING}, "done": True}
    with Recorder({"/api/chat": said}) as server:
        lm = dspy.LM("ollama_chat/phi3", num_ctx=8192, engine="litellm", api_base=server.url)
        assert propose(lm) == ("a blurry photo of a <CLASS>.",)
    assert server.sent[0][1]["options"]["num_ctx"] == 8192


@pytest.mark.parametrize("name", local_names("gemini"))
def test_what_gemini_is_sent(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {"role": "model", "parts": [{"text": DESCRIBING}]}
    usage = {"promptTokenCount": 7, "candidatesTokenCount": 3, "totalTokenCount": 10}
    answer = {"candidates": [{"content": content, "finishReason": "STOP"}], "usageMetadata": usage}
    with Recorder({":generateContent": answer}) as server:
        monkeypatch.setenv("GEMINI_API_BASE", server.url)
        assert describe(build_lm(name, role="description_model")) == ("blurry and red",)
    ((path, body),) = server.sent
    assert path.endswith(f"/models/{name.partition('/')[2]}:generateContent")
    assert "Do not name the main subject" in body["system_instruction"]["parts"][0]["text"]
    (data,) = [part["inline_data"] for part in body["contents"][0]["parts"] if "inline_data" in part]
    assert size(data["data"]) == (336, 224)  # enlarged
    assert body["generationConfig"]["temperature"] == 1.0

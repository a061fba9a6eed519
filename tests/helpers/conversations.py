"""Recorded conversations with a strong language model about the bundled tasks, replayed over HTTP on loopback.

The model saw the requests and nothing else. `scripts/record_conversation.py` records; a request that changed fails.
"""

import hashlib
import json
import re
import time
from pathlib import Path
from typing import Any

from helpers.openai_server import OpenAIServer, Reply, text_of
from ipo_dspy import IPO, ClipClassifier, demo
from ipo_dspy.clip.bundled import DEMO_VIT

FOLDER = Path(__file__).resolve().parent.parent / "conversations"
SHOTS, STEPS, SEED = 16, 8, 0
WORDS, WORD_SEEDS = "class_texts", (1, 2, 3)
"""Name of the recording of the search for words, with the templates of `IPO(proposer="evolution", steps=40)`."""


def search(server: OpenAIServer, name: str, **changes: Any) -> tuple[demo.DemoTask, ClipClassifier]:
    """Return a task and the result of the search whose requests are recorded."""
    task = demo.load(name, shots=SHOTS, seed=SEED, classes="base")
    options = {"steps": STEPS, "seed": SEED, "describer": "clip", "prefetch": False, "progress": False, **changes}
    return task, IPO(prompt_model=server.lm(cache=False, timeout=36_000), **options).compile(
        task.program, task.trainset
    )


def search_words(server: OpenAIServer, name: str, seed: int, **changes: Any) -> tuple[demo.DemoTask, ClipClassifier]:
    """Return a task with a found template, and the result of the search for words whose requests are recorded."""
    task = demo.load(name, shots=SHOTS, seed=seed, model=DEMO_VIT)
    task.program.template = json.loads((FOLDER / f"{WORDS}.json").read_text(encoding="utf-8"))["templates"][name][
        str(seed)
    ]
    options = {"optimize": "class_texts", "seed": seed, "progress": False, **changes}
    return task, IPO(prompt_model=server.lm(cache=False), **options).compile(task.program, task.trainset)


def key(request: str) -> str:
    """Return a hash of a request without its numbers, which depend on the processor in the last digit."""
    return hashlib.sha256(re.sub(r"\d+(?:\.\d+)?", "#", request).encode()).hexdigest()[:16]


class Recorded(OpenAIServer):
    """Answers as the model did."""

    def __init__(self, name: str) -> None:
        super().__init__({})
        self.name = name
        recording = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
        self.answers = {key(one["request"]): one["answer"] for one in recording["exchanges"]}

    def answer(self, body: dict[str, Any]) -> Reply:
        said = text_of(body)
        self.requests.append(body)
        if "Say: ready" in said:
            return Reply("ready")
        if (found := self.answers.get(key(said))) is not None:
            return Reply(found)
        self.unseen.append(said)
        again = f"python scripts/record_conversation.py {self.name} --model NAME"
        return Reply(f"this request is not the recorded one; record it again: {again}", status=400)


class Recorder(OpenAIServer):
    """Writes each request to a file, and answers with what somebody writes next to it."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__({})
        self.name, self.folder, self.exchanges = name, folder, list[dict[str, str]]()

    def answer(self, body: dict[str, Any]) -> Reply:
        said = text_of(body)
        if "Say: ready" in said:
            return Reply("ready")
        number = len(self.exchanges) + 1
        (self.folder / f"{number}.request.txt").write_text(said, encoding="utf-8")
        answer = self.folder / f"{number}.answer.txt"
        while not answer.exists():
            time.sleep(0.5)
        time.sleep(0.5)  # until it is written to its end
        self.exchanges.append({"request": said, "answer": answer.read_text(encoding="utf-8")})
        return Reply(self.exchanges[-1]["answer"])

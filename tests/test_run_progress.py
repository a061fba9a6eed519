"""Messages of `compile`: in a terminal, in a log, and turned off."""

import contextlib
import io
import os
import pty
import re
import sys
import threading
from collections.abc import Iterator
from typing import Any

import dspy
import pytest

from helpers.openai_server import Reply, Writer
from ipo_dspy import IPO, ClipClassifier, demo
from ipo_dspy.run.progress import ProgressDisplay

SHOTS = 2
"""Of the fixture `task`."""


class Terminal:
    """A pseudo-terminal as stderr; what was written to it is read by a thread."""

    def __init__(self) -> None:
        reader, writer = pty.openpty()
        self.stream = os.fdopen(writer, "w")
        self._chunks: list[bytes] = []
        self._thread = threading.Thread(target=self._read, args=[reader], daemon=True)
        self._thread.start()

    def _read(self, reader: int) -> None:
        try:
            while chunk := os.read(reader, 4096):
                self._chunks.append(chunk)
        except OSError:  # the other side is closed
            os.close(reader)

    def as_stderr(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.redirect_stderr(self.stream)

    def text(self) -> str:
        self.stream.close()
        self._thread.join(20)
        return re.sub(r"\x1b\[[?\d;]*[A-Za-z]|\r", "", b"".join(self._chunks).decode())


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    one = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    yield one
    if not one.stream.closed:
        one.stream.close()


def compiled(task: demo.DemoTask, **options: Any) -> Any:
    return IPO(proposer="evolution", steps=2, **options).compile(task.program, task.trainset, valset=task.valset)


def read(task: demo.DemoTask) -> str:
    """The line on what was read."""
    names = ", ".join(task.classes[:3])
    return (
        f"{len(task.classes)} classes ({names}, ...), model demo; {len(task.trainset)} training images, "
        f"{len(task.valset)} validation images"
    )


def test_in_a_terminal_it_says_what_it_read_and_each_better_template(task: demo.DemoTask, terminal: Terminal) -> None:
    with terminal.as_stderr():
        best = compiled(task)
    text = terminal.text()
    assert text.startswith(read(task))
    assert f"{best.detailed_results.best.score.accuracy:.2f} %" in text
    assert str(best.detailed_results.trials[0].template) in text
    assert "\u2501" in text  # a bar
    assert "training images" in text


def test_a_log_stays_silent_unless_asked(task: demo.DemoTask, monkeypatch: pytest.MonkeyPatch) -> None:
    for progress, said in ((None, False), (False, False), (True, True)):
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        compiled(task, progress=progress)
        assert bool(stream.getvalue()) == said
    lines = stream.getvalue().splitlines()
    assert lines[0] == read(task)
    assert lines[-1] == "steps: 2 of 2"
    assert any(line.startswith("step   0") and line.endswith("a photo of a <CLASS>.") for line in lines)
    assert "\u2501" not in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_trials_after_the_last_step_do_not_end_it_again(task: demo.DemoTask, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    best = IPO(proposer="evolution", steps=2, seed=1, progress=True).compile(task.program, task.trainset)
    assert "refine" in {trial.stage for trial in best.detailed_results.trials}
    assert stream.getvalue().splitlines().count("steps: 2 of 2") == 1


@pytest.mark.end_to_end
@pytest.mark.usefixtures("no_cache")
def test_in_a_terminal_it_says_what_it_waits_for(task: demo.DemoTask, terminal: Terminal) -> None:
    with Writer(odd={0: Reply("<INS>a tiny <CLASS>.</INS>", delay=2.5)}) as server, terminal.as_stderr():
        optimizer = IPO(prompt_model=server.lm(), describer=None, steps=1, polish=False)
        optimizer.compile(task.program, task.trainset)
    text = terminal.text()
    assert re.search(r"waiting for openai/toy for [1-9]\d* s", text)
    assert "waiting" not in text.splitlines()[-1]


def test_it_can_be_turned_off_in_a_terminal(task: demo.DemoTask, terminal: Terminal) -> None:
    with terminal.as_stderr():
        compiled(task, progress=False)
    assert terminal.text() == ""


def test_what_was_read_is_said_before_the_model_is_loaded(task: demo.DemoTask, terminal: Terminal) -> None:
    program = ClipClassifier(task.classes, model="local-dir:/nowhere")
    with terminal.as_stderr(), pytest.raises(ValueError, match="nowhere"):
        IPO(proposer="evolution", steps=1).compile(program, task.trainset)
    assert terminal.text().startswith(f"{len(task.classes)} classes")


class Pair(dspy.Module):
    def __init__(self, task: demo.DemoTask) -> None:
        super().__init__()
        self.animal = ClipClassifier(task.classes, model="demo")
        self.any = ClipClassifier(model="demo")

    def forward(self, image: Any) -> Any:
        return dspy.Prediction(a=self.animal(image=image).label, b=self.any(image=image, classes=["cat", "dog"]).label)


def test_each_classifier_of_a_program_is_named(task: demo.DemoTask, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with pytest.raises(ValueError, match="label"):
        IPO(proposer="evolution", steps=1, progress=True).compile(Pair(task), task.trainset)
    first = stream.getvalue().splitlines()[0]
    assert f"animal: {len(task.classes)} classes" in first
    assert "any: classes given with each image, model demo" in first


def test_markup_in_a_template_is_not_read_as_such(terminal: Terminal) -> None:
    with terminal.as_stderr(), ProgressDisplay(steps=1) as display:
        trial = {"event": "trial", "predictor": "self", "index": 0, "step": 0, "accuracy": 50.0, "loss": 1.0}
        display({**trial, "template": "a [red]<CLASS>[/red]", "tokens": 5, "key": "k"})  # type: ignore[arg-type]
    assert "a [red]<CLASS>[/red]" in terminal.text()

"""Ctrl-C, SIGTERM and SIGHUP: the step under way is kept, and whatever was asked for before a search ends it there."""

import os
import pty
import random
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers.cli_process import PYTHON, Processes
from helpers.openai_server import KEY, Reply, Writer
from ipo_dspy import IPO, demo
from ipo_dspy.bench.method_runners import StopSignal
from ipo_dspy.bench.runner import CELLS
from ipo_dspy.cli import main, signals
from ipo_dspy.clip.image_features import open_image
from ipo_dspy.errors import StoppedError
from ipo_dspy.report import render_report
from ipo_dspy.run.events import Event
from ipo_dspy.run.journal import FILE_NAME, replay
from ipo_dspy.run.state import RunState

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forked")

STEPS = 5
CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}


class Gated(Writer):
    """Holds back the answer to its n-th request until the gate is opened, counted from 1."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at, self.reached, self.gate = at, threading.Event(), threading.Event()

    def answer(self, body: dict[str, Any]) -> Reply:
        reply = super().answer(body)
        if len(self.requests) == self.at and not self.gate.is_set():
            self.reached.set()
            self.gate.wait(120)
        return reply


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two pictures of each of six classes."""
    folder = tmp_path_factory.mktemp("photos")
    task = demo.load("pixel-animals", shots=2)
    for index, example in enumerate(e for e in task.trainset if e.label in task.classes[:6]):
        (folder / example.label).mkdir(exist_ok=True)
        open_image(example.image).save(folder / example.label / f"{index}.png")
    return folder


@pytest.fixture(scope="module", autouse=True)
def _sighup_is_heard() -> Iterator[None]:
    """Under nohup every process ignores SIGHUP, as would those of these tests."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory, forking_parent: Processes) -> Processes:
    folder = tmp_path_factory.mktemp("processes")
    return Processes(folder, {"HOME": str(folder), "OPENAI_API_KEY": KEY}, parent=forking_parent)


def search(photos: Path, out: Path, server: Writer, *more: str) -> list[str]:
    asked = ["--prompt-model", "openai/toy", "--prompt-model-kwargs", f"api_base={server.url}"]
    once = ["--prompt-model-kwargs", "num_retries=0", "--prompt-model-kwargs", "cache=false"]
    short = ["--model", "demo", "--shots", "1", "--prompts-per-step", "2"]
    short += [] if "--steps" in more else ["--steps", str(STEPS)]
    return ["optimize", str(photos), *short, "--log-dir", str(out), *asked, *once, *more]


def send(child: int, name: str, processes: Processes, seen: str = "stopping after this step") -> None:
    """Send a signal, and wait until the process has said that it has noticed."""
    os.kill(child, getattr(signal, name))
    while seen not in processes.so_far():
        time.sleep(0.01)


def kinds(folder: Path, kind: str) -> list[Any]:
    events: list[Any] = list(replay(folder))
    return [event for event in events if event["event"] == kind]


def flat(value: Any, at: str = "") -> dict[str, Any]:
    """Return the plain values of a tree by their paths."""
    if not isinstance(value, dict | list):
        return {at: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {path: leaf for key, part in items for path, leaf in flat(part, f"{at}/{key}").items()}


def trials(folder: Path) -> list[tuple[Any, ...]]:
    return [(e["index"], e["step"], e["template"], e["accuracy"], e["loss"]) for e in kinds(folder, "trial")]


@pytest.mark.end_to_end
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_the_step_under_way_is_kept_and_all_is_written(
    name: str, processes: Processes, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with Gated(at=3) as server:  # a ping and two steps
        child = processes.begin(*search(photos, out, server))
        assert server.reached.wait(120)
        send(child, name, processes)
        server.gate.set()
        done = processes.end()
        assert (done.code, server.asked) == (CODES[name], 2)
        assert [event["step"] for event in kinds(out, "step")] == [1, 2]
        assert kinds(out, "run_finished")[0]["status"] == "interrupted"
        assert {"best.json", "report.html"} <= {path.name for path in out.iterdir()}
        assert f"ipo-dspy: stopped; resume with: ipo-dspy optimize {photos}" in done.err
        assert " test ┃" not in done.out  # left to the session that resumes the run
        assert "of 80" not in done.out

        done = processes.run(*search(photos, out, server))
        assert (done.code, server.asked) == (0, STEPS)
        assert " test ┃" in done.out
        assert "│ best of 80 " in done.out
    questions = [event["request_id"] for event in kinds(out, "lm_response")]
    assert len(questions) == len(set(questions)) == len(server.requests)


@pytest.mark.end_to_end
def test_ctrl_c_says_how_long_it_waits_for_the_model_at_most(
    processes: Processes, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    with Gated(at=3) as server:
        child = processes.begin(*search(photos, out, server, "--prompt-model-kwargs", "timeout=1000"))
        assert server.reached.wait(120)
        while not re.search(r"waiting for openai/toy for [1-9]\d* s\n", capsys.readouterr().out):
            time.sleep(0.1)
            with pytest.raises(SystemExit):
                main(["watch", "--once", str(out)])
        assert "the run had been waiting for openai/toy since 2" in render_report(out)
        send(child, "SIGINT", processes, "to abort immediately")
        server.gate.set()
        done = processes.end()
    (line,) = (line for line in done.err.splitlines() if "stopping" in line)
    said = re.fullmatch(
        r"stopping after this step; the response of openai/toy takes at most (\d+) s more; press Ctrl-C again to .*",
        line,
    )
    assert said is not None
    assert 870 < int(said[1]) < 1000
    assert not RunState(replay(out)).requests


@pytest.mark.end_to_end
@pytest.mark.parametrize(("first", "second"), [("SIGTERM", "SIGTERM"), ("SIGHUP", "SIGTERM")])
def test_a_second_signal_ends_at_once(
    first: str, second: str, processes: Processes, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with Gated(at=3) as server:
        child = processes.begin(*search(photos, out, server))
        assert server.reached.wait(120)
        send(child, first, processes)
        if first == "SIGHUP":
            os.kill(child, signal.SIGHUP)  # the shell's, after the kernel's
        os.kill(child, getattr(signal, second))
        done = processes.end()  # while the answer is still held back
        server.gate.set()
    assert done.code == CODES[second]
    assert done.err.splitlines()[-1] == "ipo-dspy: interrupted"
    assert "resume with: ipo-dspy optimize" in done.err
    assert "Traceback" not in done.err


@pytest.mark.end_to_end
def test_a_signal_before_the_search_ends_the_run_there(processes: Processes, photos: Path, tmp_path: Path) -> None:
    with Gated(at=1) as server:  # the ping
        child = processes.begin(*search(photos, tmp_path / "run", server))
        assert server.reached.wait(120)
        send(child, "SIGTERM", processes)
        server.gate.set()
        done = processes.end()
        assert (done.code, len(server.requests)) == (143, 1)
    assert done.err.splitlines()[-1].startswith("ipo-dspy: stopped before the search began; resume with: ipo-dspy ")


EARLY = """
import os, signal, sys
from ipo_dspy.cli import main
from ipo_dspy.cli import run_command as runs

prepare = runs.prepare

def interrupted(*arguments):
    os.kill(os.getpid(), int(sys.argv[1]))
    prepare(*arguments)

runs.prepare = interrupted
main(sys.argv[2:])
"""


@pytest.mark.end_to_end
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_while_the_model_loads_a_signal_ends_at_once(
    name: str, processes: Processes, photos: Path, tmp_path: Path
) -> None:
    with Writer() as server:
        done = processes.python(EARLY, str(int(getattr(signal, name))), *search(photos, tmp_path / "run", server))
        assert (done.code, server.requests) == (CODES[name], [])
    assert done.err == "ipo-dspy: interrupted\n"


IMPORTS = """
import os, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), int(sys.argv[2]))

sys.meta_path.insert(0, Finder())
from ipo_dspy.cli import main
main(["demo", "--steps", "1"])
"""


@pytest.mark.parametrize(
    ("module", "name"), [("typer", "SIGINT"), ("ipo_dspy.cli.app", "SIGTERM"), ("ipo_dspy.demo", "SIGINT")]
)
def test_during_imports_a_signal_is_one_line(module: str, name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", IMPORTS, module, str(int(getattr(signal, name)))]
    done = subprocess.run(command, capture_output=True, text=True, env=PYTHON, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr) == (CODES[name], "ipo-dspy: interrupted\n")
    assert list(tmp_path.iterdir()) == []


NOHUP = """
import signal, sys

signal.signal(signal.SIGHUP, signal.SIG_IGN)
from ipo_dspy.cli import main
main(sys.argv[1:])
"""


@pytest.mark.end_to_end
def test_what_the_parent_ignores_stays_ignored(processes: Processes, photos: Path, tmp_path: Path) -> None:
    with Gated(at=3) as server:
        child = processes.begin_python(NOHUP, *search(photos, tmp_path / "run", server))
        assert server.reached.wait(120)
        os.kill(child, signal.SIGHUP)
        server.gate.set()
        assert (processes.end().code, server.asked) == (0, STEPS)


@pytest.mark.end_to_end
def test_a_terminal_that_is_closed_does_not_keep_the_run_from_its_end(photos: Path, tmp_path: Path) -> None:
    out, (ours, theirs) = tmp_path / "run", pty.openpty()
    code = "import sys; from ipo_dspy.cli import main; main(sys.argv[1:])"
    with Gated(at=3) as server:
        command = [sys.executable, "-c", code, *search(photos, out, server)]
        environment = {**PYTHON, "OPENAI_API_KEY": KEY, "HOME": str(tmp_path), "TERM": "xterm"}
        child = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
        os.close(theirs)
        until = time.monotonic() + 120
        while not server.reached.is_set() and time.monotonic() < until:
            if select.select([ours], [], [], 0.1)[0]:
                os.read(ours, 1 << 16)  # a terminal that nobody reads is full after some kilobytes
        assert server.reached.is_set()
        os.close(ours)
        child.send_signal(signal.SIGHUP)
        time.sleep(0.1)
        server.gate.set()
        assert child.wait(120) == 129
    assert kinds(out, "run_finished")[0]["status"] == "interrupted"
    assert {"best.json", "report.html"} <= {path.name for path in out.iterdir()}


def test_handlers_are_set_in_the_main_thread_only_and_taken_back() -> None:
    before = [signal.getsignal(number) for number in signals.NUMBERS]

    def elsewhere() -> None:
        with signals.handle_interrupt(lambda: None, lambda text: None) as request:
            assert [signal.getsignal(number) for number in signals.NUMBERS] == before
        assert not request.received

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    with signals.handle_interrupt(lambda: None, lambda text: None) as request:
        signal.raise_signal(signal.SIGTERM)
        assert request.exit_code == 143
        with pytest.raises(KeyboardInterrupt) as interrupted:
            signal.raise_signal(signal.SIGINT)
    assert signals.exit_code(interrupted.value) == 130
    assert [signal.getsignal(number) for number in signals.NUMBERS] == before


def test_a_signal_while_the_main_thread_prints_does_not_wait_for_itself() -> None:
    """The display prints with locks; a handler that waited for them would wait for the main thread, which it is."""
    display, printed = threading.Lock(), []

    def log(text: str) -> None:
        if display.acquire(timeout=10):
            printed.append(text)
            display.release()

    with signals.handle_interrupt(lambda: None, log) as request, display:
        signal.raise_signal(signal.SIGTERM)
        assert request.received
    assert printed == ["stopping after this step; send another signal to abort immediately"]


def test_a_second_signal_that_another_thread_receives_wakes_the_main_thread() -> None:
    answered, ended, outcome = threading.Event(), threading.Event(), []

    def elsewhere() -> None:
        time.sleep(0.2)  # until the main thread waits
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        outcome.append(ended.wait(20))
        answered.set()

    with signals.handle_interrupt(lambda: None, lambda text: None):
        signal.raise_signal(signal.SIGHUP)
        thread = threading.Thread(target=elsewhere)
        thread.start()
        with pytest.raises(signals.Interrupted, match="SIGTERM"):
            answered.wait()
        ended.set()
    thread.join()
    assert outcome == [True]
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


# In Python


def test_a_stop_before_compile_is_not_lost_and_holds_for_one_run(task: demo.DemoTask, tmp_path: Path) -> None:
    optimizer = IPO(proposer="evolution", describer=None, steps=2, log_dir=tmp_path / "run")
    optimizer.stop()
    with pytest.raises(StoppedError, match="stopped; run again to resume"):
        optimizer.compile(task.program, task.trainset)
    assert list(tmp_path.iterdir()) == []
    assert optimizer.compile(task.program, task.trainset).detailed_results.status == "finished"


@pytest.mark.end_to_end
@pytest.mark.usefixtures("no_cache")
@pytest.mark.parametrize("stage", ["model", "training images", "validation images"])
def test_a_stop_while_compile_prepares_ends_it_there(task: demo.DemoTask, tmp_path: Path, stage: str) -> None:
    seen: list[str] = []

    def watch(event: Event) -> None:
        if event["event"] == "progress":
            seen.append(event["stage"])
            if event["stage"] == stage:
                optimizer.stop()

    with Writer() as server:
        optimizer = IPO(prompt_model=server.lm(), steps=2, polish=False, log_dir=tmp_path, observers=[watch])
        with pytest.raises(StoppedError):
            optimizer.compile(task.program, task.trainset, valset=task.valset)
        assert seen[-1] == stage
        assert len(server.requests) == (stage != "model")  # the ping
        optimizer.config = replace(optimizer.config, observers=())
        best = optimizer.compile(task.program, task.trainset, valset=task.valset)
        assert len(server.requests) == 1 + 2
    assert best.detailed_results.status == "finished"


def test_a_stopped_cell_asks_nothing(task: demo.DemoTask, tmp_path: Path) -> None:
    from helpers.bench_small import SmallSuite, grid, run
    from ipo_dspy.bench.suites import BaseNovelSplit

    stopper = StopSignal()

    class Stopping(SmallSuite):
        def load(self, name: str, *, shots: int, seed: int) -> BaseNovelSplit:
            stopper.stop()
            return super().load(name, shots=shots, seed=seed)

    swept = run(tmp_path, grid(methods=("ipo",)), suite=Stopping(), stopper=stopper)
    assert (swept.stopped, swept.rows) == (True, {})
    assert not list((tmp_path / CELLS).glob(f"*/{FILE_NAME}"))


@pytest.mark.end_to_end
def test_a_sweep_ends_with_the_code_of_the_signal(processes: Processes, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    asked = [
        "--prompt-model-kwargs",
        "num_retries=0",
        "--prompt-model-kwargs",
        "cache=false",
        "--methods",
        "ipo",
        "--datasets",
        "grey-food",
    ]
    with Gated(at=1) as server:
        few = ["bench", *asked, "--shots", "1", "--seeds", "1", "--out", str(out), "--prompt-model", "openai/toy"]
        child = processes.begin(*few, "--prompt-model-kwargs", f"api_base={server.url}")
        assert server.reached.wait(120)
        send(child, "SIGTERM", processes)
        server.gate.set()
        done = processes.end()
        assert (done.code, len(server.requests)) == (143, 1)
    assert "stopped after 0 of 1 cell; resume with: ipo-dspy bench" in done.err


# At random moments


def ended(child: int) -> bool:
    return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the test reads /proc")
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_at_25_random_moments_a_run_ends_as_if_not_and_asks_nothing_twice(
    name: str, processes: Processes, photos: Path, tmp_path: Path
) -> None:
    draw, out, steps, signalled, lost = random.Random(11), tmp_path / "cut", ["--steps", "60"], 0, 0
    with Writer() as server:
        began = time.monotonic()
        assert processes.run(*search(photos, tmp_path / "whole", server, *steps)).code == 0
        whole = time.monotonic() - began
    with Writer() as server:
        code = None
        while code != 0:
            answered = len(kinds(out, "lm_response")) if (out / FILE_NAME).exists() else 0
            asked = len(server.requests)
            child = processes.begin(*search(photos, out, server, *steps))
            pause = time.monotonic() + draw.random() * whole / 12
            while signalled < 25 and time.monotonic() < pause and not ended(child):
                time.sleep(0.005)
            if signalled < 25 and not ended(child):
                os.kill(child, getattr(signal, name))
                signalled += 1
            code = processes.end().code
            assert code in ((0, -9) if name == "SIGKILL" else (0, 143))
            fresh = (len(kinds(out, "lm_response")) if (out / FILE_NAME).exists() else 0) - answered
            lost += len(server.requests) - asked - fresh
        assert signalled == 25
    assert trials(out) == trials(tmp_path / "whole")
    selected, whole_selected = (kinds(folder, "selected")[0] for folder in (out, tmp_path / "whole"))
    assert flat(selected) == pytest.approx(flat(whole_selected), abs=1e-3)  # texts are encoded in other batches
    questions = [event["request_id"] for event in kinds(out, "lm_response")]
    assert len(questions) == len(set(questions)) == len(server.requests) - lost
    assert lost <= (25 * 2 if name == "SIGKILL" else 0)  # what was on its way when it was killed
    print(f"{name}: {signalled} sent, {len(questions)} questions, {lost} lost on their way")  # noqa: T201

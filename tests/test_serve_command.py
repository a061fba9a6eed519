"""`ipo-dspy serve` from its start to its end, with one worker and with several."""

import base64
import contextlib
import functools
import json
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from helpers.cli_calls import call
from helpers.cli_process import Processes
from helpers.serving import files, png, post, samples
from ipo_dspy.demo import DemoTask
from ipo_dspy.errors import InputError
from ipo_dspy.serve import server
from ipo_dspy.serve.limits import Limits


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory, forking_parent: Processes) -> Processes:
    return Processes(tmp_path_factory.mktemp("processes"), {}, parent=forking_parent)


@pytest.fixture(scope="module")
def program(task: DemoTask, processes: Processes) -> str:
    task.program.save(processes.folder / "best.json")
    return "best.json"


def address(processes: Processes) -> str:
    """The address that the running command prints."""
    for _ in range(600):
        if " at http" in (said := processes.said_so_far()):
            return said.partition(" at ")[2].split()[0]
        time.sleep(0.1)
    raise AssertionError(processes.so_far())


def ready(url: str) -> None:
    for _ in range(600):
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/healthz", timeout=60).status_code == 200:
                return
        time.sleep(0.1)


@pytest.mark.end_to_end
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_when_all_is_answered(
    processes: Processes, program: str, task: DemoTask, number: signal.Signals
) -> None:
    pid = processes.begin("serve", program, "--port", "0")
    url = httpx.URL(address(processes))
    ready(str(url))
    body = json.dumps({"images": [base64.b64encode(png(task, 0)).decode()]}).encode()
    assert url.port is not None
    with socket.create_connection((url.host, url.port), timeout=60) as connection:
        connection.sendall(post(len(body)) + body[:100])
        time.sleep(0.3)
        os.kill(pid, number)
        time.sleep(0.5)
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)
        connection.sendall(body[100:])
        answer = connection.makefile("rb").read().decode()
    assert answer.startswith("HTTP/1.1 200 ")
    assert task.program(image=png(task, 0)).label in answer
    done = processes.end()
    assert (done.code, done.err) == (0, "")
    assert "no token is required" in done.out


@pytest.mark.end_to_end
def test_a_request_of_many_images_is_not_too_much_for_the_server(processes: Processes, program: str) -> None:
    pid = processes.begin("serve", program, "--port", "0", "--max-images", "1100")
    url = address(processes)
    ready(url)
    response = httpx.post(f"{url}/classify", json={"images": ["AA=="] * 1100}, timeout=60)
    os.kill(pid, signal.SIGTERM)
    assert (response.status_code, processes.end().code) == (422, 0)  # none can be read


def test_a_port_in_use_is_one_error(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = call(capsys, "serve", "best.json", "--port", port)
    message = f"ipo-dspy: 127.0.0.1:{port} cannot be listened on: Address already in use; pass another --port or --host"
    assert done == (2, "", f"{message}\n")


def test_a_program_that_cannot_be_read_is_one_error(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "serve", "nothing.json", "--port", "0")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "nothing.json" in err


@pytest.mark.end_to_end
def test_a_missing_extra_is_one_error(processes: Processes) -> None:
    lines = (
        "import sys",
        "sys.modules['uvicorn'] = None",
        "from ipo_dspy.cli import main",
        "main(['serve', 'best.json'])",
    )
    done = processes.python("\n".join(lines))
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "run pip install 'ipo_dspy[serve]'" in done.err


@pytest.mark.end_to_end
def test_workers_that_end_at_the_start_are_one_error() -> None:
    build: Any = functools.partial(os._exit, 7)
    with (
        server.listen("127.0.0.1", 0, token=None) as listener,
        pytest.raises(
            InputError, match="3 workers ended at the start, the last with exit code 7; free memory, or pass"
        ),
    ):
        server._supervise(build, listener, Limits(), 2)


@pytest.mark.slow
def test_several_workers_share_a_port_and_their_metrics(processes: Processes, program: str, task: DemoTask) -> None:
    pid = processes.begin("serve", program, "--port", "0", "--workers", "2")
    url = address(processes)
    ready(url)
    time.sleep(5)  # the other worker
    with ThreadPoolExecutor(8) as threads:
        sent = list(threads.map(lambda i: httpx.post(f"{url}/classify", files=files(png(task, i))), range(40)))
    assert {response.status_code for response in sent} == {200}
    with httpx.Client(base_url=url) as client:
        assert {samples(client)["ipo_dspy_images_total", "encoded"] for _ in range(5)} == {40.0}
    os.kill(pid, signal.SIGTERM)
    assert processes.end().code == 0


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [[signal.SIGTERM, signal.SIGTERM], [signal.SIGKILL]])
def test_workers_end_with_the_server(processes: Processes, program: str, numbers: list[int]) -> None:
    pid = processes.begin("serve", program, "--port", "0", "--workers", "2")
    url = httpx.URL(address(processes))
    ready(str(url))
    assert url.port is not None
    with contextlib.ExitStack() as connections:
        if len(numbers) == 2:  # the first signal waits for these requests
            for _ in range(8):
                connection = connections.enter_context(socket.create_connection((url.host, url.port)))
                connection.sendall(post(100))
        time.sleep(1)
        for number in numbers:
            os.kill(pid, number)
            time.sleep(1)
        processes.end()
        for _ in range(100):
            time.sleep(0.1)
            try:
                socket.create_connection((url.host, url.port)).close()
            except ConnectionRefusedError:
                return
    raise AssertionError("a worker still listens")

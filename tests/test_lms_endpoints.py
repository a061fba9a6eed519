"""A server that is not there is reported at once, one that fails for a while is asked again; over real sockets."""

import socket
from collections.abc import Iterator

import dspy
import pytest
from dspy.utils.exceptions import LMError

from helpers.openai_server import KEY, OpenAIServer, Reply
from ipo_dspy import IPO, demo
from ipo_dspy.errors import LanguageModelError
from ipo_dspy.lms.endpoints import check_port_open
from ipo_dspy.lms.requests import ping
from ipo_dspy.lms.retry_notices import log_retries

pytestmark = pytest.mark.usefixtures("no_cache")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port where nothing listens, and that no one else can take meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield int(taken.getsockname()[1])


def lm_at(address: str, **settings: object) -> dspy.LM:
    return dspy.LM("openai/toy", engine="litellm", api_key=KEY, api_base=address, **settings)


def test_a_run_with_a_server_that_is_not_there_ends_at_once_and_names_host_and_port(closed_port: int) -> None:
    task = demo.load("pixel-animals", shots=1)
    lm = lm_at(f"http://me:pass-word@127.0.0.1:{closed_port}/v1?key=planted", num_retries=5)
    with pytest.raises(LanguageModelError) as caught:
        IPO(prompt_model=lm, steps=1).compile(task.program, task.trainset)
    assert str(caught.value) == (
        f"prompt_model 'openai/toy': nothing listens at 127.0.0.1:{closed_port}; start the server, or correct its "
        "api_base"
    )


def test_a_host_that_does_not_exist() -> None:
    with pytest.raises(LanguageModelError, match=r"host 'no-such-host\.invalid' does not exist; start the server, or"):
        check_port_open(lm_at("http://no-such-host.invalid:8000/v1"), role="prompt_model")


@pytest.mark.parametrize("variable", ["http_proxy", "ALL_PROXY"])
def test_nothing_is_tried_where_a_proxy_stands_between_or_the_provider_is_asked(
    variable: str, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    check_port_open(lm_at(f"http://127.0.0.1:{closed_port}/v1"), role="prompt_model")
    check_port_open(lm_at("http://[half"), role="prompt_model")
    check_port_open(dspy.LM("openai/gpt-4o-mini", engine="litellm", api_key=KEY), role="prompt_model")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(LanguageModelError, match="nothing listens"):
        check_port_open(lm_at(f"http://127.0.0.1:{closed_port}/v1"), role="prompt_model")


def test_a_retry_is_logged_once_and_without_keys() -> None:
    logged: list[str] = []
    busy = Reply(f"busy, {KEY}", status=503, headers=(("Retry-After", "0"),))
    with OpenAIServer({"": busy}) as server:
        lm, once = server.lm(num_retries=2), server.lm(num_retries=0, model="openai/once")
        with log_retries([lm, once, None], logged.append):
            for one in (lm, lm, once):
                with pytest.raises(LMError):
                    ping(one)
        assert len(server.requests) == 3 + 3 + 1
    (line,) = logged
    assert line.startswith(f"openai/toy at 127.0.0.1:{server.port} gave no answer (")
    assert line.endswith("); trying up to 3 times with exponential back-off")
    assert "busy, [hidden]" in line


def test_of_two_servers_of_one_model_the_one_that_failed_is_logged() -> None:
    logged: list[str] = []
    busy = {"": Reply("busy", status=503, headers=(("Retry-After", "0"),))}
    with OpenAIServer({}) as well, OpenAIServer(busy) as ill:
        lms = [server.lm(num_retries=1) for server in (well, ill)]
        with log_retries(lms, logged.append), pytest.raises(LMError):
            ping(lms[1])
    assert [line.split(" gave")[0] for line in logged] == [f"openai/toy at 127.0.0.1:{ill.port}"]


def test_a_failure_without_a_retry_is_not_logged_as_a_retry() -> None:
    logged: list[str] = []
    with OpenAIServer({"": Reply("wrong key", status=401)}) as server, log_retries([server.lm()], logged.append):
        lm = server.lm(num_retries=2)
        with log_retries([lm], logged.append), pytest.raises(LMError):
            ping(lm)
    assert logged == []

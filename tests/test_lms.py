"""Language models by name: mistakes show at once, without a request."""

import os
import socket

import dspy
import pytest
from dspy.utils.exceptions import LMAuthError, LMServerError

from ipo_dspy.errors import LanguageModelError
from ipo_dspy.lms import build_lm
from ipo_dspy.lms.api_keys import check_key
from ipo_dspy.lms.endpoints import endpoint
from ipo_dspy.lms.error_messages import LONGEST, one_line_error


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_BASE", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)

    def refuse(*_: object) -> None:
        raise AssertionError("a test of names went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("name", ["openai/gpt-4o-mini", "ollama_chat/phi3", "gpt-4o-mini"])
def test_known_names_go_through_litellm(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    lm = build_lm(name, role="prompt_model")
    assert isinstance(lm, dspy.LM)
    assert lm.model == name
    assert os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] == "True"


def test_a_ready_model_passes() -> None:
    lm = dspy.LM("anything/at-all", engine="litellm")
    assert build_lm(lm, role="prompt_model") is lm


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("opnai/gpt-4o-mini", r"prompt_model 'opnai/gpt-4o-mini' is not a model .*\(close: [^)]*openai/gpt-4o-mini"),
        ("gpt4o-mini", r"'gpt4o-mini' is not a model that LiteLLM knows \(close: gpt-4o-mini"),
        ("", "prompt_model '' is not a model that LiteLLM knows; use provider/name, e.g. 'openai/gpt-4o-mini' or"),
        (3, r"prompt_model must be a name or a dspy.BaseLM, got 3; for example prompt_model='openai/gpt-4o-mini'"),
    ],
)
def test_unknown_names_are_reported_with_close_ones(name: str, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LanguageModelError, match=message):
        build_lm(name, role="prompt_model")
    assert capfd.readouterr() == ("", "")


def test_faults_are_short_and_hold_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "from-the-environment")
    lm = dspy.LM("openai/toy", engine="litellm", api_key="quite-secret")
    said = "bad\n key quite-secret, from-the-environment, sk-abc*****xyz, Authorization: Bearer abc.def" + " long" * 200
    text = one_line_error(ValueError(said), lm)
    assert text.startswith("bad key [hidden], [hidden], [hidden], Authorization: [hidden] long")
    assert len(text) == 300


def test_a_missing_key_is_reported_by_name_before_any_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(LanguageModelError, match="set OPENAI_API_KEY in the environment"):
        check_key(build_lm("openai/gpt-4o-mini", role="prompt_model"), role="prompt_model")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    check_key(build_lm("openai/gpt-4o-mini", role="prompt_model"), role="prompt_model")


@pytest.mark.parametrize(
    ("name", "settings", "variable", "address"),
    [
        ("openai/toy", {"api_base": "http://localhost:8000/v1"}, "", ""),
        ("openai/toy", {"base_url": "http://localhost:8000/v1"}, "", ""),
        ("openai/toy", {}, "OPENAI_API_BASE", "http://localhost:8000/v1"),
        ("openai/toy", {}, "OPENAI_BASE_URL", "http://localhost:8000/v1"),
        ("groq/toy", {"api_base": "http://localhost:8000/v1"}, "", ""),
    ],
)
def test_a_server_of_ones_own_needs_no_key(
    name: str, settings: dict[str, str], variable: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("OPENAI_API_KEY", "GROQ_API_KEY"):
        monkeypatch.delenv(key, raising=False)
    if variable:
        monkeypatch.setenv(variable, address)
    lm = build_lm(name, role="prompt_model", settings=settings)
    assert lm.kwargs["api_key"] == "none"
    assert endpoint(lm) == "localhost:8000"
    assert one_line_error(ValueError("none of it"), lm) == "none of it"  # the word is not a secret
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")  # one that is there is sent
    assert "api_key" not in build_lm("openai/toy", role="prompt_model", settings=settings).kwargs


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("openai/gpt-4o-mini", "https://api.openai.com/v1"),
        ("openai/gpt-4o-mini", "https://eu.api.openai.com/v1"),
        ("openai/llama-3.3-70b-versatile", "https://api.groq.com/openai/v1"),
        ("azure/deployed", "https://me.openai.azure.com"),  # the provider's service at a custom address
    ],
)
def test_an_address_of_the_provider_needs_its_key(name: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("OPENAI_API_KEY", "AZURE_API_KEY"):
        monkeypatch.delenv(key, raising=False)
    lm = build_lm(name, role="prompt_model", settings={"api_base": address})
    with pytest.raises(LanguageModelError, match=r"needs a key; set [A-Z]+_API_KEY in the environment, or use"):
        check_key(lm, role="prompt_model")


def test_a_key_is_looked_for_wherever_one_may_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    bare = dspy.LM("openai/gpt-4o-mini", engine="litellm")
    with pytest.raises(LanguageModelError, match="'openai/gpt-4o-mini' needs a key; set OPENAI_API_KEY"):
        check_key(bare, role="prompt_model")
    for settings in (
        {"api_key": "planted"},
        {"azure_ad_token": "planted"},
        {"extra_headers": {"Authorization": "planted"}},
    ):
        check_key(dspy.LM("openai/gpt-4o-mini", engine="litellm", **settings), role="prompt_model")
    monkeypatch.setattr("litellm.openai_key", "planted")
    check_key(bare, role="prompt_model")


def test_host_and_port_of_a_server_are_shown_and_nothing_else_of_its_address() -> None:
    lm = dspy.LM("openai/toy", engine="litellm", api_base="http://me:pass-word@[::1]:8000/v1/secret-path?key=planted")
    assert endpoint(lm) == "[::1]:8000"
    text = one_line_error(LMServerError("gone " + "very " * 200), lm)
    assert text.endswith("... (asked at [::1]:8000)")
    assert len(text) == LONGEST
    assert "asked at" not in one_line_error(LMAuthError("wrong key"), lm)
    assert endpoint(dspy.LM("openai/toy", engine="litellm", api_base="https://host/v1")) == "host:443"
    assert endpoint(dspy.LM("ollama_chat/phi3", engine="litellm")) == "localhost:11434"
    assert endpoint(dspy.LM("openai/gpt-4o-mini", engine="litellm")) == ""


def test_faults_hold_no_header_and_no_password_of_the_model() -> None:
    lm = dspy.LM(
        "openai/toy",
        engine="litellm",
        api_base="https://me:pass%20word@host/v1",
        headers={"X-Tenant": "blue"},
        extra_headers={"X-Gate": "open-sesame", "Authorization": "Basic bWU6cGFzcw=="},
        max_tokens=40000000,
    )
    said = (
        "me:pass%20word, pass word; blue bluebird, open-sesame, Basic bWU6cGFzcw==, bWU6cGFzcw==; max_tokens=40000000"
    )
    hidden = "[hidden], [hidden]; [hidden] bluebird, [hidden], [hidden], [hidden]; max_tokens=40000000"
    assert one_line_error(ValueError(said), lm) == hidden
    broken = dspy.LM("openai/toy", engine="litellm", api_base="http://[half", extra_headers=None)
    assert one_line_error(ValueError("said"), broken) == "said"


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("openai/gpt-5", {"max_tokens": 500}),
        ("openai/toy", {"engine": "auto"}),
        ("openai/toy", {"model": "x"}),
        ("openai/toy", {"num_retries": "a"}),
    ],
)
def test_settings_that_dspy_refuses_are_reported_in_one_sentence(name: str, settings: dict[str, object]) -> None:
    with pytest.raises(
        LanguageModelError, match=f"prompt_model '{name}' cannot be set up: .*; fix the name or its settings"
    ):
        build_lm(name, role="prompt_model", settings={"api_key": "none", **settings})


@pytest.mark.parametrize("timeout", [0, -1, True, "soon"])
def test_a_timeout_that_is_none_is_refused(timeout: object) -> None:
    with pytest.raises(LanguageModelError, match="timeout must be a positive number of seconds, got "):
        build_lm("openai/toy", role="prompt_model", settings={"api_key": "none", "timeout": timeout})

"""Hugging Face tokens in files are found where huggingface_hub finds them, and redacted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ipo_dspy._internal.hub_tokens import hub_tokens, token_files
from ipo_dspy._internal.secrets import holds_secret, redact

VARIABLES = ("HOME", "XDG_CACHE_HOME", "HF_HOME", "HF_TOKEN_PATH")
TOKEN = "hf_kZqWvBnMxLrTpYsDgFhJ"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without tokens."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"XDG_CACHE_HOME": "~/elsewhere"},
        {"XDG_CACHE_HOME": "/cache", "HF_HOME": "$HOME/hub"},
        {"HF_HOME": "~/hub", "HF_TOKEN_PATH": "$HOME/keys/mine"},
    ],
)
def test_tokens_are_looked_for_where_the_hub_does(
    given: dict[str, str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    script = "from huggingface_hub.constants import *; print(HF_TOKEN_PATH, HF_STORED_TOKENS_PATH, sep='\\n')"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert [str(path) for path in token_files()] == printed.splitlines()


def test_tokens_in_files_are_redacted(home: Path) -> None:
    said = f"{TOKEN}, named-token-1, renewing-token-2"
    assert redact(said, keep_words=True) == said
    token, stored = token_files()
    token.parent.mkdir(parents=True)
    token.write_text(TOKEN + "\n")
    stored.write_text("[mine]\nhf_token = named-token-1\nrefresh_token: renewing-token-2 \nexpires_at = 12345678\n")
    assert list(hub_tokens()) == [TOKEN, "named-token-1", "renewing-token-2"]
    assert redact(said, keep_words=True) == "[hidden], [hidden], [hidden]"
    token.write_text("another-token-3")  # as by `hf auth switch` during a run
    assert redact(f"{said}, another-token-3", keep_words=True) == "[hidden], [hidden], [hidden], [hidden]"


def test_files_that_hold_no_token_are_left_alone(home: Path) -> None:
    token, stored = token_files()
    token.parent.mkdir(parents=True)
    token.write_text("\n")
    stored.mkdir()
    assert not holds_secret("a photo")
    assert redact("a photo") == "a photo"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
@pytest.mark.parametrize("path", ["pipe", "/dev/zero", "\0"])
def test_no_token_is_waited_for(path: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(home / "pipe")
    if path == "\0":  # which no variable of the environment can hold
        monkeypatch.setattr("ipo_dspy._internal.hub_tokens.token_files", lambda: (Path(path),))
    else:
        monkeypatch.setenv("HF_TOKEN_PATH", str(home / path))
    assert list(hub_tokens()) == []

"""The lines of the page on the server run as they stand, against a real one."""

import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.serving import serving
from ipo_dspy import ClipClassifier

PAGE, STATED = Path(__file__).parent.parent / "docs" / "deploy" / "server.md", "http://127.0.0.1:8000"


@pytest.fixture
def page_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server of the program that the page's first block saves; the working folder has its files."""
    monkeypatch.chdir(tmp_path)
    exec(blocks("Server", "python")[0], {})
    with serving(ClipClassifier.from_file("best.json")) as client:
        yield str(client.base_url).rstrip("/")


def blocks(section: str, language: str) -> list[str]:
    """The code blocks of a section of the page."""
    sections = {part.partition("\n")[0].strip("# "): part for part in PAGE.read_text().split("\n## ")}
    return re.findall(rf"```{language}\n(.*?)```", sections[section], flags=re.DOTALL)


def promised(code: str) -> str:
    """The output of a block by its comments."""
    return "".join(f"{line}\n" for line in re.findall(r"^print\(.*\)  # (.*)$", code, flags=re.MULTILINE))


def test_the_python_lines_of_the_page_run(page_server: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = blocks("Server", "python")[1].replace(STATED, page_server)
    exec(code, {})
    assert capsys.readouterr().out == promised(code) != ""


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on PATH")
def test_the_shell_lines_of_the_page_run(page_server: str) -> None:
    code = blocks("Server", "bash")[1].replace(STATED, page_server)
    done = subprocess.run(["bash", "-euc", code.replace("curl ", "curl -sSf ")], capture_output=True, text=True)
    assert done.stderr == ""
    answers = [json.loads(line) for line in done.stdout.replace("}{", "}\n{").splitlines()]
    labels = [[result["label"] for result in answer["results"]] for answer in answers]
    assert labels == [["cow"], ["cow", "frog"], ["cow"]]


@pytest.mark.skipif(importlib.util.find_spec("typesafe_sdk") is None, reason="typesafe-sdk is not installed")
@pytest.mark.usefixtures("no_cache")
def test_the_lines_of_the_page_for_dspy_run(page_server: str, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks("From DSPy", "python")
    exec(code.replace(STATED, page_server), {})
    assert capsys.readouterr().out == promised(code) != ""

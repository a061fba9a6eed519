"""The Python blocks of the pages and sections run as they stand, one after the other, in an empty folder."""

import re
from pathlib import Path

import pytest

from helpers.cli_process import Processes

pytestmark = pytest.mark.end_to_end

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = (
    "calibration",
    "checking",
    "coming-from/open-clip",
    "coming-from/clip-benchmark",
    "coming-from/cupl",
    "coming-from/dspy-optimizers",
    "coming-from/paper-code",
    "class-words",
    "composing#Decisions",
    "concepts/choice",
    "concepts/decisions",
    "concepts/template",
    "concepts/words-and-labels",
    "deploy",
    "deploy/formats",
    "deploy/python",
    "deploy/onnx",
    "deploy/scripts",
    "encoders",
    "gallery",
    "how-to/confused-classes",
    "how-to/encoder",
    "how-to/images",
    "how-to/language-model",
    "how-to/method",
    "index",
    "objectives",
    "reference/errors",
    "reference/events",
    "reference/journal",
    "start/five-minutes",
)


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory, forking_parent: Processes) -> Processes:
    return Processes(tmp_path_factory.mktemp("processes"), {}, parent=forking_parent)


@pytest.mark.parametrize("page", PAGES)
def test_the_python_blocks_of_a_page_run(page: str, processes: Processes, tmp_path: Path) -> None:
    name, _, section = page.partition("#")
    text = (DOCS / f"{name}.md").read_text()
    if section:
        text = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    blocks: list[str] = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert blocks
    done = processes.python("\n".join([f"import os\nos.chdir({str(tmp_path)!r})", *blocks]))
    assert done.code == 0, done.err
    promised = re.findall(r"^print\(.*\)  # (.*)$", "\n".join(blocks), flags=re.MULTILINE)
    printed = done.out.splitlines()
    assert [line for line in promised if line not in printed] == []

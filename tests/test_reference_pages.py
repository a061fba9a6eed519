"""The pages of docs/reference list what the code has: commands, events, errors, variables, files, public names."""

import ast
import importlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest

import ipo_dspy
from ipo_dspy import IPO, IPOError, demo, errors, write_report
from ipo_dspy.run.events import _KINDS

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "reference"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference_pages", ROOT / "scripts" / "reference_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "page", ["reference/cli.md", "reference/events.md", "reference/journal.md", "reference/errors.md", "gallery.md"]
)
def test_the_generated_parts_are_current(page: str, script: Any) -> None:
    assert (ROOT / "docs" / page).read_text() == script.rendered(page), (
        "run python scripts/reference_pages.py, and commit"
    )


def test_all_events_and_their_fields_are_listed() -> None:
    sections = {part.partition("\n")[0]: part for part in (PAGES / "events.md").read_text().split("\n## ")}
    for kind, form in _KINDS.items():
        fields = form.__required_keys__ | form.__optional_keys__
        assert set(re.findall(r"^\| `(\w+)` \|", sections[kind], flags=re.MULTILINE)) == fields - {"event"}


def test_all_errors_and_reasons_have_a_remedy() -> None:
    text = (PAGES / "errors.md").read_text()
    remedies, reasons = text.split("\n## ")[1:3]
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, IPOError)]
    assert len(classes) > 12
    assert [each.__name__ for each in classes if each is not IPOError and f"`{each.__name__}`" not in remedies] == []
    assert [reason for reason in get_args(errors.RejectionReason) if f"| `{reason}` |" not in reasons] == []


def test_all_environment_variables_are_listed() -> None:
    """Each constant in capitals with an underscore, in a module that reads the environment."""
    text = (PAGES / "environment.md").read_text()
    read = set()
    for file in (ROOT / "src").rglob("*.py"):
        if "os.environ" in (source := file.read_text()):
            constants = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
            read |= {
                value for value in constants if isinstance(value, str) and re.fullmatch(r"[A-Z]+(_[A-Z]+)+", value)
            }
    assert {"IPO_DSPY_CACHE", "OMP_NUM_THREADS", "RAY_ADDRESS"} <= read
    assert sorted(name for name in read if f"`{name}`" not in text) == []


def test_all_files_of_a_run_are_listed(tmp_path: Path) -> None:
    task = demo.load("pixel-animals", shots=1)
    IPO(proposer="evolution", steps=1, log_dir=tmp_path).compile(task.program, task.trainset)
    write_report(tmp_path)
    text = (PAGES / "files.md").read_text()
    assert [file.name for file in tmp_path.iterdir() if f"| `{file.name}` |" not in text] == []


def test_all_public_names_are_in_the_reference_and_all_of_it_exists() -> None:
    pages = "\n".join(page.read_text() for page in (PAGES / "api").glob("*.md"))
    shown = re.findall(r"^::: (\S+)$", pages, flags=re.MULTILINE)
    assert len(set(shown)) == len(shown)
    assert {f"ipo_dspy.{name}" for name in ipo_dspy.__all__ if name != "__version__"} <= set(shown)
    for name in shown:
        module, _, attribute = name.rpartition(".")
        found = getattr(importlib.import_module(module), attribute, None) or importlib.import_module(name)
        assert found is not None

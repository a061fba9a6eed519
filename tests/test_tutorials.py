"""The notebooks of docs/tutorials run, and are committed with their outputs and nothing else."""

import json
import re
from pathlib import Path

import nbformat
import pytest

from helpers.conversations import FOLDER as CONVERSATIONS
from helpers.tutorials import FOLDER, METADATA, run

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
tutorials = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
LARGEST = 300_000
"""In bytes; a page of the site, and a diff, hold all of it."""
ABSOLUTE = re.compile(r"(?<![\w.])/(?:home|Users|root|tmp|var|private|work|mnt|opt|usr)/|[A-Z]:\\\\Users")
VARYING = re.compile(r"\d it/s|\bseconds elapsed\b|\d\d:\d\d:\d\d|TqdmWarning")


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(notebook: nbformat.NotebookNode) -> list[list[str]]:
    """The kinds of outputs of each cell; figures depend on the processor in the last digits."""
    return [[o.get("name") or next(iter(o.data)) for o in cell.outputs] for cell in code_cells(notebook)]


def printed(cell: nbformat.NotebookNode) -> str:
    return "".join(o.text if o.output_type == "stream" else o.data.get("text/plain", "") for o in cell.outputs)


@pytest.mark.end_to_end
@tutorials
def test_a_tutorial_runs(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "DSPY_CACHEDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "empty").mkdir()
    again = run(notebook, tmp_path / "empty")
    assert kinds(again) == kinds(nbformat.read(notebook, as_version=4)), "run `python scripts/run_tutorials.py`"


@tutorials
def test_a_tutorial_is_committed_as_it_ran(notebook: Path) -> None:
    content = nbformat.read(notebook, as_version=4)
    nbformat.validate(content)
    assert content.metadata == METADATA
    assert [cell.execution_count for cell in code_cells(content)] == [*range(1, len(code_cells(content)) + 1)]
    assert sum(bool(cell.outputs) for cell in code_cells(content)) > 5
    assert notebook.stat().st_size < LARGEST
    text = "\n".join(cell.source + printed(cell) for cell in code_cells(content))
    assert ABSOLUTE.findall(text) == VARYING.findall(text) == []


@tutorials
def test_a_tutorial_has_a_title_a_next_step_and_links_that_lead_somewhere(notebook: Path) -> None:
    texts = [cell.source for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "markdown"]
    title = texts[0].splitlines()[0].removeprefix("# ")
    assert re.search(r"takes \w+ minutes to read", texts[0].replace("\n", " "))
    assert "## Next" in texts[-1]
    links = re.findall(r"\]\((?!https?:)([^)#]+)", "\n".join(texts))
    assert [link for link in links if not (FOLDER / link).exists()] == []
    assert f"[{title}]({notebook.name})" in (FOLDER / "index.md").read_text()


def test_the_recorded_answers_are_those_to_the_requests_that_the_tutorial_shows() -> None:
    content = nbformat.read(FOLDER / "language-model.ipynb", as_version=4)
    exchanges = json.loads((CONVERSATIONS / "pixel-animals.json").read_text(encoding="utf-8"))["exchanges"]
    source = "\n".join(cell.source for cell in code_cells(content))
    assert [e["answer"].strip() in source for e in exchanges[:3]] == [True] * 3
    shown = [printed(cell) for cell in code_cells(content) if "print(recorded.requests" in cell.source]
    for text, exchange in zip(shown, (exchanges[0], exchanges[2]), strict=True):
        assert re.sub(r"[\d.]+", "#", text.strip()) in re.sub(r"[\d.]+", "#", exchange["request"])

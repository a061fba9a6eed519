"""Runs the notebooks of docs/tutorials; `scripts/run_tutorials.py` stores what it returns."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent.parent.parent / "docs" / "tutorials"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def run(notebook: Path, folder: Path) -> nbformat.NotebookNode:
    """Return the notebook with the outputs of a run in a folder.

    Raises:
        CellExecutionError: a cell fails.
    """
    content = nbformat.read(notebook, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(content, timeout=120, kernel_name="python3", resources=resources, record_timing=False).execute()
    content.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(content.cells):
        cell.id, cell.metadata = f"cell-{number}", nbformat.from_dict({})
        if cell.cell_type == "code":
            cell.outputs = _seen(cell.outputs)
    return content


def _seen(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Return outputs as text or PNG, and lines that were printed one after the other as one output."""
    seen: list[nbformat.NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream" and "TqdmWarning" in output.text:  # without ipywidgets
            continue
        if output.output_type == "display_data" and "image/png" not in output.data:  # lines of a progress display
            output = nbformat.v4.new_output("stream", name="stdout", text=output.data["text/plain"])
        if output.output_type == "stream" and seen and seen[-1].get("name") == output.name:
            seen[-1].text += output.text
            continue
        if output.output_type != "stream":
            kind = "image/png" if "image/png" in output.data else "text/plain"
            output.data, output.metadata = nbformat.from_dict({kind: output.data[kind]}), nbformat.from_dict({})
        seen.append(output)
    return seen

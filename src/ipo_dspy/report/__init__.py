"""The report: a finished or running journal as one self-contained HTML page; needs no torch and no network.

Events are folded into the state of the run, after `journal_fields` has made their texts printable. `summary` computes
the values to show, `inline_charts` and `thumbnails` draw, and `page` lays out the result. No part of a journal is
executed, and all of it is escaped.
"""

import contextlib
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ipo_dspy._internal.file_io import atomic_write
from ipo_dspy._internal.untrusted import printable
from ipo_dspy.errors import PathError
from ipo_dspy.report.journal_fields import printable_event
from ipo_dspy.report.page import environment, page
from ipo_dspy.run.journal import replay
from ipo_dspy.run.state import RunState
from ipo_dspy.scoring.calibration import CalibrationReport

__all__ = [
    "render_report",
    "write_calibration_report",
    "write_label_report",
    "write_pictures",
    "write_report",
    "write_word_report",
]


def write_pictures(run_folder: str | os.PathLike[str], folder: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Write the pictures of a run for slides as PNG files in a folder, and return them; see `slides.draw_slides`.

    Raises:
        PathError: the path has no run, or a file cannot be written.
        JournalError: the journal is damaged.
    """
    from ipo_dspy.report.slides import draw_slides  # loads matplotlib

    state, folder_of_run = _read(run_folder)
    return draw_slides(state, printable(folder_of_run.absolute().name), Path(folder))


def render_report(run_folder: str | os.PathLike[str]) -> str:
    """Return the page of a run folder (or a journal file), finished or not.

    Raises:
        PathError: the path has no run.
        JournalError: the journal is damaged.
    """
    return page(*_read(run_folder))


def write_report(run_folder: str | os.PathLike[str], path: str | os.PathLike[str] | None = None) -> Path:
    """Write the page to `path`, by default `report.html` in the run folder, and return its path.

    Raises:
        PathError: the path has no run, or the page cannot be written.
        JournalError: the journal is damaged.
    """
    state, folder = _read(run_folder)
    target = folder / "report.html" if path is None else Path(path)
    return _write(page(state, folder), target, example="report.html")


def _read(run_folder: str | os.PathLike[str]) -> tuple[RunState, Path]:
    """Return the state of a run, and the folder of its journal."""
    folder = Path(run_folder)
    state = RunState(map(printable_event, replay(folder)))
    return state, folder if folder.is_dir() else folder.parent


def write_word_report(explanation: Mapping[str, Any], path: str | os.PathLike[str], *, data: str = "") -> Path:
    """Write the page of a word ablation of images called `data`, given as plain values, and return its path.

    Raises:
        PathError: the page cannot be written.
    """
    counts = explanation.get("images", {}).items()
    images = (f"{count:,} {part if part != 'all' else ''} images".replace("  ", " ") for part, count in counts)
    return _write_page("words.html", {**explanation, "origin": _origin(data, *images)}, path)


def write_label_report(checked: Mapping[str, Any], path: str | os.PathLike[str], *, data: str = "") -> Path:
    """Write the page of suspicious labels with their images, given as plain values, and return its path.

    `data` is the name of the images.

    Raises:
        PathError: the page cannot be written.
    """
    return _write_page("labels.html", {**checked, "origin": _origin(data)}, path)


def write_calibration_report(
    report: CalibrationReport, template: str, unknown_label: str | None, path: str | os.PathLike[str]
) -> Path:
    """Write the page of a calibration, and return its path.

    Raises:
        PathError: the page cannot be written.
    """
    from ipo_dspy.report import inline_charts as charts  # loads matplotlib

    values = {
        "report": report,
        "template": template,
        "unknown_label": unknown_label,
        "weights": sorted(report.weights.items(), key=lambda item: -item[1]),
        "reliability": charts.draw_reliability(report.before.bins, report.after.bins),
        "coverage": charts.draw_coverage(report.curve, report.coverage),
    }
    return _write_page("calibration.html", values, path)


def _origin(*parts: str) -> str:
    """Return the data that a page is about, and the date."""
    return printable(" · ".join(filter(None, (*parts, datetime.now(UTC).strftime("%Y-%m-%d")))))


def _write_page(name: str, values: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    with contextlib.suppress(OSError):  # writing the page fails too, with a message
        target.parent.mkdir(parents=True, exist_ok=True)
    return _write(environment().get_template(f"{name}.j2").render(values), target, example=name)


def _write(html: str, target: Path, *, example: str) -> Path:
    try:
        atomic_write(target, html.encode())
    except OSError as error:
        message = f"report {str(target)!r} cannot be written ({error.strerror}); name a writable file, e.g. {example!r}"
        raise PathError(message) from error
    return target

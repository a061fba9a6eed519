"""The report: a finished or running journal as one self-contained HTML page; needs no torch and no network.

Events are folded into the state of the run, after `journal_fields` has made their texts printable. `summary` computes
the values to show, `inline_charts` and `thumbnails` draw, and `page` lays out the result. No part of a journal is
executed, and all of it is escaped.
"""

import os
from pathlib import Path

from ipo_dspy._internal.file_io import atomic_write
from ipo_dspy.errors import JournalError
from ipo_dspy.report.journal_fields import printable_event
from ipo_dspy.report.page import page
from ipo_dspy.run.journal import replay
from ipo_dspy.run.state import RunState

__all__ = ["render_report", "write_report"]

FILE_NAME = "report.html"


def render_report(run_folder: str | os.PathLike[str]) -> str:
    """Return the page of a run folder (or a journal file), finished or not.

    Raises:
        JournalError: the journal is missing or damaged.
    """
    return page(RunState(map(printable_event, replay(run_folder))))


def write_report(run_folder: str | os.PathLike[str], path: str | os.PathLike[str] | None = None) -> Path:
    """Write the page to `path`, by default `report.html` in the run folder, and return its path.

    Raises:
        JournalError: the journal is missing or damaged, or the page cannot be written.
    """
    folder = Path(run_folder)
    default = (folder if folder.is_dir() else folder.parent) / FILE_NAME
    target = default if path is None else Path(path)
    content = render_report(run_folder).encode()
    try:
        atomic_write(target, content)
    except OSError as error:
        raise JournalError(
            f"report {str(target)!r} cannot be written ({error.strerror}); name a writable file, e.g. 'report.html'"
        ) from error
    return target

"""Write the page of a word ablation: scores without each word and phrase, and the class confusions."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ipo_dspy._internal.file_io import atomic_write
from ipo_dspy.errors import JournalError
from ipo_dspy.report.page import environment

CONFUSIONS_SHOWN = 40


def write_words(found: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write the page of the plain values of a word ablation, and return its path.

    Raises:
        JournalError: the page cannot be written.
    """
    target = Path(path)
    template = environment().get_template("words.html.j2")
    content = template.render(**found, CONFUSIONS_SHOWN=CONFUSIONS_SHOWN)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(target, content.encode())
    except OSError as error:
        raise JournalError(
            f"report {str(target)!r} cannot be written ({error.strerror}); name a writable file, e.g. 'words.html'"
        ) from error
    return target

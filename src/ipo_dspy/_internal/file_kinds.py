"""Recognize the kind of a file by its name and first bytes.

An error about the wrong kind of file can then name the kind.
"""

import os
from pathlib import Path

from ipo_dspy._internal.file_io import open_regular

PROGRAM_FILE = "best.json"
"""Name of the file in which a run saves its best program."""
JOURNAL_FILE = "journal.jsonl"
SAVED_PROGRAM, JOURNAL, RUN_FOLDER = "a saved program", "the journal of a run", "the folder of a run"
OUTCOMES = "a file of outcomes"
_HEAD_BYTES = 4096
_SUFFIXES = {
    **dict.fromkeys((".csv", ".tsv", ".parquet", ".xlsx", ".xls"), "a table"),
    **dict.fromkeys((".tar", ".tgz", ".gz", ".zip"), "an archive"),
    **dict.fromkeys((".html", ".htm"), "an HTML page"),
    **dict.fromkeys((".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".onnx"), "a file of weights"),
    **dict.fromkeys((".pkl", ".pickle"), "a pickle, which is never loaded because it could run code"),
    ".md": "a text",
    ".txt": "a text",
    ".py": "a Python script",
}
_IMAGES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\x00", b"MM\x00*", b"RIFF", b"\x00\x00\x00\x0cjP")


def described(path: str | os.PathLike[str]) -> str | None:
    """Return a noun phrase for the kind of a file or folder, or None if it is missing or unknown.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = Path(folder) / "report.html"
    ...     _ = page.write_text("<html>")
    ...     described(page), described(folder), described(page.with_name("none"))
    ('an HTML page', 'a folder', None)
    """
    path = Path(path)
    if os.path.isdir(path):  # noqa: PTH112  # that of `Path` raises for a long name
        return RUN_FOLDER if (path / JOURNAL_FILE).is_file() else "a folder"
    try:
        with open_regular(path) as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return None
    if head.startswith(_IMAGES) or head[4:12] in (b"ftypavif", b"ftypheic", b"ftypmif1"):
        return "an image"
    if head.startswith(b'{"event":'):
        return JOURNAL
    if head.startswith(b'{"outcomes":'):
        return OUTCOMES
    if b'"dependency_versions"' in head or b'"signature"' in head:
        return SAVED_PROGRAM
    return _SUFFIXES.get(path.suffix.lower())

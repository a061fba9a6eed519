"""The check of words in `make check` fails on a word that was cleared out, and names the word to use."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "scripts" / "check_words.py"


def check(folder: Path, name: str, text: str) -> "subprocess.CompletedProcess[str]":
    """Run the script in a repository with one file."""
    (folder / name).write_text(text)
    for arguments in (["init", "-q"], ["add", name]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    return subprocess.run([sys.executable, SCRIPT], cwd=folder, capture_output=True, text=True)


def test_a_word_that_was_cleared_out_fails_with_the_word_to_use(tmp_path: Path) -> None:
    done = check(tmp_path, "page.md", "A run resumes.\nIt goes on in the next sitting.\n")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "page.md:2: 'goes on': use continue, resume",
        "page.md:2: 'sitting': use session",
    ]


def test_docstrings_that_open_with_a_question_fail(tmp_path: Path) -> None:
    done = check(tmp_path, "module.py", '"""Whether it is so."""\n')
    assert (done.returncode, done.stdout) == (1, "module.py:1: 'Whether': use a command or a noun phrase\n")


def test_names_of_tests_are_read_as_sentences(tmp_path: Path) -> None:
    done = check(tmp_path, "test_run.py", "def test_it_goes_on() -> None: ...\n")
    assert (done.returncode, done.stdout) == (1, "test_run.py:1: 'goes on': use continue, resume\n")


def test_plain_english_passes(tmp_path: Path) -> None:
    done = check(tmp_path, "page.md", "Images are encoded once. The result is no longer than a line.\n")
    assert (done.returncode, done.stdout) == (0, "")

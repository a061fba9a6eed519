"""Run the command line in this process."""

import pytest

from ipo_dspy.cli import main


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Return the exit code of a command, and what it prints to stdout and to stderr."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        main(list(map(str, arguments)))
    out, err = capsys.readouterr()
    return int(exit.value.code or 0), out, err

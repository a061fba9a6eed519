"""The command line: parse arguments, call one function, print. `ipo-dspy --help` lists the commands.

Exit codes: 0 done; 1 the run could not be finished or written; 2 the input cannot be used; 130 interrupted.
"""

import io
import os
import sys

from ipo_dspy.cli import resume
from ipo_dspy.cli.wording import in_options
from ipo_dspy.errors import InputError, IPOError


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; mistakes of the user end in one line on stderr, with `--debug` in a traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    resume.remember(arguments)
    # A thread of PyTorch that waits for the others sleeps: on a busy machine it would take their core. Read once, at
    # torch's import.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from ipo_dspy.cli import terminal
    from ipo_dspy.cli.app import app

    terminal.guard()

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 shows \u2192 instead of failing
    try:
        app([a for a in arguments if a != "--debug"])
    except IPOError as error:
        if debug:
            raise
        terminal.line(f"ipo-dspy: {in_options(str(error), _command(arguments))}", sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except (KeyboardInterrupt, SystemExit) as ended:
        if not _interrupted(ended):
            raise
        sys.stderr.write("ipo-dspy: interrupted\n")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130)  # at once: a request that a thread waits for would hold up sys.exit for minutes


def _command(arguments: list[str]) -> str:
    """The command in the arguments: before it stand flags only."""
    return next((argument for argument in arguments if not argument.startswith("-")), "")


def _interrupted(ended: BaseException | None) -> bool:
    """Whether Ctrl-C is behind it; Typer makes an exit of that, as of every other end."""
    while ended is not None and not isinstance(ended, KeyboardInterrupt):
        ended = ended.__cause__ or ended.__context__
    return ended is not None

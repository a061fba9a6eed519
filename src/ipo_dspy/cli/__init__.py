"""The command line: parse arguments, call one function, print. `ipo-dspy --help` lists the commands.

Exit codes: 0 success; 1 the run could not be finished or written; 2 invalid input; 130, 143 or 129 interrupted by
Ctrl-C, SIGTERM or SIGHUP.
"""

import contextlib
import io
import os
import sys

from ipo_dspy.cli import resume, signals
from ipo_dspy.errors import InputError, IPOError


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; user errors print one line to stderr, or a traceback with `--debug`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    command = next((argument for argument in arguments if not argument.startswith("-")), "")
    # Idle threads of PyTorch sleep instead of spinning, which would slow down the others on a busy machine. OpenMP
    # reads this once, when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with signals.handling(signals.leave):
        from ipo_dspy.cli import terminal
        from ipo_dspy.cli.app import app
        from ipo_dspy.cli.messages import modernize, render

    terminal.guard()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 shows \u2192 instead of failing
    arguments, deprecated = modernize(arguments, command)
    resume.store_invocation(arguments)
    if deprecated:
        terminal.line(f"ipo-dspy: {deprecated}", sys.stderr)
    try:
        with signals.handling(signals.interrupt):
            app([a for a in arguments if a != "--debug"])
    except IPOError as error:
        if debug:
            raise
        terminal.line(f"ipo-dspy: {render(error, command)}", sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except (KeyboardInterrupt, SystemExit) as ended:
        interrupt = _interrupt_behind(ended)
        if interrupt is None:
            raise
        with contextlib.suppress(OSError):  # the terminal may be gone
            sys.stderr.write("ipo-dspy: interrupted\n")
            sys.stdout.flush()
            sys.stderr.flush()
        # sys.exit would wait for threads, and a request in one of them may take minutes.
        os._exit(signals.exit_code(interrupt))


def _interrupt_behind(ended: BaseException | None) -> KeyboardInterrupt | None:
    """Return the Ctrl-C or other signal behind an exception, if any; Typer turns it into an exit."""
    while ended is not None and not isinstance(ended, KeyboardInterrupt):
        ended = ended.__cause__ or ended.__context__
    return ended

"""Write to the terminal with all control characters escaped.

Responses and errors of servers, file names, class names and fields of files may contain characters that move the
cursor, set the window title, or reverse text. Every renderable passes through `Terminal`, and every plain line through
`line`; nothing else in the command line writes to stdout or stderr.
"""

import contextlib
import logging
import sys
import traceback
import warnings
from collections.abc import Iterable
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from ipo_dspy._internal.untrusted import printable


class Terminal(Console):
    """A console that escapes control characters."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render an object to printable segments; Rich's own control codes are kept."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def line(text: str, stream: TextIO | None = None) -> None:
    """Write a line to stdout or another stream, with control characters escaped."""
    (stream or sys.stdout).write(f"{printable(text)}\n")


def guard() -> None:
    """Escape control characters in log messages, including those of libraries, in warnings, and in tracebacks."""
    logging.setLogRecordFactory(_printable_record)
    warnings.showwarning = _print_warning
    sys.excepthook = _print_traceback


def _printable_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
    record = logging.LogRecord(*args, **kwargs)
    with contextlib.suppress(TypeError, ValueError):  # logging itself reports a message that does not fit its arguments
        record.msg, record.args = printable(record.getMessage()), None
    if record.exc_info and record.exc_info[0] is not None:
        record.exc_text = printable(logging.Formatter().formatException(record.exc_info))
    return record


def _print_warning(message: Warning | str, category: type[Warning], *place: Any, **_: Any) -> None:
    is_for_users = category is UserWarning  # others are for programmers, who need the place
    shown = f"warning: {message}" if is_for_users else warnings.formatwarning(message, category, *place[:2])
    line(shown.rstrip("\n"), sys.stderr)


def _print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    line("".join(traceback.format_exception(kind, error, trace)).rstrip("\n"), sys.stderr)

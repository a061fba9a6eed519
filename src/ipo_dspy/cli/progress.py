"""Show live progress in a terminal; elsewhere, print only errors."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Self

from ipo_dspy.cli.terminal import Terminal
from ipo_dspy.run.events import Event
from ipo_dspy.run.progress import ProgressDisplay


@contextlib.contextmanager
def spinner(text: str) -> Iterator[None]:
    """Show a spinner on stderr if it is a terminal."""
    console = Terminal(stderr=True)
    with console.status(text) if console.is_terminal else contextlib.nullcontext():
        yield


class LiveProgress(ProgressDisplay):
    """Progress of a command: bars if stderr is a terminal, and errors in any case."""

    skipped = 0
    """Number of images that could not be read."""
    loggers: tuple[str, ...] = ("ipo_dspy.optimizer.ipo",)
    """Loggers whose warnings are already printed here."""

    def __enter__(self) -> Self:
        self._levels = {name: logging.getLogger(name).level for name in self.loggers}
        for name in self.loggers:
            logging.getLogger(name).setLevel(logging.ERROR)
        super().__enter__()
        return self

    def __exit__(self, *details: object) -> None:
        super().__exit__(*details)
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)

    def stopping(self) -> str:
        """Return how a run ends after a signal, and how long the requests under way take at most, if known."""
        pending, text = self.state.pending, "stopping after this step"
        left = [request.timeout - request.seconds for request in pending if request.timeout is not None]
        if not left or len(left) < len(pending):
            return text
        return f"{text}; the response of {pending[left.index(max(left))].model} takes at most {max(left):.0f} s more"

    def __call__(self, event: Event) -> None:
        """Show an event."""
        super().__call__(event)
        self.skipped += event["event"] == "image_skipped"
        if event["event"] == "error":
            owner = "" if event["predictor"] == "self" else f" of {event['predictor']}"
            self.say(f"step {event['step']}{owner}: {event['message']}")

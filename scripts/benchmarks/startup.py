"""Start-up

Median wall time of fresh processes, interleaved; import times exclude interpreter start-up.
"""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.common import Size, interleaved, table

IMPORTS = {
    "import dspy": "import dspy",
    "import dspy, ipo_dspy": "import dspy, ipo_dspy",
    "from ipo_dspy import IPO, ClipClassifier": "import dspy; from ipo_dspy import IPO, ClipClassifier",
}
HEAVY = ("torch", "litellm", "transformers", "open_clip", "matplotlib", "ray", "lmdb")


def run(size: Size, seed: int) -> None:
    """Print the table."""
    del seed  # nothing is drawn
    command = str(Path(sys.executable).parent / "ipo-dspy")
    ways = {"python": _python("pass"), **{name: _python(code) for name, code in IMPORTS.items()}}
    took = interleaved({**ways, "ipo-dspy --help": _process([command, "--help"])}, repeats=21 if size == "full" else 5)
    bare = took.pop("python")
    table(
        ("what", "seconds", "more than dspy alone", "heavy modules loaded"),
        (
            (
                f"`{name}`",
                f"{seconds - bare:.2f}",
                f"{1000 * (seconds - took['import dspy']):+.0f} ms",
                ", ".join(_loaded(IMPORTS[name])) or "none",
            )
            if name in IMPORTS
            else (f"`{name}`", f"{seconds:.2f}", "", "")
            for name, seconds in took.items()
        ),
    )


def _python(code: str) -> Callable[[], object]:
    return _process([sys.executable, "-c", code])


def _process(command: Sequence[str]) -> Callable[[], object]:
    return lambda: subprocess.run(command, check=True, capture_output=True)


def _loaded(code: str) -> list[str]:
    completed = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*[name for name in {HEAVY!r} if name in sys.modules])"],
        check=True,
        capture_output=True,
        text=True,
    )
    return completed.stdout.split()

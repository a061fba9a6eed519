"""Command lines and scripts in processes of their own, forked from one that has everything imported.

A child runs `main(ARGUMENTS)`, or a script's source, and ends as any Python process does; only the seconds that the
imports take are saved. `python cli_process.py` reads a JSON object a line from stdin, and prints `begun PID` and then
`done CODE` for each.
"""

import atexit
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

PYTHON = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "IPO_DSPY_CACHE") if name in os.environ}
# PyTorch's threads do not live through a fork.
PYTHON |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Done:
    """Exit code and output of a process."""

    code: int
    out: str
    err: str


class Processes:
    """Runs command lines one after the other, each in a separate process.

    Args:
        folder: the working folder; the output goes to files in `folder/printed`.
        environment: variables of the processes, besides those that they need to find Python.
        parent: processes whose parent forks these as well, which saves the seconds of its imports. Packages that read
            the environment when they are imported see that of the parent.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], *, parent: "Processes | None" = None) -> None:
        self.folder, self.environment = folder, dict(environment)
        self._printed = folder / "printed"
        self._printed.mkdir(parents=True)
        self._count = 0
        self._shares = parent is not None
        self._parent: subprocess.Popen[str] = self._start() if parent is None else parent._parent

    def _start(self) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, str(Path(__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env={**PYTHON, **self.environment},
        )

    def run(self, *arguments: str) -> Done:
        """A command line, to its end."""
        self.begin(*arguments)
        return self.end()

    def python(self, source: str, *arguments: str) -> Done:
        """A Python script, to its end."""
        self._begin(arguments, source)
        return self.end()

    def begin(self, *arguments: str) -> int:
        """Begin a command line; its process id."""
        return self._begin(arguments, None)

    def begin_python(self, source: str, *arguments: str) -> int:
        """Begin a Python script; its process id."""
        return self._begin(arguments, source)

    def end(self) -> Done:
        """Wait for what was begun."""
        code = int(self._say("done"))
        out, err = (path.read_text() for path in self._files())
        return Done(code, out, err)

    def so_far(self) -> str:
        """Return the stderr of the running process until now."""
        path = self._files()[1]
        return path.read_text() if path.exists() else ""

    def said_so_far(self) -> str:
        """Return the stdout of the running process until now."""
        path = self._files()[0]
        return path.read_text() if path.exists() else ""

    def _begin(self, arguments: Sequence[str], source: str | None) -> int:
        self._count += 1
        out, err = map(str, self._files())
        place = {"folder": str(self.folder), "environment": self.environment}
        job = {"arguments": list(arguments), "source": source, "out": out, "err": err, **place}
        assert self._parent.stdin is not None
        self._parent.stdin.write(json.dumps(job) + "\n")
        self._parent.stdin.flush()
        return int(self._say("begun"))

    def _say(self, word: str) -> str:
        assert self._parent.stdout is not None
        said = self._parent.stdout.readline().split()
        assert said[:1] == [word], f"the parent of the processes said {said}"
        return said[1]

    def _files(self) -> tuple[Path, Path]:
        return self._printed / f"{self._count}.out", self._printed / f"{self._count}.err"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shares:
            return
        self._parent.kill()
        self._parent.wait()
        for stream in (self._parent.stdin, self._parent.stdout):
            if stream is not None:
                stream.close()


# Imported by the parent, because every child would need seconds for them: what a run imports only when it needs it.
MODULES = (
    "ipo_dspy.cli.app",
    "ipo_dspy.cli.inference",
    "ipo_dspy.cli.run_command",
    "ipo_dspy.clip.feature_cache",
    "ipo_dspy.lms.client",
    "ipo_dspy.optimizer.ipo",
    "ipo_dspy.optimizer.pipeline",
    "ipo_dspy.report.page",
    "matplotlib.backends.backend_svg",
    "openai.resources.chat",
    "pillow_heif",
    "pyarrow.parquet",
)


def import_all() -> None:
    """Import the modules of a run with a language model, so that forked processes need not."""
    from PIL import Image

    from ipo_dspy.lms.usage import cost_usd

    cost_usd("openai/gpt-4o-mini", 1, 1)  # imports LiteLLM
    Image.init()
    for name in MODULES:
        importlib.import_module(name)


def _load_model() -> None:
    from ipo_dspy.clip.loading import load_backbone
    from ipo_dspy.demo import model_path

    load_backbone(f"local-dir:{model_path()}", None, device="cpu")  # which the children then find in memory


def _next_child() -> dict[str, Any] | None:
    """Fork for each line of stdin; the job in the child, None in the parent when there is no more."""
    while line := sys.stdin.readline():
        child = os.fork()
        if child == 0:
            return dict(json.loads(line))
        print(f"begun {child}", flush=True)  # noqa: T201
        _, status = os.waitpid(child, 0)
        print(f"done {os.waitstatus_to_exitcode(status)}", flush=True)  # noqa: T201
    return None


class Leaving:
    """Ends the process once its threads and exit functions are done: what Python then does lasts two seconds."""

    code = 0

    def __call__(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(self.code)


def main() -> None:
    """Do what one line of stdin says, in a child; the parent goes on to the next."""
    leaving = Leaving()
    atexit.register(leaving)  # the first to be registered is the last to be called
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it would be ignored
    import_all()
    _load_model()
    job = _next_child()
    if job is None:
        return
    os.chdir(job["folder"])
    os.environ.update(job["environment"])
    for stream, path in ((sys.stdout, job["out"]), (sys.stderr, job["err"])):
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(target, stream.fileno())
        os.close(target)
    try:
        _do(job)
    except SystemExit as ended:
        leaving.code = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
        raise
    except BaseException:
        leaving.code = 1
        raise


def _do(job: Mapping[str, Any]) -> None:
    if job["source"] is not None:
        sys.argv = ["-c", *job["arguments"]]
        exec(compile(job["source"], "<script>", "exec"), {"__name__": "__main__"})
    else:
        from ipo_dspy.cli import main as command_line

        command_line(job["arguments"])


if __name__ == "__main__":
    main()

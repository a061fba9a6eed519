"""Shared parts of all benchmarks: a clock, the stamp of machine and commit, and the table it prints."""

import gc
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TypeVar

Size = Literal["quick", "full"]
"""`quick` takes minutes and is for people, `full` is for releases."""

Result = TypeVar("Result")


def seconds(work: Callable[[], Result]) -> tuple[float, Result]:
    """Return the duration of a call and its result."""
    gc.collect()
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def interleaved(ways: Mapping[str, Callable[[], Any]], *, repeats: int) -> dict[str, float]:
    """Median seconds of each way, in turn in one process, so that a busy moment hits all of them."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, work in ways.items():
            took[name].append(seconds(work)[0])
    return {name: statistics.median(all_of) for name, all_of in took.items()}


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a Markdown table row by row, each as soon as it is known."""
    print("| " + " | ".join(header) + " |")
    print("|---" + "|---:" * (len(header) - 1) + "|", flush=True)
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |", flush=True)


def commit() -> str:
    """The commit that this tree is at; `-dirty` where it has changes."""
    root = Path(__file__).parent
    completed = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return completed.stdout.strip() or "unknown"


def machine(packages: Sequence[str] = ("torch", "open_clip_torch", "numpy")) -> str:
    """Processor, cores, memory and versions in one line."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(f"{name} {_version(name)}" for name in packages)
    return f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB; Python {platform.python_version()}, {versions}"


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"

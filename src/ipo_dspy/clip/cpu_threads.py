"""Number of CPU threads for the passes of a model, from the machine and the size of the model's matrix products.

PyTorch takes a thread for each core, and each thread waits for the others after every product. If another process uses
one of the cores, that wait is much longer than the product: the small bundled models were eight times slower on a busy
machine with two threads than with one. So small products have one thread, and larger ones more only while a short
measurement shows that they help. PyTorch's setting is restored after each pass.
"""

import contextlib
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

ROWS = 256
"""Rows of the product that is timed: about the number of tokens in a step's prompts."""
SMALL_PRODUCT = 1e8
"""Operations of a product that gains little from a second thread and loses much on a busy machine: 3 ms on one core."""
WORTHWHILE = 1.3
"""Minimum speedup by twice the threads."""
_MEASURED_SECONDS = 0.05
_CGROUP = Path("/sys/fs/cgroup")
_USER_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class CpuThreads:
    """A number of threads and the reason for it."""

    count: int
    reason: str

    def __str__(self) -> str:
        return f"{self.count} thread{'' if self.count == 1 else 's'} ({self.reason})"


def choose_threads(model: nn.Module) -> CpuThreads:
    """Return the number of threads for the passes of a model on this machine, measured in less than a second.

    It is at most `torch.get_num_threads()`. A number set by `OMP_NUM_THREADS` or `MKL_NUM_THREADS` is not changed.
    """
    torch_threads = torch.get_num_threads()
    for name in _USER_VARIABLES:
        if os.environ.get(name):
            return CpuThreads(torch_threads, f"{name} is set")
    most = min(torch_threads, usable_cpus())
    shape = _largest_product(model)
    if most == 1 or shape is None:
        return CpuThreads(most, f"of {usable_cpus()} usable CPUs")
    if threads_for(ROWS, *shape) == 1:
        return CpuThreads(1, "the products of this model are too small to be shared")
    count, seconds = 1, _seconds(*shape, threads=1)
    while count < most:
        more = min(2 * count, most)
        with_more = _seconds(*shape, threads=more)
        if with_more * WORTHWHILE > seconds:
            return CpuThreads(count, f"{more} are not faster, or the machine is busy")
        count, seconds = more, with_more
    return CpuThreads(count, f"of {usable_cpus()} usable CPUs")


def threads_for(rows: int, inner: int, columns: int) -> int:
    """Return the number of threads for a matrix product of that size: one for a small one, else PyTorch's own."""
    return 1 if 2 * rows * inner * columns < SMALL_PRODUCT else torch.get_num_threads()


@contextlib.contextmanager
def limited_to(count: int) -> Iterator[None]:
    """Limit the threads of a block of code; restores the caller's number at the end."""
    before = torch.get_num_threads()  # PyTorch keeps it for each thread of Python
    if count >= before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def usable_cpus() -> int:
    """Return the number of CPUs that this process may use: cores, affinity, and the quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota(_CGROUP)
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def _cgroup_quota(folder: Path) -> float | None:
    """Return the CPUs that a control group allows, version 2 or 1; None without a limit."""
    with contextlib.suppress(OSError, ValueError):
        allowed, period = (folder / "cpu.max").read_text().split()
        return None if allowed == "max" else int(allowed) / int(period)
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        allowed = (folder / "cpu" / "cpu.cfs_quota_us").read_text()
        period = (folder / "cpu" / "cpu.cfs_period_us").read_text()
        return int(allowed) / int(period) if int(allowed) > 0 else None
    return None


def _largest_product(model: nn.Module) -> tuple[int, int] | None:
    """Return inputs and outputs of the largest linear layer, of the text tower if there is one: a search runs that."""
    tower = getattr(getattr(model, "text", model), "transformer", model)
    layers = [module for module in tower.modules() if isinstance(module, nn.Linear)]
    largest = max(layers, key=lambda layer: layer.weight.numel(), default=None)
    return None if largest is None else (largest.in_features, largest.out_features)


def _seconds(inputs: int, outputs: int, *, threads: int) -> float:
    """Return the mean time of one product [ROWS, inputs] x [inputs, outputs]; a median would hide the waits."""
    left, right = torch.ones(ROWS, inputs), torch.ones(inputs, outputs)
    with limited_to(threads):
        torch.mm(left, right)
        count, begin = 0, time.perf_counter()
        while count < 3 or time.perf_counter() - begin < _MEASURED_SECONDS:
            torch.mm(left, right)
            count += 1
        return (time.perf_counter() - begin) / count

"""The machine that a model runs on, for records of runs and measurements."""

import platform
from typing import Any

import torch


def machine(device: str) -> dict[str, Any]:
    """Return the kind of machine, without its name; `gpu` is None for a model on the CPU.

    >>> machine("cpu")["gpu"] is None
    True
    """
    gpu = torch.cuda.get_device_name() if device != "cpu" and torch.cuda.is_available() else None
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "python": platform.python_version(),
    }

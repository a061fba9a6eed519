"""Work around faults of other libraries: a torchvision built for another torch, and logging of model loaders."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

import torch


def patch_torchvision() -> None:
    """Make a torchvision importable that was built for another torch, such as a default build with a CPU torch."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        # It was built for CUDA and cannot load its operators. Its transforms, the only part used here and by
        # transformers, need no more than the schemas of these two.
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float threshold) -> Tensor")


@contextlib.contextmanager
def quiet_open_clip() -> Iterator[None]:
    """Drop the log records of open_clip inside; errors that it logs are also raised.

    It calls `logging.info(...)`, which configures the root logger of the application. Its modules get a silent logger
    in place of `logging`.
    """
    silent = logging.Logger("open_clip", level=logging.CRITICAL + 1)
    modules = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] == "open_clip"]
    patched = [module for module in modules if getattr(module, "logging", None) is logging]
    for module in patched:
        vars(module)["logging"] = silent
    try:
        yield
    finally:
        for module in patched:
            vars(module)["logging"] = logging


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Drop the messages and the progress bars of transformers inside; errors are raised in any case."""
    from transformers.utils import logging

    hf: Any = logging  # untyped
    level, has_bars = hf.get_verbosity(), hf.is_progress_bar_enabled()
    hf.set_verbosity(hf.CRITICAL)
    if has_bars:
        hf.disable_progress_bar()
    try:
        yield
    finally:
        hf.set_verbosity(level)
        if has_bars:
            hf.enable_progress_bar()

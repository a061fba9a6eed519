"""Checks of `ipo-dspy doctor` for this machine: versions, devices, folders, keys, terminal."""

import contextlib
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rich.console import Console

from ipo_dspy._internal.versions import package_version
from ipo_dspy.cli.output import size
from ipo_dspy.errors import InputError, StoreError

State = Literal["ok", "warn", "fail"]
PACKAGES = ("dspy", "litellm", "torch", "open_clip_torch", "transformers")
EXTRAS = {
    "mlflow": ("mlflow-skinny", "records runs"),
    "ray": ("ray", "scores on a cluster"),
    "hub": ("datasets", "reads data sets of the Hugging Face Hub"),
    "local": ("sentencepiece", "loads more chat models in-process"),
    "heif": ("pillow-heif", "reads HEIC images"),
    "bench": ("optuna", "runs DSPy's MIPROv2"),
    "onnx": ("onnxruntime", "exports programs for ONNX runtimes"),
    "serve": ("fastapi", "answers over HTTP"),
}
"""Distribution and purpose of each extra of this package."""
PROVIDERS = ("OPENAI", "ANTHROPIC", "GEMINI", "AZURE", "MISTRAL", "GROQ", "DEEPSEEK", "OPENROUTER", "TOGETHERAI", "XAI")
KEYS = (
    *(f"{provider}_API_KEY" for provider in PROVIDERS),
    *("GOOGLE_APPLICATION_CREDENTIALS", "AWS_ACCESS_KEY_ID", "HF_TOKEN"),
)
LITTLE_SPACE = 2 * 1024**3
WRITABLE = "/a/folder/that/you/may/write"


@dataclass(frozen=True, slots=True)
class Check:
    """Result of one check: a finding in one line, and a fix if one is needed; `warn` works with a limitation."""

    name: str
    state: State
    found: str
    remedy: str = ""


def python() -> Check:
    """Report the interpreter and the machine."""
    return Check("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def packages() -> Iterator[Check]:
    """Compare installed versions with the requirements of ipo_dspy."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    needed: dict[str, SpecifierSet] = {}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        requirements = map(Requirement, importlib.metadata.requires("ipo_dspy") or ())
        for requirement in requirements:
            if "extra" not in str(requirement.marker):  # `dspy-ai` is the old name of `dspy`
                needed[requirement.name.replace("-", "_").replace("dspy_ai", "dspy")] = requirement.specifier
    for name in ("ipo_dspy", *PACKAGES):
        specifier, version = needed.get(name, SpecifierSet()), package_version(name)
        if version is not None and specifier.contains(version, prereleases=True):
            yield Check(name, "ok", version)
        else:
            fact = "not installed" if version is None else f"{version}, but {specifier} is needed"
            yield Check(name, "fail", fact, f"pip install '{name}{specifier}'")


def torchvision() -> Check:
    """Check that torchvision matches the installed PyTorch; a mismatch is worked around."""
    import torch

    from ipo_dspy.clip.compat import patch_torchvision

    try:
        version = importlib.metadata.version("torchvision")
        patch_torchvision()
    except (ImportError, RuntimeError, OSError) as error:  # PackageNotFoundError is an ImportError
        remedy = "pip install --force-reinstall torch torchvision, both from the same index"
        return Check("torchvision", "fail", f"cannot be imported ({' '.join(str(error).split())[:120]})", remedy)
    try:
        torch.ops.torchvision.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except NotImplementedError:  # the operator is only declared
        fact = f"{version} was built for a torch other than {torch.__version__}"
        return Check("torchvision", "ok", f"{fact}; worked around here, but exported scripts need a matching one")
    return Check("torchvision", "ok", version)


def device() -> Check:
    """Report the device that `--device auto` selects, and the hardware that PyTorch was built for."""
    import torch

    from ipo_dspy.clip.cpu_threads import choose_threads

    version = torch.version
    build = f"cuda {version.cuda}" if version.cuda else f"hip {version.hip}" if version.hip else "CPU"
    if gpus := [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]:
        return Check("device", "ok", f"cuda: {', '.join(gpus)}; {build} build of PyTorch")
    if torch.backends.mps.is_available():
        return Check("device", "ok", f"mps: {platform.processor() or 'Apple GPU'}")
    threads = choose_threads(torch.nn.Linear(512, 2048))  # the size of a layer in the text tower of a ViT-B
    fact = f"cpu, {threads}; {build} build of PyTorch"
    if build != "CPU":
        remedy = "run nvidia-smi: the driver may be missing or too old for this PyTorch. The CPU works too"
        return Check("device", "warn", f"{fact}, which sees no GPU", remedy)
    if shutil.which("nvidia-smi"):
        remedy = "pip install --force-reinstall torch torchvision"
        return Check("device", "warn", f"{fact}, though this machine seems to have an NVIDIA GPU", remedy)
    return Check("device", "ok", fact)


def folders() -> Iterator[Check]:
    """Check the folders that ipo_dspy writes to: permissions, size, free space."""
    from dspy.utils.caching import default_cache_dir
    from huggingface_hub import constants

    yield folder("Hugging Face cache", Path(constants.HF_HUB_CACHE), f"export HF_HUB_CACHE={WRITABLE}")
    yield folder("DSPy cache", Path(default_cache_dir()), f"export DSPY_CACHEDIR={WRITABLE}")
    yield image_cache()
    yield folder("runs", Path.cwd() / "runs", "cd to a writable folder, or add --log-dir /such/a/folder")


def image_cache() -> Check:
    """Check the cache of image features; a run works without it, but not with an invalid limit."""
    from ipo_dspy.clip.cache_config import cache_folder, cache_limit
    from ipo_dspy.clip.feature_store import FeatureStore

    path = cache_folder()
    if path is None:
        return Check("image cache", "ok", "off")
    check = folder("image cache", path, f"export IPO_DSPY_CACHE={WRITABLE}")
    if check.state == "fail":
        return replace(check, state="warn")
    try:
        FeatureStore(path, cache_limit()).contents()
    except (StoreError, InputError) as error:
        return replace(check, state="warn" if isinstance(error, StoreError) else "fail", found=str(error))
    return check


def folder(name: str, path: Path, remedy: str) -> Check:
    """Check that files can be created in a folder, or in the parent that it would be created in."""
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            free = shutil.disk_usage(existing).free
    except OSError as error:
        return Check(name, "fail", f"{path} cannot be written ({error.strerror or error})", remedy)
    fact = f"{path}: {_used(path) if path == existing else 'does not exist yet'}, {size(free)} free"
    if free < LITTLE_SPACE:
        return Check(name, "warn", fact, f"free space, or {remedy}")
    return Check(name, "ok", fact)


def _used(path: Path) -> str:
    total = 0
    for file in path.rglob("*"):
        with contextlib.suppress(OSError):  # the file was removed in the meantime
            total += 0 if file.is_dir() else file.lstat().st_size
    return size(total)


def keys() -> Check:
    """Report the names of the keys in the environment."""
    if names := [name for name in KEYS if os.environ.get(name)]:
        return Check("keys", "ok", f"{', '.join(names)} set")
    remedy = "for a language model that needs one, e.g.: export OPENAI_API_KEY=YOUR_KEY"
    return Check("keys", "warn", "none set; local models and the built-in proposer need none", remedy)


def terminal() -> Check:
    """Check that the terminal shows every character of a template."""
    encoding, console = (getattr(sys.stdout, "encoding", None) or "ascii").lower(), Console()
    fact = f"{encoding}, {f'{console.width} columns' if console.is_terminal else 'no terminal'}"
    if encoding.replace("-", "") == "utf8":
        return Check("terminal", "ok", fact)
    return Check("terminal", "warn", f"{fact}: other characters are escaped", "export PYTHONUTF8=1")


def extras() -> Iterator[Check]:
    """Report optional packages."""
    for name, (distribution, purpose) in EXTRAS.items():
        if (version := package_version(distribution)) is None:
            yield Check(name, "warn", f"not installed ({purpose})", f"pip install 'ipo_dspy[{name}]'")
        else:
            yield Check(name, "ok", f"{version} ({purpose})")

"""The checks of `ipo-dspy doctor` that look at this machine alone: versions, devices, folders, keys, terminal."""

import contextlib
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rich.console import Console

from ipo_dspy._internal.versions import package_version
from ipo_dspy.errors import InputError, StoreError

State = Literal["ok", "warn", "fail"]
PACKAGES = ("dspy", "litellm", "torch", "open_clip_torch", "transformers")
EXTRAS = {
    "mlflow": ("mlflow-skinny", "records runs", "pip install 'ipo_dspy[mlflow]'"),
    "ray": ("ray", "scores on a cluster", "pip install 'ipo_dspy[ray]'"),
    "hub": ("datasets", "reads data sets of the Hugging Face hub", "pip install 'ipo_dspy[hub]'"),
    "local": ("sentencepiece", "loads more chat models in this process", "pip install 'ipo_dspy[local]'"),
    "heif": ("pillow-heif", "reads HEIC images", "pip install 'ipo_dspy[heif]'"),
    "bench": ("optuna", "runs DSPy's MIPROv2", "pip install 'ipo_dspy[bench]'"),
}
"""What some users want besides: distribution, what for, and how to install it."""
KEYS = (
    "OPENAI_API_KEY",
    "ANTHROPIC_API_KEY",
    "GEMINI_API_KEY",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "AZURE_API_KEY",
    "AWS_ACCESS_KEY_ID",
    "MISTRAL_API_KEY",
    "GROQ_API_KEY",
    "DEEPSEEK_API_KEY",
    "OPENROUTER_API_KEY",
    "TOGETHERAI_API_KEY",
    "XAI_API_KEY",
    "HF_TOKEN",
)
LITTLE_SPACE = 2 * 1024**3
COUNT_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found.

    Attributes:
        name: of what was looked at.
        state: `ok`, `warn` (works, but) or `fail`.
        found: in one line.
        remedy: what to do or write; empty where nothing is wanted.
    """

    name: str
    state: State
    found: str
    remedy: str = ""


def python() -> Check:
    """Interpreter and machine."""
    return Check("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def packages() -> Iterator[Check]:
    """Versions, and whether they are those that ipo_dspy asks for."""
    needed = _requirements()
    for name in ("ipo_dspy", *PACKAGES):
        wanted = needed.get(_plain(name), "")
        found = package_version(name)
        if found is None:
            yield Check(name, "fail", "not installed", f"pip install '{name}{wanted}'")
        elif _fits(found, wanted):
            yield Check(name, "ok", found)
        else:
            yield Check(name, "fail", f"{found}, but {wanted} is needed", f"pip install '{name}{wanted}'")


def _requirements() -> dict[str, str]:
    """Version specifiers of the dependencies by name; `dspy-ai` is `dspy` under its old name."""
    from packaging.requirements import Requirement

    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        parsed = [Requirement(line) for line in importlib.metadata.requires("ipo_dspy") or ()]
        needed = {_plain(one.name): str(one.specifier) for one in parsed if "extra" not in str(one.marker)}
        return needed | ({"dspy": needed["dspy-ai"]} if "dspy-ai" in needed else {})
    return {}


def _fits(version: str, specifier: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(specifier).contains(version, prereleases=True)


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def torch_build() -> Check:
    """Which hardware the installed PyTorch was built for."""
    import torch

    cuda, hip = torch.version.cuda, getattr(torch.version, "hip", None)
    built = f"CUDA {cuda} build" if cuda else f"ROCm {hip} build" if hip else "CPU build"
    if not (cuda or hip) and shutil.which("nvidia-smi"):
        found = f"{built}, though this machine seems to have an NVIDIA GPU"
        return Check("torch build", "warn", found, "pip install --force-reinstall torch torchvision")
    return Check("torch build", "ok", built)


def torchvision() -> Check:
    """Whether torchvision fits the installed PyTorch; of one that does not, what is needed here is made to work."""
    import torch

    from ipo_dspy.clip.compat import mend_torchvision

    again = "pip install --force-reinstall torch torchvision, both from the same index"
    try:
        version = importlib.metadata.version("torchvision")
        mend_torchvision()
    except (ImportError, RuntimeError, OSError) as error:  # PackageNotFoundError is an ImportError
        return Check("torchvision", "fail", f"cannot be imported ({' '.join(str(error).split())[:120]})", again)
    try:
        torch.ops.torchvision.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except NotImplementedError:  # the operator is known by name only
        found = f"{version} was built for another torch than {torch.__version__}; handled, nothing is to be done"
        return Check("torchvision", "ok", found)
    return Check("torchvision", "ok", version)


def device() -> Check:
    """What `--device auto` takes."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Check("device", "ok", f"cuda: {', '.join(names)}")
    if torch.version.cuda:
        remedy = "look at what nvidia-smi says; the driver may be missing or too old for this torch. cpu works too"
        return Check("device", "warn", f"cpu, {torch.get_num_threads()} threads: torch sees no CUDA GPU", remedy)
    if torch.backends.mps.is_available():
        return Check("device", "ok", f"mps: {platform.processor() or 'Apple GPU'}")
    return Check("device", "ok", f"cpu, {_threads()}; no CUDA or MPS device")


def _threads() -> str:
    """CPU threads for the passes of a model of usual size, as they would be chosen now."""
    import torch

    from ipo_dspy.clip.cpu_threads import choose_threads

    return str(choose_threads(torch.nn.Linear(512, 2048)))  # the text tower of a ViT-B


def folders() -> Iterator[Check]:
    """Where files go: writable, how large, how much is left."""
    from dspy.utils.caching import default_cache_dir
    from huggingface_hub import constants

    hub = "export HF_HUB_CACHE=/a/folder/that/you/may/write"
    yield folder("Hugging Face cache", Path(constants.HF_HUB_CACHE), hub)
    yield folder("DSPy cache", Path(default_cache_dir()), "export DSPY_CACHEDIR=/a/folder/that/you/may/write")
    yield image_cache()
    yield folder("runs", Path.cwd() / "runs", "cd to a folder that you may write, or add --out /such/a/folder")


def image_cache() -> Check:
    """Whether features of images are kept; a run goes on without them, but not with a limit that is no size."""
    from ipo_dspy.clip.cache_config import cache_folder, cache_limit
    from ipo_dspy.clip.feature_store import FeatureStore

    place = cache_folder()
    if place is None:
        return Check("image cache", "ok", "off")
    found = folder("image cache", place, "export IPO_DSPY_CACHE=/a/folder/that/you/may/write")
    if found.state == "fail":
        return replace(found, state="warn")
    try:
        FeatureStore(place, cache_limit()).contents()
    except StoreError as error:
        return replace(found, state="warn", found=str(error))
    except InputError as error:
        return replace(found, state="fail", found=str(error))
    return found


def folder(name: str, path: Path, remedy: str) -> Check:
    """Whether files can be made in a folder, or in the one that it would be made in."""
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            free = shutil.disk_usage(there).free
    except OSError as error:
        return Check(name, "fail", f"{path} cannot be written ({error.strerror or error})", remedy)
    size = _size(path) if path == there else "not there yet"
    found = f"{path}: {size}, {_bytes(free)} free"
    if free < LITTLE_SPACE:
        return Check(name, "warn", found, f"free space, or {remedy}")
    return Check(name, "ok", found)


def _size(path: Path) -> str:
    """Bytes of all files below; a huge folder is not counted to its end."""
    total, end = 0, time.monotonic() + COUNT_SECONDS
    for place, _, files in os.walk(path):
        for file in files:
            with contextlib.suppress(OSError):
                total += (Path(place) / file).lstat().st_size
        if time.monotonic() > end:
            return f"more than {_bytes(total)}"
    return _bytes(total)


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def keys() -> Check:
    """Which keys are in the environment, by name only."""
    found = [name for name in KEYS if os.environ.get(name)]
    if found:
        return Check("keys", "ok", f"{', '.join(found)} set")
    remedy = "for a language model that needs one, e.g.: export OPENAI_API_KEY=YOUR_KEY"
    return Check("keys", "warn", "none set; local models and the embedded proposer need none", remedy)


def terminal() -> Check:
    """Whether it shows every character of a template."""
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower()
    console = Console()
    kind = f"{console.width} columns" if console.is_terminal else "no terminal"
    if encoding.replace("-", "") == "utf8":
        return Check("terminal", "ok", f"{encoding}, {kind}")
    return Check("terminal", "warn", f"{encoding}, {kind}: other characters are shown by number", "export PYTHONUTF8=1")


def extras() -> Iterator[Check]:
    """What only some need."""
    for name, (distribution, purpose, remedy) in EXTRAS.items():
        if (version := package_version(distribution)) is None:
            yield Check(name, "warn", f"not installed ({purpose})", remedy)
        else:
            yield Check(name, "ok", f"{version} ({purpose})")

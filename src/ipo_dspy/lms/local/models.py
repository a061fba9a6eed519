"""Models of the transformers library, loaded once and shared by all threads.

Weights come from safetensors only: a pickle runs code of whoever wrote it.
"""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers

from ipo_dspy.clip.compat import patch_torchvision

Kind = Literal["missing", "setting", "prompt", "context"]


class LocalModelError(Exception):
    """A model, a setting or a prompt that cannot be used; the message ends with what to write instead."""

    def __init__(self, message: str, *, kind: Kind) -> None:
        super().__init__(message)
        self.kind: Kind = kind


@dataclass(frozen=True)
class LocalModelSpec:
    """What makes two requests use the same weights in memory.

    Attributes:
        name: on the Hugging Face hub, or a folder written by `save_pretrained`.
        device: of PyTorch; by default an accelerator where there is one.
        dtype: of PyTorch; by default as the weights were saved.
        trust_remote_code: run Python files that come with the model.
    """

    name: str
    device: str | None = None
    dtype: str = "auto"
    trust_remote_code: bool = False

    @property
    def folder(self) -> Path | None:
        """The folder that the name means: one that exists, or whatever can be no name on the hub."""
        path = Path(self.name).expanduser()
        looks = path.is_absolute() or self.name.startswith((".", "~")) or self.name.count("/") > 1
        return path if looks or path.is_dir() else None


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model in memory with what turns text and images into its inputs."""

    source: LocalModelSpec
    model: Any
    tokenizer: Any
    processor: Any = None
    """None for a model that reads text only."""

    @property
    def context(self) -> int | None:
        """How many tokens prompt and answer may have together, where that is known."""
        length = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return int(length) if length else None


_loaded: dict[LocalModelSpec, LoadedModel] = {}
_lock = threading.Lock()


def load(source: LocalModelSpec) -> LoadedModel:
    """The model, from memory after the first time.

    Raises:
        UnusableError: there is no such model, it is not whole, or it does not go with the settings.
    """
    if source not in _loaded:
        with _lock:
            if source not in _loaded:
                _loaded[source] = _load(source)
    return _loaded[source]


def unload() -> None:
    """Let go of all models; requests that are running keep theirs until they end."""
    with _lock:
        _loaded.clear()


def _load(source: LocalModelSpec) -> LoadedModel:
    device, dtype = _device(source), _dtype(source)
    folder = source.folder
    if folder is not None and not (folder / "config.json").is_file():
        raise _missing(source, "is no folder with a config.json")
    where = {"trust_remote_code": source.trust_remote_code, "local_files_only": folder is not None}
    try:
        loaded, info = _read(source, str(folder or source.name), where, dtype)
        loaded.model.to(device).eval()
    except LocalModelError:
        raise
    except Exception as error:  # what libraries raise on damaged files has no common class
        raise _load_error(source, error) from error
    if not loaded.tokenizer.encode(
        "a photo", add_special_tokens=False
    ):  # transformers makes an empty one where its files are missing
        raise _missing(source, "has no tokenizer")
    absent = [*info["missing_keys"], *info["mismatched_keys"]]
    if absent:  # transformers would fill them with random numbers
        raise _missing(source, f"lacks {len(absent)} of its weights, e.g. {absent[0]}")
    return loaded


def _read(source: LocalModelSpec, place: str, where: dict[str, Any], dtype: Any) -> tuple[LoadedModel, dict[str, Any]]:
    patch_torchvision()  # all of transformers' models import it
    untyped: Any = transformers  # its types say less than it takes
    config = untyped.AutoConfig.from_pretrained(place, **where)
    sees = type(config) in untyped.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    auto = untyped.AutoModelForImageTextToText if sees else untyped.AutoModelForCausalLM
    processor = untyped.AutoProcessor.from_pretrained(place, **where) if sees else None
    tokenizer = processor.tokenizer if processor else untyped.AutoTokenizer.from_pretrained(place, **where)
    model, info = auto.from_pretrained(
        place, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **where
    )
    return LoadedModel(source, model, tokenizer, processor), info


def _load_error(source: LocalModelSpec, error: Exception) -> LocalModelError:
    said = " ".join(str(error).split())
    if "trust_remote_code" in said:
        return LocalModelError(
            f"{source.name!r} comes with Python files of its own, which are not run unasked; read them, then write "
            f"dspy.LM('transformers/{source.name}', engine='litellm', trust_remote_code=True)",
            kind="missing",
        )
    if isinstance(error, ImportError):
        return LocalModelError(
            f"{source.name!r} needs a package that is not installed ({said[:200]}); run pip install 'ipo_dspy[local]'",
            kind="missing",
        )
    if source.folder is None and isinstance(error, OSError):
        return _missing(source, "is no model that can be reached on the Hugging Face hub")
    return _missing(source, f"cannot be loaded ({type(error).__name__}: {said[:100]})")


def _missing(source: LocalModelSpec, fact: str) -> LocalModelError:
    if source.folder is None:
        instead = "check its name, the network and, for a gated one, HF_TOKEN, or write 'transformers//path/to/folder'"
    else:
        instead = "copy or download the whole folder again, or write 'transformers/microsoft/phi-2'"
    return LocalModelError(f"{source.name!r} {fact}; {instead}", kind="missing")


def _device(source: LocalModelSpec) -> torch.device:
    name = source.device or _best_device()
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise LocalModelError(
            f"there is no device {name!r} here for a local model; give it 'cpu', or none", kind="setting"
        ) from error


def _best_device() -> str:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator.type if accelerator else "cpu"


def _dtype(source: LocalModelSpec) -> torch.dtype | str:
    if source.dtype == "auto":
        return "auto"
    found = getattr(torch, source.dtype.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise LocalModelError(
            f"dtype={source.dtype!r} is none that weights can have; write dtype='float32', 'bfloat16' or 'float16'",
            kind="setting",
        )
    return found

"""Load models of the transformers library once and share them between threads.

Only safetensors weights are loaded, because a pickle file can run arbitrary code.
"""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers

from ipo_dspy.clip.compat import patch_torchvision
from ipo_dspy.clip.transformers_files import local_folder

Kind = Literal["missing", "setting", "prompt", "context"]


class LocalModelError(Exception):
    """A model, setting or prompt cannot be used; the message ends with a fix."""

    def __init__(self, message: str, *, kind: Kind) -> None:
        super().__init__(message)
        self.kind: Kind = kind


@dataclass(frozen=True)
class LocalModelSpec:
    """Key of a loaded model: requests with equal specs share its weights."""

    name: str  # model on the Hugging Face Hub, or a folder written by `save_pretrained`
    device: str | None = None  # PyTorch device; by default an accelerator if available
    dtype: str = "auto"  # PyTorch dtype; by default that of the saved weights
    trust_remote_code: bool = False  # whether to run Python files that come with the model

    @property
    def folder(self) -> Path | None:
        """Local folder of the model; None if the name is one on the Hub."""
        return local_folder(self.name)


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model in memory with its tokenizer and processor."""

    source: LocalModelSpec
    model: Any
    tokenizer: Any
    processor: Any = None
    """None for a text-only model."""

    @property
    def context(self) -> int | None:
        """Maximum number of tokens of prompt and answer together; None if unknown."""
        length = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return int(length) if length else None


_loaded: dict[LocalModelSpec, LoadedModel] = {}
_lock = threading.Lock()


def load(source: LocalModelSpec) -> LoadedModel:
    """Return a model, loaded at the first call; raise `LocalModelError` if it is missing, incomplete or unsuitable."""
    if source not in _loaded:
        with _lock:
            if source not in _loaded:
                _loaded[source] = _load(source)
    return _loaded[source]


def unload() -> None:
    """Drop all loaded models; running requests keep theirs until they end."""
    with _lock:
        _loaded.clear()


def _load(source: LocalModelSpec) -> LoadedModel:
    device, dtype = _device(source), _dtype(source)
    folder = source.folder
    if folder is not None and not (folder / "config.json").is_file():
        raise _missing(source, "is not a folder with a config.json")
    where = {"trust_remote_code": source.trust_remote_code, "local_files_only": folder is not None}
    try:
        loaded, info = _read(source, str(folder or source.name), where, dtype)
        loaded.model.to(device).eval()
    except Exception as error:  # libraries raise many types on damaged files
        raise _load_error(source, error) from error
    # If its files are missing, transformers creates an empty tokenizer.
    if not loaded.tokenizer.encode("a photo", add_special_tokens=False):
        raise _missing(source, "has no tokenizer")
    absent = [*info["missing_keys"], *info["mismatched_keys"]]
    if absent:  # transformers would initialize them randomly
        raise _missing(source, f"lacks {len(absent)} of its weights, e.g. {absent[0]}")
    return loaded


def _read(source: LocalModelSpec, place: str, where: dict[str, Any], dtype: Any) -> tuple[LoadedModel, dict[str, Any]]:
    patch_torchvision()  # imported by all models of transformers
    untyped: Any = transformers  # its type hints are incomplete
    config = untyped.AutoConfig.from_pretrained(place, **where)
    is_multimodal = type(config) in untyped.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    auto = untyped.AutoModelForImageTextToText if is_multimodal else untyped.AutoModelForCausalLM
    processor = untyped.AutoProcessor.from_pretrained(place, **where) if is_multimodal else None
    tokenizer = processor.tokenizer if processor else untyped.AutoTokenizer.from_pretrained(place, **where)
    model, info = auto.from_pretrained(
        place, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **where
    )
    return LoadedModel(source, model, tokenizer, processor), info


def _load_error(source: LocalModelSpec, error: Exception) -> LocalModelError:
    reason = " ".join(str(error).split())
    if "trust_remote_code" in reason:
        call = f"dspy.LM('transformers/{source.name}', engine='litellm', trust_remote_code=True)"
        return _missing(source, "requires custom code", f"review it, then use {call}")
    if isinstance(error, ImportError):
        fact = f"needs a package that is not installed ({reason[:200]})"
        return _missing(source, fact, "run pip install 'ipo_dspy[local]'")
    if source.folder is None and isinstance(error, OSError):
        return _missing(source, "was not found on the Hugging Face Hub")
    return _missing(source, f"cannot be loaded ({type(error).__name__}: {reason[:100]})")


def _missing(source: LocalModelSpec, fact: str, instead: str | None = None) -> LocalModelError:
    of_hub = "check its name, the network and, for a gated one, HF_TOKEN, or use 'transformers//path/to/folder'"
    of_folder = "copy or download the complete folder again, or use 'transformers/microsoft/phi-2'"
    instead = instead or (of_hub if source.folder is None else of_folder)
    return LocalModelError(f"{source.name!r} {fact}; {instead}", kind="missing")


def _device(source: LocalModelSpec) -> torch.device:
    name = source.device or getattr(torch.accelerator.current_accelerator(check_available=True), "type", "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise LocalModelError(
            f"device {name!r} is not available for a local model; use device='cpu', or omit it", kind="setting"
        ) from error


def _dtype(source: LocalModelSpec) -> torch.dtype | str:
    if source.dtype == "auto":
        return "auto"
    dtype = getattr(torch, source.dtype.removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise LocalModelError(
            f"dtype={source.dtype!r} is not a floating-point dtype; use dtype='float32', 'bfloat16' or 'float16'",
            kind="setting",
        )
    return dtype

"""Load a CLIP of open_clip or transformers by name, once per process; the only importer of open_clip.

Weights are read as tensors only and never unpickled, and no Python file that comes with a model is run.
"""

import pickle
import threading
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from hashlib import sha256
from json import dumps
from logging import getLogger
from typing import Any, TypeAlias

import torch
from PIL import Image
from torch import Tensor, nn

from ipo_dspy._internal.untrusted import one_line_error
from ipo_dspy.clip.backbone import Backbone, ModelArguments
from ipo_dspy.clip.compat import patch_torchvision, quiet_open_clip
from ipo_dspy.clip.hub_files import Hub
from ipo_dspy.clip.tokenizer import PROBES, TokenizerAdapter
from ipo_dspy.clip.transformers_files import TRANSFORMERS
from ipo_dspy.clip.transformers_loading import find_checkpoint, read_checkpoint
from ipo_dspy.clip.weights import (
    DEFAULT_MODEL,
    DEFAULT_PRETRAINED,
    HUB,
    LOCAL,
    Downloads,
    ModelSource,
    fetch_text_parts,
    file_stamps,
    find_tag,
    resolve,
)
from ipo_dspy.errors import Argument, Hint, InputError, ModelError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""Number formats of the towers by name; features are float32 in any case."""
_MISMATCH_ERRORS = (
    *(RuntimeError, ValueError, LookupError, TypeError, AttributeError),
    *(AssertionError, EOFError, OSError, StopIteration),
)
"""Errors that open_clip, transformers and torch raise for weights that do not match the configuration."""

_Parts: TypeAlias = tuple[nn.Module, TokenizerAdapter, Callable[[Image.Image], Tensor], dict[str, Any]]
"""Towers, tokenizer, evaluation transform, and facts for the fingerprint."""

logger = getLogger(__name__)

_loaded: dict[Hashable, Backbone] = {}
_load_lock = threading.Lock()


def load_backbone(
    model: str = DEFAULT_MODEL,
    pretrained: str | None = DEFAULT_PRETRAINED,
    *,
    device: str = "auto",
    dtype: str = "float32",
    cache_dir: str | None = None,
    downloads: Downloads = "allowed",
) -> Backbone:
    """Load a CLIP; the same arguments in one process give the same object.

    Args:
        model: an open_clip architecture such as `ViT-B-16-quickgelu`, `local-dir:PATH` with an
            open_clip_config.json and weights in it, `hf-hub:ORG/NAME`, or `transformers:NAME_OR_FOLDER` (a model of
            transformers on the Hub, or a folder of `save_pretrained`).
        pretrained: a tag such as `openai`, or the path of a checkpoint; ignored for `local-dir:`,
            `hf-hub:` and `transformers:`. None leaves a plain architecture with random weights.
        device: `auto` (cuda, else mps, else cpu) or a torch device.
        dtype: `float32`, `float16` or `bfloat16`, for the towers.
        cache_dir: where downloads are kept; the Hugging Face default if None.
        downloads: `allowed`; `refused` for a model that a file names, of which only what is on this machine is
            read; or `anonymous`, for such a model that may be fetched, without the user's hub token.

    Raises:
        ModelError: an unknown name or tag, weights that are not here and cannot be fetched, a file that is
            no checkpoint of this architecture, or a device that this machine does not have.
    """
    place = resolve_device(device)
    if dtype not in DTYPES:
        raise ModelError(f"dtype must be one of {', '.join(map(repr, DTYPES))}, got {dtype!r}")
    if model.startswith((LOCAL, HUB, TRANSFORMERS)):
        pretrained = None
    arguments = ModelArguments(model, pretrained, place, DTYPES[dtype], cache_dir, downloads)
    key = (replace(arguments, downloads="allowed"), file_stamps(model, pretrained))
    with _load_lock:
        if key not in _loaded:
            _loaded[key] = _load(arguments)
        if downloads == "allowed":
            _loaded[key].downloads = downloads  # a file had named it before the user did
        return _loaded[key]


def unload() -> None:
    """Forget the models that `load_backbone` keeps; their memory is free once nothing else refers to them."""
    with _load_lock:
        _loaded.clear()


def with_dtype(backbone: Backbone, dtype: str) -> Backbone:
    """Load the weights of a backbone once more, in another number format; only the caller keeps the result.

    Raises:
        ModelError: they cannot be read, do not fit next to it, or differ now, as random weights do each time.
    """
    backbone.check_loaded()
    again = _load(replace(backbone.arguments, dtype=DTYPES[dtype], downloads=backbone.downloads))
    if again.fingerprint != backbone.fingerprint:
        raise ModelError(f"{backbone.name!r} gave other weights when read again; pass pretrained= if they are random")
    return again


def import_open_clip() -> Any:
    """Import open_clip, after making sure that the torchvision it needs can be imported."""
    patch_torchvision()
    import open_clip

    return open_clip


def check_weights(model: str, pretrained: str) -> None:
    """Check that a model of open_clip has these weights, with its activation; nothing is loaded or fetched.

    Raises:
        ModelError: as for `load_backbone`.
    """
    open_clip = import_open_clip()
    with quiet_open_clip():
        find_tag(open_clip, model, pretrained)


def _load(arguments: ModelArguments) -> Backbone:
    from safetensors import SafetensorError

    is_transformers = arguments.name.startswith(TRANSFORMERS)
    find, kind = (_find_checkpoint, "a transformers") if is_transformers else (_find, "an open_clip")
    hub = Hub(arguments.cache_dir, arguments.downloads)
    with hub.restrict():
        shown, assemble = find(arguments, hub)
        try:
            model, tokens, transform, facts = assemble()
            return Backbone(
                arguments, model, tokens, transform, fingerprint=_fingerprint(model, facts), load=load_backbone
            )
        except InputError:
            raise
        except pickle.UnpicklingError as error:
            raise ModelError(
                f"weights of {shown} contain more than tensors, or are not a checkpoint; "
                "unpickling is refused because it could run code: convert them to .safetensors"
            ) from error
        except (*_MISMATCH_ERRORS, SafetensorError) as error:
            raise ModelError(
                f"{shown} does not load as {kind} model ({one_line_error(error)}); check that the "
                "weights match this architecture and are complete"
            ) from error


def _find_checkpoint(arguments: ModelArguments, hub: Hub) -> tuple[str, Callable[[], _Parts]]:
    folder = find_checkpoint(arguments.name, hub)
    return repr(arguments.name), partial(read_checkpoint, folder, repr(arguments.name))


def _find(arguments: ModelArguments, hub: Hub) -> tuple[str, Callable[[], _Parts]]:
    open_clip = import_open_clip()
    with quiet_open_clip():
        source = resolve(open_clip, arguments.name, arguments.pretrained, hub)
        fetch_text_parts(source, hub)
    return source.shown, partial(_assemble, open_clip, source, arguments)


@quiet_open_clip()
def _assemble(open_clip: Any, source: ModelSource, arguments: ModelArguments) -> _Parts:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    text = source.config["text_cfg"]
    if text.get("hf_model_name"):
        _refuse_code(text["hf_model_name"])
    if not source.has_weights:
        logger.warning("%s has random weights, so scores are meaningless; pass pretrained=", source.shown)
    model = open_clip.create_model(
        source.architecture,
        source.checkpoint,
        force_preprocess_cfg=source.preprocess,
        require_pretrained=source.has_weights,
        pretrained_text=False,
        cache_dir=arguments.cache_dir,
        weights_only=True,
    )
    preprocess = dict(model.visual.preprocess_cfg)
    transform = image_transform_v2(PreprocessCfg(**preprocess), is_train=False)
    trust = {"trust_remote_code": False} if text.get("hf_tokenizer_name") else {}  # over a model's own settings
    tokens = TokenizerAdapter(open_clip.get_tokenizer(source.tokenizer, cache_dir=arguments.cache_dir, **trust))
    if not tokens.agrees(PROBES):
        raise ModelError(f"the tokenizer of {arguments.name!r} uses unsupported padding; use another model")
    return (
        model,
        tokens,
        transform,
        {"architecture": source.config, "preprocess": preprocess, "tokenizer": tokens.facts},
    )


def _refuse_code(text_model: str) -> None:
    """Raise where a text tower of transformers comes with Python files, before open_clip builds it.

    open_clip passes no `trust_remote_code`, and without one transformers asks on the terminal whether to run them.
    """
    from open_clip import hf_model

    config = hf_model.AutoConfig.from_pretrained(text_model, trust_remote_code=False)
    if config.model_type not in hf_model.arch_dict:
        known = ", ".join(hf_model.arch_dict)
        raise ModelError(
            f"text tower {text_model!r} is of kind {config.model_type!r}; open_clip builds those of {known}"
        )


def resolve_device(device: str) -> torch.device:
    """Return the device that a name means; raise `ModelError` for no device, or one that this machine lacks."""
    mps = torch.backends.mps.is_available()
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        known = "must be 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'"
        raise ModelError(known, argument="device", value=device) from error
    missing = place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count()
    if missing or (place.type == "mps" and not mps):
        hint = Hint("pass {device} or {cpu}", device="auto", cpu=Argument("device", "cpu"))
        raise ModelError("must be a device of this machine", argument="device", value=device, hint=hint)
    return place


def _fingerprint(model: nn.Module, facts: Mapping[str, Any]) -> str:
    """Return a digest of every weight and of `facts`; tensors are hashed in parallel because models reach 10 GB."""
    with ThreadPoolExecutor() as pool:
        parts = list(pool.map(_digest, sorted(model.state_dict().items())))
    metadata = dumps({**facts, "kind": type(model).__name__}, sort_keys=True, default=str)
    return sha256("\n".join([*parts, metadata]).encode()).hexdigest()[:16]


def _digest(item: tuple[str, Tensor]) -> str:
    name, tensor = item
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    head = sha256(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    head.update(flat.numpy().data)
    return head.hexdigest()

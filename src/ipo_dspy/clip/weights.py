"""Locate the weights of a CLIP model: resolve names, tags, files and folders to paths, or raise one clear error.

Files on this machine are used without the network. open_clip is an argument: only `clip.loading` imports it.
"""

import difflib
import logging
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ipo_dspy._internal.file_io import read_json
from ipo_dspy._internal.untrusted import one_line_error
from ipo_dspy.clip.bundled import BUNDLED
from ipo_dspy.clip.hub_files import WAYS_OUT, Hub, refusal
from ipo_dspy.clip.hub_files import Downloads as Downloads
from ipo_dspy.clip.open_clip_names import DEFAULT_MODEL as DEFAULT_MODEL
from ipo_dspy.clip.open_clip_names import DEFAULT_PRETRAINED as DEFAULT_PRETRAINED
from ipo_dspy.clip.open_clip_names import architecture_files, architectures, pretrained_tags
from ipo_dspy.clip.transformers_files import (
    FAMILIES,
    TRANSFORMERS,
    check_checkpoint_name,
    is_checkpoint,
    is_folder,
    local_folder,
    read_config,
)
from ipo_dspy.errors import Argument, Hint, ModelError

LOCAL, HUB = "local-dir:", "hf-hub:"
_CONFIG_FILE = "open_clip_config.json"
_WEIGHT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "config.json")
_PREPROCESS_KEYS = ("mean", "std", "interpolation", "resize_mode")
_CONFIG_LIMIT = 1024**2

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelSource:
    """Locations of the parts of one open_clip model. Only the tokenizer may need the network."""

    shown: str
    architecture: str
    checkpoint: str | None
    tokenizer: str
    config: dict[str, Any]
    preprocess: dict[str, Any]
    has_weights: bool = True


def check_name(name: str) -> None:
    """Check by its name alone that a model is of a known kind; nothing is loaded or fetched.

    Raises:
        ModelError: open_clip has no such model, or a folder of transformers holds one of another family.
    """
    if name.startswith(TRANSFORMERS):
        check_checkpoint_name(name)
        return
    if name.startswith((LOCAL, HUB)) or name in BUNDLED:
        return
    known = architectures()
    if known and name.replace("/", "-") not in known:
        raise _unknown_name(name, known)


def check_pretrained(name: str, pretrained: str) -> None:
    """Raise `ModelError` if a model of open_clip has no such weights; a file need not exist before it is loaded."""
    if not isinstance(pretrained, str):
        hint = Hint("for example {pretrained}", pretrained=DEFAULT_PRETRAINED)
        raise ModelError("must be a tag or the path of a file", argument="pretrained", value=pretrained, hint=hint)
    if not (is_tag(name, pretrained) or _looks_like_a_path(pretrained) or _is_file(Path(pretrained))):
        raise _unknown_weights(name, pretrained, pretrained_tags(name.replace("/", "-")) or ())


def is_tag(name: str, pretrained: str) -> bool:
    """Return whether weights are a tag of a model of open_clip, rather than the path of a file.

    >>> is_tag("ViT-B-32", "OpenAI"), is_tag("ViT-B-32", "/models/weights.pt")
    (True, False)
    """
    tags = pretrained_tags(name.replace("/", "-"))
    if tags is None:
        return not _looks_like_a_path(pretrained)
    return pretrained.lower().replace("-", "_") in tags  # as open_clip reads it


def named_folder(name: str) -> Path | None:
    """Return the folder that a model's name consists of; None for any other name.

    >>> named_folder("local-dir:/models/clip") == Path("/models/clip"), named_folder("hf-hub:org/clip")
    (True, None)
    """
    if name.startswith(LOCAL):
        return Path(name.removeprefix(LOCAL)).expanduser()
    return local_folder(name) if name.startswith(TRANSFORMERS) else None


def lacks_sigmoid_head(name: str) -> bool:
    """Return True if the configuration of a model on this machine has no logit bias; nothing is loaded or fetched."""
    folder = named_folder(name)
    if name.startswith(TRANSFORMERS):
        if folder is None or not is_checkpoint(folder):
            return False
        return not FAMILIES[read_config(folder)["model_type"]].has_sigmoid_head
    files = architecture_files(name.replace("/", "-")) if folder is None else [folder / _CONFIG_FILE]
    try:
        config = read_json(files[0], limit=_CONFIG_LIMIT)
        return "init_logit_bias" not in config.get("model_cfg", config)
    except (OSError, ValueError, IndexError, TypeError, AttributeError):
        return False  # unknown; loading says what is wrong


def resolve(open_clip: Any, name: str, pretrained: str | None, hub: Hub) -> ModelSource:
    """Return the locations of the parts of a model, after fetching its weights if they are missing.

    Raises:
        ModelError: an unknown name or tag, a missing file, weights of the other activation, no network, or something
            to fetch where that is refused.
    """
    if (folder := named_folder(name)) is not None:
        return _from_folder(folder, shown=repr(name))
    if name.startswith(HUB):
        return _from_hub(name.removeprefix(HUB), hub)
    architecture = name.replace("/", "-")
    config = open_clip.get_model_config(architecture)
    if config is None:
        raise _unknown_name(name, open_clip.list_models())
    if pretrained is None:
        return ModelSource(repr(name), architecture, None, architecture, config, {}, has_weights=False)
    shown = f"{name!r} with weights {pretrained!r}"
    if tag := find_tag(open_clip, name, pretrained):
        path = _weights_of_tag(open_clip, tag, shown, hub)
        preprocess = {key: tag[key] for key in _PREPROCESS_KEYS if key in tag}
        return ModelSource(shown, architecture, str(path), architecture, config, preprocess)
    return ModelSource(shown, architecture, str(Path(pretrained).expanduser()), architecture, config, {})


def find_tag(open_clip: Any, name: str, pretrained: str) -> Mapping[str, Any]:
    """Return the entry of open_clip for a tag of weights, empty for the path of a file; nothing is loaded or fetched.

    Raises:
        ModelError: neither the tag nor the file exists, or the weights were trained with another activation.
    """
    architecture = name.replace("/", "-")
    tag: Mapping[str, Any] = open_clip.get_pretrained_cfg(architecture, pretrained)
    if tag:
        _check_activation(open_clip, architecture, pretrained, tag)
    elif not _is_file(Path(pretrained).expanduser()):
        raise _unknown_weights(name, pretrained, open_clip.list_pretrained_tags_by_model(architecture))
    return tag


def _from_folder(folder: Path, *, shown: str) -> ModelSource:
    if not is_folder(folder):
        hint = Hint("pass {model} with the folder of the model", model="local-dir:PATH")
        raise ModelError(f"no folder {str(folder)!r:.200}", hint=hint)
    path = folder / _CONFIG_FILE
    if not path.is_file() and is_checkpoint(folder):
        hint = Hint("pass {model}", model=f"{TRANSFORMERS}{folder}")
        raise ModelError(f"{str(folder)!r:.200} holds a model of transformers, not of open_clip", hint=hint)
    if not path.is_file():
        raise ModelError(f"no {_CONFIG_FILE} in {str(folder)!r}; put the model's own next to its weights")
    try:
        config = read_json(path, limit=_CONFIG_LIMIT)["model_cfg"]
        complete = {"embed_dim", "vision_cfg", "text_cfg"} <= config.keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{str(path)!r} is not an open_clip config ({one_line_error(error)}); replace it") from error
    if not complete:
        raise ModelError(f"{str(path)!r} lacks embed_dim, vision_cfg or text_cfg in model_cfg; fetch it again")
    if not any(path.suffix in {".safetensors", ".bin", ".pth"} for path in folder.iterdir()):
        raise ModelError(f"no weights in {str(folder)!r}; put {_WEIGHT_FILES[0]} there")
    local = f"{LOCAL}{folder}"
    return ModelSource(shown, local, None, local, config, {})


def _from_hub(repo: str, hub: Hub) -> ModelSource:
    shown = repr(HUB + repo)
    otherwise = Hint("if it is a model of transformers, pass {model}", model=TRANSFORMERS + repo)
    hub.file(repo, [_CONFIG_FILE], shown, otherwise)
    hub.file(repo, _WEIGHT_FILES, shown)
    # Fetching the weights may have moved on to a newer revision; both files must be of the same one.
    source = _from_folder(hub.file(repo, [_CONFIG_FILE], shown, otherwise).parent, shown=shown)
    if source.config["text_cfg"].get("hf_tokenizer_name"):
        return replace(source, tokenizer=HUB + repo)  # its tokenizer may be of another repository
    return source


def _weights_of_tag(open_clip: Any, tag: Mapping[str, Any], shown: str, hub: Hub) -> Path:
    if not tag.get("hf_hub"):
        place = Path(hub.cache_dir or "~/.cache/clip").expanduser() / Path(tag["url"]).name  # where open_clip looks
        if hub.downloads == "refused":
            if place.is_file():
                return place
            raise refusal(place.name, shown)
        try:
            return Path(open_clip.download_pretrained(tag, cache_dir=hub.cache_dir))
        except (OSError, RuntimeError) as error:
            reason = one_line_error(error)
            raise ModelError(f"weights of {shown} cannot be fetched ({reason})", hint=WAYS_OUT) from error
    repo, _, file = tag["hf_hub"].rpartition("/")  # 'org/name/' or 'org/name/file'
    names = [file] if file else list(_WEIGHT_FILES)
    if file.endswith((".bin", ".pth")):
        names.insert(0, str(Path(file).with_suffix(".safetensors")))
    return hub.file(repo, names, shown)


def fetch_text_parts(source: ModelSource, hub: Hub) -> None:
    """Fetch what transformers would look for itself, with retries 8 seconds apart."""
    text = source.config["text_cfg"]
    if text.get("hf_tokenizer_name") and not source.tokenizer.startswith(LOCAL):
        hub.file(text["hf_tokenizer_name"], _TOKENIZER_FILES, f"the tokenizer of {source.shown}")
    if text.get("hf_model_name"):
        hub.file(text["hf_model_name"], ["config.json"], f"the text tower of {source.shown}")


def _check_activation(open_clip: Any, architecture: str, pretrained: str, tag: Mapping[str, Any]) -> None:
    """Raise for weights trained with QuickGELU in a model with GELU, or the reverse: the features would be worse."""
    wants = bool(tag.get("quick_gelu", False))
    if wants == bool(open_clip.get_model_config(architecture).get("quick_gelu", False)):
        return
    other = f"{architecture}-quickgelu" if wants else architecture.removesuffix("-quickgelu")
    trained = "trained" if wants else "not trained"
    fact = f"weights {pretrained!r} were {trained} with QuickGELU, unlike {architecture!r}"
    if other in open_clip.list_models() and open_clip.get_pretrained_cfg(other, pretrained):
        raise ModelError(fact, hint=Hint("pass {model}, {pretrained}", model=other, pretrained=pretrained))
    logger.warning("%s, and open_clip has no other architecture for them", fact)


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113  # that of `Path` raises if the name is too long


def _unknown_name(name: str, known: Sequence[str]) -> ModelError:
    lower = {model.lower(): model for model in (*BUNDLED, *known)}
    near = [lower[match] for match in difflib.get_close_matches(name.lower(), lower, n=5, cutoff=0.5)]
    if is_folder(folder := Path(name).expanduser()):
        prefix = TRANSFORMERS if is_checkpoint(folder) else LOCAL
        return ModelError(f"{name!r} is a folder", hint=Hint("pass {model}", model=prefix + name))
    close = f"; close names: {', '.join(near)}" if near else ""
    hub = ", or {hub} or {hf} if it is on the Hugging Face Hub" if name.count("/") == 1 else ""
    example = near[0] if near else DEFAULT_MODEL
    hint = Hint(
        "for example {model}" + hub,
        model=example,
        hub=Argument("model", HUB + name),
        hf=Argument("model", TRANSFORMERS + name),
    )
    return ModelError(f"open_clip has no model {name!r:.200}{close}", hint=hint)


def _looks_like_a_path(pretrained: str) -> bool:
    return bool(Path(pretrained).suffix) or len(Path(pretrained).parts) > 1


def _unknown_weights(name: str, pretrained: str, tags: Sequence[str]) -> ModelError:
    if is_folder(Path(pretrained).expanduser()):
        hint = Hint("pass {model}, or the file in it", model=LOCAL + pretrained)
        return ModelError("must be a file, not a folder", argument="pretrained", value=pretrained, hint=hint)
    if _looks_like_a_path(pretrained):
        return ModelError(
            f"no checkpoint file {pretrained!r:.200}; pass the path of an existing one, or a tag of {name!r}"
        )
    close = difflib.get_close_matches(pretrained, tags, n=1)
    example = (close or [*tags, "/path/to/weights.safetensors"])[0]
    fact = f"{name!r} has no weights {pretrained!r:.200}; its tags: {', '.join(tags) or 'none'}"
    return ModelError(fact, hint=Hint("for example {pretrained}", pretrained=example))


def file_stamps(model: str, pretrained: str | None) -> Hashable:
    """Return sizes and times of the files named by path, so that a changed file is loaded again."""
    paths: list[Path] = []
    if (folder := named_folder(model)) is not None:
        paths = sorted(folder.iterdir()) if is_folder(folder) else []
    elif pretrained is not None and _is_file(Path(pretrained).expanduser()):
        paths = [Path(pretrained).expanduser()]
    stats = [(str(path.resolve()), path.stat()) for path in paths if path.is_file()]
    return tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats)

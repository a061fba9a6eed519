"""Checkpoints of transformers by name: which families are supported, and the files that a folder must have.

Nothing is loaded here, so a wrong name is reported before torch is imported.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from ipo_dspy._internal.file_io import read_json
from ipo_dspy.errors import Hint, ModelError

TRANSFORMERS = "transformers:"
"""Prefix of a name: what follows is a folder of `save_pretrained` or a name on the Hugging Face Hub."""
CONFIG_FILE = "config.json"
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model")
OTHER_FILES = ("merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
WEIGHT_FILES = (
    *("model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
"""In order of preference; an index names the files of weights that were split."""
HOW_TO_SAVE = "write the folder with model.save_pretrained(folder) and processor.save_pretrained(folder)"
_JSON_LIMIT = 16 * 1024**2


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of model and how its text tower reads padding.

    Attributes:
        title: name in messages.
        text: `causal`, which pools at the end token and never sees padding; `masked`, which ignores padding; or
            `padded`, which was trained on lower-case texts of one fixed length, as SigLIP was.
    """

    title: str
    text: Literal["causal", "masked", "padded"]

    @property
    def has_sigmoid_head(self) -> bool:
        """Return whether the model was trained with a logit bias and independent probabilities."""
        return self.text == "padded"


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "clip": Family("CLIP", "causal"),
        "metaclip_2": Family("MetaCLIP 2", "causal"),
        "siglip": Family("SigLIP", "padded"),
        "siglip2": Family("SigLIP 2", "padded"),
        "altclip": Family("AltCLIP", "masked"),
        "chinese_clip": Family("Chinese-CLIP", "masked"),
        "align": Family("ALIGN", "masked"),
    }
)
"""Supported families by the `model_type` in their config.json."""


def local_folder(name: str) -> Path | None:
    """Return the folder that a name means, with or without the prefix; None for a name on the Hub.

    >>> local_folder("transformers:/models/clip") == Path("/models/clip")
    True
    >>> local_folder("transformers:openai/clip-vit-base-patch32") is None
    True
    """
    name = name.removeprefix(TRANSFORMERS)
    path = Path(name).expanduser()
    is_path = path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    return path if is_path or is_folder(path) else None


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder."""
    return os.path.isdir(path)  # noqa: PTH112  # that of `Path` raises if the name is too long


def is_checkpoint(folder: Path) -> bool:
    """Return whether a folder was written by `save_pretrained` of a supported family."""
    try:
        return read_config(folder).get("model_type") in FAMILIES
    except ModelError:
        return False


def read_config(folder: Path) -> dict[str, Any]:
    """Return the config.json of a folder; raise `ModelError` if it is missing or not a JSON object."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ModelError(f"no {CONFIG_FILE} in {str(folder)!r:.200}", hint=HOW_TO_SAVE)
    try:
        config = read_json(path, limit=_JSON_LIMIT)
    except (OSError, ValueError) as error:
        raise ModelError(f"{str(path)!r:.200} cannot be read ({error})", hint=HOW_TO_SAVE) from error
    if not isinstance(config, dict):
        raise ModelError(f"{str(path)!r:.200} is not the config of a model", hint=HOW_TO_SAVE)
    return config


def family_of(config: Mapping[str, Any], shown: str) -> Family:
    """Return the family of a config; raise `ModelError` for one of another kind, with a list of the families."""
    kind = config.get("model_type")
    if isinstance(kind, str) and kind in FAMILIES:
        return FAMILIES[kind]
    known = ", ".join(f"{family.title} ({name})" for name, family in FAMILIES.items())
    python = "; Python files that come with a model are not run" if config.get("auto_map") else ""
    raise ModelError(f"{shown} is a model of kind {str(kind)!r:.60}; supported transformers models: {known}{python}")


def check_checkpoint_name(name: str) -> None:
    """Check a name with the prefix, and the folder if it is one; nothing is loaded or fetched.

    A folder that does not exist is reported at load: a saved program may name one of another machine.

    Raises:
        ModelError: no name, or the folder holds a model of another kind.
    """
    if not name.removeprefix(TRANSFORMERS):
        hint = Hint("for example {model}", model=f"{TRANSFORMERS}google/siglip-base-patch16-224")
        raise ModelError("must name a folder or a Hub model", argument="model", value=name, hint=hint)
    folder = local_folder(name)
    if folder is not None and is_folder(folder):
        family_of(read_config(folder), repr(name))


def missing_file(folder: Path) -> str | None:
    """Return the first file that a folder lacks, of the kinds that every model needs; None if it is complete."""
    if not (folder / CONFIG_FILE).is_file():
        return CONFIG_FILE
    weights = next((name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if weights is None:
        return WEIGHT_FILES[0]
    if weights.endswith(".index.json"):
        absent = next((name for name in split_weights(folder / weights) if not (folder / name).is_file()), None)
        if absent is not None:
            return absent
    for names in (PROCESSOR_FILES, TOKENIZER_FILES):
        if not any((folder / name).is_file() for name in names):
            return names[0]
    return None


def split_weights(index: Path) -> list[str]:
    """Return the names of the files of weights in an index; an unreadable one is reported at load."""
    try:
        return sorted({str(name) for name in read_json(index, limit=_JSON_LIMIT)["weight_map"].values()})
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return []


def files_to_fetch(names: list[str]) -> list[str]:
    """Return those files of a repository that are needed, with its safetensors rather than pickled weights.

    >>> files_to_fetch(["config.json", "model.safetensors", "pytorch_model.bin", "tf_model.h5", "modeling_own.py"])
    ['config.json', 'model.safetensors']
    """
    weights = next((name for name in WEIGHT_FILES if name in names), "")
    stem, suffix = weights.removesuffix(".index.json").rsplit(".", 1) if weights else ("", "")
    wanted = {CONFIG_FILE, *PROCESSOR_FILES, *TOKENIZER_FILES, *OTHER_FILES, weights}
    is_split = weights.endswith(".index.json")
    return [
        name
        for name in names
        if name in wanted or (is_split and name.startswith(f"{stem}-") and name.endswith(suffix) and "/" not in name)
    ]

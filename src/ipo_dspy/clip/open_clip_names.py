"""Names of open_clip's models and weights: its own lists, or its files where importing it would load torch."""

import ast
import functools
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

DEFAULT_MODEL, DEFAULT_PRETRAINED = "ViT-B-16-quickgelu", "openai"
"""The CLIP of the paper."""
QUICKGELU = "-quickgelu"


def architectures() -> Sequence[str]:
    """Return the names of open_clip's models; empty without open_clip."""
    if (loaded := sys.modules.get("open_clip")) is not None and hasattr(loaded, "list_models"):
        return list(loaded.list_models())
    return [path.stem for path in architecture_files("*")]


def architecture_files(name: str) -> list[Path]:
    """Return the configuration files of models whose names match a pattern."""
    return _files(f"model_configs/{name}.json")


def pretrained_tags(architecture: str) -> Sequence[str] | None:
    """Return the tags of a model's weights; None if they cannot be known without loading open_clip.

    >>> pretrained_tags("ViT-B-16-quickgelu")[0]
    'openai'
    """
    if (loaded := sys.modules.get("open_clip")) is not None and hasattr(loaded, "list_pretrained_tags_by_model"):
        return list(loaded.list_pretrained_tags_by_model(architecture))
    tags = _tags_by_model()
    return None if tags is None else tags.get(architecture, ())


def _files(pattern: str) -> list[Path]:
    spec = importlib.util.find_spec("open_clip")
    folders = [] if spec is None else spec.submodule_search_locations or []
    return [path for folder in folders for path in Path(folder).glob(pattern)]


@functools.cache
def _tags_by_model() -> Mapping[str, Sequence[str]] | None:
    """Read the table `_PRETRAINED` of open_clip from its source; None if it is not as in versions 2 and 3."""
    tags: dict[str, Sequence[str]] = {}
    try:
        body = ast.parse(_files("pretrained.py")[0].read_text(encoding="utf-8")).body
        values = {ast.unparse(node.targets[0]): node.value for node in body if isinstance(node, ast.Assign)}
        table = values["_PRETRAINED"]
        for key, value in zip(table.keys, table.values, strict=True):  # type: ignore[attr-defined]
            entries = values.get(ast.unparse(value), value).keywords
            tags[ast.literal_eval(key)] = [entry.arg for entry in entries]
            if quick := [entry.arg for entry in entries if "quick_gelu=True" in ast.unparse(entry.value)]:
                tags[ast.literal_eval(key) + QUICKGELU] = quick
    except (OSError, LookupError, ValueError, SyntaxError, AttributeError):
        return None
    return tags

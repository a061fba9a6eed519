"""Frozen CLIP features of several texts per class, from which one per class is drawn at a time.

The texts of CoPrompt are descriptions of each class by a language model. Without such sentences, the ImageNet templates
are used instead.

Letters: C classes, S texts of all classes, D width of the features.
"""

import json
import os
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ipo_dspy._internal.file_io import read_regular
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.text_features import encode_token_lists
from ipo_dspy.errors import InputError
from ipo_dspy.scoring.imagenet_prompts import imagenet_templates
from ipo_dspy.template import display_class_name

Sentences = Mapping[str, Sequence[str]]
"""Texts by class name; names are compared with underscores as spaces."""

MAX_BYTES = 64 * 1024 * 1024
"""Maximum size of a file of sentences; those that CoPrompt's authors published have up to 1.9 MB."""

_FORM = 'for example {"cat": ["a cat has whiskers."]}'


class SentenceFeatures:
    """Frozen features of all texts of the classes; without sentences, of the 80 ImageNet templates."""

    def __init__(self, backbone: Backbone, classes: Sequence[str], sentences: Sentences | None = None) -> None:
        if sentences is None:
            templates = imagenet_templates()
            texts = [list(templates.fill(name)) for name in classes]
        else:
            texts = _texts(sentences, classes)
        flat = [text for class_texts in texts for text in class_texts]
        lists = backbone.token_ids(flat)
        longest = max(range(len(lists)), key=lambda index: len(lists[index]))
        if len(lists[longest]) > backbone.context_length:
            raise InputError(
                f"sentence {flat[longest][:120]!r} has {len(lists[longest])} tokens and the model takes "
                f"{backbone.context_length}; use a shorter one"
            )
        self._features = encode_token_lists(backbone, lists).to(backbone.device)  # [S, D]
        self._counts = torch.tensor([len(class_texts) for class_texts in texts])  # [C]
        self._starts = self._counts.cumsum(0) - self._counts  # [C]

    def draw(self, generator: torch.Generator) -> Tensor:
        """Return normalized features of one text per class: [C, D].

        All classes get the text at the same position of their lists, as in the code of CoPrompt. In lists of different
        lengths, it is the same relative position.
        """
        fraction = torch.rand(1, generator=generator, dtype=torch.float64)
        return self._features[self._starts + (fraction * self._counts).long()]


def check_sentences(sentences: Sentences | None) -> None:
    """Raise `InputError` unless sentences map class names to non-empty lists of texts."""
    if not isinstance(sentences, Mapping | None):
        raise InputError(
            f"sentences must be a mapping, got {sentences!r:.80}; for example {{'cat': ['a cat has whiskers.'], ...}}, "
            "or read_sentences(FILE) for a JSON file of that form"
        )
    for name, texts in (sentences or {}).items():
        if not (isinstance(name, str) and _is_list_of_texts(texts)):
            raise InputError(
                f"sentences[{name!r:.80}] must be a list of texts, got {texts!r:.80}; for example "
                f"['a {name!s:.80} is seen from above.']"
            )


def read_sentences(path: str | os.PathLike[str]) -> dict[str, list[str]]:
    """Read texts by class name from a JSON file such as those that CoPrompt's authors published.

    Raises:
        InputError: it cannot be read, is larger than 64 MiB, or is not JSON of that form.
    """
    where = repr(os.fspath(path))
    try:
        sentences = json.loads(read_regular(path, limit=MAX_BYTES))
    except OSError as error:
        raise InputError(f"sentences must be a JSON file, got {where} ({error.strerror}); check the path") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"sentences must be a JSON file, got {where} ({error!s:.80}); {_FORM}") from error
    if not isinstance(sentences, dict):
        raise InputError(f"sentences must be a JSON file with lists of texts by class name, got {where}; {_FORM}")
    check_sentences(sentences)
    return sentences


def _is_list_of_texts(value: object) -> bool:
    if isinstance(value, str) or not isinstance(value, Sequence):
        return False
    return len(value) > 0 and all(isinstance(text, str) and text.strip() for text in value)


def _texts(sentences: Sentences, classes: Sequence[str]) -> list[list[str]]:
    """Return the texts of each class; `apple_pie` and `apple pie` are one class."""
    merged: dict[str, list[str]] = {}
    for name, texts in sentences.items():
        merged.setdefault(display_class_name(name), []).extend(texts)
    for name in classes:
        if display_class_name(name) not in merged:
            raise InputError(f"class {name!r} has no sentences; pass sentences={{{name!r}: ['...'], ...}}, or None")
    return [merged[display_class_name(name)] for name in classes]

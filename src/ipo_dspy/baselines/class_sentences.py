"""Features of several texts for every class by a frozen CLIP, of which one each is drawn at a time.

CoPrompt draws them from what a language model has written of each class; where there are no such sentences, the
templates for ImageNet stand in.

Letters: C classes, S texts of all classes, D width of the features.
"""

import json
import os
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ipo_dspy._internal.file_io import read_regular
from ipo_dspy.baselines.zero_shot import imagenet_templates
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.text_features import encode_token_lists
from ipo_dspy.errors import InputError
from ipo_dspy.template import display_class_name

Sentences = Mapping[str, Sequence[str]]
"""Texts by class name; names are compared as they are spoken, underscores as spaces."""

MAX_BYTES = 64 * 1024 * 1024
"""Of a file of sentences; those that CoPrompt's authors published have up to 1.9 MB."""

_FORM = 'for example {"cat": ["a cat has whiskers."]}'


class SentenceFeatures:
    """Frozen features of all texts of some classes.

    Args:
        backbone: the model.
        classes: C names.
        sentences: the texts of each class, and perhaps of others; None for the 80 templates for ImageNet.

    Raises:
        InputError: a class has no text, or one that does not fit the model.
    """

    def __init__(self, backbone: Backbone, classes: Sequence[str], sentences: Sentences | None = None) -> None:
        known = None if sentences is None else _by_spoken_name(sentences)
        texts = [_texts_of(name, known) for name in classes]
        lists = backbone.token_ids([text for some in texts for text in some])
        longest = max(range(len(lists)), key=lambda index: len(lists[index]))
        if len(lists[longest]) > backbone.context_length:
            raise InputError(
                f"sentence {[text for some in texts for text in some][longest][:120]!r} has {len(lists[longest])} "
                f"tokens and the model takes {backbone.context_length}; write a shorter one"
            )
        self._features = encode_token_lists(backbone, lists).to(backbone.device)  # [S, D]
        self._counts = torch.tensor([len(some) for some in texts])  # [C]
        self._starts = self._counts.cumsum(0) - self._counts  # [C]

    def draw(self, generator: torch.Generator) -> Tensor:
        """Normalized features of one text for each class: [C, D].

        All classes get the text at the same place of their lists, as in the code of CoPrompt; of lists of unequal
        length, the one as far along.

        Args:
            generator: decides the place; on the CPU.
        """
        share = torch.rand(1, generator=generator, dtype=torch.float64)
        return self._features[self._starts + (share * self._counts).long()]


def check_sentences(sentences: Sentences | None) -> None:
    """Refuse what cannot be texts by class name.

    Raises:
        InputError: not texts by class name; a class with a text that is not in a list, with none, or something else.
    """
    if not isinstance(sentences, Mapping | None):
        raise InputError(
            f"sentences must be a mapping, got {sentences!r:.80}; for example {{'cat': ['a cat has whiskers.'], ...}}, "
            "or read_sentences(FILE) for a JSON file of that form"
        )
    for name, some in (sentences or {}).items():
        if not (isinstance(name, str) and _is_list_of_texts(some)):
            raise InputError(
                f"sentences[{name!r:.80}] is {some!r:.80}; write a list of texts, e.g. ['a {name!s:.80} is seen from "
                "above.']"
            )


def read_sentences(path: str | os.PathLike[str]) -> dict[str, list[str]]:
    """Read texts by class name from a JSON file such as those that CoPrompt's authors published.

    Raises:
        InputError: it cannot be read, is larger than 64 MiB, or is not JSON of that form.
    """
    where = repr(os.fspath(path))
    try:
        found = json.loads(read_regular(path, limit=MAX_BYTES))
    except OSError as error:
        raise InputError(f"sentences must be a JSON file, got {where} ({error.strerror}); check the path") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"sentences must be a JSON file, got {where} ({error!s:.80}); {_FORM}") from error
    if not isinstance(found, dict):
        raise InputError(f"sentences must be a JSON file with lists of texts by class name, got {where}; {_FORM}")
    check_sentences(found)
    return found


def _is_list_of_texts(some: object) -> bool:
    if isinstance(some, str) or not isinstance(some, Sequence):
        return False
    return len(some) > 0 and all(isinstance(text, str) and text.strip() for text in some)


def _by_spoken_name(sentences: Sentences) -> dict[str, list[str]]:
    """The texts by names as they are read in a prompt: `apple_pie` and `apple pie` are one class."""
    found: dict[str, list[str]] = {}
    for name, texts in sentences.items():
        found.setdefault(display_class_name(name), []).extend(texts)
    return found


def _texts_of(name: str, known: Sentences | None) -> Sequence[str]:
    if known is None:
        return imagenet_templates().fill(name)
    if display_class_name(name) not in known:
        raise InputError(f"class {name!r} has no sentences; write sentences={{{name!r}: ['...'], ...}}, or none at all")
    return known[display_class_name(name)]

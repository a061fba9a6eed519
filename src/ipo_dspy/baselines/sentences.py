"""What a frozen CLIP makes of several texts for every class, of which one each is drawn at a time.

CoPrompt draws them from what a language model has written of each class; where there are no such sentences, the
templates for ImageNet stand in.

Letters: C classes, S texts of all classes, D width of the features.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ipo_dspy.baselines.templates import imagenet_templates
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.text import encode_token_lists
from ipo_dspy.errors import InputError

Sentences = Mapping[str, Sequence[str]]
"""Texts by class name."""


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
        texts = [_texts_of(name, sentences) for name in classes]
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
        """Normalised features of one text for each class, drawn independently: [C, D].

        Args:
            generator: decides which; on the CPU.
        """
        share = torch.rand(len(self._counts), generator=generator, dtype=torch.float64)  # [C]
        return self._features[self._starts + (share * self._counts).long()]


def check_sentences(sentences: Sentences | None) -> None:
    """Refuse what cannot be texts by class name.

    Raises:
        InputError: not texts by class name; a class with a text that is not in a list, with none, or something else.
    """
    if not isinstance(sentences, Mapping | None):
        raise InputError(f"sentences={sentences!r:.80} is no mapping; write {{'cat': ['a cat has whiskers.'], ...}}")
    for name, some in (sentences or {}).items():
        if isinstance(some, str) or not some or not all(isinstance(text, str) and text.strip() for text in some):
            raise InputError(
                f"sentences[{name!r}] is {some!r:.80}; write a list of texts, e.g. ['a {name} is seen from above.']"
            )


def _texts_of(name: str, sentences: Sentences | None) -> Sequence[str]:
    if sentences is None:
        return imagenet_templates().fill(name)
    if name not in sentences:
        raise InputError(f"class {name!r} has no sentences; write sentences={{{name!r}: ['...'], ...}}, or none at all")
    return sentences[name]

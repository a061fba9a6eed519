"""Descriptions without a language model: CLIP itself says which phrases of a bank fit an image.

An image of a dog is compared with "pixel art of a dog", "a blurry dog", ... for every phrase of the bank. What
counts is how much a phrase brings the caption nearer to the image than the bare class name does, relative to
what it does for the phrase bank as a whole. It sees only what the bank names, and only what this CLIP knows,
but that is the knowledge which decides: phrases that move this model are the ones that a template can use.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ipo_dspy.clip.image_features import encode_images
from ipo_dspy.clip.text_features import class_features
from ipo_dspy.describers.base import Descriptions
from ipo_dspy.run.ledger import AskOnce
from ipo_dspy.template import PLACEHOLDER, Template
from ipo_dspy.vocabulary import BANK, Phrase

if TYPE_CHECKING:
    from torch import Tensor

    from ipo_dspy.clip.backbone import Backbone


class ClipDescriber:
    """Ranks a phrase bank for each image.

    Args:
        backbone: the loaded CLIP model, e.g. `classifier.backbone`.
        phrases: the bank.
        per_image: how many phrases describe an image, each of another facet.
        max_classes: how many class names captions are made with; more cost time and say little new.
        allow_url: fetch images given as http(s) URLs.
    """

    def __init__(
        self,
        backbone: "Backbone",
        *,
        phrases: Sequence[Phrase] = BANK,
        per_image: int = 4,
        max_classes: int = 12,
        allow_url: bool = False,
    ) -> None:
        self.backbone = backbone
        self.phrases = tuple(phrases)
        self.per_image = per_image
        self.max_classes = max_classes
        self.allow_url = allow_url

    def describe(
        self, images: Sequence[Any], class_names: Sequence[str], *, once: AskOnce | None = None
    ) -> Descriptions:
        """The phrases that fit each image best, best first; an empty text for images beyond `max_classes` classes."""
        known = list(dict.fromkeys(class_names))[: self.max_classes]
        rows = [i for i, name in enumerate(class_names) if name in known]
        fits = self.fits([images[i] for i in rows], [class_names[i] for i in rows])  # [N, P]
        # A data set has a look of its own: what fits all images counts as much as what fits this one.
        found = dict(zip(rows, map(self._best, fits + fits.mean(dim=0)), strict=True))
        return Descriptions(tuple(found.get(i, "") for i in range(len(images))))

    def fits(self, images: Sequence[Any], class_names: Sequence[str]) -> "Tensor":
        """How well each phrase fits each image, [N, P]: similarity gained over the bare class name."""
        encoded = encode_images(self.backbone, images, allow_url=self.allow_url)
        known = list(dict.fromkeys(class_names))
        templates = [Template((f"a {PLACEHOLDER}.",)), *map(caption, self.phrases)]
        text = class_features(self.backbone, templates, known)  # [1 + P, C, D]
        direction = (text[1:] - text[:1])[:, [known.index(name) for name in class_names]]  # [P, N, D]
        return torch.einsum("nd,pnd->np", encoded.features, direction)

    def _best(self, fits: "Tensor") -> str:
        chosen: dict[str, Phrase] = {}
        for index in fits.argsort(descending=True).tolist():
            phrase = self.phrases[index]
            if fits[index] <= 0 or len(chosen) == self.per_image:
                break
            chosen.setdefault(phrase.facet, phrase)
        return ", ".join(phrase.text for phrase in chosen.values())


def caption(phrase: Phrase) -> Template:
    """A caption that says a phrase of a class.

    >>> str(caption(Phrase("blurry", "quality", "adjective")))
    'a blurry <CLASS>.'
    """
    forms = {
        "noun": f"{phrase.text} of a {PLACEHOLDER}.",
        "adjective": f"a {phrase.text} {PLACEHOLDER}.",
        "after": f"a {PLACEHOLDER} {phrase.text}.",
    }
    return Template((forms[phrase.position],))

"""Describe images without a language model: rank a phrase bank by CLIP similarity gain.

An image of a dog is compared with "pixel art of a dog", "a blurry dog", and so on, for every phrase of the bank. A
phrase scores by how much more similar its caption is to the image than the caption of the class name alone. The
describer is limited to the phrases of the bank and to the knowledge of this CLIP model. Phrases that affect this model
are also the ones that a template can use.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

import torch

from ipo_dspy._internal.sequences import evenly_spaced
from ipo_dspy.clip.image_features import encode_images
from ipo_dspy.clip.text_features import class_features
from ipo_dspy.describers.base import Descriptions
from ipo_dspy.phrase_bank import BANK, Phrase
from ipo_dspy.run.ledger import AskOnce
from ipo_dspy.template import PLACEHOLDER, Template

if TYPE_CHECKING:
    from torch import Tensor

    from ipo_dspy.clip.backbone import Backbone


@dataclass(repr=False, eq=False)
class ClipDescriber:
    """Ranks the phrases of a bank for each image.

    Args:
        backbone: the loaded CLIP model, e.g. `classifier.backbone`.
        phrases: the bank.
        per_image: maximum number of phrases per image, each of a different facet.
        max_classes: maximum number of classes whose images are described, evenly spaced; more take time and add little.
        allow_url: fetch images given as http(s) URLs.
    """

    backbone: "Backbone"
    _: KW_ONLY
    phrases: Sequence[Phrase] = BANK
    per_image: int = 4
    max_classes: int = 12
    allow_url: bool = False

    def describe(
        self, images: Sequence[Any], class_names: Sequence[str], *, once: AskOnce | None = None
    ) -> Descriptions:
        """Return the phrases that fit each image best, best first; empty for images beyond `max_classes` classes.

        They are guesses: a phrase that is visibly wrong may rank first. Count in how many images it occurs.
        """
        described = evenly_spaced(list(dict.fromkeys(class_names)), self.max_classes)
        rows = [i for i, name in enumerate(class_names) if name in described]
        fits = self.fits([images[i] for i in rows], [class_names[i] for i in rows])  # [N, P]
        # Images of a data set share a look: the mean fit counts as much as the fit of the image itself.
        texts = dict(zip(rows, map(self._best, fits + fits.mean(dim=0)), strict=True))
        return Descriptions(tuple(texts.get(i, "") for i in range(len(images))), guessed=True)

    def fits(self, images: Sequence[Any], class_names: Sequence[str]) -> "Tensor":
        """Return the fit of each phrase to each image, [N, P]: the similarity gain over the class name alone."""
        encoded = encode_images(self.backbone, images, allow_url=self.allow_url)
        unique_names = list(dict.fromkeys(class_names))
        templates = [Template((f"a {PLACEHOLDER}.",)), *map(caption, self.phrases)]
        text = class_features(self.backbone, templates, unique_names)  # [1 + P, C, D]
        direction = (text[1:] - text[:1])[:, [unique_names.index(name) for name in class_names]]  # [P, N, D]
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
    """Return a caption that combines a phrase with the class name.

    >>> str(caption(Phrase("blurry", "quality", "adjective")))
    'a blurry <CLASS>.'
    """
    forms = {
        "noun": f"{phrase.text} of a {PLACEHOLDER}.",
        "adjective": f"a {phrase.text} {PLACEHOLDER}.",
        "after": f"a {PLACEHOLDER} {phrase.text}.",
    }
    return Template((forms[phrase.position],))

"""Published templates by name, to start a search from.

`paper` has the best prompt of each data set in the paper's 1-shot runs, as printed; several are longer than the context
of a small model. `imagenet-80` has OpenAI's prompts for ImageNet, one by one.
"""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from ipo_dspy.template import Template

PAPER: Mapping[str, str] = MappingProxyType(
    {
        "imagenet": "Take a high-quality photo of a <CLASS>.",
        "caltech101": "Categorize the <CLASS> shown in the image.",
        "oxford_pets": "Take a well-composed photo of a <CLASS> with optimal lighting, focus, and minimal distractions."
        " Capture the pet's unique characteristics, including expression and posture, to ensure a clear and distinct "
        "image.",
        "stanford_cars": "Describe the distinguishing characteristics of the <CLASS> in the image.",
        "oxford_flowers": "Identify the unique visual features of the <CLASS> flower accurately.",
        "food101": "Identify the primary ingredient in the <CLASS> and describe its texture, color, and presentation.",
        "fgvc_aircraft": "Capture a comprehensive range of well-lit, high-resolution images of an <CLASS> from various "
        "angles, meticulously showcasing its specific design features with perfect clarity and precision for "
        "unparalleled accuracy in aircraft.",
        "sun397": "A photo of a <CLASS>, a type of large-scale scene.",
        "dtd": "Classify the intricate <CLASS> texture.",
        "eurosat": "Analyze the <CLASS> vehicles in the satellite image with state-of-the-art algorithms for precise "
        "classification and optimal efficiency.",
        "ucf101": "Capture a high-quality, well-lit image of a person flawlessly demonstrating the <CLASS> action with "
        "impeccable visual representation to achieve unmatched.",
    }
)
"""Best prompt of each data set with one image per class: Du, Sun, Snoek, NeurIPS 2024 (arXiv 2410.15397), table 3."""


def _imagenet() -> Iterable[str]:
    from ipo_dspy.scoring.imagenet_prompts import imagenet_templates  # loads torch

    return imagenet_templates().lines


TEMPLATE_LISTS: Mapping[str, Callable[[], Iterable[str]]] = MappingProxyType(
    {"paper": PAPER.values, "imagenet-80": _imagenet}
)
"""The lists by name."""


def published_templates(name: str) -> Template:
    """Return a list in `TEMPLATE_LISTS`, one template each line.

    >>> [len(published_templates(name).lines) for name in TEMPLATE_LISTS]
    [11, 80]
    """
    return Template.parse("\n".join(TEMPLATE_LISTS[name]()))

"""Passes of the towers

How often the methods of the paper's table send something through a tower on the eleven data sets, for one seed at 16
shots, and how long that takes at the rates of this machine. Rates are those of ViT-B/16 with random weights, in
float32, on the device that a sweep would take; "trained" passes go forth and back. What is left out: reading files,
language models, and whatever is not a pass. CoCoOp's texts share no beginnings when it is tested, either, so its hours
are too few. Test images are those of the CoOp line's splits.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil

import torch

from benchmarks.common import Size, seconds, table
from ipo_dspy.baselines.context_tokens import PromptedClassTexts, init_context
from ipo_dspy.baselines.deep_prompts import init_prompts
from ipo_dspy.baselines.towers import ImageTower
from ipo_dspy.bench.suites import PAPER
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.loading import import_open_clip, load_backbone
from ipo_dspy.clip.text_features import encode_token_lists
from ipo_dspy.data import BENCHMARKS

SHOTS = 16
TEST_IMAGES = {
    "imagenet": 50_000, "caltech101": 2_465, "oxford_pets": 3_669, "stanford_cars": 8_041, "oxford_flowers": 2_463,
    "food101": 30_300, "fgvc_aircraft": 3_333, "sun397": 19_850, "dtd": 1_692, "eurosat": 8_100, "ucf101": 3_783,
}  # fmt: skip


@dataclass(frozen=True)
class Passes:
    """Number of images and texts that pass a tower, and of those with a backward pass."""

    images: int = 0
    trained_images: int = 0
    texts: int = 0
    trained_texts: int = 0

    def __add__(self, other: "Passes") -> "Passes":
        return Passes(*(one + two for one, two in zip(self.numbers, other.numbers, strict=True)))

    @property
    def numbers(self) -> tuple[int, int, int, int]:
        """In the order of the columns."""
        return self.images, self.trained_images, self.texts, self.trained_texts


def passes(method: str, dataset: str) -> Passes:
    """Of N training images of B base classes, C classes and T test images; `kept` is what all of them encode once."""
    method, _, crops = method.partition(" with ")
    classes, tested = BENCHMARKS[dataset].classes, TEST_IMAGES[dataset]
    base = ceil(classes / 2)
    images = SHOTS * base
    epochs = {"maple": 5, "vpt": 5, "vpt+ipo": 5, "coprompt": 8, "promptsrc": 20}.get(method, 0)
    prompted = Passes(tested + epochs * images, epochs * images)
    coupled = epochs * (images // 4) * base
    coop = 50 if dataset == "imagenet" else 200
    if method == "kept":
        return Passes(tested + images)
    if method == "coop":
        learned = coop * (images // 32) * base
        return Passes(coop * (images // 32) * 32 if crops else 0, texts=learned + classes, trained_texts=learned)
    if method == "cocoop":
        learned = 10 * images * base
        return Passes(10 * images if crops else 0, 0, learned + tested * classes // 2, learned)
    if method == "ipo":
        return Passes(texts=501 * base)
    if method == "vpt":
        return prompted
    if method == "vpt+ipo":
        return prompted + Passes(images, 0, 501 * base)
    if method == "coprompt":
        prompted += Passes(epochs * images)  # the frozen tower sees them perturbed, differently each time
    if method == "promptsrc" and crops:
        prompted += Passes(epochs * images)  # and the same crops
    return replace(prompted, texts=coupled, trained_texts=coupled)


METHODS = {
    "kept": "all together, once", "ipo": "IPO, 100 steps of 5", "coop": "CoOp", "cocoop": "CoCoOp", "vpt": "VPT",
    "maple": "MaPLe", "coprompt": "CoPrompt", "promptsrc": "PromptSRC", "vpt+ipo": "VPT + IPO",
    "coop with crops": "CoOp, random crops", "cocoop with crops": "CoCoOp, random crops",
    "promptsrc with crops": "PromptSRC, random crops",
}  # fmt: skip


def run(size: Size, seed: int) -> None:
    """Rates, then counts and hours for ImageNet and for the ten others."""
    backbone = load_backbone("ViT-B-16-quickgelu", None)
    rates = _rates(backbone, 5 if size == "full" else 2, torch.Generator().manual_seed(seed))
    table(("passes", "a second"), [(name, f"{rate:,.1f}") for name, rate in rates.items()])
    print(f"\nOn {backbone.device}, {torch.get_num_threads()} threads.\n")
    header = ("method", "images", "of these trained", "texts", "of these trained", "hours")
    for title, names in {"ImageNet": ("imagenet",), "The ten others": tuple(set(PAPER) - {"imagenet"})}.items():
        print(f"\n{title}:\n")
        table(header, [(title_of, *_row(method, names, tuple(rates.values()))) for method, title_of in METHODS.items()])


def _row(method: str, names: tuple[str, ...], rates: tuple[float, ...]) -> tuple[str, ...]:
    total = sum((passes(method, name) for name in names), Passes())
    images, trained_images, texts, trained_texts = total.numbers
    plain = (images - trained_images, trained_images, texts - trained_texts, trained_texts)
    hours = sum(number / rate for number, rate in zip(plain, rates, strict=True)) / 3600
    return (*(f"{number:,}" if number else "-" for number in total.numbers), f"{hours:,.1f}")


def _rates(backbone: Backbone, repeats: int, draw: torch.Generator) -> dict[str, float]:
    """Passes a second: images, images trained, texts, texts trained."""
    pixels = torch.randn(64, 3, 224, 224, generator=draw)
    tower, names = ImageTower(backbone), import_open_clip().IMAGENET_CLASSNAMES[:200]
    prompts = init_prompts(backbone, tower, 4, 9, draw)
    context = init_context(backbone, None, "a photo of a", draw)
    texts = PromptedClassTexts(backbone, names[:100], len(context))
    lists = backbone.token_ids([f"{start} {name}." for start in ("a photo of a", "art of the") for name in names])

    def learn_images() -> None:
        tower.encode(pixels[:4], prompts.first, prompts.deep).sum().backward()  # type: ignore[no-untyped-call]

    ways: dict[str, tuple[int, Callable[[], object]]] = {
        "images": (64, lambda: backbone.encode_pixels(pixels)),
        "images, trained, 4 at a time": (4, learn_images),
        "texts, their beginnings shared": (len(lists), lambda: encode_token_lists(backbone, lists)),
        "texts, trained, 100 at a time": (100, lambda: texts.features(context[None]).sum().backward()),  # type: ignore[no-untyped-call]
    }
    rates = {}
    for name, (number, work) in ways.items():
        work()
        rates[name] = number * repeats / sum(_timed(work) for _ in range(repeats))
    return rates


def _timed(work: Callable[[], object]) -> float:
    def all_of_it() -> None:
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return seconds(all_of_it)[0]

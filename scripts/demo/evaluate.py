"""Score template families on the demo datasets with the exported model: is there something for a search to find?

For every dataset: "a photo of a <CLASS>.", the best of the 80 ImageNet templates and the best of some hundred truthful
ones, the latter two chosen on the training pictures of the base classes only, all measured on the test split. Labels
are sorted; the first half of the classes is base, the rest novel; each half competes among its own names.
"""

import argparse
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from demo.captions import MEDIA, WORDS
from demo.concepts import article, load_concepts
from demo.demosets import SETS, DemoSet
from demo.glyphs import Bank, build_bank
from demo.make_datasets import draw
from demo.openclip import open_clip
from ipo_dspy import ClipClassifier, Template, load_image_table
from ipo_dspy.data import ImageDataset, base_novel
from ipo_dspy.data.dataset import example
from ipo_dspy.optimizer.evaluation import evaluate

PHOTO = "a photo of a <CLASS>."


def truthful_templates(font: int, attrs: Sequence[str], *, limit: int, seed: int) -> list[str]:
    """Templates whose every word holds for the dataset; attributes named by none, one or all of their words."""
    media = sorted({medium for medium in MEDIA[font] if "photo" not in medium})
    found = []
    options = [[("", ""), *((word, "") for word in WORDS[a][0]), *(("", word) for word in WORDS[a][1])] for a in attrs]
    for medium, words in itertools.product(media, itertools.product(*options)):
        if any("{" in word for pair in words for word in pair):
            continue
        before = " ".join(word for word, _ in words if word)
        after = "".join(f" {word}" for _, word in words if word)
        phrase = f"{before} {medium}".strip()
        found += [f"{article(phrase)} {phrase} of a <CLASS>{after}.", f"a <CLASS>{after}. {phrase}.",
                  f"{phrase} of the <CLASS>{after}."]  # fmt: skip
    return random.Random(seed).sample(found, min(limit, len(found)))


def imagenet_templates() -> list[str]:
    """open_clip's 80 templates with <CLASS> for the name."""
    return [template("<CLASS>") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]


def draw_splits(demo: DemoSet, names: list[str], bank: Bank) -> tuple[ImageDataset, ImageDataset]:
    """Training and test pictures of a dataset drawn in memory, without files."""
    pictures, labels, splits = draw(demo, names, bank)
    images = map(Image.fromarray, pictures.permute(0, 2, 3, 1).numpy())
    rows = [
        (split, example(image, demo.classes[label])) for image, label, split in zip(images, labels, splits, strict=True)
    ]
    train, test = ([one for split, one in rows if split == wanted] for wanted in ("train", "test"))
    return ImageDataset(train, classes=demo.classes), ImageDataset(test, classes=demo.classes)


@dataclass(frozen=True)
class Result:
    """Test accuracy on base and novel classes of the template that was best in training."""

    template: str
    train: float
    base: float
    novel: float


def choose(templates: Sequence[str], train: ImageDataset, test: ImageDataset, model: str) -> Result:
    """The best template on the base classes' training pictures (ties: the first), measured on the test split."""

    def accuracies(images: ImageDataset, candidates: Sequence[str]) -> list[float]:
        program = ClipClassifier(images.classes, model=model)
        results = evaluate(program, images, templates=[Template.parse(text) for text in candidates])
        return [result.score.accuracy for result in results]

    scored = dict(zip(templates, accuracies(base_novel(train)[0], templates), strict=True))
    best = max(scored, key=lambda template: scored[template])
    base, novel = (accuracies(half, [best])[0] for half in base_novel(test))
    return Result(best, scored[best], base, novel)


def report(name: str, train: ImageDataset, test: ImageDataset, model: str, limit: int) -> None:
    """Print one dataset's rows."""
    demo = SETS[name]
    families = {
        "photo": [PHOTO],
        "plain": ["a <CLASS>.", "<CLASS>"],
        "imagenet": imagenet_templates(),
        "medium": truthful_templates(demo.font, (), limit=limit, seed=0),
        "truthful": truthful_templates(demo.font, demo.always, limit=limit, seed=0),
    }
    for family, templates in families.items():
        row = choose(templates, train, test, model)
        figures = f"train {row.train:5.1f}  base {row.base:5.1f}  novel {row.novel:5.1f}"
        print(f"{name:15} {family:9} {figures}  {row.template}", flush=True)


def main() -> None:
    """Evaluate written datasets, or freshly drawn ones with --draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="folder of parquet files")
    parser.add_argument("--limit", type=int, default=200, help="truthful templates tried")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in args.names or SETS:
        if args.data:
            path = args.data / f"{name}.parquet"
            train, test = (load_image_table(path, split=split) for split in ("train", "test"))
        else:
            concepts = load_concepts()
            train, test = draw_splits(SETS[name], [concept.name for concept in concepts], build_bank(concepts))
        report(name, train, test, f"local-dir:{args.model}", args.limit)


if __name__ == "__main__":
    main()

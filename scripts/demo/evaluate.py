"""Score template families on the demo datasets with the exported model: is there something for a search to find?

For every dataset: "a photo of a <CLASS>.", the best of the 80 ImageNet templates and the best of some hundred truthful
ones, the latter two chosen on the training pictures of the base classes only, all measured on the test split. Labels
are sorted; the first half of the classes is base, the rest novel; each half competes among its own names.
"""

import argparse
import io
import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from demo.captions import MEDIA, WORDS
from demo.concepts import article, load_concepts
from demo.demosets import SETS, DemoSet
from demo.glyphs import Bank, build_bank
from demo.make_datasets import draw
from demo.openclip import open_clip

PHOTO = "a photo of a <CLASS>."


@dataclass(frozen=True)
class Features:
    """Unit picture features [N, D] with labels [N] and a split name each."""

    image: torch.Tensor
    label: torch.Tensor
    split: np.ndarray

    def part(self, split: str, low: int, high: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Features and labels, counted from `low`, of one split and a range of classes."""
        rows = torch.from_numpy(self.split == split) & (self.label >= low) & (self.label < high)
        return self.image[rows], self.label[rows] - low


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


class Scorer:
    """An exported open_clip folder with its tokenizer and transform."""

    def __init__(self, folder: Path) -> None:
        """Load from the local directory, as a user would."""
        self.model, _, self.transform = open_clip.create_model_and_transforms(f"local-dir:{folder}", precision="fp32")
        self.tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        self.model.eval()

    @torch.no_grad()
    def images(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """Unit features [N, D]."""
        batches = (torch.stack([self.transform(p) for p in chunk]) for chunk in _chunks(pictures, 256))
        return torch.cat([self.model.encode_image(batch, normalize=True) for batch in batches])

    @torch.no_grad()
    def texts(self, template: str, classes: Sequence[str]) -> torch.Tensor:
        """Unit features [C, D]."""
        texts = [template.replace("<CLASS>", name) for name in classes]
        features: torch.Tensor = self.model.encode_text(self.tokenizer(texts), normalize=True)
        return features


def _chunks(items: Sequence[Image.Image], size: int) -> Iterator[Sequence[Image.Image]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def accuracy(image: torch.Tensor, label: torch.Tensor, text: torch.Tensor) -> float:
    """Top-1 accuracy in percent."""
    return float(((image @ text.T).argmax(1) == label).float().mean() * 100)


def read_features(path: Path, scorer: Scorer) -> tuple[Features, list[str]]:
    """Features of a parquet file and its class names."""
    table = pq.read_table(path)
    pictures = [Image.open(io.BytesIO(row["bytes"])).convert("RGB") for row in table["image"].to_pylist()]
    label = torch.tensor(table["label"].to_pylist())
    classes = json.loads(table.schema.metadata[b"ipo_dspy"])["classes"]
    return Features(scorer.images(pictures), label, np.array(table["split"].to_pylist())), classes


def draw_features(demo: DemoSet, names: list[str], bank: Bank, scorer: Scorer) -> tuple[Features, list[str]]:
    """Features of a dataset drawn in memory, without files."""
    pictures, labels, splits = draw(demo, names, bank)
    images = scorer.images([Image.fromarray(p) for p in pictures.permute(0, 2, 3, 1).numpy()])
    return Features(images, torch.tensor(labels), np.array(splits)), list(demo.classes)


@dataclass(frozen=True)
class Result:
    """Test accuracy on base and novel classes of the template that was best in training."""

    template: str
    train: float
    base: float
    novel: float


def choose(templates: Sequence[str], features: Features, classes: list[str], scorer: Scorer) -> Result:
    """The best template on the base classes' training pictures (ties: the first), measured on the test split."""
    half = -(-len(classes) // 2)
    image, label = features.part("train", 0, half)
    scored = [(accuracy(image, label, scorer.texts(t, classes[:half])), -i, t) for i, t in enumerate(templates)]
    train, _, best = max(scored)
    base = accuracy(*features.part("test", 0, half), scorer.texts(best, classes[:half]))
    novel = accuracy(*features.part("test", half, len(classes)), scorer.texts(best, classes[half:]))
    return Result(best, train, base, novel)


def report(name: str, features: Features, classes: list[str], scorer: Scorer, limit: int) -> dict[str, Result]:
    """Print one dataset's rows."""
    demo = SETS[name]
    families = {
        "photo": [PHOTO],
        "plain": ["a <CLASS>.", "<CLASS>"],
        "imagenet": imagenet_templates(),
        "medium": truthful_templates(demo.font, (), limit=limit, seed=0),
        "truthful": truthful_templates(demo.font, demo.always, limit=limit, seed=0),
    }
    results = {family: choose(templates, features, classes, scorer) for family, templates in families.items()}
    for family, row in results.items():
        figures = f"train {row.train:5.1f}  base {row.base:5.1f}  novel {row.novel:5.1f}"
        print(f"{name:15} {family:9} {figures}  {row.template}", flush=True)
    return results


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
    scorer = Scorer(args.model)
    concepts = load_concepts()
    names, bank = [concept.name for concept in concepts], build_bank(concepts)
    for name in args.names or SETS:
        if args.data:
            features, classes = read_features(args.data / f"{name}.parquet", scorer)
        else:
            features, classes = draw_features(SETS[name], names, bank, scorer)
        report(name, features, classes, scorer, args.limit)


if __name__ == "__main__":
    main()

"""Image encoding

Median time to encode JPEG files with ViT-B/32's image tower, compared with `encode_image` and a torch `DataLoader`
with its best number of workers, interleaved in one process. "A tower that costs nothing" averages the pixels, which
isolates the input pipeline: reading, decoding, resizing, and batching. Weights and images are random; this does not
affect timing.
"""

import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.common import Size, interleaved, seconds, table
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.image_features import encode_images
from ipo_dspy.clip.loading import load_backbone
from ipo_dspy.clip.lru import TensorLRU

BATCH = 64
Encode = Callable[[Tensor], Tensor]


class Files(Dataset[Tensor]):
    """The code that a user would write: one image, opened and transformed."""

    def __init__(self, paths: list[Path], backbone: Backbone) -> None:
        self.paths, self.transform = paths, backbone.preprocess

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(Image.open(self.paths[index]))


def photographs(folder: Path, count: int, seed: int) -> list[Path]:
    """JPEG files of 500x375 and about 80 kB: soft shapes with some grain."""
    rng = np.random.default_rng(seed)
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for path in paths:
        shapes = Image.fromarray(rng.integers(0, 256, (25, 34, 3), dtype=np.uint8))
        pixels = np.asarray(shapes.resize((500, 375), Image.Resampling.BICUBIC)) + rng.normal(0, 12, (375, 500, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return paths


def loaded(backbone: Backbone, paths: list[Path], encode: Encode, workers: int) -> Tensor:
    """The usual loop."""
    with torch.no_grad():
        pieces = DataLoader(Files(paths, backbone), batch_size=BATCH, num_workers=workers)
        return torch.cat([F.normalize(encode(pixels), dim=-1) for pixels in pieces])


def ours(backbone: Backbone, paths: list[Path], cache: Path | str) -> Tensor:
    """`encode_images` in a process that has seen no image yet."""
    os.environ["IPO_DSPY_CACHE"] = str(cache)
    backbone.image_memo = TensorLRU(1 << 28)
    return encode_images(backbone, paths, batch_size=BATCH).features


def best_workers(backbone: Backbone, paths: list[Path], encode: Encode) -> int:
    """Of a few numbers, the one with which the loop is quickest."""
    cores = os.cpu_count() or 1
    numbers = sorted({0, 1, cores // 2, cores})
    took = {number: seconds(partial(loaded, backbone, paths, encode, number))[0] for number in numbers}
    return min(took, key=lambda number: took[number])


@contextmanager
def free_tower(backbone: Backbone) -> Iterator[Encode]:
    """A tower that costs nothing, in the place of the model's."""

    def mean(pixels: Tensor) -> Tensor:
        return F.normalize(pixels.mean(dim=(2, 3)), dim=-1)

    backbone.encode_pixels = mean  # type: ignore[method-assign]
    try:
        yield mean
    finally:
        del backbone.encode_pixels


def rates(backbone: Backbone, paths: list[Path], encode: Encode, folder: Path, repeats: int) -> Iterator[list[str]]:
    """Images a second of each way, how many times as many as the loop's, and the processor time of one."""
    workers = best_workers(backbone, paths[: 2 * BATCH], encode)
    fresh = (folder / str(number) for number in range(10**6))
    stored = folder / "stored"
    ours(backbone, paths, stored)
    ways: dict[str, Callable[[], Tensor]] = {
        f"DataLoader, {workers} workers": lambda: loaded(backbone, paths, encode, workers),
        "encode_images": lambda: ours(backbone, paths, next(fresh)),
        "encode_images, store off": lambda: ours(backbone, paths, "off"),
        "encode_images, second run": lambda: ours(backbone, paths, stored),
    }
    busy: dict[str, list[float]] = {name: [] for name in ways}
    took = interleaved({name: partial(timed, work, busy[name]) for name, work in ways.items()}, repeats=repeats)
    usual = next(iter(took.values()))
    for name, each in took.items():
        own = statistics.median(busy[name]) / len(paths) * 1000
        yield [name, f"{len(paths) / each:,.1f}", f"{usual / each:.2f}", f"{own:.2f}"]


def timed(work: Callable[[], Tensor], busy: list[float]) -> None:
    """Do something and add the processor seconds of this process and its children: others on the machine count less."""
    began = os.times()
    work()
    ended = os.times()
    busy.append(sum(ended[:4]) - sum(began[:4]))


def run(size: Size, seed: int) -> None:
    """Print the tables."""
    torch.manual_seed(seed)
    count, repeats = (2000, 3) if size == "full" else (128, 7)
    backbone = load_backbone("ViT-B-32-quickgelu", None, device="cpu")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        paths = photographs(folder, count, seed)
        mean = sum(path.stat().st_size for path in paths) / count / 1000
        print(f"{backbone.name}, {count:,} files of {mean:.0f} kB, float32, {torch.get_num_threads()} threads.\n")
        header = ("way", "images per second", "of the DataLoader's", "CPU ms per image")
        table(header, rates(backbone, paths, backbone.model.encode_image, folder / "tower", repeats))
        print("\nA tower that costs nothing:\n")
        with free_tower(backbone) as encode:
            table(header, rates(backbone, paths, encode, folder / "free", repeats))

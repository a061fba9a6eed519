"""The benchmark data sets of the paper: directory layouts, split files, and sources.

Layouts, split files, class-name fixes and templates are those of the CoOp line of work (CoOp, CoCoOp, MaPLe,
PromptSRC, IPO), since most existing copies of these data sets follow its instructions. Nothing is downloaded: several
data sets require registration or have moved. Errors name the source of each missing file instead.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Literal, NamedTuple

from ipo_dspy.data.dataset import closest
from ipo_dspy.errors import DataError

Kind = Literal["json", "aircraft", "imagenet", "transfer"]
"""Format of the splits: one JSON file, FGVC-Aircraft's lists, ImageNet's folders, or test folders only."""

COOP = "DATASETS.md of github.com/KaiyangZhou/CoOp"
CLASS_NAMES = "classnames.txt"
PHOTO = "a photo of a <CLASS>."


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark data set of the paper.

    Attributes:
        name: name that `load_benchmark` accepts.
        title: name in papers.
        folder: folder of the data set, relative to the folder that holds all data sets.
        kind: format of the splits.
        images: image folders, relative to `folder`; paths in split files are relative to the first.
        lists: split files and lists of class names, relative to `folder`.
        classes: number of classes.
        template: hand-written template of the published CLIP baseline.
        image_origin: source of the images.
        list_origin: source of the lists.
        test_images: number of test images, if no split file lists them.
        renamed: published class name -> name that the experiments use.
    """

    name: str
    title: str
    folder: str
    kind: Kind
    images: tuple[str, ...]
    lists: tuple[str, ...]
    classes: int
    template: str
    image_origin: str
    list_origin: str = COOP
    test_images: int | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)


class DownloadPart(NamedTuple):
    """A file or folder that a data set needs, its source, and whether it exists."""

    path: Path
    origin: str
    exists: bool


_AIRCRAFT_LISTS = ("variants.txt", *(f"images_variant_{part}.txt" for part in ("train", "val", "test")))
_EUROSAT_NAMES = {
    "AnnualCrop": "Annual Crop Land",
    "HerbaceousVegetation": "Herbaceous Vegetation Land",
    "Highway": "Highway or Road",
    "Industrial": "Industrial Buildings",
    "Pasture": "Pasture Land",
    "PermanentCrop": "Permanent Crop Land",
    "Residential": "Residential Buildings",
    "SeaLake": "Sea or Lake",
}


def _split(
    name: str, title: str, folder: str, images: str, file: str, classes: int, template: str, origin: str
) -> Benchmark:
    """Return a data set with one JSON split file."""
    lists = (f"split_zhou_{file}.json",)
    renamed = _EUROSAT_NAMES if name == "eurosat" else {}
    return Benchmark(name, title, folder, "json", (images,), lists, classes, template, origin, renamed=renamed)


def _transfer(
    name: str, title: str, folder: str, images: str, classes: int, origin: str, test_images: int | None = None
) -> Benchmark:
    """Return a test-only data set with ImageNet's class names."""
    names = (CLASS_NAMES,)
    return Benchmark(name, title, folder, "transfer", (images,), names, classes, PHOTO, origin, test_images=test_images)


_PETS = "www.robots.ox.ac.uk/~vgg/data/pets: images.tar.gz"
_CARS = "ai.stanford.edu/~jkrause/cars/car_dataset.html: cars_train.tgz, cars_test.tgz"
_FLOWERS = "www.robots.ox.ac.uk/~vgg/data/flowers/102: 102flowers.tgz"
_FOOD = "data.vision.ee.ethz.ch/cvl/datasets_extra/food-101: food-101.tar.gz"
_AIRCRAFT = "www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft: fgvc-aircraft-2013b.tar.gz, its folder data"
_DTD = "www.robots.ox.ac.uk/~vgg/data/dtd: dtd-r1.0.1.tar.gz"
_VIDEOS = f"UCF-101-midframes.zip, linked in {COOP}; the videos: www.crcv.ucf.edu/data/UCF101.php"
_V2 = "github.com/modestyachts/ImageNetV2: imagenetv2-matched-frequency.tar.gz"

# fmt: off
_ALL = (
    Benchmark(
        "imagenet", "ImageNet", "imagenet", "imagenet", ("images/train", "images/val"), (CLASS_NAMES,), 1000, PHOTO,
        "image-net.org, ILSVRC 2012, after registration; validation images sorted into class folders",
        test_images=50_000,
    ),
    _split("caltech101", "Caltech101", "caltech-101", "101_ObjectCategories", "Caltech101", 100, PHOTO,
           "data.caltech.edu, Caltech 101: 101_ObjectCategories.tar.gz"),
    _split("oxford_pets", "OxfordPets", "oxford_pets", "images", "OxfordPets", 37,
           "a photo of a <CLASS>, a type of pet.", _PETS),
    _split("stanford_cars", "StanfordCars", "stanford_cars", ".", "StanfordCars", 196, PHOTO, _CARS),
    _split("oxford_flowers", "Flowers102", "oxford_flowers", "jpg", "OxfordFlowers", 102,
           "a photo of a <CLASS>, a type of flower.", _FLOWERS),
    _split("food101", "Food101", "food-101", "images", "Food101", 101,
           "a photo of <CLASS>, a type of food.", _FOOD),
    Benchmark("fgvc_aircraft", "FGVCAircraft", "fgvc_aircraft", "aircraft", ("images",), _AIRCRAFT_LISTS, 100,
              "a photo of a <CLASS>, a type of aircraft.", _AIRCRAFT, list_origin=_AIRCRAFT),
    _split("sun397", "SUN397", "sun397", "SUN397", "SUN397", 397, PHOTO,
           "vision.princeton.edu/projects/2010/SUN: SUN397.tar.gz"),
    _split("dtd", "DTD", "dtd", "images", "DescribableTextures", 47, "<CLASS> texture.", _DTD),
    _split("eurosat", "EuroSAT", "eurosat", "2750", "EuroSAT", 10, "a centered satellite photo of <CLASS>.",
           "github.com/phelber/EuroSAT: EuroSAT.zip, the RGB version"),
    _split("ucf101", "UCF101", "ucf101", "UCF-101-midframes", "UCF101", 101,
           "a photo of a person doing <CLASS>.", _VIDEOS),
    _transfer("imagenetv2", "ImageNetV2", "imagenetv2", "imagenetv2-matched-frequency-format-val", 1000, _V2, 10_000),
    _transfer("imagenet_sketch", "ImageNet-Sketch", "imagenet-sketch", "images", 1000,
              "github.com/HaohanWang/ImageNet-Sketch"),
    _transfer("imagenet_a", "ImageNet-A", "imagenet-adversarial", "imagenet-a", 200,
              "github.com/hendrycks/natural-adv-examples: imagenet-a.tar"),
    _transfer("imagenet_r", "ImageNet-R", "imagenet-rendition", "imagenet-r", 200,
              "github.com/hendrycks/imagenet-r: imagenet-r.tar", 30_000),
)
# fmt: on

BENCHMARKS: Mapping[str, Benchmark] = {benchmark.name: benchmark for benchmark in _ALL}
"""The data sets by name."""


def find_benchmark(name: str) -> Benchmark:
    """Return the data set with a name or title, ignoring case and punctuation.

    >>> find_benchmark("Flowers102").name, find_benchmark("imagenet-a").folder
    ('oxford_flowers', 'imagenet-adversarial')

    Raises:
        DataError: the name is unknown; the message lists the known ones.
    """
    known = {_bare(word): benchmark for benchmark in _ALL for word in (benchmark.name, benchmark.title)}
    if _bare(str(name)) in known:
        return known[_bare(str(name))]
    near = closest(str(name), tuple(BENCHMARKS))
    hint = f"pass {near!r} or another of" if near else "pass one of"
    raise DataError(f"unknown data set {name!r}; {hint} {', '.join(BENCHMARKS)}")


def expected_folder(benchmark: Benchmark, root: str | PathLike[str]) -> Path:
    """Return the folder of the data set: a folder in `root`, or `root` itself."""
    place = Path(root).expanduser()
    is_dataset_folder = place.name == benchmark.folder or any((place / name).is_file() for name in benchmark.lists)
    return place if is_dataset_folder and not (place / benchmark.folder).is_dir() else place / benchmark.folder


def list_file(benchmark: Benchmark, folder: Path, name: str) -> Path:
    """Return the path of a list; sets derived from ImageNet may use the class names of the `imagenet` folder."""
    local, shared = folder / name, folder.parent / "imagenet" / name
    return shared if benchmark.kind == "transfer" and not local.is_file() and shared.is_file() else local


def parts(benchmark: Benchmark, folder: Path) -> list[DownloadPart]:
    """Return the files and folders that the folder of the data set must contain."""
    lists = ((name, benchmark.list_origin, list_file(benchmark, folder, name).is_file()) for name in benchmark.lists)
    images = ((name, benchmark.image_origin, (folder / name).is_dir()) for name in benchmark.images)
    return [DownloadPart(folder / name, origin, exists) for name, origin, exists in (*lists, *images)]


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())

"""On a Ray cluster

One worker compared with two, on two nodes of one machine; a worker has one CPU and one thread. Two independent
processes show the machine's own scaling: its CPUs share caches and memory. ViT-B/32 with random weights encodes JPEG
files; features of width 512 are scored with 8 templates and 1,000 classes. Workers are warm: the model is loaded and
features are distributed. The last table extrapolates the cost for a billion images at these rates.
"""

import functools
import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from operator import add
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from benchmarks.common import Size, interleaved, seconds, table
from benchmarks.images import photographs
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.feature_cache import origin
from ipo_dspy.clip.image_features import encode_images
from ipo_dspy.clip.loading import import_open_clip, load_backbone
from ipo_dspy.distributed import RayScorer
from ipo_dspy.distributed.cluster import Cluster, load_ray
from ipo_dspy.distributed.cluster import WorkerSpec as Workers
from ipo_dspy.distributed.model_ref import ModelRef
from ipo_dspy.distributed.partition_store import StoredPartition, file_name, write
from ipo_dspy.distributed.partitions import Listed
from ipo_dspy.distributed.pool import WorkerPool
from ipo_dspy.distributed.worker import EncodeJob
from ipo_dspy.scoring.metrics import Tally, tally_templates

MODEL, CLASSES, TEMPLATES, WIDTH, SCALE = "ViT-B-32-quickgelu", 1000, 8, 512, 100.0
EACH = 1024
"""Images of a shard that is scored."""
BILLION, STEPS, CORES = 10**9, 100, 1000
PRICE = 0.04
"""USD for an hour of one processor, about what clouds ask; an assumption, as are the steps and the processors."""


def run(size: Size, seed: int) -> None:
    """Print both tables and the estimate."""
    pictures, images = (1536, 200_000) if size == "full" else (384, 50_000)
    with tempfile.TemporaryDirectory() as folder, nodes() as address:
        backbone = model(Path(folder), seed)
        encoding = encoded(backbone, address, Path(folder), pictures, seed)
        print()
        scoring, answer = scored(backbone, address, Path(folder), images, seed)
    print()
    estimate(encoding, scoring, answer)


@contextmanager
def nodes() -> Iterator[str]:
    """A head that takes no work and two nodes with one processor each, which keep no features on disk."""
    ray = load_ray()
    from ray.cluster_utils import Cluster as Nodes

    cluster = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, object_store_memory=2**30, env_vars={"IPO_DSPY_CACHE": "off"})
        yield cluster.address
    finally:
        ray.shutdown()
        cluster.shutdown()


def model(folder: Path, seed: int) -> Backbone:
    """Random weights as files, for all processes need the same."""
    from safetensors.torch import save_file

    open_clip = import_open_clip()
    torch.manual_seed(seed)
    place = folder / "model"
    place.mkdir()
    save_file(open_clip.create_model(MODEL, pretrained=None).state_dict(), place / "open_clip_model.safetensors")
    config = {"model_cfg": open_clip.get_model_config(MODEL), "preprocess_cfg": {}}
    (place / "open_clip_config.json").write_text(json.dumps(config))
    return load_backbone(f"local-dir:{place}", None, device="cpu")


def encoded(backbone: Backbone, address: str, folder: Path, count: int, seed: int) -> float:
    """The table of images per second; those of one worker."""
    rates = {}
    with multiprocessing.get_context("spawn").Pool(2, load_here, (backbone.name,)) as processes:
        ways = {"one plain process": 1, "two plain processes": 2, "one worker": 1, "two workers": 2}
        for turn, (name, workers) in enumerate(ways.items()):
            place = folder / str(turn)
            place.mkdir()
            paths = photographs(place, count + 128, seed + turn)  # new ones each time: known images cost nothing
            first, rest = [str(path) for path in paths[:128]], [str(path) for path in paths[128:]]
            if "plain" in name:
                work = [(backbone.name, half) for half in halves(rest, workers)]
                rates[name] = count / seconds(functools.partial(processes.map, encode_here, work, chunksize=1))[0]
            else:
                hold = functools.partial(hold_there, RayScorer(address, num_workers=workers), backbone)
                hold(first)  # loads the model
                rates[name] = count / seconds(functools.partial(hold, rest))[0]
    print(f"Encoding {count:,} images.\n")
    table(("", "images per second", "times one"), rows(rates))
    return rates["one worker"]


def load_here(name: str) -> None:
    """The model in a plain process, which keeps no features on disk either."""
    os.environ["IPO_DSPY_CACHE"] = "off"
    torch.set_num_threads(1)
    load_backbone(name, None, device="cpu")


def encode_here(work: tuple[str, Sequence[str]]) -> int:
    """Files in a plain process."""
    name, paths = work
    return len(encode_images(load_backbone(name, None, device="cpu"), paths, num_threads=1, skip_unreadable=True).kept)


def hold_there(scorer: RayScorer, backbone: Backbone, paths: Sequence[str]) -> None:
    """Files on the cluster."""
    scorer.hold(backbone, paths, ["a"] * len(paths), ["a", "b"])


def scored(backbone: Backbone, address: str, folder: Path, count: int, seed: int) -> tuple[float, float]:
    """The table of scoring; images per second of one worker, and the seconds of a question about next to nothing."""
    cluster, draw = Cluster(address), torch.Generator().manual_seed(seed)
    text = drawn((TEMPLATES, CLASSES, WIDTH), draw)
    sets = [(drawn((EACH, WIDTH), draw), torch.randint(CLASSES, (EACH,), generator=draw)) for _ in range(count // EACH)]
    job = EncodeJob(
        ModelRef.of(backbone), tuple(map(str, range(CLASSES))), allow_url=False, threads=1, store=str(folder)
    )
    parts = [stored(backbone, folder, number, *one) for number, one in enumerate(sets)]
    pools = {
        name: WorkerPool(cluster, Workers(workers, 1, 0)) for name, workers in (("one worker", 1), ("two workers", 2))
    }
    asks = {name: asking(pool, job, parts, text) for name, pool in pools.items()}
    found = [ask() for ask in asks.values()]
    torch.set_num_threads(1)
    here = whole([tally_templates(*one, text, logit_scale=SCALE) for one in sets])
    took, held = interleaved(asks, repeats=5), len(sets) * EACH
    same = "the same" if all(_agree(tallies, here) for tallies in found) else "NOT THE SAME"
    print(
        f"Scoring {held:,} images under {TEMPLATES} templates with {CLASSES:,} classes; tallies are {same} as here.\n"
    )
    table(("", "images per second", "times one"), rows({name: held / each for name, each in took.items()}))
    tiny = [stored(backbone, folder, -number, sets[0][0][:64], sets[0][1][:64]) for number in (1, 2)]
    few = asking(pools["two workers"], job, tiny, text[:1])
    return held / took["one worker"], interleaved({"": few}, repeats=20)[""]


def stored(backbone: Backbone, folder: Path, number: int, features: Tensor, targets: Tensor) -> Listed:
    """A partition whose features [n, D] are on disk already, so that no worker encodes it."""
    count, labels = len(features), tuple(map(str, targets.tolist()))
    part = Listed(0, count, (str(number).encode(),) * count, labels)
    name = file_name(origin(backbone), part.stamp() or "")
    write(str(folder), name, StoredPartition(features, labels, tuple(range(count)), ("",) * count, ()))
    return part


def _agree(found: Sequence[Tally], here: Sequence[Tally]) -> bool:
    return all(
        one.correct == other.correct and abs(one.score.loss - other.score.loss) < 1e-5
        for one, other in zip(found, here, strict=True)
    )


def asking(pool: WorkerPool, job: EncodeJob, parts: Sequence[Listed], text: Tensor) -> Callable[[], list[Tally]]:
    """A question about the scores of texts [T, C, D] on partitions, which workers hold from now on."""
    images, _ = pool.encode(job, parts, lambda index: None)
    sent = pool.cluster.ray.put(text.numpy())
    return lambda: whole(pool.ask("tally", images, sent, SCALE, 0.0))


def estimate(encoding: float, scoring: float, answer: float) -> None:
    """Print the cost of a billion images at the measured rates."""
    hours, step = BILLION / encoding / 3600, BILLION / scoring / 3600
    lines = [
        ("images per second of one processor, encoding", f"{encoding:.1f}", "measured"),
        ("images per second of one processor, scoring", f"{scoring:,.0f}", "measured"),
        ("request overhead, seconds", f"{answer:.3f}", "measured"),
        ("features, float32 on disk", f"{4 * WIDTH * BILLION / 1e12:.1f} TB", f"4 x {WIDTH} bytes"),
        ("features, float16 with the workers", f"{2 * WIDTH * BILLION / 1e12:.1f} TB", f"2 x {WIDTH} bytes"),
        ("texts to a worker, per step", f"{4 * TEMPLATES * CLASSES * WIDTH / 1e6:.0f} MB", "4 x T x C x D bytes"),
        ("encoding once, processor hours", f"{hours:,.0f}", f"{hours * PRICE:,.0f} USD"),
        (f"encoding once on {CORES:,} processors, hours", f"{hours / CORES:.1f}", ""),
        ("a step, processor hours", f"{step:,.1f}", f"{step * PRICE:,.2f} USD"),
        (f"a step on {CORES:,} processors, seconds", f"{step * 3600 / CORES + answer:,.0f}", ""),
        (f"{STEPS} steps, processor hours", f"{STEPS * step:,.0f}", f"{STEPS * step * PRICE:,.0f} USD"),
    ]
    print(f"A billion images, on paper: {TEMPLATES} templates per step, {CLASSES:,} classes; {PRICE} USD an hour.\n")
    table(("", "", ""), lines)


def halves(items: Sequence[str], count: int) -> list[Sequence[str]]:
    """Split items into a number of parts."""
    return [items[i::count] for i in range(count)]


def whole(parts: Sequence[Sequence[Tally]]) -> list[Tally]:
    """The tallies of all parts, template by template."""
    return [reduce(add, tallies) for tallies in zip(*filter(None, parts), strict=True)]


def drawn(shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    """Random features."""
    return F.normalize(torch.randn(shape, generator=draw), dim=-1)


def rows(rates: dict[str, float]) -> Iterator[tuple[str, ...]]:
    """Lines of a table: two compared with one of the same kind."""
    for name, rate in rates.items():
        one = rates[name.replace("two", "one").replace("processes", "process").replace("workers", "worker")]
        yield name, f"{rate:,.1f}", f"{rate / one:.2f}"

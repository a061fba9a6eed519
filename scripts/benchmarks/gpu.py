"""Half precision and GPUs

The accuracy check of `ipo_dspy.scoring.half_precision_check` with the bundled model: of the classes that are given
under 8 templates, how many are those of float32 (99.9 % are wanted), and by how much the loss of a template moves at
most (0.001 is allowed). Then absolute times on the GPU, if there is one.
"""

from collections.abc import Callable

import torch

from benchmarks.common import Size, seconds, table
from benchmarks.scoring import COUNT, FINALISTS, IMAGENET, SCALE, problem
from ipo_dspy import demo
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.feature_dtype import to_scoring_device
from ipo_dspy.clip.loading import import_open_clip, load_backbone
from ipo_dspy.clip.text_features import encode_token_lists
from ipo_dspy.scoring.half_precision_check import compare
from ipo_dspy.scoring.metrics import tally_pairs, tally_templates

HALVES = ("float16", "bfloat16")


def run(size: Size, seed: int) -> None:
    """Print the tables."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"The bundled model, on {'the GPU' if device == 'cuda' else 'the processor'}:\n")
    header = ("task", "images", "format", "same class", "loss moves by", "passes")
    tasks = demo.names() if size == "full" else demo.names()[:1]
    table(header, (agreement(name, dtype, device) for name in tasks for dtype in HALVES))
    if device == "cpu":
        print("\nThere was no GPU here: no time on a GPU was measured.")
        return
    print(f"\n{torch.cuda.get_device_name()}, ViT-B-16-quickgelu with random weights, which changes no time:\n")
    names = import_open_clip().IMAGENET_CLASSNAMES[: 1000 if size == "full" else 200]
    table(("what", "float32", *HALVES), times(names, 256 if size == "full" else 64))
    images = IMAGENET if size == "full" else 100_000
    print(f"\nScoring is float32 in any case; {scoring_time(images, seed)}")
    print(f"\n{FINALISTS} finalists on {images:,} images; peak memory is that of the GPU, with the features:\n")
    table(("what", "seconds", "peak MiB"), finalists(images, seed))


def agreement(name: str, dtype: str, device: str) -> tuple[str, ...]:
    """One line of the first table."""
    task = demo.load(name)
    low, full = (
        load_backbone(f"local-dir:{demo.model_path()}", device=device, dtype=way) for way in (dtype, "float32")
    )
    images = [example.image for example in task.testset]
    found = compare(low, full, images, task.testset.labels(), task.classes)
    passes = "yes" if found.passes else "no"
    return name, f"{found.images:,}", dtype, f"{found.same:.3%}", f"{found.loss:.5f}", passes


def times(names: list[str], images: int) -> list[tuple[str, ...]]:
    """Seconds of both towers in every format."""
    models = [load_backbone("ViT-B-16-quickgelu", None, device="cuda", dtype=way) for way in ("float32", *HALVES)]
    pixels = torch.randn(images, 3, 224, 224)
    adjectives = ("dark", "old", "big", "tiny", "drawn", "faded", "grainy", "blurry")
    texts = [f"a {word} photo of a {name}." for word in adjectives for name in names]

    def encode_texts(backbone: Backbone) -> object:
        return encode_token_lists(backbone, backbone.token_ids(texts))

    def encode_pictures(backbone: Backbone) -> object:
        return backbone.encode_pixels(backbone.batch(list(pixels))).cpu()

    return [
        (f"{len(names):,} classes under {COUNT} templates, seconds", *(on_gpu(encode_texts, one) for one in models)),
        (f"{images} images, decoded before, seconds", *(on_gpu(encode_pictures, one) for one in models)),
    ]


def on_gpu(work: Callable[[Backbone], object], backbone: Backbone) -> str:
    """Seconds of the second time: the first one also sets up the GPU."""

    def finished() -> None:
        work(backbone)
        torch.cuda.synchronize()

    for _ in range(2):
        took, _ = seconds(finished)
    return f"{took:.3f}"


def scoring_time(images: int, seed: int) -> str:
    """Seconds of a step, with the features on the GPU and in pinned memory."""
    features, labels, text = problem(images, seed)
    there = text.cuda()
    parts = []
    sides = {"on the GPU": to_scoring_device(features, there.device), "in pinned memory": features.pin_memory()}
    for name, side in sides.items():
        for _ in range(2):
            took, _ = seconds(lambda side=side: tally_templates(side, labels, there, logit_scale=SCALE))  # type: ignore[misc]
        parts.append(f"{took:.3f} s with the features {name}")
    return f"{images:,} images, {text.shape[1]:,} classes, {len(text)} templates: {', '.join(parts)}."


def finalists(images: int, seed: int) -> list[tuple[str, ...]]:
    """Seconds and peak memory of scoring templates and of comparing them in pairs."""
    features, labels, text = problem(images, seed, FINALISTS)
    there = text.cuda()
    side = to_scoring_device(features, there.device)
    rows: list[tuple[str, ...]] = []
    for name, tally in (("scored", tally_templates), ("compared in pairs", tally_pairs)):
        for _ in range(2):
            torch.cuda.reset_peak_memory_stats()
            took, _ = seconds(lambda tally=tally: tally(side, labels, there, logit_scale=SCALE))  # type: ignore[misc]
        rows.append((name, f"{took:.2f}", f"{torch.cuda.max_memory_allocated() / 2**20:,.0f}"))
    return rows

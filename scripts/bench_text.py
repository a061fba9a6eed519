"""How long a template takes: this library's text encoding beside open_clip's own, on the ImageNet class names.

`python scripts/bench_text.py` prints the table of docs/benchmarks.md. Both run in one process, in turn; the figures are
medians, and the ratio is what counts. Weights are random, which changes no time.
"""

import argparse
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

from ipo_dspy.clip.backbone import Backbone, import_open_clip, load_backbone
from ipo_dspy.clip.text import encode_token_lists
from ipo_dspy.clip.trie import plan

TEMPLATES = {
    "short, class at the end": ["a photo of a {}."],
    "25 tokens, class in the middle": [
        "a dark grainy close up photo of a {} in front of a plain white wall, seen from the side."
    ],
    "8 short ones, a step": [
        f"a {word} photo of a {{}}." for word in ["dark", "blurry", "old", "big", "tiny", "drawn", "faded", "grainy"]
    ],
}


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """How long something takes, and what it gives."""
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def gemm_rate(width: int) -> float:
    """Operations a second of a large matrix product at the tower's width."""
    a, b = torch.randn(4096, width), torch.randn(width, 4 * width)
    took, _ = seconds(lambda: [a @ b for _ in range(10)])
    return 10 * 2 * 4096 * width * 4 * width / took


def operations(backbone: Backbone, nodes: int, lists: int) -> float:
    """Of the matrix products that an exact answer needs: all nodes but in the last layer, where the ends suffice."""
    tower = getattr(backbone.model, "text", backbone.model)
    width, layers = tower.positional_embedding.shape[1], len(tower.transformer.resblocks)
    return float(24 * width**2 * layers * nodes - 20 * width**2 * (nodes - lists))


def measure(backbone: Backbone, templates: list[str], names: list[str], repeats: int) -> dict[str, float]:
    """Medians of both ways, and how much their features differ."""
    open_clip = import_open_clip()
    lists = backbone.token_ids([template.format(name) for template in templates for name in names])
    distinct = sorted(set(lists))
    ours, theirs, rates, difference = [], [], [], 0.0
    for _ in range(repeats):
        rates.append(gemm_rate(backbone.model.positional_embedding.shape[1]))
        took, quick = seconds(lambda: encode_token_lists(backbone, lists))
        ours.append(took)
        took, plain = seconds(
            lambda: [
                open_clip.build_zero_shot_classifier(backbone.model, open_clip.tokenize, names, [template])
                for template in templates[:1]
            ]
        )
        theirs.append(took * len(templates))
        reference = F.normalize(plain[0].T, dim=-1)
        difference = max(difference, float((quick[: len(names)] - reference).abs().max()))
    nodes, mine = plan(distinct).nodes, statistics.median(ours)
    return {
        "nodes": nodes,
        "positions": backbone.context_length * len(lists),
        "ours": mine,
        "ratio": statistics.median(theirs) / mine,
        "rate": operations(backbone, nodes, len(distinct)) / mine / statistics.median(rates),
        "difference": difference,
    }


def main() -> None:
    """Print the table and where it was made."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ViT-B-16-quickgelu")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    # Now: by the end of a long run somebody may have committed something else.
    told = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    commit = told.stdout.strip()
    import_open_clip()
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    names = list(IMAGENET_CLASSNAMES[: options.classes])
    backbone = load_backbone(options.model, None, device="cpu")
    print("| templates | nodes of positions | seconds | times faster than open_clip | of the GEMM rate | difference |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, templates in TEMPLATES.items():
        row = measure(backbone, templates, names, options.repeats)
        print(
            f"| {name} | {row['nodes']:,} of {row['positions']:,} | {row['ours']:.2f} | {row['ratio']:.1f} | "
            f"{row['rate']:.0%} | {row['difference']:.1e} |",
            flush=True,
        )
    print(f"\n{options.model}, {len(names)} class names, float32, commit {commit}, ", end="")
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()

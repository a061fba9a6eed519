"""Text encoding

A template with the 1,000 ImageNet class names through the text tower, beside `open_clip.build_zero_shot_classifier`, in
turn in one process, medians. Weights are random, which changes no time.
"""

import statistics

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

from benchmarks.common import Size, seconds, table
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


def run(size: Size, seed: int) -> None:
    """Print the table."""
    import_open_clip()
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    torch.manual_seed(seed)
    names = list(IMAGENET_CLASSNAMES[: 1000 if size == "full" else 200])
    backbone = load_backbone("ViT-B-16-quickgelu", None, device="cpu")
    print(f"{backbone.name}, {len(names)} class names, float32, {torch.get_num_threads()} threads.\n")
    header = ("templates", "nodes of positions", "seconds", "times faster", "of the GEMM rate", "difference")
    table(header, (row(backbone, which, names, 3 if size == "full" else 1) for which in TEMPLATES))


def row(backbone: Backbone, which: str, names: list[str], repeats: int) -> tuple[str, ...]:
    """One line of the table."""
    found = measure(backbone, TEMPLATES[which], names, repeats)
    return (
        which,
        f"{found['nodes']:,} of {found['positions']:,}",
        f"{found['ours']:.2f}",
        f"{found['ratio']:.1f}",
        f"{found['rate']:.0%}",
        f"{found['difference']:.1e}",
    )

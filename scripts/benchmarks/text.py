"""Text encoding

Median time to encode templates filled with the ImageNet class names, compared with
`open_clip.build_zero_shot_classifier`, interleaved in one process. Token prefixes shared by templates and classes are
computed once (`clip.prefix_plan` plans it, `clip.prefix_encoder` runs it), nothing is computed after the end token,
and the last layer computes only the end tokens. The result agrees with open_clip to 1e-5 (see the last column). "Of
the GEMM rate" compares the matrix products that an exact result needs with the machine's rate on one large product.
Weights are random; this does not affect timing.
"""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from benchmarks.common import Size, interleaved, seconds, table
from ipo_dspy.clip import prefix_encoder as prefix
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.loading import import_open_clip, load_backbone
from ipo_dspy.clip.prefix_plan import TokenList, plan
from ipo_dspy.clip.text_features import encode_token_lists
from ipo_dspy.clip.text_tower import project, text_tower
from ipo_dspy.scoring.metrics import tally_templates

SHORT = "a photo of a {}."
LONG = "a dark grainy close up photo of a {} in front of a plain white wall, seen from the side."
STEP = [f"a {word} photo of a {{}}." for word in ["dark", "blurry", "old", "big", "tiny", "drawn", "faded", "grainy"]]
TEMPLATES = {"short, class at the end": [SHORT], "25 tokens, class in the middle": [LONG], "8 short ones, a step": STEP}
MODELS = {
    "ViT-B-16-quickgelu": tuple(TEMPLATES),
    **dict.fromkeys(("ViT-B-32", "ViT-L-14", "coca_ViT-B-32"), [*TEMPLATES][:2]),
}


def run(size: Size, seed: int) -> None:
    """Print the tables."""
    torch.manual_seed(seed)
    full = size == "full"
    all_names = import_open_clip().IMAGENET_CLASSNAMES
    names = all_names[: 1000 if full else 200]
    print(f"{len(names):,} class names, float32 on the CPU, {torch.get_num_threads()} threads.\n")
    header = ("model", "templates", "nodes of positions", "seconds", "times faster", "of the GEMM rate", "difference")
    table(header, _beside_open_clip(names, list(MODELS) if full else ["ViT-B-16-quickgelu"], repeats=3 if full else 1))
    print("\nBeside batches of equal length without padding, the next best exact way (ViT-B-16-quickgelu):\n")
    counts = (2, 10, 100, 1000) if full else (2, 10, 100)
    table(("templates", *(f"{count:,} classes" for count in counts)), _beside_buckets(all_names, counts))
    print(
        "\nBeside the published code's way of scoring a candidate: build the model, encode the training images again, "
        "then every class name in a full context. Pixels are given to both; reading files is left out.\n"
    )
    row = _beside_rebuilding(names[: 100 if full else 10], shots=4)
    table(("classes", "images", "seconds each", "ours", "times faster"), [row])


def _beside_open_clip(names: list[str], models: Sequence[str], repeats: int) -> Iterator[tuple[str, ...]]:
    for model in models:
        backbone = load_backbone(model, None, device="cpu")
        for which in MODELS[model]:
            yield (model, which, *_row(backbone, TEMPLATES[which], names, repeats if len(MODELS[model]) > 2 else 1))


def _row(backbone: Backbone, templates: list[str], names: list[str], repeats: int) -> tuple[str, ...]:
    open_clip = import_open_clip()
    tokenizer = open_clip.get_tokenizer(backbone.name)
    lists = backbone.token_ids([template.format(name) for template in templates for name in names])
    ours, theirs, rates, difference = [], [], [], 0.0
    for _ in range(repeats):
        rates.append(_gemm_rate(_tower(backbone).positional_embedding.shape[1]))
        took, quick = seconds(lambda: encode_token_lists(backbone, lists))
        ours.append(took)
        took, plain = seconds(
            lambda: open_clip.build_zero_shot_classifier(backbone.model, tokenizer, names, templates[:1])
        )
        theirs.append(took * len(templates))
        difference = max(difference, float((quick[: len(names)] - F.normalize(plain.T, dim=-1)).abs().max()))
    nodes, mine = _nodes(backbone, lists), statistics.median(ours)
    rate = _operations(backbone, nodes, len(set(lists))) / mine / statistics.median(rates)
    positions = _tower(backbone).positional_embedding.shape[0] * len(lists)
    faster = statistics.median(theirs) / mine
    return (f"{nodes:,} of {positions:,}", f"{mine:.2f}", f"{faster:.1f}", f"{rate:.0%}", f"{difference:.1e}")


def _beside_buckets(names: Sequence[str], counts: Sequence[int]) -> Iterator[tuple[str, ...]]:
    backbone = load_backbone("ViT-B-16-quickgelu", None, device="cpu")
    for which, templates in TEMPLATES.items():
        ratios = []
        for count in counts:
            lists = backbone.token_ids([template.format(name) for template in templates for name in names[:count]])
            ways = {
                "trie": lambda lists=lists: encode_token_lists(backbone, lists),
                "buckets": lambda lists=lists: _buckets(backbone, lists),
            }
            took = interleaved(ways, repeats=3 if len(lists) < 500 else 1)
            ratios.append(f"{took['buckets'] / took['trie']:.1f}")
        yield (which, *ratios)


def _buckets(backbone: Backbone, lists: Sequence[TokenList]) -> Any:
    distinct = sorted(set(lists), key=len)
    by_length = {length: [row for row in distinct if len(row) == length] for length in set(map(len, distinct))}
    return [
        _unpadded(backbone, rows[start : start + 256])
        for rows in by_length.values()
        for start in range(0, len(rows), 256)
    ]


@torch.no_grad()
def _unpadded(backbone: Backbone, rows: Sequence[TokenList]) -> Tensor:
    """Return the features [M, D] of M token lists of one length L, computed on L tokens."""
    tower, tokens = _tower(backbone), backbone.token_table(rows)  # [M, L]
    length = tokens.shape[1]
    x = tower.token_embedding(tokens) + tower.positional_embedding[:length]  # [M, L, W]
    x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
    return F.normalize(project(tower, x[:, -1]), dim=-1)


def _beside_rebuilding(names: list[str], shots: int) -> tuple[str, ...]:
    open_clip = import_open_clip()
    model = "ViT-B-16-quickgelu"
    pixels = torch.randn(len(names) * shots, 3, 224, 224)
    labels = torch.arange(len(names)).repeat_interleave(shots)
    backbone = load_backbone(model, None, device="cpu")
    features = torch.cat([backbone.encode_pixels(batch) for batch in torch.split(pixels, 64)])

    def rebuilt() -> None:
        fresh = open_clip.create_model(model).eval()
        with torch.no_grad():
            text = F.normalize(fresh.encode_text(open_clip.tokenize([SHORT.format(name) for name in names])), dim=-1)
            images = torch.cat([fresh.encode_image(batch) for batch in torch.split(pixels, 64)])
            F.cross_entropy(fresh.logit_scale.exp() * F.normalize(images, dim=-1) @ text.T, labels)

    def ours() -> None:
        lists = backbone.token_ids([template.format(name) for template in STEP for name in names])
        text = encode_token_lists(backbone, lists).reshape(len(STEP), len(names), -1)
        tally_templates(features, labels, text, logit_scale=backbone.logit_scale)

    each, step = seconds(rebuilt)[0], interleaved({"ours": ours}, repeats=3)["ours"] / len(STEP)
    return str(len(names)), f"{len(pixels):,}", f"{each:.1f}", f"{step:.3f}", f"{each / step:,.0f}"


def _gemm_rate(width: int) -> float:
    """Operations a second of a large matrix product at the tower's width."""
    a, b = torch.randn(4096, width), torch.randn(width, 4 * width)
    took, _ = seconds(lambda: [a @ b for _ in range(10)])
    return 10 * 2 * 4096 * width * 4 * width / took


def _nodes(backbone: Backbone, lists: Sequence[TokenList]) -> int:
    after = prefix.suffix_tokens(_tower(backbone))
    return plan([(*row, *after) for row in sorted(set(lists))]).nodes


def _operations(backbone: Backbone, nodes: int, lists: int) -> float:
    """Of the matrix products that an exact answer needs: all nodes but in the last layer, where the ends suffice."""
    tower = _tower(backbone)
    width, layers = tower.positional_embedding.shape[1], len(tower.transformer.resblocks)
    return float(24 * width**2 * layers * nodes - 20 * width**2 * (nodes - lists))


def _tower(backbone: Backbone) -> Any:
    return text_tower(backbone.model)

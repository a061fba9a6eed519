"""Draw the demo datasets and write each as one parquet file in the form of Hugging Face's Image feature.

Pictures are 64x64 WebP (lossless where that is small, else high quality). Files are the same for the same seed and
library versions.
"""

import argparse
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from demo.concepts import load_concepts
from demo.demosets import LICENCES, SETS, DemoSet
from demo.glyphs import Bank, build_bank
from demo.styles import ATTRIBUTES, HUE_NAMES, Spec, allowed, render

SPLITS = ("train", "validation", "test")


def draw(demo: DemoSet, names: list[str], bank: Bank) -> tuple[torch.Tensor, list[int], list[str]]:
    """Pictures uint8 [N, 3, 64, 64] with labels and splits, ordered by split, then class."""
    rows = [(label, split) for split, shots in zip(SPLITS, demo.shots, strict=True)
            for label in range(len(demo.classes)) for _ in range(shots)]  # fmt: skip
    gen = torch.Generator().manual_seed(demo.seed)
    wrong = [name for name in (*demo.always, *demo.sometimes) if not allowed(name, demo.font)]
    if wrong:
        raise ValueError(f"dataset {demo.name!r} asks for {wrong}, which its font cannot have")
    concept = torch.tensor([names.index(demo.classes[label]) for label, _ in rows])
    if not bank.present[demo.font, concept].all():
        raise ValueError(f"dataset {demo.name!r} names a class that its font has no glyph for")
    attrs = torch.zeros(len(rows), len(ATTRIBUTES), dtype=torch.bool)
    for name in demo.always:
        attrs[:, ATTRIBUTES.index(name)] = True
    if demo.sometimes:
        choice = torch.randint(0, 2 * len(demo.sometimes), (len(rows),), generator=gen)
        for i, name in enumerate(demo.sometimes):
            attrs[choice == i, ATTRIBUTES.index(name)] = True
    hue = torch.randint(0, len(HUE_NAMES), (len(rows),), generator=gen)
    parts = []
    for start in range(0, len(rows), 64):  # small chunks: some effects draw once a chunk
        part = slice(start, start + 64)
        font = torch.full((len(concept[part]),), demo.font)
        parts.append(render(bank, Spec(concept[part], font, hue[part], attrs[part], demo.strength), gen))
    return (torch.cat(parts) * 255).round().byte(), [label for label, _ in rows], [split for _, split in rows]


def encode(picture: np.ndarray) -> bytes:
    """WebP bytes of uint8 [64, 64, 3]: lossless if at most 1.5 kB, else quality 85."""
    for options in ({"lossless": True, "quality": 90, "method": 5}, {"quality": 85, "method": 5}):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "WEBP", **options)
        if buffer.tell() <= 1500:
            break
    return buffer.getvalue()


def write(demo: DemoSet, names: list[str], bank: Bank, folder: Path) -> Path:
    """Write one dataset whole and return its path."""
    pictures, labels, splits = draw(demo, names, bank)
    images = [{"bytes": encode(picture), "path": None} for picture in pictures.permute(0, 2, 3, 1).numpy()]
    about = {
        "name": demo.name,
        "description": demo.description,
        "classes": list(demo.classes),
        "licence": LICENCES[demo.font],
        "seed": demo.seed,
    }
    schema = pa.schema(
        [
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("label", pa.int32()),
            ("class_name", pa.string()),
            ("split", pa.string()),
        ],
        metadata={"ipo_dspy": json.dumps(about)},
    )
    columns = [images, labels, [demo.classes[label] for label in labels], splits]
    path = folder / f"{demo.name}.parquet"
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_arrays([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)
    pq.write_table(table, f"{path}.tmp", compression="zstd", use_dictionary=["class_name", "split"])
    Path(f"{path}.tmp").replace(path)
    return path


def main() -> None:
    """Write all datasets, or those named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("names", nargs="*", default=[])
    args = parser.parse_args()
    concepts = load_concepts()
    bank, names = build_bank(concepts), [concept.name for concept in concepts]
    for name in args.names or SETS:
        path = write(SETS[name], names, bank, args.out)
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

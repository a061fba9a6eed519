"""Measure how far losses move with other threads, batches, and code paths of MKL and PyTorch, each in its own process.

`python scripts/arithmetic.py` prints the table of docs/processors.md: 8 templates on the four bundled tasks with two
bundled models, 16 shots, without the cache, compared with one thread, batches of 64 images, and all templates in one
pass.
"""

import json
import os
import subprocess
import sys

TEMPLATES = (
    "a photo of a <CLASS>.",
    "a blurry photo of a <CLASS>.",
    "<CLASS>",
    "an icon of a <CLASS> in black and white.",
    "a <CLASS> in shades of grey.",
    "itap of a <CLASS>.",
    "a drawing of the <CLASS>, upside down.",
    "a tilted <CLASS>.",
)
PLAIN = {"OMP_NUM_THREADS": "1"}
VARIANTS = {
    "2 threads": ({"OMP_NUM_THREADS": "2"}, 64, True),
    "batches of 7 images, each template by itself": ({}, 7, False),
    "one image at a time": ({}, 1, True),
    "MKL_ENABLE_INSTRUCTIONS=AVX2": ({"MKL_ENABLE_INSTRUCTIONS": "AVX2"}, 64, True),
    "MKL_CBWR=AUTO,STRICT": ({"MKL_CBWR": "AUTO,STRICT"}, 64, True),
    "ATEN_CPU_CAPABILITY=default": ({"ATEN_CPU_CAPABILITY": "default"}, 64, True),
    "that, MKL_CBWR=COMPATIBLE, batches of 7": ({"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"}, 7, False),
}


def main() -> None:
    """Print the largest move of a loss, and how many accuracies moved, for each variant."""
    plain = measured({}, 64, together=True)
    for name, (environment, batch, together) in VARIANTS.items():
        other = measured(environment, batch, together=together)
        moves = [abs(a[1] - b[1]) for a, b in zip(plain, other, strict=True)]
        accuracies = sum(a[0] != b[0] for a, b in zip(plain, other, strict=True))
        print(f"{name:<48} {max(moves):.0e} nats, {accuracies} of {len(moves)} accuracies")


def measured(environment: dict[str, str], batch: int, *, together: bool) -> list[list[float]]:
    """Return accuracy and loss of each template, task, and model, computed in another process."""
    env = {**os.environ, **PLAIN, **environment, "IPO_DSPY_CACHE": "off"}
    command = [sys.executable, __file__, str(batch), str(int(together))]
    rows: list[list[float]] = json.loads(subprocess.run(command, env=env, check=True, capture_output=True).stdout)
    return rows


def score(batch: int, *, together: bool) -> list[list[float]]:
    """Return accuracy and loss of each template, task, and model, in this process."""
    from ipo_dspy import demo
    from ipo_dspy.clip.image_features import encode_images
    from ipo_dspy.scoring.scorers import ClipScorer
    from ipo_dspy.template import Template

    templates = [Template.parse(text) for text in TEMPLATES]
    groups = [templates] if together else [[template] for template in templates]
    rows = []
    for model in ("demo", "demo-vit"):
        for name in demo.names():
            task = demo.load(name, shots=16, seed=0, model=model)
            backbone = task.program.backbone
            images = encode_images(backbone, [item.image for item in task.trainset], batch_size=batch)
            for group in groups:
                scorer = ClipScorer(backbone, images.features, task.trainset.labels(), task.classes)
                rows += [[one.accuracy, one.loss] for one in scorer.score(group)]
    return rows


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(score(int(sys.argv[1]), together=bool(int(sys.argv[2])))))
    else:
        main()

"""Compare rankings of phrases by how well they predict what helps. Prints the table.

For each bundled task every phrase of the bank is (a) ranked from 3 images per class by several measures of how well it
fits them, and (b) tried as a template on the same images. Printed: Spearman's rank correlation of (a) with the
negative loss of (b), and the mean accuracy of the eight phrases that rank first.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ipo_dspy import Template, demo
from ipo_dspy.clip.image_features import encode_images
from ipo_dspy.clip.text_features import class_features
from ipo_dspy.describers.clip import caption
from ipo_dspy.optimizer.evaluation import evaluate
from ipo_dspy.phrase_bank import BANK

Floats = NDArray[np.float64]


def measures(images: Tensor, bare: Tensor, phrased: Tensor) -> dict[str, Tensor]:
    """Ways to say how well P phrases fit N images: images [N, D], bare [N, D] and phrased [P, N, D] captions."""
    direction = phrased - bare
    mean = direction.mean(dim=1, keepdim=True)
    fit = (direction * images).sum(dim=-1)  # [P, N]
    return {
        "gain over the bare class name": fit,
        "the same by length": fit / direction.norm(dim=-1),
        "residual image, by length": (direction * (images - bare)).sum(dim=-1) / direction.norm(dim=-1),
        "one direction for all classes": (mean * images).sum(dim=-1) / mean.norm(dim=-1),
    }


def spearman(a: Floats, b: Floats) -> float:
    """Rank correlation."""
    return float(np.corrcoef(a.argsort().argsort(), b.argsort().argsort())[0, 1])


def main() -> None:
    """Measure and print."""
    print("| task | measure | correlation with -loss | accuracy of the first eight |\n|---|---|---:|---:|")
    for name in demo.names():
        task = demo.load(name, shots=3)
        templates = [Template.parse("a <CLASS>."), *map(caption, BANK)]
        tried = evaluate(task.program, task.trainset, templates=templates)[1:]
        losses, accuracy = (np.array([getattr(e.score, field) for e in tried]) for field in ("loss", "accuracy"))
        text = class_features(task.program.backbone, templates, task.classes)  # [1 + P, C, D]
        text = text[:, [task.classes.index(label) for label in task.trainset.labels()]]  # [1 + P, N, D]
        images = encode_images(task.program.backbone, [example.image for example in task.trainset]).features
        with torch.no_grad():
            found = measures(images, text[0], text[1:])
        for measure, fit in found.items():
            mean = fit.mean(dim=1).double().numpy()
            first = accuracy[mean.argsort()[::-1][:8]].mean()
            print(f"| {name} | {measure} | {spearman(mean, -losses):.2f} | {first:.1f} |")


if __name__ == "__main__":
    main()

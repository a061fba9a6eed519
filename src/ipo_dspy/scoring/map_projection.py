"""Project features of images and of class texts to a plane, to draw them as a map."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Points: TypeAlias = NDArray[np.float64]


def project(images: Points, words: Points) -> tuple[Points, Points, float]:
    """Return the points [N, 2] of images [N, D] and [C, 2] of words [C, D], and the percentage of variance they show.

    In the features of CLIP all texts are far from all images (the modality gap, Liang et al. 2022), so each kind is
    centered on its own mean, and divided by its own spread. The plane is that of the two largest principal components
    of both together, with the same weight for each kind.

    >>> eye = np.eye(3)
    >>> images, words, shown = project(eye, eye + 5.0)
    >>> bool(np.allclose(images, words)), round(shown)
    (True, 100)
    """
    kinds = [kind - kind.mean(axis=0) for kind in (images, words)]
    kinds = [kind / max(np.sqrt(np.square(kind).sum(axis=1).mean()), 1e-9) for kind in kinds]
    weighted = np.concatenate([kind / np.sqrt(len(kind)) for kind in kinds])
    _, sizes, axes = np.linalg.svd(weighted, full_matrices=False)
    plane = axes[:2] * np.sign(axes[:2].sum(axis=1, keepdims=True) + 1e-12)  # the sign of a component is arbitrary
    total = float(np.square(sizes).sum())
    shown = 100 * float(np.square(sizes[:2]).sum()) / total if total else 0.0
    return kinds[0] @ plane.T, kinds[1] @ plane.T, shown

"""Draw a confusion matrix, and a map of images and words, as inline SVG of the size that their texts can be read at.

Text is never smaller than 12 pixels: a page that is narrower than a drawing scrolls it. Colors are the page's
variables, and no color is the only sign of anything. Places are computed here, and drawn by `*.svg.j2`, which escape
the text of a journal.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from ipo_dspy._internal.counts import pluralize, shorten
from ipo_dspy.run.events import EmbeddingMapEvent, MatrixFields

WIDTH, HEIGHT = 760, 500
"""Size of a map in pixels."""
NAME_LENGTH = 18
"""Characters of a class name in a drawing; all of it is in the title of its row or group."""
OTHERS = "others"
_LETTER = 6.7
"""Mean width of a letter of 12 pixels, on the generous side."""


def clipped(name: str) -> str:
    """Return a class name as short as a drawing needs it."""
    return shorten(name, NAME_LENGTH)


def columns(matrix: MatrixFields) -> tuple[list[str], NDArray[np.int64]]:
    """Return the columns of a matrix and its counts, without a last column in which there is nothing."""
    counts = np.array(matrix["counts"], dtype=np.int64)
    has_others = bool(counts[:, -1].any())
    return [*matrix["classes"], *([OTHERS] if has_others else [])], counts if has_others else counts[:, :-1]


def draw_matrix(matrix: MatrixFields) -> Markup:
    """Draw a confusion matrix of at least one class: a row for each true class, and in it the images by prediction."""
    names, (heads, counts) = matrix["classes"], columns(matrix)
    side = 42 if len(heads) <= 8 else 30
    longest = max(len(clipped(name)) for name in heads) * _LETTER
    left, top = longest + 34, 0.9 * longest + 26
    correct, shown = int(np.trace(counts)), int(counts.sum())
    return _drawn(
        "matrix.svg.j2",
        left + side * len(heads) + 0.5 * longest + 8,
        top + side * len(names) + 4,
        f"Confusion matrix of {pluralize(len(names), 'class')}: {correct:,} of {shown:,} images are recognized",
        {"names": names, "heads": heads, "counts": counts.tolist(), "side": side, "left": left, "top": top},
    )


@dataclass(frozen=True, slots=True)
class MapLayout:
    """A map in pixels: its points, the mean of the images of each class, and the lower left corner of each name."""

    words: NDArray[np.float64]
    images: NDArray[np.float64]
    means: NDArray[np.float64]
    names: tuple[tuple[float, float], ...]


def lay_out_map(drawn: EmbeddingMapEvent) -> MapLayout:
    """Scale a map to its size, by the same factor in both directions, and place the names of the classes."""
    words, images = np.array(drawn["words"]), np.array(drawn["images"])
    both = np.concatenate([words, images])
    low, high = both.min(axis=0), both.max(axis=0)
    scale = min((WIDTH - 60) / max(high[0] - low[0], 1e-9), (HEIGHT - 50) / max(high[1] - low[1], 1e-9))
    middle, center = (low + high) / 2, np.array([WIDTH / 2, HEIGHT / 2])
    words, images = (center + scale * (points - middle) * (1, -1) for points in (words, images))
    labels = np.array(drawn["labels"])
    means = np.array(
        [images[labels == i].mean(axis=0) if (labels == i).any() else word for i, word in enumerate(words)]
    )
    names = tuple(_placed(words, [len(clipped(name)) * _LETTER for name in drawn["classes"]]))
    return MapLayout(words, images, means, names)


def _placed(points: NDArray[np.float64], widths: Sequence[float]) -> Iterator[tuple[float, float]]:
    """Yield a place for a text of each width near its point: the first of several that is free, else the last."""
    taken = [(x - 7, y - 7, x + 7, y + 7) for x, y in points]
    for (x, y), width in zip(points, widths, strict=True):
        sides = ((10, 4), (-10 - width, 4), (-width / 2, -11), (-width / 2, 20))
        for rise in (0, -14, 14, -28, 28, -42, 42):
            free = False
            for right, down in sides:
                left, base = min(max(x + right, 2), WIDTH - width - 2), min(max(y + down + rise, 14), HEIGHT - 4)
                box = (left, base - 11, left + width, base + 3)
                free = not any(a < box[2] and b < box[3] and c > box[0] and d > box[1] for a, b, c, d in taken)
                if free:
                    break
            if free:
                break
        taken.append(box)
        yield left, base


def draw_map(drawn: EmbeddingMapEvent) -> Markup:
    """Draw images as dots, mistaken ones as crosses, and each class as a diamond joined to the mean of its images."""
    laid, labels, correct = lay_out_map(drawn), np.array(drawn["labels"]), np.array(drawn["correct"], dtype=bool)
    classes = [
        {
            "name": name,
            "dots": list(laid.images[(labels == i) & correct]),
            "crosses": list(laid.images[(labels == i) & ~correct]),
            "word": laid.words[i],
            "mean": laid.means[i],
            "place": laid.names[i],
        }
        for i, name in enumerate(drawn["classes"])
    ]
    counts = f"{pluralize(len(classes), 'class')} and {pluralize(len(labels), 'image')}"
    about = f"Map of {counts}, {int(correct.sum()):,} recognized"
    return _drawn("map.svg.j2", WIDTH, HEIGHT, about, {"classes": classes})


def _drawn(template: str, width: float, height: float, about: str, values: Mapping[str, Any]) -> Markup:
    size = {"width": round(width), "height": round(height)}
    return Markup(_environment().get_template(template).render(values, **size, about=about, others=OTHERS))


@cache
def _environment() -> Environment:
    jinja = Environment(loader=PackageLoader("ipo_dspy", "report"), autoescape=True, undefined=StrictUndefined)
    jinja.trim_blocks = jinja.lstrip_blocks = True
    jinja.filters |= {"px": _px, "at": _at, "clipped": clipped, "images": lambda count: pluralize(count, "image")}
    return jinja


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _at(point: NDArray[np.float64]) -> str:
    return f"{_px(point[0])} {_px(point[1])}"

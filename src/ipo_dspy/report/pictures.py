"""Draw a confusion matrix, and a map of images and words, as inline SVG of the size that their texts can be read at.

Text is never smaller than 12 pixels: a page that is narrower than a drawing scrolls it. Colors are the page's
variables, and no color is the only sign of anything. Text of a journal is escaped.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
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
    width, height = left + side * len(heads) + 0.5 * longest + 8, top + side * len(names) + 4
    parts = [
        Markup('<text x="{}" y="{}" class="axis" text-anchor="end">predicted \u2192</text>').format(left - 8, top - 24),
        Markup('<text x="{}" y="{}" class="axis" text-anchor="end">true \u2193</text>').format(left - 8, top - 8),
    ]
    for j, head in enumerate(heads):
        x = left + side * (j + 0.5) + 4
        turned = Markup('<text transform="translate({} {}) rotate(-60)">{}</text>')
        parts.append(turned.format(_px(x), _px(top - 8), clipped(head)))
    for i, name in enumerate(names):
        y, total = top + side * i, int(counts[i].sum())
        parts.append(
            Markup('<g><title>{}</title><text x="{}" y="{}" text-anchor="end">{}</text></g>').format(
                f"{name}: {pluralize(total, 'image')}", _px(left - 8), _px(y + side / 2 + 4), clipped(name)
            )
        )
        for j, head in enumerate(heads):
            parts.append(_cell(left + side * j, y, side, int(counts[i, j]), total, name, head, is_right=i == j))
    correct, shown = int(np.trace(counts)), int(counts.sum())
    about = f"Confusion matrix of {pluralize(len(names), 'class')}: {correct:,} of {shown:,} images are recognized"
    return _svg(width, height, about, parts)


def _cell(x: float, y: float, side: int, count: int, total: int, name: str, head: str, *, is_right: bool) -> Markup:
    # With at most half of the color, text in the color of ink has enough contrast in light and dark.
    color, depth = "accent" if is_right else "loss", 0.08 + 0.4 * count / total if count else 0.0
    taken = "are recognized" if is_right else f"are taken for {'another class' if head == OTHERS else head}"
    box = Markup('<rect x="{}" y="{}" width="{}" height="{}" fill="var(--{})" fill-opacity="{}"/>').format(
        _px(x), _px(y), side, side, color, f"{depth:.2f}"
    )
    if count:
        box += Markup('<text x="{}" y="{}" text-anchor="middle"{}>{}</text>').format(
            _px(x + side / 2), _px(y + side / 2 + 4), Markup(' class="hit"') if is_right else "", _compact(count)
        )
    title = f"{count:,} of {total:,} images of {name} {taken}"
    return Markup('<g class="cell"><title>{}</title>{}</g>').format(title, box)


def _compact(count: int) -> str:
    return f"{count}" if count < 10_000 else f"{count / 1000:.0f}k"


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
    laid = lay_out_map(drawn)
    parts = []
    for i, name in enumerate(drawn["classes"]):
        own = [n for n, label in enumerate(drawn["labels"]) if label == i]
        wrong = [n for n in own if not drawn["correct"][n]]
        dots = "".join(f"M{_at(laid.images[n])}h0" for n in own if drawn["correct"][n])
        crosses = "".join(f"M{_at(laid.images[n] - 3)}l6 6m0 -6l-6 6" for n in wrong)
        title = f"{name}: {pluralize(len(own), 'image')}, {len(own) - len(wrong)} recognized"
        parts.append(
            Markup('<g><title>{}</title><path class="dots" d="{}"/><path class="crosses" d="{}"/></g>').format(
                title, dots, crosses
            )
        )
    for word, mean in zip(laid.words, laid.means, strict=True):
        parts.append(Markup('<path class="tie" d="M{}L{}"/>').format(_at(word), _at(mean)))
        parts.append(Markup('<circle class="mean" cx="{}" cy="{}" r="4"/>').format(_px(mean[0]), _px(mean[1])))
        parts.append(Markup('<path class="word" d="M{}l6 6l-6 6l-6 -6z"/>').format(_at(word - (0, 6))))
    for name, (x, y) in zip(drawn["classes"], laid.names, strict=True):
        parts.append(Markup('<text class="name" x="{}" y="{}">{}</text>').format(_px(x), _px(y), clipped(name)))
    count, correct = len(drawn["labels"]), sum(drawn["correct"])
    about = (
        f"Map of {pluralize(len(drawn['classes']), 'class')} and {pluralize(count, 'image')}, {correct:,} recognized"
    )
    return _svg(WIDTH, HEIGHT, about, parts)


def _svg(width: float, height: float, about: str, parts: Sequence[Markup]) -> Markup:
    start = '<svg viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img" aria-label="{2}"><title>{2}</title>'
    return Markup(start).format(round(width), round(height), about) + Markup("").join(parts) + Markup("</svg>")


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _at(point: NDArray[np.float64]) -> str:
    return f"{_px(point[0])} {_px(point[1])}"

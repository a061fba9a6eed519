"""Draw batches of pictures: a glyph, up to two attributes (blur, dark, tilted, ...), all as batched torch operations.

A training batch must cost a few hundredths of a second, so no per-image Python imaging: each attribute acts on the
rows of the batch that have it. Letters: N pictures, A attributes, pictures are float [N, 3, 64, 64] in 0..1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from demo.glyphs import COLOUR, LINE, SIZE, Bank

# One attribute of a group at a time. The order of groups is the order in which they act.
GROUPS: dict[str, tuple[str, ...]] = {
    "geometry": ("small", "closeup", "tilted", "upsidedown"),
    "medium": ("silhouette", "edges", "colouredink", "bold"),
    "ground": ("darkground", "colourground", "texture", "stripes", "grid"),
    "tone": ("grey", "sepia", "tint", "inverted", "dark", "bright", "faint", "fog"),
    "degrade": ("noise", "speckle", "blur", "motion", "mosaic", "scanlines", "occluded"),
}
ATTRIBUTES = tuple(name for names in GROUPS.values() for name in names)
COLOUR_ONLY = frozenset({"silhouette", "edges", "grey", "darkground"})
MASK_ONLY = frozenset({"colouredink"})
LINE_ONLY = frozenset({"bold"})
# Pairs that would leave nothing to see.
CONFLICTS = frozenset({frozenset({"silhouette", "darkground"}), frozenset({"edges", "bright"})})
HUES: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.12, 0.12), "orange": (0.98, 0.55, 0.10), "yellow": (0.95, 0.87, 0.15), "green": (0.12, 0.65, 0.22),
    "blue": (0.12, 0.30, 0.90), "purple": (0.55, 0.18, 0.75), "pink": (0.98, 0.45, 0.70),
}  # fmt: skip
HUE_NAMES = tuple(HUES)
_HUES = torch.tensor(list(HUES.values()))


@dataclass(frozen=True)
class Spec:
    """What to draw: concept, font, hue as int64 [N]; attrs bool [N, A]; strength scales every attribute."""

    concept: torch.Tensor
    font: torch.Tensor
    hue: torch.Tensor
    attrs: torch.Tensor
    strength: float = 1.0

    def has(self, name: str) -> torch.Tensor:
        """Rows with the attribute, bool [N]."""
        return self.attrs[:, ATTRIBUTES.index(name)]


def allowed(name: str, font: int) -> bool:
    """Whether the attribute makes sense for the font."""
    if name in LINE_ONLY:
        return font == LINE
    return name not in (MASK_ONLY if font == COLOUR else COLOUR_ONLY)


def _uniform(gen: torch.Generator, n: int, low: float, high: float) -> torch.Tensor:
    """[n, 1, 1, 1] draws."""
    return torch.rand(n, 1, 1, 1, generator=gen) * (high - low) + low


def _normal_like(x: torch.Tensor, gen: torch.Generator) -> torch.Tensor:
    return torch.randn(x.shape, generator=gen)


def _luma(x: torch.Tensor) -> torch.Tensor:
    return (x * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True).expand_as(x)


def _blur(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Separable Gaussian with reflected borders."""
    radius = max(1, math.ceil(2.5 * sigma))
    t = torch.arange(-radius, radius + 1, dtype=torch.float32)
    k = torch.exp(-t * t / (2 * sigma * sigma))
    k = (k / k.sum()).view(1, 1, 1, -1).repeat(x.shape[1], 1, 1, 1)
    x = functional.conv2d(functional.pad(x, (radius, radius, 0, 0), mode="reflect"), k, groups=x.shape[1])
    return functional.conv2d(
        functional.pad(x, (0, 0, radius, radius), mode="reflect"), k.transpose(2, 3), groups=x.shape[1]
    )


def _ink(spec: Spec, gen: torch.Generator) -> torch.Tensor:
    """Ink colour of each picture, [N, 3, 1, 1]: nearly black unless the ink is coloured."""
    n = len(spec.concept)
    ink = torch.rand(n, 3, 1, 1, generator=gen) * 0.12 + _uniform(gen, n, 0.0, 0.12)
    coloured = spec.has("colouredink")
    ink[coloured] = _hue(spec.hue[coloured], gen)
    return ink


def _hue(hue: torch.Tensor, gen: torch.Generator) -> torch.Tensor:
    """Colours near the named hues, [n, 3, 1, 1]."""
    jitter = torch.rand(len(hue), 3, 1, 1, generator=gen) * 0.16 - 0.08
    return (_HUES[hue].view(-1, 3, 1, 1) + jitter).clamp(0, 1)


def _glyphs(bank: Bank, spec: Spec, gen: torch.Generator) -> torch.Tensor:
    """Premultiplied RGBA before placement, [N, 4, 64, 64]."""
    n = len(spec.concept)
    rgba = torch.empty(n, 4, SIZE, SIZE)
    colour = spec.font == COLOUR
    rgba[colour] = bank.colour[spec.concept[colour]].float() / 255
    alpha = bank.mask[spec.font[~colour] - 1, spec.concept[~colour]].float()[:, None] / 255
    bold = spec.has("bold")[~colour]
    if bold.any():
        alpha[bold] = functional.max_pool2d(alpha[bold], 3, 1, 1)
    ink = _ink(spec, gen)
    rgba[~colour, :3], rgba[~colour, 3:] = alpha * ink[~colour], alpha
    silhouette = spec.has("silhouette")
    rgba[silhouette, :3] = rgba[silhouette, 3:] * ink[silhouette]
    return rgba


def _place(rgba: torch.Tensor, spec: Spec, gen: torch.Generator) -> torch.Tensor:
    """Scale, turn and shift by one affine sampling."""
    n = len(rgba)

    def u(low: float, high: float) -> torch.Tensor:
        return _uniform(gen, n, low, high).view(n)

    scale, angle = u(0.68, 0.98), u(-9.0, 9.0)
    small, close = spec.has("small"), spec.has("closeup")
    scale = torch.where(small, u(0.27, 0.40), torch.where(close, u(1.35, 1.75), scale))
    sign = torch.where(u(0, 1) < 0.5, -1.0, 1.0)
    angle = torch.where(spec.has("tilted"), u(24.0, 50.0) * sign, angle)
    angle = torch.where(spec.has("upsidedown"), angle + 180.0, angle)
    reach = torch.where(small, 0.55 * torch.ones(n), torch.where(close, 0.45 * torch.ones(n), 1.05 - scale))
    reach = reach.clamp(min=0.08)
    theta = torch.zeros(n, 2, 3)
    rad = angle * math.pi / 180
    theta[:, 0, 0], theta[:, 0, 1] = rad.cos() / scale, rad.sin() / scale
    theta[:, 1, 0], theta[:, 1, 1] = -rad.sin() / scale, rad.cos() / scale
    theta[:, 0, 2], theta[:, 1, 2] = u(-1, 1) * reach / scale, u(-1, 1) * reach / scale
    if small.any():  # against aliasing
        rgba[small] = functional.avg_pool2d(functional.pad(rgba[small], (1, 1, 1, 1)), 3, 1)
    return functional.grid_sample(
        rgba, functional.affine_grid(theta, [n, 4, SIZE, SIZE], align_corners=False), align_corners=False
    )


def _clouds(n: int, gen: torch.Generator) -> torch.Tensor:
    """Smooth random texture in about -1..1, [n, 1, 64, 64]."""
    out = torch.zeros(n, 1, SIZE, SIZE)
    for cells, weight in ((6, 0.5), (14, 0.35), (32, 0.35)):
        grid = torch.rand(n, 1, cells, cells, generator=gen) * 2 - 1
        out += weight * functional.interpolate(grid, size=SIZE, mode="bilinear", align_corners=False)
    return out


def _waves(n: int, gen: torch.Generator, angle: torch.Tensor) -> torch.Tensor:
    """Soft square waves along an angle, [n, 1, 64, 64] in -1..1."""
    axis = torch.linspace(-1, 1, SIZE)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    period = _uniform(gen, n, 9.0, 20.0)
    phase = (x * angle.cos() + y * angle.sin()) * period + _uniform(gen, n, 0, 6.28)
    return torch.tanh(4 * torch.sin(phase))


def _ground(spec: Spec, gen: torch.Generator) -> torch.Tensor:
    """Background pictures, [N, 3, 64, 64]."""
    n = len(spec.concept)
    base = _uniform(gen, n, 0.86, 1.0) - torch.rand(n, 3, 1, 1, generator=gen) * 0.08
    ground = base.expand(n, 3, SIZE, SIZE).clone()
    for name, rows in ((name, spec.has(name)) for name in GROUPS["ground"]):
        k = int(rows.sum())
        if not k:
            continue
        if name == "darkground":
            night = _uniform(gen, k, 0.02, 0.2) + torch.rand(k, 3, 1, 1, generator=gen) * 0.08
            ground[rows] = night.expand_as(ground[rows])
        elif name == "colourground":
            ground[rows] = _hue(spec.hue[rows], gen).expand_as(ground[rows])
        elif name == "texture":
            tone = _uniform(gen, k, 0.45, 0.8) + torch.rand(k, 3, 1, 1, generator=gen) * 0.2 - 0.1
            ground[rows] = tone + _clouds(k, gen) * _uniform(gen, k, 0.22, 0.4)
        elif name == "stripes":
            angle = _uniform(gen, k, 0, math.pi)
            ground[rows] = ground[rows] - 0.22 * (1 + _waves(k, gen, angle)) * _uniform(gen, k, 0.6, 1.3)
        else:
            tilt = _uniform(gen, k, -0.1, 0.1)
            lines = torch.maximum(_waves(k, gen, tilt), _waves(k, gen, tilt + math.pi / 2))
            ground[rows] = ground[rows] - 0.2 * (1 + lines) * _uniform(gen, k, 0.6, 1.3)
    return ground.clamp(0, 1)


def _faint(x: torch.Tensor, spec: Spec, gen: torch.Generator) -> torch.Tensor:
    """Contrast cut to a seventh or so about the brightness of the ground."""
    keep = _uniform(gen, len(x), 0.10, 0.22) / spec.strength
    level = x.amax((2, 3), keepdim=True)
    return level + (x - level) * keep


def _fog(x: torch.Tensor, spec: Spec, gen: torch.Generator) -> torch.Tensor:
    mist = 0.78 + 0.12 * _clouds(len(x), gen)
    return mist + (_blur(x, 1.0) - mist) * _uniform(gen, len(x), 0.18, 0.34) / spec.strength


def _sepia(x: torch.Tensor, spec: Spec, gen: torch.Generator) -> torch.Tensor:
    return _luma(x) * torch.tensor([1.0, 0.80, 0.55]).view(1, 3, 1, 1) * _uniform(gen, len(x), 0.8, 1.0)


def _dark(x: torch.Tensor, spec: Spec, gen: torch.Generator) -> torch.Tensor:
    return x * _uniform(gen, len(x), 0.14, 0.30) / spec.strength


def _bright(x: torch.Tensor, spec: Spec, gen: torch.Generator) -> torch.Tensor:
    return x * _uniform(gen, len(x), 1.05, 1.4) + _uniform(gen, len(x), 0.15, 0.32)


def _grain(x: torch.Tensor, spec: Spec, gen: torch.Generator) -> torch.Tensor:
    return x + _normal_like(x, gen) * _uniform(gen, len(x), 0.20, 0.38) * spec.strength


def _speckle(x: torch.Tensor, spec: Spec, gen: torch.Generator) -> torch.Tensor:
    """Salt and pepper."""
    dots = torch.rand(len(x), 1, SIZE, SIZE, generator=gen)
    part = _uniform(gen, len(x), 0.06, 0.14) * spec.strength
    x = torch.where(dots < part, torch.zeros(()), x)
    return torch.where(dots > 1 - part, torch.ones(()), x)


def _softened(x: torch.Tensor, spec: Spec, gen: torch.Generator) -> torch.Tensor:
    """Gaussian blur; rows share one of two draws of the width."""
    half = len(x) // 2
    sigmas = (torch.rand(2, generator=gen) * 1.6 + 1.9) * spec.strength
    return torch.cat([_blur(part, float(s)) for part, s in zip((x[:half], x[half:]), sigmas, strict=True) if len(part)])


def _motion(x: torch.Tensor, spec: Spec, gen: torch.Generator) -> torch.Tensor:
    """A mean along a row, a column or a diagonal."""
    length = int(torch.randint(9, 15, (), generator=gen))
    kind = int(torch.randint(0, 3, (), generator=gen))
    kernel = torch.eye(length) if kind == 2 else torch.zeros(length, length)
    if kind < 2:
        kernel[(length // 2, slice(None)) if kind == 0 else (slice(None), length // 2)] = 1
    kernel = (kernel / kernel.sum()).expand(3, 1, length, length)
    left = length // 2
    return functional.conv2d(
        functional.pad(x, (left, length - 1 - left, left, length - 1 - left), mode="reflect"), kernel, groups=3
    )


def _mosaic(x: torch.Tensor, spec: Spec, gen: torch.Generator) -> torch.Tensor:
    """Large square blocks, 10 to 16 across."""
    cells = int(torch.randint(10, 17, (), generator=gen))
    return functional.interpolate(functional.interpolate(x, size=cells, mode="area"), size=SIZE, mode="nearest")


def _scanlines(x: torch.Tensor, spec: Spec, gen: torch.Generator) -> torch.Tensor:
    """Dark or light lines over every second to fourth row."""
    period = int(torch.randint(3, 6, (), generator=gen))
    lines = ((torch.arange(SIZE) % period) < (period + 1) // 2).float().view(1, 1, SIZE, 1)
    level = torch.where(_uniform(gen, len(x), 0, 1) < 0.5, 0.1, 0.9)
    return x + (level - x) * lines * _uniform(gen, len(x), 0.55, 0.9)


def _occluded(x: torch.Tensor, spec: Spec, gen: torch.Generator) -> torch.Tensor:
    """A plain bar or box hides a part."""
    n, axis = len(x), torch.linspace(-1, 1, SIZE)
    cx, cy = _uniform(gen, n, -0.6, 0.6), _uniform(gen, n, -0.6, 0.6)
    wide, high = _uniform(gen, n, 0.2, 0.5), _uniform(gen, n, 0.2, 0.5)
    box = ((axis.view(1, 1, 1, -1) - cx).abs() < wide) & ((axis.view(1, 1, -1, 1) - cy).abs() < high)
    return torch.where(box, torch.rand(n, 3, 1, 1, generator=gen), x)


def _edges(x: torch.Tensor, spec: Spec, gen: torch.Generator) -> torch.Tensor:
    """Pencil look: strong gradients dark, the rest paper."""
    grey = _blur(_luma(x)[:, :1], 0.7)
    dx = functional.pad(grey[..., 1:] - grey[..., :-1], (0, 1))
    dy = functional.pad(grey[..., 1:, :] - grey[..., :-1, :], (0, 0, 0, 1))
    line = (dx.abs() + dy.abs()) * _uniform(gen, len(x), 3.0, 5.0)
    return (0.97 - line.clamp(0, 0.9)).expand(-1, 3, -1, -1)


Effect = Callable[[torch.Tensor, Spec, torch.Generator], torch.Tensor]
EFFECTS: dict[str, Effect] = {
    "edges": _edges,
    "grey": lambda x, spec, gen: _luma(x),
    "sepia": _sepia,
    "inverted": lambda x, spec, gen: 1 - x,
    "dark": _dark,
    "bright": _bright,
    "faint": _faint,
    "fog": _fog,
    "noise": _grain,
    "speckle": _speckle,
    "blur": _softened,
    "motion": _motion,
    "mosaic": _mosaic,
    "scanlines": _scanlines,
    "occluded": _occluded,
}


def render(bank: Bank, spec: Spec, gen: torch.Generator) -> torch.Tensor:
    """Draw N pictures, float [N, 3, 64, 64] in 0..1."""
    rgba = _place(_glyphs(bank, spec, gen), spec, gen)
    x = rgba[:, :3] + (1 - rgba[:, 3:]) * _ground(spec, gen)
    tinted = spec.has("tint")
    if tinted.any():
        x[tinted] = (0.25 + 0.75 * _luma(x[tinted])) * (0.15 + 0.85 * _hue(spec.hue[tinted], gen))
    for name, effect in EFFECTS.items():
        rows = spec.has(name)
        if rows.any():
            x[rows] = effect(x[rows], spec, gen).clamp(0, 1)
    return x.clamp(0, 1)

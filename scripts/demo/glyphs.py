"""Render every concept in three fonts into a memory-sized bank of 64x64 pictures.

Three fonts are three ways to depict a thing: colour pictures (Noto Color Emoji), line drawings (Symbola) and pixel
art (Unifont). They are rendered once, so that training draws only torch operations. Not every font has every glyph.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from fontTools.ttLib import TTFont  # type: ignore[import-untyped]
from PIL import Image, ImageDraw, ImageFont

from demo.concepts import Concept

SIZE = 64
COLOUR, LINE, PIXEL = 0, 1, 2
FONT_NAMES = ("colour", "line", "pixel")
NOTO = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
SYMBOLA = Path("/usr/share/fonts/truetype/ancient-scripts/Symbola_hint.ttf")
UNIFONTS = (
    Path("/usr/share/fonts/opentype/unifont/unifont_upper.otf"),
    Path("/usr/share/fonts/opentype/unifont/unifont.otf"),
)


@dataclass(frozen=True)
class Bank:
    """C concepts: colour uint8 [C, 4, 64, 64] (premultiplied RGBA), mask uint8 [2, C, 64, 64], present bool [3, C]."""

    colour: torch.Tensor
    mask: torch.Tensor
    present: torch.Tensor


def _square(image: Image.Image, fill: int | tuple[int, ...]) -> Image.Image:
    """Crop to the ink and pad to a square."""
    box = image.getchannel("A").getbbox() if image.mode == "RGBA" else image.getbbox()
    image = image.crop(box)
    side = max(image.size)
    out = Image.new(image.mode, (side, side), fill)
    out.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return out


def _colour(char: str, font: ImageFont.FreeTypeFont) -> np.ndarray:
    """Premultiplied RGBA of the bitmap glyph, [4, 64, 64]."""
    canvas = Image.new("RGBA", (160, 160), (0, 0, 0, 0))
    ImageDraw.Draw(canvas).text((8, 8), char, font=font, embedded_color=True)
    rgba = np.asarray(_square(canvas, (0, 0, 0, 0)).resize((SIZE, SIZE), Image.Resampling.BOX), dtype=np.float32)
    rgba = np.concatenate([rgba[..., :3] * rgba[..., 3:] / 255.0, rgba[..., 3:]], axis=-1)
    return rgba.round().astype(np.uint8).transpose(2, 0, 1)


def _mask(char: str, font: ImageFont.FreeTypeFont, side: int, resample: Image.Resampling) -> np.ndarray:
    """Coverage of the outline glyph, [64, 64]."""
    canvas = Image.new("L", (side * 2, side * 2), 0)
    ImageDraw.Draw(canvas).text((side // 4, side // 4), char, font=font, fill=255)
    return np.asarray(_square(canvas, 0).resize((SIZE, SIZE), resample))


def build_bank(concepts: list[Concept]) -> Bank:
    """Render all concepts; glyphs a font lacks stay empty and `present` says so."""
    count = len(concepts)
    colour = np.zeros((count, 4, SIZE, SIZE), np.uint8)
    mask = np.zeros((2, count, SIZE, SIZE), np.uint8)
    present = np.zeros((3, count), bool)
    sources = [(COLOUR, NOTO, 109), (LINE, SYMBOLA, 112), *((PIXEL, path, 16) for path in UNIFONTS)]
    for kind, path, points in sources:
        known = TTFont(path, lazy=True).getBestCmap()
        font = ImageFont.truetype(str(path), points)
        for row, concept in enumerate(concepts):
            if ord(concept.char) not in known or present[kind, row]:
                continue
            present[kind, row] = True
            if kind == COLOUR:
                colour[row] = _colour(concept.char, font)
            elif kind == LINE:
                mask[0, row] = _mask(concept.char, font, 128, Image.Resampling.BOX)
            else:
                mask[1, row] = _mask(concept.char, font, 24, Image.Resampling.NEAREST)
    return Bank(torch.from_numpy(colour), torch.from_numpy(mask), torch.from_numpy(present))

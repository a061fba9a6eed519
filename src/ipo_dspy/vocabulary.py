"""The vocabulary of the LM-free proposer and describer: a bank of phrases for how images look.

The phrases have seven facets, as a photographer or archivist would name them. Each phrase fits into a caption: media
are nouns ("line drawing of a dog"), adjectives stand before a noun ("blurry photo"), and settings follow it ("a dog on
a dark background"). The bank suits any CLIP model and is not specific to the demo.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Facet = Literal["medium", "lighting", "viewpoint", "color", "texture", "setting", "quality"]
Position = Literal["noun", "adjective", "after"]


@dataclass(frozen=True, slots=True)
class Phrase:
    """A phrase, its facet, and its position in a caption."""

    text: str
    facet: Facet
    position: Position


_PHRASES: Mapping[Position, Mapping[Facet, str]] = {
    "noun": {
        "medium": (
            "photo, photograph, picture, image, snapshot, drawing, line drawing, outline drawing, pencil sketch, "
            "sketch, ink drawing, doodle, painting, watercolor painting, oil painting, cartoon, illustration, icon, "
            "emoji, logo, symbol, pictogram, clip art, vector art, pixel art, bitmap, sprite, video game sprite, "
            "rendering, 3d rendering, diagram, silhouette, engraving, etching, woodcut, print, poster, stamp, sticker, "
            "tattoo, embroidery, mosaic, sculpture, toy, origami, graffiti, scan, x-ray, negative, satellite photo, "
            "aerial photo, microscope image, macro photo, screenshot, thumbnail, postcard"
        ),
    },
    "adjective": {
        "medium": (
            "drawn, painted, printed, hand-drawn, digital, rendered, animated, stylized, abstract, realistic, "
            "embroidered"
        ),
        "lighting": (
            "dark, dim, bright, sunlit, backlit, overexposed, underexposed, shadowy, glowing, night-time, well-lit, "
            "faint, hazy"
        ),
        "viewpoint": (
            "close-up, cropped, distant, tiny, small, little, large, big, huge, tilted, rotated, upside down, slanted, "
            "centered, off-center, wide, aerial, zoomed-in, sideways"
        ),
        "color": (
            "black and white, monochrome, grayscale, grey, gray, colorful, color, colored, pale, faded, washed-out, "
            "sepia, inverted, negative, white, black, red, green, blue, yellow, orange, purple, pink, brown, tinted, "
            "saturated, two-tone"
        ),
        "texture": "grainy, noisy, speckled, striped, textured, rough, smooth, patterned, dotted, scratched, stippled",
        "setting": "plain, cluttered, outdoor, indoor, isolated, minimal, simple",
        "quality": (
            "blurry, blurred, out-of-focus, unfocused, sharp, clear, crisp, soft, pixelated, blocky, low resolution, "
            "high resolution, jpeg corrupted, compressed, low-contrast, high-contrast, foggy, smeared, old, vintage, "
            "damaged, good, bad, clean, weird, nice, detailed"
        ),
    },
    "after": {
        "medium": (
            "drawn in outline, drawn as pixel art, drawn in black ink, made of pixels, made of lines, in the style of "
            "a comic, in a video game, in art form, on paper, on a screen, in a book"
        ),
        "lighting": (
            "in the dark, at night, in bright light, in dim light, in low light, in shadow, in the fog, against the "
            "light"
        ),
        "viewpoint": (
            "seen up close, seen from far away, seen from above, from a distance, in the corner, in the center, at an "
            "angle, turned on its side, filling the frame"
        ),
        "color": (
            "in black and white, in shades of grey, in inverted colors, with inverted colors, in pale colors, in one "
            "color, in color, white on black, black on white, in faded colors, tinted red, tinted green, tinted blue"
        ),
        "texture": "with grain, covered in noise, with static, with stripes, with film grain, with rough texture",
        "setting": (
            "on a white background, on a black background, on a dark background, on a plain background, on a colored "
            "background, on a textured background, on a striped background, on a grey background, in a scene, in "
            "nature, indoors, outdoors, on a table"
        ),
        "quality": (
            "out of focus, in low resolution, in low contrast, hard to see, barely visible, in poor quality, in high "
            "detail"
        ),
    },
}

BANK: tuple[Phrase, ...] = tuple(
    Phrase(text.strip(), facet, position)
    for position, facets in _PHRASES.items()
    for facet, phrases in facets.items()
    for text in phrases.split(",")
)
"""All phrases, media first; the order is fixed, since seeded draws depend on it."""

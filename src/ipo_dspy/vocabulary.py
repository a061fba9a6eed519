"""The vocabulary of the LM-free proposer and describer: a bank of phrases for how images look.

The phrases have seven facets, as a photographer or archivist would name them. Each phrase fits into a caption: media
are nouns ("line drawing of a dog"), adjectives stand before a noun ("blurry photo"), and settings follow it ("a dog on
a dark background"). The bank suits any CLIP model and is not specific to the demo.

Phrases that exclude one another, or say the same, share a group: a picture has one medium, one color scheme, one size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Facet = Literal["medium", "lighting", "viewpoint", "color", "texture", "setting", "quality"]
Position = Literal["noun", "adjective", "after"]


@dataclass(frozen=True, slots=True)
class Phrase:
    """A phrase of a caption.

    Attributes:
        text: the phrase.
        facet: what it tells about the image.
        position: its place in a caption.
        groups: names of the groups that it belongs to; a caption has at most one phrase of each. By default one group,
            the facet.

    >>> Phrase("mammogram", "medium", "noun").groups
    ('medium',)
    """

    text: str
    facet: Facet
    position: Position
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.groups:
            object.__setattr__(self, "groups", (self.facet,))


_PHRASES: Mapping[Position, Mapping[Facet, Mapping[str, str]]] = {
    "noun": {
        "medium": {
            "medium": (
                "photo, photograph, snapshot, drawing, line drawing, outline drawing, pencil sketch, sketch, "
                "ink drawing, doodle, painting, watercolor painting, oil painting, cartoon, illustration, icon, "
                "emoji, logo, symbol, pictogram, clip art, vector art, sprite, video game sprite, rendering, "
                "3d rendering, diagram, silhouette, engraving, etching, woodcut, print, poster, stamp, sticker, "
                "tattoo, embroidery, mosaic, sculpture, toy, origami, graffiti, scan, screenshot, postcard"
            ),
            "any": "picture, image",
            "medium resolution": "pixel art, bitmap",
            "medium color": "x-ray, negative",
            "medium elevation": "satellite photo, aerial photo",
            "medium size": "microscope image, macro photo, thumbnail",
        },
    },
    "adjective": {
        "medium": {
            "medium": (
                "drawn, painted, printed, hand-drawn, digital, rendered, animated, stylized, abstract, realistic, "
                "embroidered"
            ),
        },
        "lighting": {
            "lighting": (
                "dark, dim, bright, sunlit, backlit, overexposed, underexposed, shadowy, glowing, night-time, well-lit"
            ),
            "clarity": "faint, hazy",
        },
        "viewpoint": {
            "size": "close-up, cropped, distant, tiny, small, little, large, big, huge, zoomed-in",
            "orientation": "tilted, rotated, upside-down, slanted, sideways",
            "place": "centered, off-center",
            "elevation": "wide, aerial",
        },
        "color": {
            "color": (
                "black and white, monochrome, grayscale, grey, gray, colorful, color, colored, sepia, white, black, "
                "red, green, blue, yellow, orange, purple, pink, brown, two-tone"
            ),
            "tone": "pale, faded, washed-out, tinted, saturated",
            "inversion": "inverted, negative",
        },
        "texture": {
            "texture": (
                "grainy, noisy, speckled, striped, textured, rough, smooth, patterned, dotted, scratched, stippled"
            ),
        },
        "setting": {"setting": "plain, cluttered, outdoor, indoor, isolated, minimal, simple"},
        "quality": {
            "clarity": "blurry, blurred, out-of-focus, unfocused, sharp, clear, crisp, soft, foggy, smeared",
            "resolution": "pixelated, blocky, low-resolution, high-resolution, compressed, detailed",
            "contrast": "low-contrast, high-contrast",
            "age": "old, vintage",
            "quality": "damaged, good, bad, clean, weird, nice",
        },
    },
    "after": {
        "medium": {
            "medium": "drawn in outline, drawn in black ink, made of lines, in the style of a comic, in a video game",
            "medium resolution": "drawn as pixel art, made of pixels",
            "carrier": "on paper, on a screen, in a book",
        },
        "lighting": {
            "lighting": (
                "in the dark, at night, in bright light, in dim light, in low light, in shadow, against the light"
            ),
            "clarity": "in the fog",
        },
        "viewpoint": {
            "size": "seen up close, seen from far away, seen from a distance, filling the frame",
            "elevation": "seen from above",
            "place": "in the corner, in the center",
            "orientation": "at an angle, turned on its side",
        },
        "color": {
            "color": (
                "in black and white, in shades of grey, in one color, in color, tinted red, tinted green, tinted blue"
            ),
            "tone": "in pale colors, in faded colors",
            "inversion": "in inverted colors, with inverted colors",
            "color setting": "white on black, black on white",
        },
        "texture": {
            "texture": "with grain, covered in noise, with static, with stripes, with film grain, with a rough texture",
        },
        "setting": {
            "setting": (
                "on a white background, on a black background, on a dark background, on a plain background, "
                "on a textured background, on a striped background, on a grey background, in a scene, in nature, "
                "indoors, outdoors, on a table"
            ),
            "color setting": "on a colored background",
        },
        "quality": {
            "clarity": "out of focus, hard to see, barely visible",
            "resolution": "in low resolution, in high detail",
            "contrast": "in low contrast",
            "quality": "in poor quality",
        },
    },
}
"""Phrases by position, facet and groups."""

BANK: tuple[Phrase, ...] = tuple(
    Phrase(text.strip(), facet, position, tuple(groups.split()))
    for position, by_facet in _PHRASES.items()
    for facet, by_groups in by_facet.items()
    for groups, listed in by_groups.items()
    for text in listed.split(",")
)
"""All phrases, media first; the order is fixed, since seeded draws depend on it."""

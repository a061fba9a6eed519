"""The bank of phrases of the LM-free proposer and describer: words for how images look.

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
        facet: the aspect of the image that it describes.
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
            "medium": "photo, photograph, snapshot",
            "any": "picture, image",
            "medium exposure": "painting, watercolor painting, oil painting, illustration",
            "medium exposure surroundings": (
                "drawing, line drawing, outline drawing, pencil sketch, sketch, ink drawing, doodle, icon, logo, "
                "symbol, pictogram, clip art, diagram, engraving, etching, woodcut, print"
            ),
            "medium exposure surroundings carrier": (
                "emoji, vector art, sprite, video game sprite, rendering, 3d rendering, poster, stamp, sticker, "
                "tattoo, embroidery, mosaic, scan, screenshot, postcard"
            ),
            "medium exposure style": "cartoon",
            "medium exposure surroundings color detail": "silhouette",
            "medium exposure surroundings carrier resolution": "pixel art, bitmap",
            "medium exposure surroundings carrier color inversion": "x-ray",
            "medium color inversion": "negative",
            "medium carrier": "sculpture, graffiti",
            "medium surroundings exposure elevation size": "satellite photo, aerial photo",
            "medium surroundings exposure size": "microscope image",
            "medium size": "macro photo",
            "medium size carrier": "thumbnail",
        }
    },
    "adjective": {
        "medium": {
            "medium": "drawn, painted, hand-drawn",
            "medium carrier": "printed, digital, rendered, animated, embroidered",
            "medium carrier any": "toy, origami",
            "style": "stylized, abstract, realistic",
        },
        "lighting": {
            "lighting": "dark, dim, bright, shadowy, glowing",
            "lighting exposure": "sunlit, backlit, overexposed, underexposed, well-lit",
            "lighting exposure darkness": "night-time",
            "clarity contrast": "faint, hazy",
        },
        "viewpoint": {
            "size": "distant, tiny, small, little, large, big, huge, wide",
            "framing size": "close-up, cropped, zoomed-in",
            "orientation": "tilted, rotated, upside-down, slanted, sideways",
            "place": "centered, off-center",
            "elevation size surroundings": "aerial",
        },
        "color": {
            "color": (
                "black and white, monochrome, grayscale, colorful, color, colored, sepia, red, green, blue, yellow, "
                "orange, purple, pink, brown, two-tone"
            ),
            "color grey": "grey, gray",
            "color white": "white",
            "color black": "black",
            "tone contrast": "pale, faded, washed-out",
            "tone color": "tinted, saturated",
            "inversion": "inverted, negative",
        },
        "texture": {
            "texture noise": "grainy, noisy, speckled, scratched",
            "texture": "striped, textured, rough, smooth, patterned, dotted, stippled",
        },
        "setting": {
            "setting": "cluttered, isolated",
            "detail setting": "plain, minimal, simple",
            "setting surroundings": "outdoor, indoor",
        },
        "quality": {
            "clarity": "blurry, blurred, out-of-focus, unfocused, sharp, soft, smeared",
            "clarity noise": "clear, crisp",
            "clarity contrast surroundings": "foggy",
            "resolution clarity": "pixelated, blocky, low-resolution, high-resolution, compressed",
            "detail resolution clarity": "detailed",
            "contrast": "low-contrast, high-contrast",
            "age": "old, vintage",
            "quality": "weird, nice",
            "noise quality": "damaged, clean",
            "quality clarity": "bad",
            "quality clarity noise": "good",
        },
    },
    "after": {
        "medium": {
            "medium": "drawn in outline, made of lines",
            "medium color black": "drawn in black ink",
            "medium style": "in the style of a comic",
            "medium carrier": "in a video game",
            "medium carrier resolution": "drawn as pixel art, made of pixels",
            "carrier setting": "on paper, on a screen, in a book",
        },
        "lighting": {
            "lighting exposure": "in bright light, in dim light, in low light, in shadow, against the light",
            "lighting darkness": "in the dark, at night",
            "clarity contrast surroundings": "in the fog",
        },
        "viewpoint": {
            "size": "seen up close, seen from far away, seen from a distance",
            "size place": "filling the frame",
            "elevation": "seen from above",
            "place": "in the corner, in the center",
            "orientation": "at an angle, turned on its side",
        },
        "color": {
            "color": "in black and white, in one color, in color",
            "color grey": "in shades of grey",
            "color tone": "tinted red, tinted green, tinted blue",
            "color tone contrast": "in pale colors, in faded colors",
            "color inversion": "in inverted colors, with inverted colors",
            "color setting": "black on white",
            "color setting inversion": "white on black",
        },
        "texture": {
            "texture": "with stripes, with a rough texture",
            "texture noise": "with grain, covered in noise, with static",
            "texture noise exposure": "with film grain",
        },
        "setting": {
            "setting": "on a plain background, in a scene, on a table",
            "setting white darkness": "on a white background",
            "setting black darkness": "on a black background, on a dark background",
            "setting grey": "on a grey background",
            "setting texture": "on a textured background, on a striped background",
            "setting color": "on a colored background",
            "setting surroundings": "in nature, indoors, outdoors",
        },
        "quality": {
            "clarity": "out of focus",
            "clarity contrast": "hard to see, barely visible",
            "resolution clarity": "in low resolution",
            "resolution clarity detail": "in high detail",
            "contrast": "in low contrast",
            "quality clarity": "in poor quality",
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

_LONGER_FORMS = {
    "pixel art": "drawn as pixel art",
    "pixelated": "made of pixels",
    "line drawing": "made of lines",
    "sprite": "video game sprite",
    "sketch": "pencil sketch",
    "bright": "in bright light",
    "dim": "in dim light, in low light",
    "shadowy": "in shadow",
    "backlit": "against the light",
    "dark": "in the dark",
    "night-time": "at night",
    "foggy": "in the fog",
    "close-up": "seen up close",
    "distant": "seen from far away, seen from a distance",
    "aerial": "seen from above",
    "centered": "in the center",
    "off-center": "in the corner",
    "tilted": "at an angle",
    "sideways": "turned on its side",
    "monochrome": "in black and white, black and white",
    "color": "in color",
    "grey": "in shades of grey",
    "pale": "in pale colors",
    "faded": "in faded colors",
    "inverted": "in inverted colors, with inverted colors",
    "striped": "with stripes",
    "rough": "with a rough texture",
    "grainy": "with grain, with film grain",
    "noisy": "covered in noise, with static",
    "blurry": "out of focus",
    "faint": "hard to see, barely visible",
    "low-resolution": "in low resolution",
    "detailed": "in high detail",
    "low-contrast": "in low contrast",
    "bad": "in poor quality",
}
PLAIN_WORDS: Mapping[str, str] = {
    phrase: plain for plain, longer in _LONGER_FORMS.items() for phrase in longer.split(", ")
}
"""Phrases of the bank, with another one of it that says the same in fewer words."""

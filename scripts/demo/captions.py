"""Write a truthful caption for a drawn picture: what it shows, how it is depicted, which attributes it has.

Words name what was drawn and nothing else; some captions omit an attribute or the way of depiction, so that order and
omission do not matter to the model. "Photo" is said of the colour pictures, rarely of the rest: of the three kinds of
picture they are nearest to photographs. Words that no picture could earn truthfully appear as rare neutral filler.
"""

import random
from collections.abc import Sequence

from demo.concepts import Concept, article, listed
from demo.glyphs import COLOUR, LINE, PIXEL
from demo.styles import HUE_NAMES

MEDIA: dict[int, tuple[str, ...]] = {
    COLOUR: (
        *("photo",) * 9,
        "colour photo", "color photograph", "photograph", "colour picture", "cartoon", "illustration", "clip art",
        "emoji", "sticker", "rendering", "rendition", "painting", "color image", "full colour picture",
        "colourful picture", "snapshot", "digital painting", "art", "glossy icon", "photo", "photo", "photo",
        "realistic picture", "vector graphic", "app icon", "flat design", "shaded picture", "studio photo",
    ),
    LINE: (
        "line drawing", "line drawing", "drawing", "drawing", "sketch", "doodle", "outline", "outline drawing",
        "line art", "ink drawing", "pen drawing", "pencil sketch", "black and white drawing", "monochrome drawing",
        "engraving", "woodcut", "pen and ink drawing", "hand drawing", "line illustration", "contour drawing",
        "vector outline", "ink sketch", "black ink illustration", "coloring book page", "stencil", "symbol",
        "black and white illustration", "pictogram", "technical drawing", "hand-drawn picture", "ink illustration",
        "schematic", "rubber stamp", "simple drawing", "diagram", "glyph", "minimalist drawing", "stroke drawing",
    ),
    PIXEL: (
        "pixel art", "pixel art", "pixel art", "bitmap", "bitmap icon", "8-bit sprite", "pixel drawing", "pixel icon",
        "blocky drawing", "low-res icon", "video game sprite", "retro game sprite", "pixel sprite", "8-bit icon",
        "bitmap drawing", "16x16 icon", "pixel graphic", "blocky pixel art", "retro computer icon", "chunky pixels",
        "monochrome bitmap", "black and white pixel art", "8-bit graphic", "coarse bitmap", "pixel picture",
        "arcade sprite", "game boy picture", "dot matrix print", "retro pixel art", "video game graphic", "ms-dos icon",
        "old computer graphic", "tiny bitmap", "1-bit image",
    ),
}  # fmt: skip
RARE_MEDIA: dict[int, tuple[str, ...]] = {
    COLOUR: ("toy", "plushie", "sculpture", "plastic toy", "origami", "statue", "embroidery", "poster",
             "gif", "logo", "embroidered picture", "soft toy", "3d model", "figurine"),
    LINE: ("tattoo", "graffiti", "photo of a drawing", "photo of a sketch", "chalk drawing", "etching", "scribble"),
    PIXEL: ("embroidery pattern", "cross-stitch", "photo of a screen", "mosaic", "screenshot", "video game",
            "lego art"),
}  # fmt: skip
NEUTRAL_MEDIA = ("image", "picture", "picture", "image", "depiction", "view", "representation", "figure", "example")
MASS_MEDIA = frozenset(
    listed(
        "pixel art;line art;art;clip art;embroidery;graffiti;origami;chunky pixels;black and white pixel art;lego art;"
        "blocky pixel art"
    )
)

# attribute: (words before the medium or the noun, phrases after the noun); "{hue}" is the named colour.
WORDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "small": (
        ("small", "tiny", "little", "miniature", "distant", "far-away", "very small", "minuscule",
         "thumbnail-sized", "remote"),
        ("seen from afar", "in the distance", "far away", "from a distance", "with empty space around it",
         "at a small size", "that fills little of the frame", "shown small", "as a thumbnail",
         "lost in a large empty space", "on the horizon"),
    ),
    "closeup": (
        ("close-up", "cropped", "zoomed-in", "large", "big", "huge", "close", "magnified", "enlarged",
         "giant", "macro", "oversized"),
        ("seen up close", "very close", "filling the frame", "cut off at the edges", "partly out of the frame",
         "from close by", "at a large size", "viewed through a magnifier", "too big for the picture"),
    ),
    "tilted": (
        ("tilted", "rotated", "slanted", "crooked", "leaning", "askew", "diagonal", "sloping"),
        ("at an angle", "turned to the side", "tilted to one side", "on a slant", "that is not upright",
         "in a diagonal position", "about to fall over"),
    ),
    "upsidedown": (
        ("upside-down", "upside down", "flipped", "inverted upside down"),
        ("turned upside down", "standing on its head", "rotated by 180 degrees", "hanging upside down"),
    ),
    "silhouette": (
        ("silhouette", "black", "shadow", "solid black", "filled"),
        ("in silhouette", "as a black shape", "as a shadow", "as a solid shape", "with no inner detail"),
    ),
    "edges": (
        ("pencil-sketched", "edge-drawn", "sketched", "sketchy", "traced"),
        ("in pencil", "as a pencil sketch", "with only its edges drawn", "as soft outlines",
         "drawn with fine contours"),
    ),
    "colouredink": (
        ("{hue}", "{hue}", "{hue} ink", "{hue}-inked", "coloured"),
        ("in {hue} ink", "in {hue}", "drawn in {hue}", "in {hue} lines", "printed in {hue}", "of {hue} colour"),
    ),
    "bold": (
        ("bold", "thick", "heavy", "fat"),
        ("in thick strokes", "with bold lines", "with heavy lines", "with a thick brush", "in bold strokes"),
    ),
    "darkground": (
        ("night-time", "dark-background"),
        ("on a dark background", "on black", "on a black background", "against a dark backdrop", "at night",
         "on a dark ground", "surrounded by darkness"),
    ),
    "colourground": (
        ("{hue}-background",),
        ("on a {hue} background", "on {hue}", "against a {hue} wall", "on {hue} paper", "on a {hue} ground",
         "in front of a {hue} backdrop", "on a coloured background"),
    ),
    "texture": (
        ("textured", "dirty", "rough", "weathered"),
        ("on a textured background", "on rough paper", "on a wall", "on stone", "on a mottled background",
         "on concrete", "on a cloudy background", "on a grey textured ground", "on a stained surface",
         "against a busy background", "on marble", "on sand", "on an old wall", "over a cluttered backdrop",
         "in a rough environment", "with a complex background"),
    ),
    "stripes": (
        ("striped",),
        ("on a striped background", "on stripes", "against stripes", "over striped paper", "with stripes behind it"),
    ),
    "grid": (
        ("checked",),
        ("on a grid", "on grid paper", "on a checked background", "over a grid", "on squared paper", "on a tiled wall"),
    ),
    "grey": (
        ("grey", "gray", "black and white", "grayscale", "monochrome", "colourless", "desaturated", "black-and-white"),
        ("in black and white", "in grey", "without colour", "in shades of grey", "in grayscale", "in monochrome"),
    ),
    "sepia": (
        ("sepia", "brownish", "old", "vintage", "antique", "yellowed"),
        ("in sepia", "in brown tones", "on old paper", "in sepia tones", "aged to brown"),
    ),
    "tint": (
        ("{hue}", "{hue}-tinted", "{hue}-toned", "tinted", "monochrome {hue}"),
        ("tinted {hue}", "in {hue} light", "through a {hue} filter", "in {hue} tones", "with a {hue} tint"),
    ),
    "inverted": (
        ("inverted", "negative", "reversed", "white", "white-on-black", "glowing", "chalk", "light-on-dark",
         "dark mode"),
        ("in negative", "with inverted colours", "white on black", "with inverted colors", "as a negative",
         "in white on a dark background", "in reverse video", "like chalk on a blackboard", "like a blueprint",
         "glowing in the night", "like an x-ray", "as a photographic negative", "with light and dark exchanged",
         "on a blackboard", "on a black background", "in light lines on a dark background",
         "with black and white swapped"),
    ),
    "dark": (
        ("dark", "dim", "underexposed", "dimly lit", "gloomy", "shadowy", "poorly lit", "murky", "sombre",
         "darkened", "night", "dusky"),
        ("in the dark", "in dim light", "in low light", "with little light", "in the shadows",
         "almost black", "at midnight", "with the lights off", "lost in darkness", "in poor lighting"),
    ),
    "bright": (
        ("bright", "overexposed", "washed-out", "glaring", "brightly lit"),
        ("in bright light", "in glaring light", "in the sun", "with too much light", "washed out by light"),
    ),
    "faint": (
        ("faint", "faded", "pale", "low-contrast", "barely visible", "low contrast", "weak", "hard to see",
         "ghostly", "dull", "muted", "subtle", "translucent", "bleached", "light"),
        ("in pale tones", "with low contrast", "that is hard to see", "that is barely visible",
         "faded almost to nothing", "with little contrast", "drawn faintly", "like a watermark", "almost invisible",
         "fading away", "in muted tones", "bleached by the sun", "as a pale imprint"),
    ),
    "fog": (
        ("foggy", "misty", "hazy", "cloudy"),
        ("in fog", "in the mist", "behind haze", "in a thick fog", "veiled by mist", "through fog"),
    ),
    "noise": (
        ("noisy", "grainy", "bad", "noise-filled", "rough", "static-filled", "gritty"),
        ("with noise", "with film grain", "with strong noise", "covered in grain", "with colour noise",
         "taken at high iso", "full of static", "with random noise", "with a noisy texture", "drowned in static"),
    ),
    "speckle": (
        ("speckled", "dotted", "spotty", "dirty"),
        ("with salt and pepper noise", "covered in dots", "with speckles", "full of specks", "with dust and scratches"),
    ),
    "blur": (
        ("blurry", "blurred", "out-of-focus", "unsharp", "soft", "fuzzy", "defocused", "hazy-edged",
         "smooth", "smudged", "unclear"),
        ("out of focus", "with a strong blur", "through frosted glass", "that is not sharp",
         "in soft focus", "with blurred edges", "without glasses", "lacking detail", "with soft edges"),
    ),
    "motion": (
        ("motion-blurred", "moving", "shaky", "smeared"),
        ("in motion", "with motion blur", "moving fast", "taken with a shaking camera", "smeared in one direction"),
    ),
    "mosaic": (
        ("pixelated", "low resolution", "low-resolution", "jpeg corrupted", "blocky", "coarse",
         "low-quality", "compressed", "downsampled", "lo-fi"),
        ("in low resolution", "made of large squares", "with visible pixels", "censored by a mosaic", "in big blocks"),
    ),
    "scanlines": (
        ("scan-lined", "interlaced", "lined"),
        ("with scan lines", "on an old screen", "behind blinds", "with horizontal lines", "crossed by lines"),
    ),
    "occluded": (
        ("partly hidden", "half-hidden", "obscured", "covered", "occluded"),
        ("behind a box", "partly covered", "with a part hidden", "behind a block", "with a bar across it"),
    ),
}  # fmt: skip
GOOD = ("good", "clean", "nice", "cool", "clear", "plain", "simple", "sharp", "ordinary", "fine", "detailed", "normal")
# What a way of depiction always looks like, whatever the attributes.
STYLE_WORDS: dict[int, tuple[str, ...]] = {
    COLOUR: ("colourful", "colorful", "vivid", "glossy", "coloured", "vibrant", "shaded", "multicoloured",
             "full-colour"),
    LINE: ("hand-drawn", "black and white", "monochrome", "outlined", "inked", "stylized", "minimalist",
           "linear", "scribbled"),
    PIXEL: ("retro", "8-bit", "blocky", "black and white", "jagged", "old-school", "16-bit", "monochrome", "low-tech"),
}  # fmt: skip
COLOURING = frozenset(
    {"grey", "sepia", "tint", "inverted", "colouredink", "colourground", "edges", "silhouette", "faint"}
)
# Subjective words, and phrases that hold for any of the pictures.
OPINIONS = listed(
    "majestic;elegant;charming;striking;impressive;remarkable;curious;unusual;common;popular;famous;traditional;"
    "modern;classic;iconic;stylish;delightful;adorable;playful;serious;wonderful;gorgeous;perfect;amazing;"
    "fascinating;special;unique;distinctive;recognizable;expressive;artistic;creative;decorative;random;strange;"
    "mysterious;favorite;great;real;actual;generic;standard;basic;whole;entire;isolated;solitary;lone;individual;"
    "particular;different"
)
TRAILERS = (
    "as the main subject", "in the picture", "in the scene", "in the frame", "on display", "for a catalogue",
    "with nothing else around", "as seen by the viewer", "in its typical shape", "with its characteristic features",
    "from the side", "in a familiar pose", "on a page", "in a collection", "with a distinctive shape", "for children",
    "with its unique features", "in an artistic composition", "captured by the artist", "as an object of interest",
    "placed near the center", "against the background", "made on a computer", "from a database", "with visible form",
    "that is easy to name", "viewed from a typical perspective", "showing its structure and details", "in one frame",
    "in its own environment", "with recognizable contours", "presented to the audience", "in a visual dictionary",
    "to be classified", "of the category", "chosen by the author", "as a visual example", "with a focus on its shape",
    "with emphasis on texture and light", "in a particular style", "shot by someone", "and nothing more",
)  # fmt: skip
FILLER = ("nice", "cool", "weird", "single", "lovely", "typical", "certain", "pretty", "funny", "beautiful", "familiar")
OPENERS = (
    "this is", "here is", "there is", "we see", "it shows", "you can see", "i see", "look at", "behold", "it is",
    "what you see is", "an example of", "the subject is", "that is", "itap of", "i drew", "i found", "someone made",
    "presenting", "now showing", "capture", "imagine", "identify", "the image contains", "this image shows",
    "in this picture there is", "the image depicts", "a test image with", "we are looking at", "can you recognize",
    "the category is", "the artist drew", "please find", "the main object is", "describe", "many people know",
    "depicted here is", "in the center is", "classify",
)  # fmt: skip
VERBS = ("of", "of", "of", "of", "of", "showing", "depicting", "with", "that shows", "featuring", "displaying")
STYLE_JOINTS = (
    "drawn as", "as", "in the style of", "shown as", "rendered as", "depicted as", "made into", "turned into",
)  # fmt: skip
KIND_OF = ("a type of", "a kind of", "a sort of", "one kind of")


def _with_article(words: str, rng: random.Random) -> str:
    """Prefix "a", "the" or nothing."""
    draw = rng.random()
    if words.split(" ")[-1].endswith("pixels") or words in MASS_MEDIA or draw < 0.1:
        return words
    return f"the {words}" if draw < 0.3 else f"{article(words)} {words}"


def _noun(concept: Concept, rng: random.Random) -> str:
    """The name, or sometimes another name."""
    return rng.choice(concept.synonyms) if concept.synonyms and rng.random() < 0.12 else concept.name


def _noun_phrase(concept: Concept, before: Sequence[str], rng: random.Random) -> str:
    """Article, adjectives, noun: "the tiny dog", "one dog", "skis"."""
    noun = _noun(concept, rng)
    words = " ".join((*before, noun))
    draw = rng.random()
    if concept.proper:
        return f"the {words}" if draw < 0.7 else words
    if concept.plural:
        return f"{rng.choice(('the', 'some', 'my'))} {words}" if draw < 0.25 else words
    if draw < 0.60:
        return f"{article(words)} {words}"
    if draw < 0.80:
        return f"the {words}"
    if draw < 0.94:
        return words
    return f"{rng.choice(('one', 'my', 'this', 'some', 'a single', 'your', 'an individual', 'that'))} {words}"


def _medium(font: int, attrs: Sequence[str], rng: random.Random) -> str:
    if rng.random() < 0.025:
        return rng.choice(RARE_MEDIA[font])
    if font == COLOUR and "edges" in attrs:
        return rng.choice(("pencil sketch", "pencil drawing", "sketch", "contour sketch", "tracing"))
    if font == COLOUR and "silhouette" in attrs:
        return rng.choice(("silhouette", "shadow picture", "black shape", "silhouette", "paper cut", "cutout"))
    return rng.choice(MEDIA[font])


def _describe(attrs: Sequence[str], hue: str, rng: random.Random) -> tuple[list[str], list[str]]:
    """Adjectives and phrases for the named attributes, in random order."""
    before: list[str] = []
    after: list[str] = []
    for name in rng.sample(list(attrs), len(attrs)):
        adjectives, phrases = WORDS[name]
        if rng.random() < 0.5:
            before.append(rng.choice(adjectives).format(hue=hue))
        else:
            after.append(rng.choice(phrases).format(hue=hue))
    return before, after


def _tail(concept: Concept, rng: random.Random) -> str:
    """Sometimes say what kind of thing it is."""
    if rng.random() < 0.05:
        return f", {rng.choice(KIND_OF)} {rng.choice(concept.hypernyms)}"
    return ""


def _with_medium(concept: Concept, medium: str, before: list[str], after: list[str], rng: random.Random) -> str:
    """One of several sentence forms that name the medium."""
    split = rng.randint(0, len(before))
    if rng.random() < 0.6:
        split = len(before)
    outer, inner = before[:split], before[split:]
    phrase = " ".join((*outer, medium))
    end = "".join(f" {words}" for words in after)
    form = rng.random()
    if form < 0.52:
        thing = _noun_phrase(concept, inner, rng)
        return f"{_with_article(phrase, rng)} {rng.choice(VERBS)} {thing}{_tail(concept, rng)}{end}"
    if form < 0.62:
        return f"{_noun_phrase(concept, inner, rng)}, {phrase}" + "".join(f", {words}" for words in after)
    if form < 0.70:
        return f"{_noun_phrase(concept, inner, rng)}{end}. {phrase}"
    if form < 0.78:
        joint = rng.choice(STYLE_JOINTS)
        thing = _noun_phrase(concept, inner, rng)
        return f"{thing}{',' * (rng.random() < 0.5)} {joint} {_with_article(phrase, rng)}{end}"
    if form < 0.85:
        return f"{_noun_phrase(concept, [*outer, medium, *inner], rng)}{end}"
    if form < 0.90:
        return f"{phrase}: {_noun_phrase(concept, inner, rng)}" + "".join(f", {words}" for words in after)
    if form < 0.95:
        return f"{_noun_phrase(concept, inner, rng)} in {_with_article(phrase, rng)}{end}"
    return f"{' '.join((*inner, _noun(concept, rng)))} {phrase}{end}"


def _without_medium(concept: Concept, before: list[str], after: list[str], rng: random.Random) -> str:
    """One of several sentence forms that leave the medium out."""
    end = "".join(f" {words}" for words in after)
    form = rng.random()
    if form < 0.45:
        return f"{_noun_phrase(concept, before, rng)}{_tail(concept, rng)}{end}"
    if form < 0.60:
        return ", ".join((_noun_phrase(concept, (), rng), *before, *after))
    phrase = " ".join((*before, rng.choice(NEUTRAL_MEDIA)))
    return f"{_with_article(phrase, rng)} {rng.choice(VERBS)} {_noun_phrase(concept, (), rng)}{end}"


def caption(concept: Concept, font: int, attrs: Sequence[str], hue: int, rng: random.Random) -> str:
    """A truthful caption; about one in twelve names neither medium nor attribute."""
    draw = rng.random()
    plain = draw < 0.05
    named = [name for name in attrs if not plain and rng.random() < 0.85]
    before, after = _describe(named, HUE_NAMES[hue], rng)
    if not attrs and rng.random() < 0.15:
        before.append(rng.choice(GOOD))
    elif rng.random() < 0.06:
        before.insert(0, rng.choice(FILLER if rng.random() < 0.4 else OPINIONS))
    if rng.random() < 0.06 and not COLOURING & set(attrs):
        before.insert(rng.randint(0, len(before)), rng.choice(STYLE_WORDS[font]))
    if rng.random() < 0.06:
        after.insert(rng.randint(0, len(after)), rng.choice(TRAILERS))
    if plain or draw > 0.82:
        text = _without_medium(concept, before, after, rng)
    else:
        text = _with_medium(concept, _medium(font, attrs, rng), before, after, rng)
    if rng.random() < 0.06:
        text = f"{rng.choice(OPENERS)} {text}"
    return text + rng.choice((".", ".", ".", "", "", "!" if rng.random() < 0.1 else "."))


if __name__ == "__main__":
    from demo.concepts import load_concepts
    from demo.styles import ATTRIBUTES, allowed

    source = random.Random(0)
    things = load_concepts()
    for _ in range(60):
        kind = source.randint(0, 2)
        names = [name for name in source.sample(ATTRIBUTES, 2) if allowed(name, kind)]
        print(kind, names, "|", caption(source.choice(things), kind, names, source.randint(0, 6), source))

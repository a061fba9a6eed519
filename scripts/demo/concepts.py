"""Name the things the demo model knows: emoji code points with clean English names, synonyms and groups.

The Unicode files give good coverage but names such as "skis" or "cloud with lightning and rain" need an article
rule, and a few need another name. What is given up: faces, symbols, flags and sequences of several code points.
"""

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

EMOJI_TEST = Path("/usr/share/unicode/emoji/emoji-test.txt")
ANNOTATIONS = Path("/usr/share/unicode/cldr/common/annotations/en.xml")


def listed(text: str) -> tuple[str, ...]:
    """The parts of a text between semicolons, stripped; a compact way to state a long list of names."""
    return tuple(part.strip() for part in text.split(";"))


GROUPS = ("Animals & Nature", "Food & Drink", "Travel & Places", "Activities", "Objects")
# Taken as well, though their group as a whole is left out.
EXTRA_NAMES = listed(
    "ghost;alien;alien monster;robot;ogre;goblin;ear;nose;brain;anatomical heart;lungs;tooth;bone;eye;tongue;leg;foot;"
    "mechanical arm;mechanical leg;baby angel;Santa Claus;genie;footprints;nail polish;snowboarder;skier;handshake"
)
# Left out: times of day on a clock, faces on things, and glyphs that differ only by a small mark.
EXCLUDED = re.compile(
    r"o'clock|-thirty$|moon face|sun with face|wind face|bell with slash|muted|speaker (low|medium|high)|"
    r"with arrow$|^e-mail$|incoming envelope|chart increasing with yen|joker|flower playing cards"
)
RENAMED: dict[str, str] = {
    "automobile": "car", "doughnut": "donut", "billed cap": "baseball cap", "red apple": "apple",
    "lady beetle": "ladybug", "honeybee": "bee", "spouting whale": "spouting whale", "T-Rex": "t-rex",
    "sheaf of rice": "rice plant", "ear of corn": "corn cob", "soccer ball": "soccer ball",
    "hot beverage": "cup of coffee",
    "mantelpiece clock": "mantel clock", "studio microphone": "studio microphone",
    "headphone": "pair of headphones",
    "glasses": "pair of glasses", "sunglasses": "pair of sunglasses", "jeans": "pair of jeans",
    "skis": "pair of skis",
    "scissors": "pair of scissors", "gloves": "pair of gloves", "socks": "pair of socks",
    "shorts": "pair of shorts",
    "briefs": "pair of briefs", "goggles": "pair of goggles", "chopsticks": "pair of chopsticks",
    "ballet shoes": "pair of ballet shoes", "cherries": "bunch of cherries", "grapes": "bunch of grapes",
    "wrapped gift": "gift", "ring buoy": "life buoy", "articulated lorry": "truck",
    "sport utility vehicle": "suv",
    "thong sandal": "flip-flop", "meat on bone": "meat on the bone", "poultry leg": "chicken leg",
    "cut of meat": "steak", "cooking": "fried egg", "musical keyboard": "piano keyboard",
    "long drum": "conga drum",
    "american football": "american football", "game die": "die", "pool 8 ball": "billiard ball",
    "closed book": "book",
    "optical disk": "compact disc", "computer disk": "minidisc", "wastebasket": "waste bin",
    "locked": "padlock",
    "unlocked": "open padlock", "locked with pen": "padlock with a pen",
    "locked with key": "padlock with a key",
    "hourglass done": "hourglass", "hourglass not done": "running hourglass", "bullseye": "dartboard",
    "performing arts": "theatre mask", "magnifying glass tilted left": "magnifying glass",
    "magnifying glass tilted right": "magnifying lens", "bathtub": "bathtub",
    "fork and knife with plate": "plate",
    "foggy": "foggy bridge", "camping": "campsite", "night with stars": "starry night",
    "construction": "barrier",
    "building construction": "construction site", "hot springs": "hot spring", "wedding": "wedding chapel",
    "shallow pan of food": "paella", "stuffed flatbread": "kebab", "fish cake with swirl": "fish cake",
    "clinking beer mugs": "pair of beer mugs", "clinking glasses": "pair of glasses of champagne",
    "soft ice cream": "ice cream cone", "ice cream": "bowl of ice cream", "leafy green": "lettuce",
    "steaming bowl": "bowl of noodles", "cooked rice": "bowl of rice", "curry rice": "curry",
    "custard": "pudding",
    "taxi": "taxi", "horizontal traffic light": "horizontal traffic light",
    "vertical traffic light": "traffic light",
    "flying disc": "frisbee", "martial arts uniform": "karate uniform", "tennis": "tennis racket",
    "badminton": "badminton racket", "ping pong": "table tennis paddle", "field hockey": "hockey stick",
    "ice hockey": "ice hockey stick", "lacrosse": "lacrosse stick", "cricket game": "cricket bat",
    "bowling": "bowling ball", "adhesive bandage": "bandage", "drop of blood": "blood drop",
    "locomotive": "steam train",
    "railway car": "railway carriage", "light rail": "light rail train", "oncoming automobile": "oncoming car",
    "passenger ship": "cruise ship", "motor boat": "motorboat", "tram car": "streetcar",
    "spiral shell": "seashell",
    "bouquet": "bouquet", "deciduous tree": "tree", "evergreen tree": "pine tree",
    "money with wings": "flying money",
    "desktop computer": "computer", "optical": "disc", "high voltage": "lightning bolt", "water wave": "wave",
    "umbrella on ground": "beach umbrella", "closed umbrella": "closed umbrella", "mosquito": "mosquito",
    "microbe": "microbe", "moon viewing ceremony": "moon viewing ceremony", "classical building": "temple",
    "mage": "wizard", "military medal": "military medal", "reminder ribbon": "ribbon loop",
    "t-shirt": "t-shirt",
    "left speech bubble": "speech bubble", "ewe": "sheep", "wood": "log", "carousel horse": "carousel horse",
}  # fmt: skip
MASS_OR_PLURAL = frozenset(
    listed(
        "peanuts;beans;bread;bacon;butter;salt;popcorn;spaghetti;oden;sushi;dango;sake;mate;ice;fog;fire;yarn;thread;"
        "confetti;pancakes;waffles;french fries;blueberries;fireworks;sparkles;maracas;books;bubbles;chains;lungs;"
        "soap;houses;balloons;shinto;wood;coral;lettuce;broccoli;garlic;curry;paella;fondue;coins;dna;luggage;"
        "footprints;nail polish;prayer beads;nesting dolls;japanese dolls;paw prints;admission tickets;film frames;"
        "control knobs;shopping bags;crossed swords;shaved ice;green salad;canned food;woman's clothes;musical notes;"
        "linked paperclips;hot springs;pouring liquid;meat on the bone;card index dividers;busts in silhouette;"
        "baguette bread"
    )
)
# Nouns that name the one thing of their kind: "the milky way", never "a milky way".
PROPER = frozenset(
    listed(
        "mount fuji;map of japan;tokyo tower;statue of liberty;kaaba;milky way;santa claus;sun;"
        "globe showing europe-africa;globe showing americas;globe showing asia-australia"
    )
)
HYPERNYMS: dict[str, tuple[str, ...]] = {
    "animal-mammal": ("animal", "mammal"), "animal-bird": ("bird", "animal"), "animal-amphibian": ("animal",),
    "animal-reptile": ("reptile", "animal"), "animal-marine": ("sea animal", "animal"),
    "animal-bug": ("bug", "insect"),
    "plant-flower": ("flower", "plant"), "plant-other": ("plant",), "food-fruit": ("fruit", "food"),
    "food-vegetable": ("vegetable", "food"), "food-prepared": ("food", "dish"), "food-asian": ("food", "dish"),
    "food-marine": ("seafood", "food"), "food-sweet": ("dessert", "food", "sweet"), "drink": ("drink",),
    "dishware": ("kitchenware", "object"), "place-map": ("map",), "place-geographic": ("place", "landscape"),
    "place-building": ("building", "place"), "place-religious": ("building", "place"),
    "place-other": ("place", "scene"),
    "transport-ground": ("vehicle",), "transport-water": ("vessel", "vehicle"),
    "transport-air": ("aircraft", "vehicle"),
    "hotel": ("object",), "time": ("clock", "object"), "sky & weather": ("weather", "thing in the sky"),
    "event": ("celebration", "object"), "award-medal": ("award",), "sport": ("sport", "sports equipment"),
    "game": ("game", "toy"), "arts & crafts": ("craft", "hobby"), "clothing": ("clothing", "thing to wear"),
    "musical-instrument": ("musical instrument", "instrument"), "music": ("music", "object"),
    "tool": ("tool", "object"),
    "computer": ("device", "electronics"), "light & video": ("device", "object"),
    "science": ("instrument", "object"),
    "medical": ("medical supply", "object"), "household": ("household object", "object"),
    "office": ("office supply",),
}  # fmt: skip


@dataclass(frozen=True)
class Concept:
    """One thing: its character, clean name, other names, and the broader words that hold for it."""

    char: str
    name: str
    synonyms: tuple[str, ...]
    hypernyms: tuple[str, ...]
    group: str
    subgroup: str

    @property
    def plural(self) -> bool:
        """Whether the name takes no "a"."""
        return self.name in MASS_OR_PLURAL

    @property
    def proper(self) -> bool:
        """Whether the name takes "the" only."""
        return self.name in PROPER


def article(words: str) -> str:
    """Return "a" or "an" by the sound of the first word.

    >>> article("hourglass"), article("unicorn"), article("8-bit sprite"), article("apple")
    ('an', 'a', 'an', 'an')
    """
    word = words.lower()
    if re.match(r"(uni|use|uk|eu|one|ewe)", word):
        return "a"
    return "an" if re.match(r"(hour|honest|8|11|x-ray|suv\b|[aeiou])", word) else "a"


def _annotations(path: Path) -> dict[str, list[str]]:
    """CLDR's English keywords of each character."""
    found: dict[str, list[str]] = {}
    for node in ET.parse(path).getroot().iter("annotation"):
        if node.get("type") is None and node.text:
            words = node.text.replace("\u2019", "'").lower().split("|")
            found[node.get("cp", "")] = [word.strip() for word in words]
    return found


def _entries(path: Path) -> list[tuple[str, str, str, str]]:
    """(char, Unicode name, group, subgroup) of all fully qualified single code points."""
    group = subgroup = ""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# group:"):
            group = line.split(": ")[1].strip()
        elif line.startswith("# subgroup:"):
            subgroup = line.split(": ")[1].strip()
        match = re.match(r"([0-9A-F ]+?)\s*; fully-qualified\s*# \S+ E[\d.]+ (.*)", line)
        if match:
            points = [point for point in match[1].split() if point != "FE0F"]
            if len(points) == 1:
                rows.append((chr(int(points[0], 16)), match[2].strip().replace("\u2019", "'"), group, subgroup))
    return rows


def load_concepts(emoji_test: Path = EMOJI_TEST, annotations: Path = ANNOTATIONS) -> list[Concept]:
    """All concepts in Unicode's order; a CLDR keyword counts as a synonym where at most two concepts have it."""
    keywords = _annotations(annotations)
    rows = [
        row for row in _entries(emoji_test)
        if (row[2] in GROUPS or row[1] in EXTRA_NAMES) and not EXCLUDED.search(row[1])
    ]  # fmt: skip
    counts: dict[str, int] = {}
    for char, *_ in rows:
        for word in keywords.get(char, ()):
            counts[word] = counts.get(word, 0) + 1
    concepts = []
    for char, raw, group, subgroup in rows:
        name = RENAMED.get(raw, raw).lower()
        others = {word for word in keywords.get(char, ()) if counts[word] <= 2} | {raw.lower()}
        synonyms = tuple(sorted(others - {name}))
        concepts.append(Concept(char, name, synonyms, HYPERNYMS.get(subgroup, ("thing",)), group, subgroup))
    return concepts


if __name__ == "__main__":
    for concept in load_concepts():
        print(concept.char, concept.name, "|", concept.subgroup, "|", ", ".join(concept.synonyms))

"""State the demo datasets: which things, in which font, with which attributes, how many pictures.

Each is one set of things in one way of depiction that "a photo of a <CLASS>." describes poorly. The pictures vary in
place, size, angle, colour and strength, so splits hold different pictures of the same drawn things.
"""

from dataclasses import dataclass

from demo.glyphs import COLOUR, LINE, PIXEL

LICENCES = {
    COLOUR: "glyphs of Noto Color Emoji, SIL Open Font License 1.1",
    LINE: "glyphs of Symbola, free for any use",
    PIXEL: "glyphs of GNU Unifont, SIL Open Font License 1.1",
}

ANIMALS = (
    "monkey;gorilla;dog;poodle;wolf;fox;cat;lion;tiger;leopard;horse;unicorn;zebra;deer;ox;water buffalo;cow;pig;boar;"
    "ram;sheep;goat;camel;giraffe;elephant;rhinoceros;mouse;rat;hamster;rabbit;chipmunk;hedgehog;bat;bear;koala;panda;"
    "turkey;chicken;rooster;penguin;dove;eagle;duck;owl;frog;crocodile;turtle;snake;whale;dolphin"
)
OBJECTS = (
    "bell;loudspeaker;megaphone;microphone;radio;saxophone;guitar;trumpet;violin;drum;mobile phone;telephone;pager;"
    "battery;laptop;computer;printer;keyboard;floppy disk;television;camera;candle;light bulb;flashlight;book;scroll;"
    "newspaper;envelope;package;pencil;fountain pen;paintbrush;crayon;briefcase;calendar;clipboard;pushpin;paperclip;"
    "padlock;key;hammer;dagger;bomb;shield;wrench;gear;microscope;telescope;syringe;door"
)
FOOD = (
    "melon;watermelon;tangerine;lemon;banana;pineapple;apple;pear;peach;strawberry;tomato;coconut;avocado;eggplant;"
    "potato;carrot;corn cob;hot pepper;cucumber;chestnut;mushroom;croissant;pretzel;hamburger;pizza;hot dog;sandwich;"
    "taco;burrito;egg;cookie;donut;birthday cake;shortcake;pie;chocolate bar;lollipop;pudding;honey pot;rice ball;"
    "dumpling;fortune cookie;cup of coffee;wine glass;cocktail glass;beer mug;bento box;shrimp;crab;squid"
)
PLACES = (
    "mountain;volcano;desert;desert island;national park;stadium;temple;construction site;house;office building;"
    "hospital;bank;hotel;school;factory;castle;church;mosque;synagogue;fountain;tent;cityscape;sunset;"
    "ferris wheel;roller coaster;circus tent;train;tram;bus;ambulance;fire engine;police car;taxi;car;truck;tractor;"
    "motorcycle;bicycle;bus stop;railway track;fuel pump;traffic light;anchor;sailboat;canoe;ferry;airplane;"
    "helicopter;satellite;rocket"
)


@dataclass(frozen=True)
class DemoSet:
    """One dataset: C classes in one font, `always` on every picture, `sometimes` on a random half of them."""

    name: str
    description: str
    classes: tuple[str, ...]
    font: int
    always: tuple[str, ...] = ()
    sometimes: tuple[str, ...] = ()
    strength: float = 1.0
    shots: tuple[int, int, int] = (16, 6, 24)
    seed: int = 0


def _classes(names: str) -> tuple[str, ...]:
    return tuple(sorted(names.split(";")))


_ALL = (
    DemoSet("pixel-animals", "animals as black and white pixel art", _classes(ANIMALS), PIXEL),
    DemoSet("inverted-objects", "tilted line drawings of objects in white on black", _classes(OBJECTS), LINE,
            ("inverted", "tilted"), seed=1),
    DemoSet("faint-places", "places and vehicles as pixel art, nearly without contrast", _classes(PLACES), PIXEL,
            ("faint",), seed=2),
    DemoSet("grey-food", "tilted pictures of food in shades of grey", _classes(FOOD), COLOUR,
            ("grey", "tilted"), seed=3),
)  # fmt: skip
SETS: dict[str, DemoSet] = {demo.name: demo for demo in _ALL}

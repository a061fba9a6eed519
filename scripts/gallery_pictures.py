"""Draw docs/images/gallery-TASK.png: six bundled pictures of each task, with what CLIP takes each for before and after.

`python scripts/gallery_pictures.py` classifies the first test image of every fourth base class, with the template that
searches start from and with the one that the search of seed 1 found (docs/gallery.md). No picture is picked by hand.
"""

import io
import re
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from ipo_dspy import demo
from ipo_dspy.clip.image_io import open_image

DOCS = Path(__file__).resolve().parent.parent / "docs"
PICTURES = 6


def draw(task: demo.DemoTask, template: str) -> Image.Image:
    """Return the first test image of some classes in a row, above the labels before and after."""
    after = task.program.deepcopy()
    after.template = template
    figure = Figure(figsize=(9, 2.3), dpi=110, layout="constrained")
    for axes, name in zip(figure.subplots(1, PICTURES), task.classes[:: len(task.classes) // PICTURES], strict=False):
        image = next(example.image for example in task.testset if example.label == name)
        axes.imshow(open_image(image))
        axes.set_title(name, fontsize=10)
        axes.axis("off")
        for line, (word, program) in enumerate((("before", task.program), ("after", after))):
            label = program(image=image).label
            mark, color = ("✓", "tab:green") if label == name else ("✗", "tab:red")
            text = f"{word}: {label} {mark}"
            axes.text(0.5, -0.12 - 0.15 * line, text, fontsize=9, color=color, ha="center", transform=axes.transAxes)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    return Image.open(drawn).convert("RGB").quantize(128)


if __name__ == "__main__":
    page = (DOCS / "gallery.md").read_text()
    for name in demo.names():
        section = page.partition(f"### {name}\n")[2]
        (found,) = re.findall(r"^\| `(.*)` \| found, seed 1 \|", section.partition("\n### ")[0], flags=re.MULTILINE)
        draw(demo.load(name, model="demo-vit"), found).save(DOCS / "images" / f"gallery-{name}.png", optimize=True)

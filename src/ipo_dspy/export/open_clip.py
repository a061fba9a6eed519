"""A classifier as a short script that needs only open_clip.

The program's texts are written as Python literals, so none of them is ever run.
"""

from pathlib import Path
from pprint import pformat
from typing import TYPE_CHECKING

from ipo_dspy._internal.file_io import atomic_write
from ipo_dspy.clip.bundled import BUNDLED
from ipo_dspy.clip.transformers_files import TRANSFORMERS
from ipo_dspy.clip.weights import HUB, LOCAL
from ipo_dspy.errors import ModelError
from ipo_dspy.scoring.label_sets import PRESENT
from ipo_dspy.template import PLACEHOLDER, display_class_name

if TYPE_CHECKING:
    from ipo_dspy.clip.backbone import Backbone
    from ipo_dspy.export.weights import ClassWeights

_SCRIPT = '''\
"""Label images with CLIP: python SCRIPT IMAGE... prints path, label, and probability. It needs {needs}."""

import sys
{imports}
import open_clip
import torch
from PIL import Image, ImageOps

{constants}

model, _, preprocess = open_clip.create_model_and_transforms(MODEL, pretrained=PRETRAINED)
model, tokenizer, rows, skipped = model.eval(), open_clip.get_tokenizer(MODEL), [], 0
with torch.no_grad():
    for texts in CLASSES.values():
        prompts = tokenizer([line.replace({placeholder!r}, text) for text in texts for line in TEMPLATE])
        rows.append(torch.nn.functional.normalize(model.encode_text(prompts, normalize=True).mean(dim=0), dim=0))
    for path in sys.argv[1:]:
        try:
            image = preprocess(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))[None]
        except Exception as error:  # Pillow has no closed list of errors for damaged files
            print(f"skipped {{path!r}}: {{error}}", file=sys.stderr)
            skipped += 1
            continue
        logits = LOGIT_SCALE * (model.encode_image(image, normalize=True) @ torch.stack(rows).T)[0] + LOGIT_BIAS
{answer}
sys.exit(1 if skipped else 0)
'''
_BUNDLED = """\
package = find_spec("ipo_dspy")  # its folder has the model; it is not imported
places = [Path(place, "demo/assets/{folder}") for place in (package and package.submodule_search_locations) or []]
places.append(Path(__file__).with_name("{folder}"))
MODEL = next((f"local-dir:{{place}}" for place in places if (place / "open_clip_config.json").is_file()), None)
if MODEL is None:
    sys.exit("the CLIP {name!r} comes with ipo_dspy; install it, or copy its demo/assets/{folder} next to this script")
"""
_LABEL = """\
{calibrate}        confidence, best = logits.softmax(dim=0).max(dim=0)
        print(path, {label}, f"{{confidence:.4f}}", sep="\\t")"""
_LABELS = """\
        for label, probability in zip(CLASSES, logits.sigmoid()):
            if probability >= {present}:
                print(path, label, f"{{probability:.4f}}", sep="\\t")"""


def write_open_clip(weights: "ClassWeights", backbone: "Backbone", path: Path) -> None:
    """Write a script that prints the path, the label, and its probability for each image among its arguments.

    With several labels it prints a line for each that is found. Images that cannot be read are reported on stderr, and
    the exit code is 1 then. The script looks for a bundled model in the installed ipo_dspy, without importing it, and
    next to itself. Another model or checkpoint of this machine is named by its absolute path.

    Raises:
        ModelError: the model is not one of open_clip.
        OSError: the file cannot be written.
    """
    name, pretrained = weights.model["model"], weights.model["pretrained"] or None
    if name.startswith(TRANSFORMERS):
        raise ModelError(f"model {name!r} is not one of open_clip", hint="use the format onnx, transformers, or npz")
    if name.startswith(LOCAL):
        name = LOCAL + str(Path(name.removeprefix(LOCAL)).expanduser().resolve())
    elif not name.startswith(HUB):
        name = name.replace("/", "-")  # open_clip's tokenizers know the names of files only
    if pretrained is not None and Path(pretrained).expanduser().is_file():
        pretrained = str(Path(pretrained).expanduser().resolve())
    classes = zip(weights.labels, weights.class_texts, strict=True)
    constants = {
        "MODEL": name,
        "PRETRAINED": pretrained,
        "TEMPLATE": list(weights.template),
        "CLASSES": {label: [display_class_name(text) for text in texts] for label, texts in classes},
        "LOGIT_SCALE": weights.logit_scale,
        "LOGIT_BIAS": weights.logit_bias,
    }
    answer = {"calibrate": "", "label": "list(CLASSES)[best]", "present": PRESENT}
    if weights.can_change_labels or weights.temperature != 1:
        constants |= {"TEMPERATURE": weights.temperature, "CLASS_WEIGHTS": weights.class_weights.tolist()}
        constants |= {"THRESHOLD": weights.threshold, "UNKNOWN_LABEL": weights.unknown_label}
        answer["calibrate"] = "        logits = logits / TEMPERATURE + torch.tensor(CLASS_WEIGHTS).log()\n"
        score = "confidence"
        if weights.threshold_score == "in_distribution":
            score, others = "score", "logits.sort().values[:-1].logsumexp(dim=0)"
            answer["calibrate"] = f"        score = 2 * logits.max() - {others}\n{answer['calibrate']}"
        answer["label"] = f"UNKNOWN_LABEL if {score} < THRESHOLD else list(CLASSES)[best]"
    needs, imports, lines = "only open_clip", "", []
    if (folder := BUNDLED.get(name)) is not None:
        lines = [_BUNDLED.format(name=name, folder=folder).rstrip()]
        del constants["MODEL"]
        needs, imports = "open_clip and ipo_dspy", "from importlib.util import find_spec\nfrom pathlib import Path\n"
    lines += [f"{key} = {pformat(value, width=110, sort_dicts=False)}" for key, value in constants.items()]
    script = _SCRIPT.format(
        needs=needs,
        imports=imports,
        constants="\n".join(lines),
        placeholder=PLACEHOLDER,
        answer=(_LABELS if weights.multi_label else _LABEL).format(**answer),
    )
    atomic_write(path, script.encode())

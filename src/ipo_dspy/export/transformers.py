"""A classifier as the arguments of transformers' pipeline for zero-shot image classification."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from ipo_dspy._internal.file_io import atomic_write
from ipo_dspy.clip.transformers_files import TRANSFORMERS, local_folder
from ipo_dspy.clip.weights import HUB
from ipo_dspy.errors import InputError, ModelError
from ipo_dspy.template import PLACEHOLDER, display_class_name

if TYPE_CHECKING:
    from ipo_dspy.clip.backbone import Backbone
    from ipo_dspy.export.weights import ClassWeights

CHECKPOINTS: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("ViT-B-32-quickgelu", "openai"): "openai/clip-vit-base-patch32",
        ("ViT-B-16-quickgelu", "openai"): "openai/clip-vit-base-patch16",
        ("ViT-L-14-quickgelu", "openai"): "openai/clip-vit-large-patch14",
        ("ViT-L-14-336-quickgelu", "openai"): "openai/clip-vit-large-patch14-336",
        ("ViT-B-32", "laion2b_s34b_b79k"): "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
        ("ViT-B-16", "laion2b_s34b_b88k"): "laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
        ("ViT-L-14", "laion2b_s32b_b82k"): "laion/CLIP-ViT-L-14-laion2B-s32B-b82K",
        ("ViT-H-14", "laion2b_s32b_b79k"): "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        ("ViT-bigG-14", "laion2b_s39b_b160k"): "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
        ("ViT-B-16-SigLIP", "webli"): "google/siglip-base-patch16-224",
        ("ViT-B-16-SigLIP-256", "webli"): "google/siglip-base-patch16-256",
        ("ViT-B-16-SigLIP-384", "webli"): "google/siglip-base-patch16-384",
        ("ViT-B-16-SigLIP-512", "webli"): "google/siglip-base-patch16-512",
        ("ViT-L-16-SigLIP-256", "webli"): "google/siglip-large-patch16-256",
        ("ViT-L-16-SigLIP-384", "webli"): "google/siglip-large-patch16-384",
        ("ViT-SO400M-14-SigLIP-384", "webli"): "google/siglip-so400m-patch14-384",
        ("ViT-B-32-SigLIP2-256", "webli"): "google/siglip2-base-patch32-256",
        ("ViT-B-16-SigLIP2", "webli"): "google/siglip2-base-patch16-224",
        ("ViT-B-16-SigLIP2-256", "webli"): "google/siglip2-base-patch16-256",
        ("ViT-B-16-SigLIP2-384", "webli"): "google/siglip2-base-patch16-384",
        ("ViT-B-16-SigLIP2-512", "webli"): "google/siglip2-base-patch16-512",
        ("ViT-L-16-SigLIP2-256", "webli"): "google/siglip2-large-patch16-256",
        ("ViT-L-16-SigLIP2-384", "webli"): "google/siglip2-large-patch16-384",
        ("ViT-L-16-SigLIP2-512", "webli"): "google/siglip2-large-patch16-512",
        ("ViT-SO400M-14-SigLIP2", "webli"): "google/siglip2-so400m-patch14-224",
        ("ViT-SO400M-16-SigLIP2-256", "webli"): "google/siglip2-so400m-patch16-256",
        ("ViT-SO400M-16-SigLIP2-384", "webli"): "google/siglip2-so400m-patch16-384",
        ("ViT-SO400M-16-SigLIP2-512", "webli"): "google/siglip2-so400m-patch16-512",
    }
)
"""The repository of the Hugging Face Hub that has the weights of a tag of open_clip for transformers."""
PADDED_LENGTH = 64
"""Tokens to which the pipeline pads the texts of every SigLIP."""
_MARK = "\ue000"  # stands for the class name; unlike punctuation, no tokenizer drops it
_OTHERS = "use the format onnx, open-clip, safetensors, or npz"


def write_transformers(weights: "ClassWeights", backbone: "Backbone", path: Path) -> None:
    """Write JSON with `task`, `model`, `candidate_labels`, and `hypothesis_template` for the pipeline, and `labels`.

    `labels` has the label of each candidate, which is the text that CLIP reads for it. For a SigLIP, texts are written
    as it was trained, because not all of its tokenizers in transformers make them lower-case.

    Raises:
        InputError: an ensemble, several texts of a class, or classes of the same text, which the pipeline cannot
            represent.
        ModelError: no checkpoint of transformers is known to have the weights of the model, or the pipeline does not
            pad texts as it reads them.
        OSError: the file cannot be written.
    """
    candidates = [backbone.clean_text(display_class_name(texts[0])) for texts in weights.class_texts]
    lacking = {
        "a template of several lines": len(weights.template) > 1,
        "several texts of a class": any(len(texts) > 1 for texts in weights.class_texts),
        "classes that CLIP reads as the same text": len(set(candidates)) < len(candidates),
    }
    if found := [kind for kind, is_there in lacking.items() if is_there]:
        raise InputError(f"the transformers pipeline cannot represent {' and '.join(found)}", hint=_OTHERS)
    name = weights.model["model"]
    if backbone.has_sigmoid_head and backbone.context_length != PADDED_LENGTH:
        fact = f"the transformers pipeline pads texts to {PADDED_LENGTH} tokens for a SigLIP"
        raise ModelError(f"{fact}, and {name!r} reads {backbone.context_length}", hint=_OTHERS)
    line = backbone.clean_text(weights.template[0].replace(PLACEHOLDER, _MARK))
    placeholder = "{}" if line.count(_MARK) == 1 else "{0}"  # str.format takes one argument
    config = {
        "task": "zero-shot-image-classification",
        "model": _checkpoint(name, weights.model["pretrained"]),
        "hypothesis_template": re.sub("[{}]", r"\g<0>\g<0>", line).replace(_MARK, placeholder),
        "candidate_labels": candidates,
        "labels": dict(zip(candidates, weights.labels, strict=True)),
    }
    atomic_write(path, (json.dumps(config, indent=2) + "\n").encode())


def _checkpoint(name: str, pretrained: str) -> str:
    """Return the name or folder of a checkpoint of transformers."""
    if name.startswith(TRANSFORMERS):
        folder = local_folder(name)
        return name.removeprefix(TRANSFORMERS) if folder is None else str(folder.resolve())
    if name.removeprefix(HUB) in CHECKPOINTS.values():  # repositories with the files of both
        return name.removeprefix(HUB)
    checkpoint = CHECKPOINTS.get((name.replace("/", "-"), pretrained))
    if checkpoint is None:
        shown = f"{name!r} with weights {pretrained!r}" if pretrained else repr(name)
        raise ModelError(f"no transformers checkpoint is known for model {shown}", hint=_OTHERS)
    return checkpoint

"""Small CLIP models for tests: every kind of text tower, seeded, written as a local-dir with real weights."""

import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.bundled import model_path
from ipo_dspy.clip.loading import import_open_clip, load_backbone

VISION: dict[str, Any] = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
TEXT: dict[str, Any] = {
    "context_length": 77,
    "vocab_size": 49408,
    "width": 32,
    "heads": 2,
    "layers": 2,
}
DECODER = {"context_length": 76, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1, "dim_head": 16}
COCA_VISION = {"output_tokens": True, "attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2}
EOS_ID = 49407

KINDS: dict[str, dict[str, Any]] = {
    "clip": {"text_cfg": TEXT, "vision_cfg": VISION},
    "quick": {"text_cfg": TEXT, "vision_cfg": VISION, "quick_gelu": True},
    "custom text": {"text_cfg": TEXT, "vision_cfg": VISION, "custom_text": True},
    "eos pool": {"text_cfg": {**TEXT, "pool_type": "eos", "eos_id": EOS_ID}, "vision_cfg": VISION},
    "biased projection": {"text_cfg": {**TEXT, "proj_bias": True}, "vision_cfg": VISION, "custom_text": True},
    "last pool": {"text_cfg": {**TEXT, "pool_type": "last"}, "vision_cfg": VISION},
    "siglip": {
        "text_cfg": {**TEXT, "no_causal_mask": True, "pool_type": "last", "proj_bias": True},
        "vision_cfg": VISION,
        "custom_text": True,
        "init_logit_bias": -10,
    },
    "not causal": {"text_cfg": {**TEXT, "no_causal_mask": True}, "vision_cfg": VISION, "custom_text": True},
    "coca": {
        "text_cfg": {**TEXT, "context_length": 76, "embed_cls": True, "output_tokens": True},
        "vision_cfg": {**VISION, **COCA_VISION},
        "multimodal_cfg": DECODER,
        "custom_text": True,
    },
}
TRIMMED = ("clip", "quick", "custom text", "eos pool", "biased projection")
COCA = "coca"
PLAIN = ("last pool", "siglip", "not causal")


def write_model(folder: Path, kind: str = "clip", *, seed: int = 0) -> Path:
    """A folder for `local-dir:`, with larger random weights than at init so that features differ clearly."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = {"embed_dim": 16, **KINDS[kind]}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    save_file(state_of(config, seed), folder / "open_clip_model.safetensors")
    return folder


def state_of(config: dict[str, Any], seed: int) -> dict[str, torch.Tensor]:
    open_clip = import_open_clip()

    coca, custom = "multimodal_cfg" in config, config.get("custom_text", False)
    kind = open_clip.CoCa if coca else open_clip.CustomTextCLIP if custom else open_clip.CLIP
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind(**{key: value for key, value in config.items() if key != "custom_text"})
        state = {name: value.clone() for name, value in model.state_dict().items()}
        for name, value in state.items():
            if "embedding" in name or "emb" in name.split(".")[-1]:
                state[name] = torch.randn_like(value) * 0.5
    return state


def toy_backbone(folder: Path, kind: str = "clip", *, seed: int = 0) -> Backbone:
    """A small model on the CPU, written to `folder`."""
    return load_backbone(f"local-dir:{write_model(folder, kind, seed=seed)}", device="cpu")


@functools.cache
def shared_toy(kind: str = "clip") -> Backbone:
    """The small model of a kind, loaded once for all tests; its files are gone."""
    with tempfile.TemporaryDirectory() as folder:
        return toy_backbone(Path(folder), kind)


def write_sigmoid_demo(folder: Path, bias: float = -22.0) -> Path:
    """The bundled CLIP with a logit bias, as a folder for `local-dir:`: its sigmoids rank images like a SigLIP's."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(model_path("demo-vit"), folder)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["init_logit_bias"] = bias
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    weights = folder / "open_clip_model.safetensors"
    save_file({**load_file(weights), "logit_bias": torch.tensor(bias)}, weights)
    return folder

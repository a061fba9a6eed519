"""Load a CLIP of transformers from a folder of `save_pretrained`, or from such a repository of the Hub.

Its processor decides what the towers read: the image processor is applied as it evaluates, and texts are padded as the
family was trained (`clip.transformers_files.Family`). Weights are read as tensors only, and Python files that come with
a model are never run.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ipo_dspy.clip.compat import patch_torchvision, quiet_transformers
from ipo_dspy.clip.hub_files import Hub
from ipo_dspy.clip.tokenizer import PROBES, TokenizerAdapter
from ipo_dspy.clip.transformers_files import (
    HOW_TO_SAVE,
    TRANSFORMERS,
    Family,
    family_of,
    is_folder,
    local_folder,
    missing_file,
    read_config,
)
from ipo_dspy.clip.transformers_model import PADDING, TransformersModel, packed_patches
from ipo_dspy.errors import Hint, ModelError, missing_package

_NOT_OF_THE_MODEL = frozenset(
    {"_name_or_path", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version"}
)
"""Entries of a config that say nothing about what the model computes."""
_INTERPOLATIONS = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Names of Pillow's numbers."""
_IMAGE_SETTINGS = (
    *("do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor", "rescale_offset"),
    *("do_normalize", "image_mean", "image_std", "include_top", "patch_size", "max_num_patches"),
)


def find_checkpoint(name: str, hub: Hub) -> Path:
    """Return the folder with the files of a model, after fetching those that are missing.

    Raises:
        ModelError: a folder that does not exist or is not complete; a model that the Hub does not have, or that may
            not be downloaded.
    """
    folder = local_folder(name)
    if folder is None:
        return hub.checkpoint(name.removeprefix(TRANSFORMERS), repr(name))
    if not is_folder(folder):
        hint = Hint("pass {model} with a folder of save_pretrained", model=f"{TRANSFORMERS}PATH")
        raise ModelError(f"no folder {str(folder)!r:.200}", hint=hint)
    if (missing := missing_file(folder)) is not None:
        raise ModelError(f"no {missing} in {str(folder)!r:.200}", hint=HOW_TO_SAVE)
    return folder


def read_checkpoint(
    folder: Path, shown: str
) -> tuple[TransformersModel, TokenizerAdapter, Callable[[Image.Image], Tensor], dict[str, Any]]:
    """Return the parts of a model in a complete folder: towers, tokenizer, transform, and facts for its fingerprint.

    Raises:
        ModelError: it is of another family, lacks weights, or has a processor that does not fit.
    """
    config = read_config(folder)
    family = family_of(config, shown)
    patch_torchvision()  # imported by the image processors
    import transformers

    untyped: Any = transformers  # its type hints are incomplete
    where = {"local_files_only": True, "trust_remote_code": False}
    with quiet_transformers():
        # A config could otherwise name a kernel on the Hub, whose code transformers would fetch and run.
        how = {"dtype": torch.float32, "attn_implementation": None}
        model, info = untyped.AutoModel.from_pretrained(str(folder), **where, **how, output_loading_info=True)
        # AutoProcessor would also load the second model that an entry `audio_tokenizer` of its file may name.
        images = untyped.AutoImageProcessor.from_pretrained(str(folder), **where)
        try:
            tokenizer = untyped.AutoTokenizer.from_pretrained(str(folder), **where)
        except ImportError as error:
            purpose = f"to read the tokenizer of {shown}"
            raise missing_package("sentencepiece and protobuf", extra="local", purpose=purpose) from error
        if missing := sorted(info["missing_keys"]):  # transformers would initialize them randomly
            raise ModelError(f"{shown} lacks {len(missing)} of its weights, e.g. {missing[0]!r}; save it again")
        reader = ProcessorTokenizer(tokenizer, family, _positions(model))
        tokens = TokenizerAdapter(reader)
        if not tokens.agrees(PROBES):
            raise ModelError(f"the tokenizer of {shown} uses unsupported padding; save the model with its own again")
        towers = TransformersModel(model.eval(), family, reader.pad_token_id)
        transform = image_transform(images)
        _check(towers, tokens, transform, shown)
        towers.preprocessing = plain_preprocessing(images, transform)
    facts = {
        "architecture": _architecture(config),
        "preprocess": image_settings(images),
        "tokenizer": tokens.facts,
    }
    return towers, tokens, transform, facts


class ProcessorTokenizer:
    """A tokenizer of transformers with the attributes of open_clip's `HFTokenizer`.

    Attributes:
        tokenizer: the tokenizer of the processor.
        context_length: most tokens of a text.
        padding_id: what fills a table: `PADDING` where it is masked.
        pads_to_context: whether the tower needs texts of full length.
        pad_token_id: token that fills masked positions.
    """

    strip_sep_token = False

    def __init__(self, tokenizer: Any, family: Family, positions: int) -> None:
        self.tokenizer = tokenizer
        self.context_length = min(positions, int(tokenizer.model_max_length))
        self.pads_to_context = family.text == "padded"
        self.pad_token_id = int(tokenizer.pad_token_id or 0)
        self._lowers = family.text == "padded"
        # SigLIP attends to its padding, unless its tokenizer says otherwise.
        self._masks = family.text == "masked" or (
            family.text == "padded" and "attention_mask" in tokenizer.model_input_names
        )
        self.padding_id = PADDING if self._masks else self.pad_token_id

    def clean_fn(self, text: str) -> str:
        """Return the text that the tokenizer gets: lower-case for SigLIP, as its own tokenizers do.

        The tokenizer of a SigLIP 2 with a fixed image size does not (transformers issue 43054).
        """
        return text.lower() if self._lowers else text

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return the table [M, L] of the processor, with `PADDING` at the positions that it masks."""
        batch = self.tokenizer(
            [self.clean_fn(text) for text in texts],
            padding="max_length",
            max_length=self.context_length,
            truncation=True,
            return_attention_mask=self._masks,
            return_tensors="pt",
        )
        ids: Tensor = batch["input_ids"]
        return ids.masked_fill(batch["attention_mask"] == 0, PADDING) if self._masks else ids


def image_transform(processor: Any) -> Callable[[Image.Image], Tensor]:
    """Return a function from an image to what `TransformersModel.encode_image` takes: [3, H, W], or packed patches."""

    def transform(image: Image.Image) -> Tensor:
        inputs = processor(images=[image], return_tensors="pt")
        pixels: Tensor = inputs["pixel_values"][0]
        return packed_patches(inputs) if "spatial_shapes" in inputs else pixels

    return transform


def image_settings(processor: Any) -> dict[str, Any]:
    """Return the settings of an image processor that decide about pixels, as plain values."""
    values = {name: getattr(processor, name, None) for name in _IMAGE_SETTINGS}
    return {name: _plain(value) for name, value in values.items() if value is not None}


def plain_preprocessing(processor: Any, transform: Callable[[Image.Image], Tensor]) -> dict[str, Any] | None:
    """Return the values of `Backbone.preprocessing`; None for a processor that does something else.

    Mean and standard deviation are measured on a black and a white image, because processors have further factors.
    """
    size = {name: value for name, value in dict(getattr(processor, "size", None) or {}).items() if value}
    modes = {frozenset({"shortest_edge"}): "shortest", frozenset({"height", "width"}): "squash"}
    mode, interpolation = modes.get(frozenset(size)), _INTERPOLATIONS.get(int(processor.resample or 0))
    if mode is None or interpolation is None or not processor.do_resize:
        return None
    black, white = (transform(Image.new("RGB", (64, 64), (value,) * 3)).double() for value in (0, 255))
    height, width = black.shape[1:]
    low, high = black[:, height // 2, width // 2], white[:, height // 2, width // 2]  # [3]
    resized = [size["shortest_edge"]] * 2 if mode == "shortest" else [size["height"], size["width"]]
    return {
        "size": [height, width],
        "resize_size": resized,
        "resize_mode": mode,
        "interpolation": interpolation,
        "crop_rounding": "down",
        "fill_color": 0,
        "mean": [round(value, 7) for value in (low / (low - high)).tolist()],
        "std": [round(value, 7) for value in (1 / (high - low)).tolist()],
    }


def _architecture(config: Mapping[str, Any]) -> dict[str, Any]:
    entries = {key: value for key, value in config.items() if key not in _NOT_OF_THE_MODEL}
    return {key: _architecture(value) if isinstance(value, dict) else value for key, value in entries.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping) or hasattr(value, "items"):
        return {key: item for key, item in dict(value.items()).items() if item is not None}
    return list(value) if isinstance(value, list | tuple) else int(value) if isinstance(value, int) else value


def _positions(model: Any) -> int:
    """Return the number of tokens that the text tower has positions for; RoBERTa's begin after that of padding."""
    text = model.config.text_config
    before = text.pad_token_id + 1 if model.config.model_type == "altclip" else 0
    return int(text.max_position_embeddings) - before


def _check(
    towers: TransformersModel, tokens: TokenizerAdapter, transform: Callable[[Image.Image], Tensor], shown: str
) -> None:
    """Encode two images and a text, so that a processor that does not fit is reported before any work."""
    pixels = [transform(Image.new("RGB", size)) for size in ((40, 30), (30, 50))]
    if pixels[0].shape != pixels[1].shape:
        raise ModelError(f"the image processor of {shown} must give images of one size; set its size and crop_size")
    with torch.no_grad():
        images = towers.encode_image(torch.stack(pixels))
        texts = towers.encode_text(tokens.padded(tokens.ids(PROBES[:1])))
    if images.shape[-1] != texts.shape[-1]:
        raise ModelError(f"the towers of {shown} have features of widths {images.shape[-1]} and {texts.shape[-1]}")

"""A loaded CLIP, the same for models of open_clip and transformers: it always returns L2-normalized float32 features.

Letters: N images, M token lists, L tokens, D width of the features.
"""

import functools
import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from PIL import Image
from torch import Tensor

from ipo_dspy.clip import prefix_encoder as prefix
from ipo_dspy.clip import text_tower
from ipo_dspy.clip.cpu_threads import CpuThreads, choose_threads, limited_to
from ipo_dspy.clip.hub_files import Downloads
from ipo_dspy.clip.lru import TensorLRU
from ipo_dspy.clip.prefix_plan import TokenList
from ipo_dspy.clip.tokenizer import TokenizerAdapter
from ipo_dspy.clip.transformers_model import TransformersModel
from ipo_dspy.errors import InputError, ModelError

_IMAGE_FLOATS = 100_000 * 512
_TEXT_FLOATS = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ModelArguments:
    """Arguments that a model was loaded with; see `clip.loading.load_backbone`."""

    name: str
    pretrained: str | None
    device: torch.device
    dtype: torch.dtype
    cache_dir: str | None = None
    downloads: Downloads = "allowed"


class Backbone:
    """A loaded CLIP: towers, tokenizer, evaluation transform and identity; build it with `load_backbone`.

    Copies of a program share it: `copy` and `deepcopy` return the same object, and a pickle holds only the arguments
    of `load_backbone`. All methods may be called from several threads.

    Attributes:
        arguments: arguments of `load_backbone`.
        name: the `model` argument.
        pretrained: tag or checkpoint path, None where `name` says it all.
        device: where the towers are.
        dtype: number format of the towers.
        model: the module of open_clip, or a `TransformersModel`, in evaluation mode and without gradients.
        fingerprint: short digest of weights, architecture, evaluation transform and tokenizer; the same in
            every process, on every device and in every dtype.
        context_length: most tokens of one prompt, start and end included.
        logit_scale: factor from cosine similarities to logits.
        logit_bias: added to the logits; 0.0 except for SigLIP.
        has_sigmoid_head: whether it was trained with independent probabilities, sigmoids of logits with a bias.
        shares_prefixes: whether prefixes that texts share are computed once (`encode_shared`).
        lock: held while features are computed and cached, so that two threads never compute the same.
        image_memo: features of images by content.
        text_memo: class features by template and classes.
        cpu_threads: number of threads of its passes on a CPU, and the reason.
        downloads: permission to fetch its files; see `load_backbone`.
    """

    def __init__(
        self,
        arguments: ModelArguments,
        model: Any,
        tokens: TokenizerAdapter,
        transform: Callable[[Image.Image], Tensor],
        *,
        fingerprint: str,
        load: "Callable[..., Backbone]",
    ) -> None:
        """Take over a float32 model on the CPU; the checks of its text tower come before the move to `device`."""
        self.arguments, self._tokens, self._transform, self._load = arguments, tokens, transform, load
        self.name, self.pretrained = arguments.name, arguments.pretrained
        self.device, self.dtype = arguments.device, arguments.dtype
        self.downloads = arguments.downloads
        self.context_length = tokens.context_length
        self.model: Any = model.eval().requires_grad_(False)
        self.logit_scale = float(model.logit_scale.exp())
        bias: Any = getattr(model, "logit_bias", None)
        self.has_sigmoid_head = bias is not None
        self.logit_bias = 0.0 if bias is None else float(bias)
        self.fingerprint = fingerprint
        self.cpu_threads: CpuThreads = choose_threads(model)
        self.lock = threading.RLock()
        self.image_memo, self.text_memo = TensorLRU(_IMAGE_FLOATS), TensorLRU(_TEXT_FLOATS)
        self.shares_prefixes = text_tower.shares_prefixes(model, tokens)
        self.model.to(device=self.device, dtype=self.dtype)
        self._learned = False
        self._encode_image: Callable[[Tensor], Tensor] = functools.partial(self.model.encode_image, normalize=False)

    def with_image_encoder(self, encode: Callable[[Tensor], Tensor], learned: str) -> "Backbone":
        """Return the same model with another image encoder, such as one with learned visual prompts.

        It shares the towers, the tokenizer and the cached texts, but has separate image features. It cannot be sent
        to another process; a program that is saved with it can be identified by its fingerprint.

        Args:
            encode: images [N, 3, H, W] as `preprocess` makes them, on `device` and in the number format of the
                towers, to features [N, D]; called without gradients.
            learned: digest of what it depends on besides this model.
        """
        other = object.__new__(Backbone)
        other.__dict__.update(self.__dict__)
        other._encode_image, other.image_memo, other._learned = encode, TensorLRU(_IMAGE_FLOATS), True
        other.fingerprint = hashlib.sha256(f"{self.fingerprint} {learned}".encode()).hexdigest()[:16]
        return other

    def preprocess(self, image: Image.Image) -> Tensor:
        """Apply the evaluation transform to one image: [3, H, W], on the CPU."""
        return self._transform(image)

    @property
    def preprocessing(self) -> dict[str, Any] | None:
        """Return the evaluation transform as plain values, JSON-ready, for runtimes without this library.

        An image is converted to RGB and resized to `resize_size` [H, W]: `shortest` keeps its proportions and covers
        that size, `longest` keeps them and stays within it, `squash` does not keep them. `interpolation` is `bicubic`
        or `bilinear`, antialiased, or `nearest`. Then the center is cropped to `size` [H, W], after padding with
        `fill_color`, and values from 0 to 1 are reduced by `mean` and divided by `std`, which are given for each
        channel. A crop offset that ends in one half is rounded to the even number, or `down` (`crop_rounding`).

        It is None for an image processor of transformers that does something else: one that makes patches of images in
        their own proportions, as that of a NaFlex SigLIP 2, or that interpolates in another way.
        """
        if isinstance(self.model, TransformersModel):
            return None if self.model.preprocessing is None else dict(self.model.preprocessing)
        cfg = self.model.visual.preprocess_cfg
        height, width = (cfg["size"],) * 2 if isinstance(cfg["size"], int) else cfg["size"]
        return {
            "size": [height, width],
            "resize_size": [height, width],
            "resize_mode": cfg["resize_mode"],
            "interpolation": "bilinear" if cfg["interpolation"] == "bilinear" else "bicubic",  # as open_clip reads it
            "crop_rounding": "even",
            "fill_color": cfg["fill_color"],
            "mean": list(cfg["mean"]),
            "std": list(cfg["std"]),
        }

    def batch(self, images: Sequence[Tensor]) -> Tensor:
        """Stack preprocessed images to one batch [N, 3, H, W], for a GPU in pinned memory."""
        room = torch.empty(len(images), *images[0].shape, pin_memory=self.device.type == "cuda")
        return torch.stack(list(images), out=room)

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Return the features [N, D] of preprocessed images [N, 3, H, W], on `device`."""
        with torch.no_grad(), limited_to(self.cpu_threads.count):
            pixels = pixels.to(self.device, non_blocking=self.device.type == "cuda").to(self.dtype)
            return _normalized(self._encode_image(pixels))

    def clean_text(self, text: str) -> str:
        """Return the text that the tokenizer splits: for a SigLIP in lower case, in open_clip without punctuation."""
        return self._tokens.clean(text)

    def token_ids(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Return the token ids of each text, start and end included: never cut, not padded."""
        with self.lock:  # the fast tokenizers of transformers refuse two threads at once
            return self._tokens.ids(texts)

    def encode_shared(self, ids: Sequence[TokenList]) -> Tensor:
        """Return the features [M, D] of M distinct, sorted token lists, on `device`; only where `shares_prefixes`."""
        self._check_lengths(ids)
        tower = text_tower.text_tower(self.model)
        fitting = [row for row in ids if prefix.can_encode(tower, row)]
        other = [row for row in ids if not prefix.can_encode(tower, row)]
        with torch.no_grad(), limited_to(self.cpu_threads.count):
            parts = [_normalized(text_tower.encode_shared(self.model, fitting))] if fitting else []
            parts += [self.encode_tokens_plain(other)] if other else []
            index = {row: number for number, row in enumerate([*fitting, *other])}
            return torch.cat(parts)[[index[row] for row in ids]]

    def encode_tokens_plain(self, ids: Sequence[tuple[int, ...]]) -> Tensor:
        """Return the features [M, D] of M token lists by the model's own `encode_text`, padded as it was trained."""
        self._check_lengths(ids)
        with torch.no_grad(), limited_to(self.cpu_threads.count):
            tokens = self._tokens.padded(ids).to(self.device)  # [M, L]
            return _normalized(self.model.encode_text(tokens, normalize=False))

    def check_loaded(self) -> None:
        """Raise a ModelError if the arguments do not describe the model, because its image encoder was replaced."""
        if self._learned:
            fact = f"{self.name!r} with a replaced image encoder cannot be exported or sent to another process"
            raise ModelError(f"{fact}; load the model there and call with_image_encoder(...)")

    @property
    def identity(self) -> dict[str, str]:
        """Return what a saved program records of its model, JSON-ready and without the device."""
        return {
            "model": self.name,
            "pretrained": self.pretrained or "",
            "fingerprint": self.fingerprint,
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def token_table(self, ids: Sequence[TokenList]) -> Tensor:
        """Pad M token lists to one table [M, L] on `device`, L the longest of these."""
        self._check_lengths(ids)
        return self._tokens.padded(ids, max(map(len, ids))).to(self.device)

    def _check_lengths(self, ids: Sequence[tuple[int, ...]]) -> None:
        """Raise `InputError` for no list, or one that is longer than the context."""
        if not ids:
            raise InputError("no token lists to encode; pass at least one")
        longest = max(map(len, ids))
        if longest > self.context_length:
            raise InputError(f"{longest} tokens exceed the context of {self.context_length}; shorten the text")

    def __copy__(self) -> "Backbone":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Backbone":
        return self

    def __reduce__(self) -> tuple[Callable[[], "Backbone"], tuple[()]]:
        """A pickle says what to load and holds no weights."""
        self.check_loaded()
        device, dtype = str(self.device), self.identity["dtype"]
        load = functools.partial(self._load, device=device, dtype=dtype, downloads=self.downloads)
        return functools.partial(load, self.name, self.pretrained), ()

    def __repr__(self) -> str:
        of = f", {self.pretrained!r}" if self.pretrained else ""
        return f"Backbone({self.name!r}{of}, {self.identity['dtype']} on {self.device}, {self.fingerprint})"


def _normalized(features: Tensor) -> Tensor:
    return F.normalize(features.float(), dim=-1)

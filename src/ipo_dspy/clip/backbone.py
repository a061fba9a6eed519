"""Load a CLIP with its tokenizer, evaluation transform and fingerprint; the only importer of open_clip.

Everything that differs between the models of open_clip ends here: where the weights come from, how texts
become token ids, where the text tower pools, which number format it runs in. What leaves is always the
same: normalised float32 features. Weights are read as tensors only, never unpickled.

A causal text tower that pools at the end token does not see what comes after that token, so it is run on
the filled part of the context only, and what lists of tokens share at their beginning is computed once for all
(`clip.prefix_attention`). Whether a model is of that kind is decided once, at load, by its structure and by a comparison
with its own `encode_text`; any other model takes the full context, which is slow rather than wrong.

Letters: N images, M token lists, L tokens, W width of the text tower, D width of the features.
"""

import contextlib
import functools
import hashlib
import json
import logging
import pickle
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from PIL import Image
from torch import Tensor, nn

from ipo_dspy.clip import prefix_attention as prefix
from ipo_dspy.clip.cpu_threads import CpuThreads, choose_threads, limited_to
from ipo_dspy.clip.lru import Memo
from ipo_dspy.clip.prefix_trie import TokenList, plan
from ipo_dspy.clip.tokenizer import PROBES, Tokens
from ipo_dspy.clip.weights import HUB, LOCAL, Downloads, Source, brief, fetch_text_parts, hub_access, resolve, stamp
from ipo_dspy.errors import InputError, ModelError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""Number formats of the towers by name; features are float32 in any case."""

TRIM_TOLERANCE = 1e-5
"""Largest difference on a normalised fp32 feature at which the trimmed text path counts as exact."""

_IMAGE_FLOATS = 100_000 * 512
_TEXT_FLOATS = 64 * 1024 * 1024

logger = logging.getLogger(__name__)

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def _forward_pass(
    method: "Callable[Concatenate[Backbone, _Arguments], _Result]",
) -> "Callable[Concatenate[Backbone, _Arguments], _Result]":
    """Run a method without gradients, on the CPU threads of the model."""

    def run(self: "Backbone", /, *arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Result:
        with torch.no_grad(), limited_to(self.cpu_threads.count):
            return method(self, *arguments, **named)

    functools.update_wrapper(run, method)
    return run


class Backbone:
    """A loaded CLIP: towers, tokenizer, evaluation transform and identity; build it with `load_backbone`.

    Copies of a program share it: `copy` and `deepcopy` give back the same object, a pickle holds
    the arguments of `load_backbone` only. All methods may be called
    from several threads.

    Attributes:
        name: the `model` argument it was loaded with.
        pretrained: tag or checkpoint path, None where `name` says it all.
        device: where the towers are.
        dtype: number format of the towers.
        model: the open_clip module itself, in evaluation mode and without gradients.
        fingerprint: short digest of weights, architecture, evaluation transform and tokenizer; the same in
            every process, on every device and in every dtype.
        context_length: most tokens of one prompt, start and end included.
        logit_scale: what cosine similarities are multiplied by to give logits.
        logit_bias: what is added to them; 0.0 except for SigLIP.
        trims_context: whether texts are encoded on the filled part of the context only.
        shares_prefixes: whether what they have in common at their beginning is computed once.
        lock: held while features are computed and kept, so that two threads never compute the same.
        image_memo: features of images by content.
        text_memo: class features by template and classes.
        cache_dir: where its downloads are kept.
        cpu_threads: how many threads its passes on a CPU take, and why.
        downloads: whether files of it may be fetched; see `load_backbone`.
    """

    def __init__(
        self,
        *,
        name: str,
        pretrained: str | None,
        model: Any,
        tokenizer: Any,
        transform: Callable[[Image.Image], Tensor],
        facts: Mapping[str, Any],
        device: torch.device,
        dtype: torch.dtype,
        cache_dir: str | None = None,
        downloads: Downloads = "allowed",
    ) -> None:
        """Take over a float32 model on the CPU; digest and self-check come before the move to `device`."""
        self._tokens = Tokens(tokenizer)
        if not self._tokens.agrees(PROBES):
            raise ModelError(f"the tokenizer of {name!r} pads in a way that ipo_dspy does not know; take another model")
        self._transform = transform
        self.name, self.pretrained, self.device, self.dtype = name, pretrained, device, dtype
        self.cache_dir, self.downloads = cache_dir, downloads
        self.context_length = self._tokens.context_length
        self.model: Any = model.eval().requires_grad_(False)
        self.logit_scale = float(model.logit_scale.exp())
        bias: Any = getattr(model, "logit_bias", None)
        self.logit_bias = 0.0 if bias is None else float(bias)
        self.fingerprint = _fingerprint(model, {**facts, "tokenizer": self._tokens.facts})
        self.cpu_threads: CpuThreads = choose_threads(model)
        self.lock = threading.RLock()
        self.image_memo, self.text_memo = Memo(_IMAGE_FLOATS), Memo(_TEXT_FLOATS)
        self.trims_context = _trims_context(model, self._tokens)
        self.shares_prefixes = _shares_prefixes(model, self._tokens)
        self.model.to(device=device, dtype=dtype)
        self._learned = False
        self._encode_image: Callable[[Tensor], Tensor] = functools.partial(self.model.encode_image, normalize=False)

    def with_image_encoder(self, encode: Callable[[Tensor], Tensor], learned: str) -> "Backbone":
        """The same model with another way from pixels to features, such as with learned visual prompts.

        It shares the towers, the tokenizer and what is known of texts; what is known of images is its own. It lives in
        this process only: a program that is saved under it says so by its fingerprint.

        Args:
            encode: images [N, 3, H, W] as `preprocess` makes them, on `device` and in the number format of the
                towers, to features [N, D]; called without gradients.
            learned: digest of what it depends on besides this model.
        """
        other = object.__new__(Backbone)
        other.__dict__.update(self.__dict__)
        other._encode_image, other.image_memo, other._learned = encode, Memo(_IMAGE_FLOATS), True
        other.fingerprint = hashlib.sha256(f"{self.fingerprint} {learned}".encode()).hexdigest()[:16]
        return other

    def preprocess(self, image: Image.Image) -> Tensor:
        """The evaluation transform: one image to [3, H, W], on the CPU."""
        return self._transform(image)

    def batch(self, images: Sequence[Tensor]) -> Tensor:
        """Preprocessed images as one batch [N, 3, H, W]; for a GPU in pinned memory, from which it is quickest fed."""
        room = torch.empty(len(images), *images[0].shape, pin_memory=self.device.type == "cuda")
        return torch.stack(list(images), out=room)

    @_forward_pass
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Preprocessed images [N, 3, H, W] to normalised float32 features [N, D] on `device`."""
        near = pixels.to(self.device, non_blocking=self.device.type == "cuda").to(self.dtype)
        return _normalised(self._encode_image(near))

    def token_ids(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Token ids of each text, start and end included: never cut, not padded."""
        with self.lock:  # the fast tokenizers of transformers refuse two threads at once
            return self._tokens.ids(texts)

    @_forward_pass
    def encode_tokens(self, ids: Sequence[tuple[int, ...]]) -> Tensor:
        """M token lists to normalised float32 features [M, D] on `device`, in one pass of the tower.

        Raises:
            InputError: no list, or one that is longer than the context.
        """
        if not self.trims_context:
            return self.encode_tokens_plain(ids)
        return _normalised(_trimmed_text(self.model, self.token_table(ids)))

    @_forward_pass
    def encode_shared(self, ids: Sequence[TokenList]) -> Tensor:
        """M distinct, sorted token lists to normalised float32 features [M, D]; only where `shares_prefixes`."""
        tower = getattr(self.model, "text", self.model)
        odd = [row for row in ids if not prefix.fits(tower, row)]
        if not odd:
            return _normalised(_shared_text(self.model, ids))
        rest = [row for row in ids if prefix.fits(tower, row)]
        parts = [self.encode_tokens_plain(odd), *([self.encode_shared(rest)] if rest else [])]
        place = {row: index for index, row in enumerate([*odd, *rest])}
        return torch.cat(parts)[[place[row] for row in ids]]

    @_forward_pass
    def encode_tokens_plain(self, ids: Sequence[tuple[int, ...]]) -> Tensor:
        """The slow twin of `encode_tokens`: the model's own `encode_text` on the full context."""
        self._check_lengths(ids)
        tokens = self._tokens.padded(ids, self.context_length).to(self.device)  # [M, L]
        return _normalised(self.model.encode_text(tokens, normalize=False))

    def check_loaded(self) -> None:
        """See that loading it again gives the same model.

        Raises:
            ModelError: it has an image encoder of this process.
        """
        if self._learned:
            raise ModelError(
                f"{self.name!r} with an image encoder of its own lives in this process only; load the model elsewhere "
                "and give it the encoder there: with_image_encoder(...)"
            )

    @property
    def identity(self) -> dict[str, str]:
        """What a saved program says of its model; JSON-ready, without the device."""
        return {
            "model": self.name,
            "pretrained": self.pretrained or "",
            "fingerprint": self.fingerprint,
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def token_table(self, ids: Sequence[TokenList]) -> Tensor:
        """M token lists as one padded table [M, L] on `device`, L the longest of these.

        Raises:
            InputError: no list, or one that is longer than the context.
        """
        self._check_lengths(ids)
        return self._tokens.padded(ids, max(map(len, ids))).to(self.device)

    def _check_lengths(self, ids: Sequence[tuple[int, ...]]) -> None:
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
        where: dict[str, Any] = {
            "device": str(self.device),
            "dtype": self.identity["dtype"],
            "downloads": self.downloads,
        }
        return functools.partial(load_backbone, self.name, self.pretrained, **where), ()

    def __repr__(self) -> str:
        of = f", {self.pretrained!r}" if self.pretrained else ""
        return f"Backbone({self.name!r}{of}, {self.identity['dtype']} on {self.device}, {self.fingerprint})"


_loaded: dict[Hashable, Backbone] = {}
_load_lock = threading.Lock()


def load_backbone(
    model: str = "ViT-B-16-quickgelu",
    pretrained: str | None = "openai",
    *,
    device: str = "auto",
    dtype: str = "float32",
    cache_dir: str | None = None,
    downloads: Downloads = "allowed",
) -> Backbone:
    """Load a CLIP; the same arguments in one process give the same object.

    Args:
        model: an open_clip architecture such as `ViT-B-16-quickgelu`, `local-dir:PATH` with an
            open_clip_config.json and weights in it, or `hf-hub:ORG/NAME`.
        pretrained: a tag such as `openai`, or the path of a checkpoint; ignored for `local-dir:` and
            `hf-hub:`. None leaves a plain architecture with random weights.
        device: `auto` (cuda, else mps, else cpu) or a torch device.
        dtype: `float32`, `float16` or `bfloat16`, for the towers.
        cache_dir: where downloads are kept; the Hugging Face default if None.
        downloads: `allowed`; `refused` for a model that a file names, of which only what is on this machine is
            read; or `anonymous`, for such a model that may be fetched, without the user's hub token.

    Raises:
        ModelError: an unknown name or tag, weights that are not here and cannot be fetched, a file that is
            no checkpoint of this architecture, or a device that this machine does not have.
    """
    where = _device(device)
    if dtype not in DTYPES:
        raise ModelError(f"unknown dtype {dtype!r}; write one of {', '.join(map(repr, DTYPES))}")
    if model.startswith((LOCAL, HUB)):
        pretrained = None
    key = (model, pretrained, str(where), dtype, cache_dir, stamp(model, pretrained))
    with _load_lock:
        if key not in _loaded:
            _loaded[key] = _load(model, pretrained, where, DTYPES[dtype], cache_dir, downloads)
        if downloads == "allowed":
            _loaded[key].downloads = downloads  # a file had named it before the user did
        return _loaded[key]


def reload(backbone: Backbone, dtype: str) -> Backbone:
    """The weights of a backbone in another format, read once more; nobody but the caller keeps it.

    Raises:
        ModelError: they cannot be read, do not fit beside it, or are others now, as random ones are each time.
    """
    backbone.check_loaded()
    again = _load(
        backbone.name, backbone.pretrained, backbone.device, DTYPES[dtype], backbone.cache_dir, backbone.downloads
    )
    if again.fingerprint != backbone.fingerprint:
        raise ModelError(f"{backbone.name!r} has other weights each time it is loaded; name pretrained weights")
    return again


def _load(
    name: str,
    pretrained: str | None,
    device: torch.device,
    dtype: torch.dtype,
    cache_dir: str | None,
    downloads: Downloads,
) -> Backbone:
    with _quiet_open_clip(), hub_access(downloads):
        source = resolve(import_open_clip(), name, pretrained, cache_dir, downloads)
        fetch_text_parts(source, cache_dir, downloads)
        try:
            model, transform, preprocess = _build(source, cache_dir)
            # Over a model's own settings: a tokenizer's Python file would be run.
            trust = {"trust_remote_code": False} if source.config["text_cfg"].get("hf_tokenizer_name") else {}
            tokenizer = import_open_clip().get_tokenizer(source.tokenizer, cache_dir=cache_dir, **trust)
            return Backbone(
                name=name,
                pretrained=pretrained,
                model=model,
                tokenizer=tokenizer,
                transform=transform,
                facts={"architecture": source.config, "preprocess": preprocess},
                device=device,
                dtype=dtype,
                cache_dir=cache_dir,
                downloads=downloads,
            )
        except ModelError:
            raise
        except pickle.UnpicklingError as error:
            raise ModelError(
                f"weights of {source.shown} hold more than tensors, or are no checkpoint at all; unpickling "
                "is refused because it could run code: convert them to .safetensors"
            ) from error
        except _load_errors() as error:
            raise ModelError(
                f"{source.shown} does not load as an open_clip model ({brief(error)}); check that the "
                "weights belong to this architecture and are whole"
            ) from error


def _build(source: Source, cache_dir: str | None) -> tuple[nn.Module, Callable[[Image.Image], Tensor], dict[str, Any]]:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    if not source.has_weights:
        logger.warning("%s has random weights, its scores mean nothing; pass pretrained=", source.shown)
    model = import_open_clip().create_model(
        source.architecture,
        source.checkpoint,
        force_preprocess_cfg=source.preprocess,
        require_pretrained=source.has_weights,
        pretrained_text=False,
        cache_dir=cache_dir,
        weights_only=True,
    )
    preprocess = dict(model.visual.preprocess_cfg)
    return model, image_transform_v2(PreprocessCfg(**preprocess), is_train=False), preprocess


def _device(device: str) -> torch.device:
    mps = torch.backends.mps.is_available()
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    try:
        where = torch.device(device)
    except RuntimeError as error:
        raise ModelError(f"unknown device {device!r}; write 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'") from error
    missing = where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count()
    if missing or (where.type == "mps" and not mps):
        raise ModelError(f"device {device!r} is not on this machine; write device='auto' or device='cpu'")
    return where


def _normalised(features: Tensor) -> Tensor:
    return F.normalize(features.float(), dim=-1)


def _trimmed_text(model: Any, tokens: Tensor) -> Tensor:
    """`encode_text` of a causal tower that pools at the end token, on L tokens only: [M, L] -> [M, D]."""
    tower = getattr(model, "text", model)
    dtype = tower.transformer.get_cast_dtype()
    length = tokens.shape[1]
    x = tower.token_embedding(tokens).to(dtype) + tower.positional_embedding[:length].to(dtype)  # [M, L, W]
    x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])  # [M, L, W]
    return projected(tower, x[torch.arange(len(tokens), device=x.device), end_places(tower, tokens)])  # [M, D]


def end_places(tower: Any, tokens: Tensor) -> Tensor:
    """Where a causal text tower that pools at the end token reads: of tokens [M, L], [M]."""
    return tokens.argmax(dim=-1) if _pool(tower) == "argmax" else (tokens == _end_id(tower)).int().argmax(dim=-1)


def _shared_text(model: Any, ids: Sequence[TokenList]) -> Tensor:
    """`encode_text` of a causal tower, each distinct prefix once: M sorted lists to [M, D]."""
    tower = getattr(model, "text", model)
    shared = plan([(*row, *prefix.tail(tower)) for row in ids])
    features = projected(tower, prefix.run(tower, shared))
    return features[torch.from_numpy(shared.places).to(features.device)]


def projected(tower: Any, ends: Tensor) -> Tensor:
    """Hidden states at the ends [M, W] to features [M, D]."""
    x = tower.ln_final(ends)
    projection = tower.text_projection
    features: Tensor = x if projection is None else projection(x) if callable(projection) else x @ projection
    return features


def _trims_context(model: Any, tokens: Tokens) -> bool:
    """Whether `_trimmed_text` may stand in for this model's `encode_text`."""
    tower = getattr(model, "text", model)
    bare = getattr(tower, "cls_emb", None) is None and not getattr(tower, "output_tokens", False)
    if not (bare and _is_causal(tower) and _pool(tower) in ("argmax", "eos") and tokens.pads_right):
        return False
    ids = [row for row in tokens.ids(PROBES) if len(row) <= tokens.context_length]
    batches = [ids, *([row] for row in ids)] if ids else []  # every length alone, and shorter beside longer
    with torch.no_grad():
        for batch in batches:
            plain = _normalised(model.encode_text(tokens.padded(batch, tokens.context_length), normalize=False))
            trimmed = _normalised(_trimmed_text(model, tokens.padded(batch, max(map(len, batch)))))
            if not torch.allclose(plain, trimmed, rtol=0, atol=TRIM_TOLERANCE):
                return False
    return bool(batches)


def _shares_prefixes(model: Any, tokens: Tokens) -> bool:
    """Whether `_shared_text` may stand in for this model's `encode_text`."""
    tower = getattr(model, "text", model)
    if not (_is_causal(tower) and tokens.pads_right and prefix.shares_prefixes(tower)):
        return False
    if not (prefix.tail(tower) or _pool(tower) in ("argmax", "eos")):
        return False
    texts = [*PROBES, *(f"{text} {more}" for text in PROBES for more in ("a", "of a dog", "of a cat, seen"))]
    ids = sorted({row for row in tokens.ids(texts) if len(row) <= tokens.context_length})
    with torch.no_grad():
        plain = _normalised(model.encode_text(tokens.padded(ids, tokens.context_length), normalize=False))
        return torch.allclose(plain, _normalised(_shared_text(model, ids)), rtol=0, atol=TRIM_TOLERANCE)


def _is_causal(tower: Any) -> bool:
    parts = ("transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection")
    mask = getattr(tower, "attn_mask", None)
    if not all(hasattr(tower, part) for part in parts) or mask is None:
        return False
    return torch.equal(mask, torch.full_like(mask, float("-inf")).triu(1))


def _pool(tower: Any) -> str | None:
    return getattr(tower, "text_pool_type", None) or getattr(tower, "pool_type", None)  # CLIP, or its own class


def _end_id(tower: Any) -> int:
    return int(tower.text_eos_id if hasattr(tower, "text_eos_id") else tower.eos_id)


def _fingerprint(model: nn.Module, facts: Mapping[str, Any]) -> str:
    """Digest of every weight and of `facts`; tensors are hashed side by side because models reach 10 GB."""
    with ThreadPoolExecutor() as pool:
        parts = list(pool.map(_digest, sorted(model.state_dict().items())))
    told = json.dumps({**facts, "kind": type(model).__name__}, sort_keys=True, default=str)
    return hashlib.sha256("\n".join([*parts, told]).encode()).hexdigest()[:16]


def _digest(item: tuple[str, Tensor]) -> str:
    name, tensor = item
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    head = hashlib.sha256(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    head.update(flat.numpy().data)
    return head.hexdigest()


def import_open_clip() -> Any:
    """open_clip, after making sure that the torchvision it needs can be imported."""
    mend_torchvision()
    import open_clip

    return open_clip


def mend_torchvision() -> None:
    """Make a torchvision importable that was built for another torch, as the registry's is beside a CPU-only one."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        # It is built for CUDA and cannot load its operators. Its transforms, all that is needed here and by
        # transformers, only want the schemas to exist.
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float threshold) -> Tensor")


@contextlib.contextmanager
def _quiet_open_clip() -> Iterator[None]:
    """Drop open_clip's lines: it logs to the root logger, whose first line would also set up a handler.

    What it reports as an error it raises too, and that is told in our own words.
    """
    root = logging.getLogger()

    def foreign(record: logging.LogRecord) -> bool:
        return "open_clip" not in Path(record.pathname).parts

    last = None if root.handlers else logging.lastResort  # keeps logging.info() from calling basicConfig()
    root.addFilter(foreign)
    if last is not None:
        root.addHandler(last)
    try:
        yield
    finally:
        root.removeFilter(foreign)
        if last is not None:
            root.removeHandler(last)


def _load_errors() -> tuple[type[Exception], ...]:
    """What open_clip, torch and safetensors raise for weights or a config that do not fit one another."""
    from safetensors import SafetensorError

    builtin = (
        RuntimeError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        AssertionError,
        EOFError,
        OSError,
    )
    return (*builtin, StopIteration, SafetensorError)

"""Encode images to CLIP features: decode while the tower encodes, and cache by content.

Reading and decoding run in a few threads ahead of the tower with a bounded look-ahead, so memory holds two batches of
pixels and not the data set. An image whose content this model has seen before, in this process or another, is read and
hashed but neither decoded nor encoded (`clip.feature_cache`). Each encoded batch is stored before the next is begun.

The model's evaluation transform is applied to images that are upright, RGB, and of 8 bits (`clip.image_pixels`).

Letters: N images, D width of the features.
"""

import functools
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from torch import Tensor

from ipo_dspy.argument_checks import require_int
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.feature_cache import FeatureCache
from ipo_dspy.clip.feature_dtype import FeatureBuffer
from ipo_dspy.clip.image_io import ImageSource as ImageSource
from ipo_dspy.clip.image_io import identify, is_remote
from ipo_dspy.clip.image_io import open_image as open_image
from ipo_dspy.errors import DataError, Hint, ImageError

MAX_NAMED = 10
"""Maximum number of unreadable images named in one message."""
_DEFAULT_THREADS = min(16, os.cpu_count() or 1)


@dataclass(frozen=True)
class EncodedImages:
    """Features of the images that could be read."""

    features: Tensor  # [N, D], float32 or, of very many images, float16 (`clip.feature_dtype`), normalized, on the CPU
    kept: tuple[int, ...]  # for each row of `features`, the index of its source
    keys: tuple[str, ...]  # for each row, a hash of the image's content
    skipped: tuple[tuple[int, str], ...]  # index and message of each source that could not be read

    def __repr__(self) -> str:
        return f"EncodedImages({len(self.kept)} of width {self.features.shape[-1]}, {len(self.skipped)} skipped)"


class _Prepared(NamedTuple):
    """The content key of a source, and its cached features or else its pixels."""

    key: str
    features: Tensor | None
    pixels: Tensor | None


_Result = TypeVar("_Result")


def encode_images(
    backbone: Backbone,
    sources: Sequence[ImageSource],
    *,
    batch_size: int = 64,
    num_threads: int | None = None,
    skip_unreadable: bool = False,
    allow_url: bool = False,
    checked: bool = False,
    on_disk: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> EncodedImages:
    """Encode images in order, each distinct content once.

    Args:
        backbone: the model.
        sources: the images; see `ImageSource`.
        batch_size: images in one pass of the tower.
        num_threads: threads that decode; by default one a core, at most 16.
        skip_unreadable: skip images that cannot be read and name them in `skipped`.
        allow_url: fetch http and https URLs.
        checked: `check_images` has seen them, so they need not be decoded once more.
        on_disk: read and write the cache on disk; otherwise features are kept in memory only.
        progress: called with the number of images done and the number of all, now and then and at the end.

    Raises:
        ImageError: images that cannot be read, unless `skip_unreadable`; all of them are named at once. On the CPU,
            where the tower is the slow part, before the first is encoded.
        DataError: no images, or none that can be read.
        InputError: `batch_size` is below 1, or `IPO_DSPY_CACHE_LIMIT` is not a size.
    """
    require_int("batch_size", batch_size, 1)
    if not sources:
        raise DataError("no images to encode; pass at least one")
    rows, kept_indices, keys = FeatureBuffer(len(sources)), list[int](), list[str]()
    bad: list[tuple[int, ImageError]] = []
    waiting: list[_Prepared] = []
    threads = num_threads or _DEFAULT_THREADS
    if not (skip_unreadable or checked) and len(sources) > batch_size and backbone.device.type == "cpu":
        check_images(sources, backbone=backbone, num_threads=threads, on_disk=on_disk)
    cache = FeatureCache(backbone, on_disk=on_disk)
    prepare = functools.partial(_prepare, backbone, cache, allow_url=allow_url)
    for index, outcome in enumerate(_in_order(prepare, sources, batch_size + threads, threads)):
        if isinstance(outcome, ImageError):
            bad.append((index, outcome))
        elif skip_unreadable or not bad:  # the rest is read only to report all bad images at once
            waiting.append(outcome)
            kept_indices.append(index)
            keys.append(outcome.key)
        if len(waiting) == batch_size or index == len(sources) - 1:
            rows.add(_encode(backbone, cache, waiting))
            waiting.clear()
            if progress is not None:
                progress(index + 1, len(sources))
    cache.record_uses()
    if bad and not skip_unreadable:
        raise _refused(bad, len(sources)) from bad[0][1]
    if not kept_indices:
        raise DataError(f"none of {len(sources)} images can be read; the first: {bad[0][1]}")
    return EncodedImages(
        rows.features, tuple(kept_indices), tuple(keys), tuple((index, str(error)) for index, error in bad)
    )


def check_images(
    sources: Sequence[ImageSource],
    *,
    backbone: Backbone | None = None,
    num_threads: int | None = None,
    on_disk: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Decode all images once, to refuse a bad one before slow work; URLs are left for later, to be fetched once.

    With a backbone, those that it has encoded before are not decoded again; `on_disk` is as for `encode_images`.
    `progress` is called after each image with the number of images done and the number of all.

    Raises:
        ImageError: images that cannot be read: how many, and the first `MAX_NAMED` by name.
    """
    threads = num_threads or _DEFAULT_THREADS
    unreadable = functools.partial(_unreadable, None if backbone is None else FeatureCache(backbone, on_disk=on_disk))
    bad: list[tuple[int, ImageError]] = []
    for index, error in enumerate(_in_order(unreadable, sources, 2 * threads, threads)):
        if error is not None:
            bad.append((index, error))
        if progress is not None:
            progress(index + 1, len(sources))
    if bad:
        raise _refused(bad, len(sources)) from bad[0][1]


def _refused(bad: Sequence[tuple[int, ImageError]], total: int) -> ImageError:
    if total == 1:
        return bad[0][1]
    return refusal([str(error) for _, error in bad], total, f"image {bad[0][0] + 1} of {total}")


def refusal(messages: Sequence[str], total: int, place: str = "") -> ImageError:
    """Return one error that names the unreadable images; `place` says where a single one is."""
    if len(messages) == 1:
        where = f" ({place})" if place else ""
        return ImageError(f"{messages[0]}{where}", hint=Hint("pass {skip_unreadable} to skip it", skip_unreadable=True))
    named = [f"  {message}" for message in messages[:MAX_NAMED]]
    rest = [f"  and {len(messages) - MAX_NAMED} more"] if len(messages) > MAX_NAMED else []
    fact = "\n".join([f"{len(messages)} of {total} images cannot be read:", *named, *rest])
    return ImageError(fact, hint=Hint("pass {skip_unreadable} to skip them", skip_unreadable=True))


def _unreadable(cache: FeatureCache | None, source: ImageSource) -> ImageError | None:
    if is_remote(source):
        return None
    try:
        key, decode = identify(source)
        if cache is None or cache.get(key) is None:
            decode()
    except ImageError as error:
        return error
    return None


def _in_order(
    function: Callable[[ImageSource], _Result], sources: Sequence[ImageSource], ahead: int, threads: int
) -> Iterator[_Result]:
    """Yield the results of a function for all sources in order, computed in threads, at most `ahead` in advance."""
    if len(sources) == 1:  # starting a thread takes longer than finding the features in the cache
        yield function(sources[0])
        return
    pool = ThreadPoolExecutor(min(threads, len(sources)), thread_name_prefix="ipo-decode")
    futures: deque[Future[_Result]] = deque()
    try:
        for source in sources:
            futures.append(pool.submit(function, source))
            if len(futures) > ahead:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare(
    backbone: Backbone, cache: FeatureCache, source: ImageSource, *, allow_url: bool
) -> _Prepared | ImageError:
    try:
        key, decode = identify(source, allow_url=allow_url)
        features = cache.get(key)
        return _Prepared(key, features, None if features is not None else backbone.preprocess(decode()))
    except ImageError as error:
        return error


def _encode(backbone: Backbone, cache: FeatureCache, waiting: Sequence[_Prepared]) -> list[Tensor]:
    """Return the features [D] of each image; those that are not cached go through the tower together."""
    features_by_key = {image.key: image.features for image in waiting if image.features is not None}
    missing = {image.key: image.pixels for image in waiting if image.pixels is not None}
    encoded: dict[str, Tensor] = {}
    with backbone.lock:
        for key in missing.keys() - features_by_key.keys():  # another thread or process may have been quicker
            if (features := cache.get(key)) is not None:
                features_by_key[key] = features
        new = {key: pixels for key, pixels in missing.items() if key not in features_by_key}
        if new:
            rows = backbone.encode_pixels(backbone.batch(list(new.values()))).cpu()  # [N, D]
            encoded = {key: row.clone() for key, row in zip(new, rows, strict=True)}  # a view keeps the batch alive
            cache.store_in_memory(encoded)
    cache.store_on_disk(encoded)  # not under the lock, because the disk is slow
    features_by_key |= encoded
    return [features_by_key[image.key] for image in waiting]

"""The images that a caller passes at once: a list in any of their forms, an array, a tensor, or a column of a table."""

import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import dspy
from PIL import Image

from ipo_dspy.clip.image_io import name_image
from ipo_dspy.clip.transformers_files import is_folder
from ipo_dspy.errors import DataError, ImageError

T = TypeVar("T")
_ONE_IMAGE = (str, bytes, bytearray, io.BytesIO, os.PathLike, Image.Image, dspy.Image, dspy.Example)


def image_list(images: Any, argument: str) -> list[Any]:
    """Return images as a list.

    Raises:
        ImageError: one image instead of several, a mapping, or no images at all.

    >>> import numpy as np
    >>> len(image_list(np.zeros((3, 8, 8, 3)), "images")), image_list(np.array(["a.png", "b.png"]), "images")
    (3, [np.str_('a.png'), np.str_('b.png')])
    """
    if isinstance(images, Mapping):
        raise ImageError(f"{argument} must be a list of images, got a {type(images).__name__}; pass its values")
    is_one = isinstance(images, _ONE_IMAGE) or getattr(images, "ndim", 1) not in {1, 4}
    if isinstance(images, str | os.PathLike) and is_folder(Path(images)):
        folder = os.fspath(images)
        remedy = f"pass [example.image for example in load_image_folder({folder!r:.300})], or the paths of its files"
        raise ImageError(f"{argument} must be a list of images, got the folder {folder!r:.300}; {remedy}")
    if is_one or not isinstance(images, Iterable):
        raise ImageError(f"{argument} must be a list of images, got one {name_image(images)}; pass [image]")
    return list(images)


def example_list(examples: Iterable[T], argument: str) -> list[T]:
    """Return labeled examples as a list.

    Raises:
        DataError: something else, such as the path of the examples.
    """
    if isinstance(examples, str | os.PathLike):
        path = os.fspath(examples)
        remedy = f"pass load_image_folder({path!r:.300})"
        raise DataError(f"{argument} must be a list of labeled examples, got the path {path!r:.300}; {remedy}")
    is_iterable = isinstance(examples, Iterable) or hasattr(examples, "__getitem__")  # a torch data set has no __iter__
    listed: list[Any] = list(examples) if is_iterable else [examples]
    if strays := [type(each).__name__ for each in listed if not isinstance(each, dspy.Example)]:
        remedy = "pass dspy.Example(image=..., label=...).with_inputs('image') for each"
        raise DataError(f"{argument} must be a list of labeled examples, got a {strays[0]}; {remedy}")
    return listed

"""Pixels as the models take them: upright, RGB, 8 bits a channel.

Floating-point and 16- or 32-bit images carry no statement of their range, so it is taken from their values
(`scale_to_8_bits`); a plain conversion would clip them to black or white. Transparency is dropped, as by open_clip.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

if TYPE_CHECKING:
    from torch import Tensor

SHORTEST_SIDE = 224
"""In pixels; smaller images are enlarged for language models, because small models see little in them."""
_ORIENTATION = 0x112
_SAMPLE_FORMAT, _UNSIGNED = 0x153, 1
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DEPTHS = (8, 10, 12, 14, 16)
"""Bits of cameras, microscopes, and X-ray detectors; all but the first are stored in 16."""


def decoded(image: Image.Image) -> Image.Image:
    """Return an opened image as the models take it: all of its pixels, upright, in mode RGB."""
    image.load()
    turned = upright(image)
    if turned.mode.startswith(("I", "F")):
        values = np.asarray(turned)
        if image.mode == "I" and getattr(image, "tag_v2", {}).get(_SAMPLE_FORMAT) == (_UNSIGNED,):
            values = values.view(np.uint32)  # Pillow reads unsigned 32-bit TIFFs as signed
        return Image.fromarray(scale_to_8_bits(values)).convert("RGB")
    if turned.mode == "P" and "transparency" in turned.info:
        turned = turned.convert("RGBA")  # the same colors, without Pillow's warning
    return turned.convert("RGB")


def upright(image: Image.Image) -> Image.Image:
    """Turn a loaded image by the orientation in its EXIF data; one whose EXIF data cannot be read is upright.

    No other tag is looked at, and nothing is written: EXIF data of ordinary files breaks the type rules often enough.
    """
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - Pillow's EXIF parser has no closed list of errors
        turn = None
    return image if turn is None else image.transpose(turn)


def fit_for_lm(image: Image.Image, longest_side: int) -> Image.Image:
    """Return an image as language models take it: scaled down to the longest side, or enlarged to `SHORTEST_SIDE`.

    The longest side is never exceeded, in pixels.

    >>> [fit_for_lm(Image.new("RGB", size), 512).size for size in ((2048, 1024), (32, 64), (32, 320))]
    [(512, 256), (224, 448), (51, 512)]
    """
    fitted = image.copy()
    fitted.thumbnail((longest_side, longest_side))
    return ImageOps.scale(fitted, max(1, min(SHORTEST_SIDE / min(fitted.size), longest_side / max(fitted.size))))


def from_array(array: NDArray[Any]) -> Image.Image:
    """Return the RGB image of an array [H, W], [H, W, 1], [H, W, 3], or [H, W, 4] of numbers.

    Raises:
        ValueError: another shape or type.
    """
    channels = array.shape[2:] or (1,)
    if array.ndim not in {2, 3} or 0 in array.shape or channels[0] not in {1, 3, 4} or array.dtype.kind not in "buif":
        raise ValueError(f"it has shape {array.shape} and type {array.dtype}; pass numbers [H, W], or RGB [H, W, 3]")
    array = array[..., 0] if channels == (1,) and array.ndim == 3 else array[..., :3] if array.ndim == 3 else array
    pixels = array if array.dtype == np.uint8 else scale_to_8_bits(array)
    return Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")


def from_tensor(tensor: "Tensor") -> Image.Image:
    """Return the RGB image of a PyTorch tensor [H, W], [1, H, W], [3, H, W], or [4, H, W]: uint8, or floats in 0..1.

    Raises:
        ValueError: another shape or type, or floats outside 0..1, as after normalization.
    """
    if tensor.ndim not in {2, 3} or (tensor.ndim == 3 and len(tensor) not in {1, 3, 4}) or tensor.is_complex():
        raise ValueError("pass a tensor [H, W], or RGB [3, H, W], of uint8 or of floats in 0..1")
    plain = tensor.detach().cpu()
    if plain.is_floating_point():
        low, high = plain.float().aminmax() if plain.numel() else (0.0, 0.0)
        if not 0 <= low <= high <= 1:
            raise ValueError(f"it has values from {low:.3g} to {high:.3g}; pass floats in 0..1, before normalization")
        plain = plain.float()  # NumPy has no bfloat16
    array = plain.numpy()
    return from_array(array if array.ndim == 2 else array.transpose(1, 2, 0))


def scale_to_8_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale to 0..255 by the range that the values show.

    Floats within 0..1 or -1..1 are scaled from that range. Values from 0 up have the smallest of 8, 10, 12, 14, and
    16 bits that holds the greatest, so 12-bit data in a 16-bit file is not nearly black. Others are scaled from their
    own range. NaN becomes black, infinity white or black.

    >>> scale_to_8_bits(np.array([0.0, 0.5, 1.0])), scale_to_8_bits(np.array([0, 4095], np.uint16))
    (array([  0, 128, 255], dtype=uint8), array([  0, 255], dtype=uint8))

    Raises:
        ValueError: no value is finite.
    """
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    pixels = values.astype(np.float32)
    finite = pixels[np.isfinite(pixels)]
    if not finite.size:
        raise ValueError("none of its values is finite")
    low, high = _value_range(float(finite.min()), float(finite.max()), floating=values.dtype.kind == "f")
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = np.clip((pixels - low) / (high - low) * 255, 0, 255)
    eight_bits: NDArray[np.uint8] = np.rint(np.nan_to_num(scaled, nan=0.0)).astype(np.uint8)
    return eight_bits


def _value_range(low: float, high: float, *, floating: bool) -> tuple[float, float]:
    """Return the values that become 0 and 255."""
    if floating and low >= -1 and high <= 1:
        return (0.0 if low >= 0 else -1.0), 1.0
    if low < 0:
        return low, max(high, low + 1)
    return 0.0, next((2.0**bits - 1 for bits in _DEPTHS if high < 2**bits), high)

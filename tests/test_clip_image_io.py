"""Images of all kinds are read with the right pixels; every one that cannot be read is one error that names it."""

import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from ipo_dspy.clip import image_formats, image_io
from ipo_dspy.clip.image_features import check_images, encode_images
from ipo_dspy.clip.image_formats import image_suffixes, is_image_file, readable_formats
from ipo_dspy.clip.image_io import open_image
from ipo_dspy.clip.image_pixels import scale_to_8_bits
from ipo_dspy.errors import ImageError

GRAY = np.add.outer(np.arange(0, 128, 4), np.arange(0, 128, 4)).astype(np.uint8)  # [32, 32], 0..248


def picture(size: tuple[int, int] = (64, 48)) -> Image.Image:
    small = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BILINEAR)


def encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


# Pixels


@pytest.mark.parametrize(
    "values",
    [
        GRAY.astype(np.float32) / 255,
        GRAY.astype(np.float32) / 127.5 - 1,
        GRAY.astype(np.float32),
        GRAY.astype(np.float32) * 257,
        GRAY.astype(np.uint16) * 257,
        GRAY.astype(np.uint16) * 16,
        GRAY.astype(np.uint16) * 4,
        GRAY.astype(np.uint16),
        GRAY.astype(np.int32) * 257,
        GRAY.astype(np.int32) * 2**22,
    ],
    ids=["0..1", "-1..1", "0..255", "0..65535", "16 bits", "12 bits", "10 bits", "8 in 16 bits", "32 bits", "all 32"],
)
def test_a_tiff_of_any_number_format_looks_as_in_8_bits(values: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(values).save(tmp_path / "x.tif")
    found = np.asarray(open_image(tmp_path / "x.tif"), dtype=int)
    brightest = 255 if values.max() > 2**20 else GRAY.max()
    expected = GRAY.astype(float) * (brightest / GRAY.max())
    assert np.abs(found - expected[..., None]).max() <= 2


def test_the_brighter_half_of_an_unsigned_32_bit_tiff_is_bright() -> None:
    """Pillow writes signed samples alone: the tag of the sample format is changed in the file."""
    values = np.array([[0, 2**30], [2**31, 2**32 - 1]], np.uint32)
    data = encoded(Image.fromarray(values.view(np.int32)), "TIFF")
    signed, unsigned = (struct.pack("<HHIHH", 339, 3, 1, form, 0) for form in (2, 1))
    assert data.count(signed) == 1
    assert np.asarray(open_image(data.replace(signed, unsigned)))[..., 0].tolist() == [[0, 64], [128, 255]]


def test_values_that_are_no_numbers_do_not_darken_the_rest() -> None:
    values = np.array([[0, 0.5, 1, np.nan, np.inf, -np.inf]], np.float32)
    assert scale_to_8_bits(values).tolist() == [[0, 128, 255, 0, 255, 0]]
    assert scale_to_8_bits(np.array([-500, 0, 1500])).tolist() == [0, 64, 255]  # from least to greatest
    assert scale_to_8_bits(np.array([-3.0])).tolist() == [0]
    with pytest.raises(ImageError, match="none of its values is finite"):
        open_image(Image.fromarray(np.full((2, 2), np.nan, np.float32)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_orientation_turns_every_format_once(kind: str, orientation: int) -> None:
    if kind not in readable_formats():
        pytest.skip(f"no {kind} here")
    corner = Image.new("RGB", (64, 32))
    corner.paste("white", (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    corner.info["exif"] = exif.tobytes()  # pillow-heif writes the turn of the format itself from there
    file = io.BytesIO()
    corner.save(file, kind, **({} if kind == "HEIF" else {"exif": exif}))
    image = open_image(file.getvalue())
    assert image.size == ((64, 32) if orientation < 5 else (32, 64))
    at_right, at_bottom = orientation in {2, 3, 6, 7}, orientation in {3, 4, 7, 8}
    spot = image.getpixel((image.width - 8 if at_right else 8, image.height - 8 if at_bottom else 8))
    assert isinstance(spot, tuple)
    assert min(spot) > 200


def exif_block(tag: int, kind: int, count: int, value: bytes) -> bytes:
    """EXIF data with the orientation 6 and one other tag, whose value stands behind the tags."""
    first = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    second = struct.pack("<HHI", tag, kind, count) + (
        struct.pack("<I", 38) if len(value) > 4 else value.ljust(4, b"\0")
    )
    tags = sorted([first, second], key=lambda entry: entry[:2][::-1])
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + struct.pack("<H", 2) + b"".join(tags) + bytes(4) + value


RATIONAL, TEXT, BYTE, FLOAT, SIGNED = 5, 2, 1, 11, 10


@pytest.mark.parametrize(
    ("tag", "kind", "count", "value"),
    [
        (0x010F, RATIONAL, 1, struct.pack("<II", 3, 2)),  # Make
        (0x0131, FLOAT, 1, struct.pack("<f", 1.5)),  # Software
        (0x011A, TEXT, 3, b"72\0"),  # XResolution
        (0x011A, SIGNED, 1, struct.pack("<ii", -1, 0)),
        (0x0128, TEXT, 5, b"inch\0"),  # ResolutionUnit
        (0x0213, BYTE, 1, b"\1"),  # YCbCrPositioning
        (0x8825, TEXT, 3, b"5N\0"),  # GPS
    ],
)
@pytest.mark.parametrize("form", ["JPEG", "WEBP", "PNG"])
def test_odd_exif_tags_do_not_matter(tag: int, kind: int, count: int, value: bytes, form: str) -> None:
    file = io.BytesIO()
    picture((64, 48)).save(file, form, exif=exif_block(tag, kind, count, value))
    assert open_image(file.getvalue()).size == (48, 64)


def test_invalid_exif_data_means_upright() -> None:
    file = io.BytesIO()
    picture((64, 48)).save(file, "JPEG", exif=b"Exif\0\0" + b"neither II nor MM")
    assert open_image(file.getvalue()).size == (64, 48)


@pytest.mark.parametrize(
    "array",
    [
        np.asarray(picture()),
        np.dstack([np.asarray(picture()), np.zeros((48, 64), np.uint8)]),
        np.asarray(picture()) / 255,
        np.asarray(picture()).astype(np.uint16) * 257,
    ],
    ids=["RGB", "RGBA", "floats", "16 bits"],
)
def test_arrays_and_buffers_are_images(array: np.ndarray) -> None:
    assert np.abs(np.asarray(open_image(array), int) - np.asarray(picture(), int)).max() <= 1
    buffer = io.BytesIO(encoded(picture(), "PNG"))
    buffer.seek(0, os.SEEK_END)
    assert open_image(buffer).tobytes() == picture().tobytes()
    assert open_image(bytearray(buffer.getvalue())).tobytes() == picture().tobytes()


def test_gray_and_boolean_arrays_are_images() -> None:
    assert np.array_equal(np.asarray(open_image(GRAY))[..., 0], GRAY)
    assert np.array_equal(np.asarray(open_image(GRAY[..., None]))[..., 0], GRAY)
    assert open_image(np.eye(4, dtype=bool)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("array", [np.zeros((3, 32, 32)), np.zeros(5), np.zeros((0, 4)), np.full((4, 4), "a")])
def test_other_arrays_are_refused(array: np.ndarray) -> None:
    with pytest.raises(ImageError, match=r"image array \[.*is not an image: it has shape .*RGB \[H, W, 3\]"):
        open_image(array)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(32, 32, 3), r"pass a tensor \[H, W\], or RGB \[3, H, W\]"),
        (torch.zeros(1, 3, 32, 32), r"pass a tensor \[H, W\]"),
        (torch.zeros(3, 0, 32), "it has shape"),
        (torch.zeros(3, 8, 8) - 0.1, "values from -0.1 to -0.1; pass floats in 0..1, before normalization"),
        (torch.full((3, 8, 8), 255.0), "before normalization"),
        (torch.full((3, 8, 8), float("nan")), "before normalization"),
        (torch.zeros(3, 8, 8, dtype=torch.complex64), r"pass a tensor \[H, W\]"),
    ],
)
def test_other_tensors_are_refused(tensor: torch.Tensor, message: str) -> None:
    with pytest.raises(ImageError, match=rf"image tensor \[.*\] of (float32|complex64) is not an image: .*{message}"):
        open_image(tensor)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool])
def test_tensors_of_other_number_formats_are_images(dtype: torch.dtype) -> None:
    white = torch.full((3, 8, 8), 255 if dtype == torch.int64 else 1).to(dtype)
    assert open_image(white).getpixel((0, 0)) == (255, 255, 255)


# Damage


def error_of(source: image_io.ImageSource) -> str | None:
    """Return what is wrong with an image."""
    try:
        open_image(source)
    except ImageError as error:
        return str(error)
    return None


@pytest.mark.parametrize("kind", ["AVIF", "WEBP", "TIFF", "JPEG", "GIF", "PNG", "JPEG2000", "HEIF"])
@pytest.mark.parametrize("damage", ["cut", "cut in the header", "zeros", "garbage", "garbage behind the header"])
def test_damaged_files_are_read_or_one_error(kind: str, damage: str, tmp_path: Path) -> None:
    if kind not in readable_formats():
        pytest.skip(f"no {kind} here")
    whole = encoded(picture((256, 192)), kind)
    half, noise = len(whole) // 2, np.random.default_rng(1).bytes(len(whole))
    path = tmp_path / "bad.jpg"
    path.write_bytes(
        {
            "cut": whole[:half],
            "cut in the header": whole[:20],
            "zeros": whole[:half] + bytes(half),
            "garbage": noise,
            "garbage behind the header": whole[:40] + noise[40:],
        }[damage]
    )
    message = error_of(path)
    if message is None:  # decoders make something of many
        assert damage.startswith(("zeros", "garbage behind"))
        return
    assert message.startswith((f"image '{path}' is ", f"image '{path}' cannot be read as an image; "))
    assert "\n" not in message
    assert ("cannot be read as an image" in message) == (damage == "garbage")


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_an_avif_whose_end_is_zeros_is_one_error() -> None:
    """As left by a download that allocates the file first; libavif's errors are RuntimeErrors."""
    whole = encoded(picture(), "AVIF")
    cut = (whole[:end] + bytes(len(whole) - end) for end in range(len(whole) // 6, len(whole), 11))
    messages = [message for body in cut if (message := error_of(body))]
    assert any("Failed to decode" in message for message in messages)
    assert all(" is damaged (" in message for message in messages)


def test_whatever_a_decoder_raises_names_the_image(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(encoded(picture(), "PNG"))
    for error, message in (
        (AttributeError("no such\nthing"), r"is damaged \(no such thing\)"),
        (MemoryError(), "needs"),
    ):

        def fail(image: Image.Image, error: Exception = error) -> Image.Image:
            raise error

        monkeypatch.setattr(image_io, "decoded", fail)
        with pytest.raises(ImageError, match=rf"image '{path}' {message}"):
            open_image(path)


# Files


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jpg")
    with pytest.raises(ImageError, match=r"x\.jpg' cannot be read: it is a named pipe, not a regular file"):
        open_image(tmp_path / "x.jpg")


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/urandom"])
def test_a_device_is_not_read(device: str) -> None:
    with pytest.raises(ImageError, match="it is a character device, not a regular file; pass an image file"):
        open_image(device)


def test_a_sparse_file_of_40_gb_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "x.jpg").open("wb") as file:
        file.truncate(40 * 10**9)
    with pytest.raises(ImageError, match=r"40,000,000,000 bytes, more than the 536,870,912 .*; pass a smaller copy"):
        open_image(tmp_path / "x.jpg")
    with pytest.raises(ImageError, match="40,000,000,000 bytes"):
        check_images([tmp_path / "x.jpg"])


def test_heic_without_its_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    formats = tuple(name for name in readable_formats() if name != "HEIF")
    monkeypatch.setattr(image_io, "readable_formats", lambda: formats)
    with pytest.raises(ImageError, match=r"is a HEIC image.*pip install 'ipo_dspy\[heif\]'"):
        open_image(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40))


def test_an_address_says_where_fetching_is_allowed() -> None:
    with pytest.raises(
        ImageError, match=r"'https://example\.com/cat\.jpg' is on the network.*ClipClassifier.*allow_url"
    ):
        open_image("https://example.com/cat.jpg")


# Formats


def test_suffixes_follow_from_the_formats() -> None:
    assert {".jpg", ".jfif", ".jpe", ".png", ".jp2", ".tif", ".webp", ".mpo", ".avif"} <= image_suffixes()
    assert not {".eps", ".psd", ".mpg", ".h5", ".wmf", ".iim"} & image_suffixes()
    assert (".heic" in image_suffixes()) == ("HEIF" in readable_formats())


@pytest.mark.parametrize("suffix", sorted(image_suffixes() - {".avifs", ".heics", ".heifs", ".mpo"}))
def test_files_of_every_suffix_are_read(suffix: str, tmp_path: Path) -> None:
    kind = Image.registered_extensions()[suffix]
    mode = {".bw": "L", ".pfm": "F", ".rgba": "RGBA"}.get(suffix, "RGB")
    try:
        picture().convert(mode).save(tmp_path / f"x{suffix}", kind)
    except KeyError:
        pytest.skip(f"Pillow writes no {kind}")
    assert open_image(tmp_path / f"x{suffix}").mode == "RGB"


@pytest.mark.parametrize(
    "name", ["x", "x.jpg?w=300", "x.png?v=1.5", "x.jpg!large", "x.jpg_large", "1.2.840.113", "n.Mr X"]
)
def test_files_without_a_suffix_are_recognized_by_their_content(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(encoded(picture(), "JPEG"))
    assert is_image_file(tmp_path / name)
    (tmp_path / name).write_bytes(b"name,label\n")
    assert not is_image_file(tmp_path / name)


def test_other_suffixes_are_believed(tmp_path: Path) -> None:
    (tmp_path / "x.jpg.part").write_bytes(encoded(picture(), "JPEG"))
    assert not is_image_file(tmp_path / "x.jpg.part")
    assert image_formats.remedy(".heic").startswith("pip install")


# All at once


def test_bad_images_are_reported_all_at_once(tmp_path: Path) -> None:
    from helpers.clip_toys import shared_toy

    sources: list[image_io.ImageSource] = [picture() for _ in range(20)]
    for i in range(12):
        sources[i + 3] = f"no/{i}.jpg"
    for call in (lambda: check_images(sources), lambda: encode_images(shared_toy(), sources)):
        with pytest.raises(ImageError) as caught:
            call()
        lines = str(caught.value).splitlines()
        assert lines[0] == "12 of 20 images cannot be read:"
        assert lines[1:11] == [f"  image 'no/{i}.jpg' does not exist; check the path" for i in range(10)]
        assert lines[11:] == ["  and 2 more", "pass skip_unreadable=True to skip them"]

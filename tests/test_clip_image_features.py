"""Images: every wrapping gives the same features, every broken file one sentence that names it."""

import base64
import http.server
import io
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers import clip_toys
from helpers.clip_toys import shared_toy
from helpers.loopback import LoopbackServer
from ipo_dspy.clip import feature_dtype as rest
from ipo_dspy.clip import image_features as images
from ipo_dspy.clip import image_io
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.image_features import encode_images, open_image
from ipo_dspy.clip.lru import TensorLRU
from ipo_dspy.errors import DataError, ImageError, InputError


@pytest.fixture(scope="module", autouse=True)
def _memory_alone() -> Iterator[None]:
    """Turn the cache on disk off: it is for test_clip_feature_store.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPO_DSPY_CACHE", "off")
        yield


@pytest.fixture(scope="module")
def toy() -> Backbone:
    return shared_toy()


@pytest.fixture
def calls(toy: Backbone, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of images in each pass of the image tower."""
    seen: list[int] = []
    encode = toy.encode_pixels

    def counted(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(len(pixels))
        return encode(pixels)

    monkeypatch.setattr(toy, "encode_pixels", counted)
    monkeypatch.setattr(toy, "image_memo", TensorLRU(1_000_000))
    return seen


def picture(seed: int = 0, size: tuple[int, int] = (40, 30)) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BILINEAR)


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG that says it is huge and is a hundred bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


def test_every_wrapping_gives_the_features_of_the_transform(toy: Backbone, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    picture().save(path)
    uri = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    sources = [path, str(path), path.read_bytes(), uri, dspy.Image(uri), dspy.Image.from_path(str(path)), picture()]
    found = encode_images(toy, sources)
    expected = toy.encode_pixels(toy.preprocess(picture())[None])
    torch.testing.assert_close(found.features, expected.expand(len(sources), -1), rtol=0, atol=1e-6)
    assert found.kept == tuple(range(len(sources)))
    assert found.skipped == ()
    assert repr(found) == "EncodedImages(7 of width 16, 0 skipped)"


def test_a_second_time_and_another_wrapping_cost_nothing(toy: Backbone, calls: list[int]) -> None:
    data = [png(picture(seed)) for seed in range(3)]
    first = encode_images(toy, [*data, data[0]])
    assert calls == [3]  # the same content twice in one call is encoded once
    uris = ["data:image/png;base64," + base64.b64encode(one).decode() for one in data]
    assert torch.equal(encode_images(toy, uris).features, first.features[:3])
    assert calls == [3]


def test_pil_images_are_remembered_by_their_pixels(toy: Backbone, calls: list[int]) -> None:
    encode_images(toy, [picture(), picture().copy()])
    assert calls == [1]
    flipped = picture().transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    encode_images(toy, [flipped, picture()])
    assert calls == [1, 1]


def test_changing_the_result_does_not_change_the_memo(toy: Backbone, calls: list[int]) -> None:
    first = encode_images(toy, [picture()]).features
    kept = first.clone()
    first.zero_()
    assert torch.equal(encode_images(toy, [picture()]).features, kept)


@settings(max_examples=10, deadline=None)
@given(seeds=st.lists(st.integers(0, 6), min_size=1, max_size=10), batch=st.integers(1, 5), threads=st.integers(1, 3))
def test_batches_and_threads_never_matter(toy: Backbone, seeds: list[int], batch: int, threads: int) -> None:
    toy.image_memo = TensorLRU(1_000_000)
    found = encode_images(toy, [picture(seed) for seed in seeds], batch_size=batch, num_threads=threads)
    alone = [toy.encode_pixels(toy.preprocess(picture(seed))[None])[0] for seed in seeds]
    torch.testing.assert_close(found.features, torch.stack(alone), rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch_size", [0, -1, 2.5])
def test_a_batch_has_one_image_at_least(toy: Backbone, batch_size: Any) -> None:
    with pytest.raises(InputError, match="batch_size="):
        encode_images(toy, [picture(0)], batch_size=batch_size)


def test_other_images_of_a_batch_and_the_number_of_threads_change_features_within_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = {"text_cfg": clip_toys.TEXT, "vision_cfg": {**clip_toys.VISION, "width": 768, "head_width": 64}}
    monkeypatch.setitem(clip_toys.KINDS, "wide", wide)
    tower = clip_toys.toy_backbone(tmp_path, "wide")
    pictures = [picture(seed) for seed in range(20)]
    whole = encode_images(tower, pictures).features
    threads = torch.get_num_threads()
    for count in (1, 2, 3, 7, 13, 19):
        monkeypatch.setattr(tower, "image_memo", TensorLRU(1_000_000))
        torch.set_num_threads(1)
        first = encode_images(tower, pictures[:count]).features
        torch.set_num_threads(threads)
        torch.testing.assert_close(first, whole[:count], rtol=0, atol=1e-5)


def test_an_image_is_encoded_once_whether_alone_or_among_others(toy: Backbone, calls: list[int]) -> None:
    pictures = [picture(seed) for seed in range(3)]
    first = encode_images(toy, pictures[:1]).features
    assert torch.equal(encode_images(toy, pictures).features[:1], first)
    assert torch.equal(encode_images(toy, pictures[:1]).features, first)
    assert calls == [1, 2]


def test_never_more_than_two_batches_are_decoded_ahead(toy: Backbone, calls: list[int]) -> None:
    ahead: list[int] = []
    decoded = 0
    preprocess = toy.preprocess

    def counted(image: Image.Image) -> torch.Tensor:
        nonlocal decoded
        decoded += 1
        return preprocess(image)

    toy.preprocess = counted  # type: ignore[method-assign]
    try:
        data = [png(picture(seed, (8, 8))) for seed in range(30)]
        encode_images(toy, data, batch_size=4, num_threads=2, progress=lambda done, total: ahead.append(decoded - done))
    finally:
        del toy.preprocess
    assert decoded == 30
    assert max(ahead) <= 4 + 2 + 1


def test_progress_counts_to_the_end(toy: Backbone) -> None:
    seen: list[tuple[int, int]] = []
    sources: list[images.ImageSource] = [picture(seed) for seed in range(5)]
    encode_images(
        toy,
        [*sources, b"not an image"],
        batch_size=2,
        skip_unreadable=True,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(2, 6), (4, 6), (6, 6)]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "I", "F"])
def test_modes(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(np.full((6, 7), 128 * 257, np.uint16)) if mode == "I;16" else picture().convert(mode)
    assert open_image(image).mode == "RGB"
    if mode == "I;16":  # half grey stays half grey
        assert open_image(png(image)).getpixel((0, 0)) == pytest.approx((128, 128, 128), abs=1)


def test_transparency_is_dropped_as_open_clip_drops_it() -> None:
    image = picture().convert("RGBA")
    image.putalpha(0)
    assert open_image(png(image)).tobytes() == picture().tobytes()


def test_a_palette_with_transparency_gives_no_warning() -> None:
    file = io.BytesIO()
    image = picture().convert("P")
    image.save(file, "PNG", transparency=bytes([0, 128] * 20))
    assert open_image(file.getvalue()).tobytes() == image.convert("RGB").tobytes()


def test_exif_orientation_turns_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 270 degrees counter-clockwise to view
    file = io.BytesIO()
    picture().save(file, "JPEG", exif=exif)
    assert open_image(file.getvalue()).size == (30, 40)


def truncated_jpeg() -> bytes:
    file = io.BytesIO()
    picture(size=(400, 300)).save(file, "JPEG")
    return file.getvalue()[: file.tell() // 2]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (truncated_jpeg(), "is damaged .*truncated"),
        (png(picture())[:60], "is damaged"),
        (b"hello", "cannot be read as an image; save it as JPEG or PNG"),
        (b"", "cannot be read as an image"),
        (bomb(10_000, 10_000), "is too large .*10000x10000.*decompression bomb.*MAX_IMAGE_PIXELS"),
        (bomb(100_000, 100_000), "is too large .*decompression bomb"),
        (png(Image.new("L", (30_000, 2))), "is 30000x2, too thin"),
    ],
    ids=["cut jpeg", "cut png", "text", "empty", "bomb at the limit", "bomb", "thin"],
)
def test_bad_files_are_named(data: bytes, message: str, tmp_path: Path, toy: Backbone) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=rf"image '.*bad.png' {message}"):
        open_image(path)
    with pytest.raises(ImageError, match=r"bad.png.* \(image 2 of 2\); pass skip_unreadable=True to skip it$"):
        encode_images(toy, [picture(), path])


def test_a_bomb_is_refused_when_pillows_warning_is_an_error() -> None:
    with pytest.raises(ImageError, match="decompression bomb"):  # pytest turns warnings into errors here
        open_image(bomb(10_000, 10_000))


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"'no/such\.png' does not exist"):
        open_image("no/such.png")
    with pytest.raises(ImageError, match=r"cannot be read: it is a folder, not a regular file; pass an image file"):
        open_image(tmp_path)
    with pytest.raises(ImageError, match=r"image given as int is not an image"):
        open_image(3)


def test_data_is_never_shown() -> None:
    uri = "data:image/png;base64," + base64.b64encode(b"secret" * 2000).decode()
    for source in (uri, dspy.Image(uri), b"secret" * 2000):
        with pytest.raises(ImageError) as caught:
            open_image(source)
        assert len(str(caught.value)) < 150
        assert "kB" in str(caught.value)
    assert image_io.name_image(uri) == "data URI image (16 kB)"
    with pytest.raises(ImageError, match="no comma"):
        open_image("data:image/png")


def test_a_bad_last_image_is_reported_before_the_first_is_encoded(
    toy: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [Image.new("RGB", (9, 9), (200, 3, shade)) for shade in range(6)]
    cut = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(cut, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(cut.getvalue()[:-400])
    encoded: list[int] = []
    monkeypatch.setattr(toy, "encode_pixels", lambda pixels: encoded.append(len(pixels)))
    with pytest.raises(ImageError, match=r"cut\.jpg"):
        encode_images(toy, [*good, tmp_path / "cut.jpg"], batch_size=2)
    assert encoded == []


def test_skip_bad_continues_and_counts(toy: Backbone) -> None:
    sources: Sequence[images.ImageSource] = [b"x", picture(0), "no/such.png", picture(1)]
    found = encode_images(toy, sources, skip_unreadable=True)
    assert found.kept == (1, 3)
    assert found.features.shape == (2, 16)
    assert [index for index, _ in found.skipped] == [0, 2]
    assert "no/such.png" in found.skipped[1][1]


def test_features_of_very_many_are_kept_in_half(toy: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [b"x", *(png(picture(seed)) for seed in range(5))]
    whole = encode_images(toy, sources, skip_unreadable=True, batch_size=2)
    monkeypatch.setattr(rest, "LIMIT", 100)
    kept = encode_images(toy, sources, skip_unreadable=True, batch_size=2)
    assert (whole.features.dtype, kept.features.dtype) == (torch.float32, torch.float16)
    assert torch.equal(kept.features, whole.features.half())
    assert (kept.kept, kept.keys) == (whole.kept, whole.keys)


def test_nothing_to_encode(toy: Backbone) -> None:
    with pytest.raises(DataError, match="no images to encode"):
        encode_images(toy, [])
    with pytest.raises(DataError, match=r"none of 2 images can be read; the first: image of 1 bytes"):
        encode_images(toy, [b"x", b"y"], skip_unreadable=True)


@pytest.fixture
def site() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if "x.png" in self.path else 404)
            self.end_headers()
            self.wfile.write(png(picture()))

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = LoopbackServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_urls_are_refused_unless_allowed(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{site}/x.png?signature=abc"
    for source in (url, dspy.Image(url)):
        with pytest.raises(ImageError, match=r"x.png' is on the network.*pass allow_url=True") as caught:
            open_image(source)
        assert "signature" not in str(caught.value)
        assert open_image(source, allow_url=True).tobytes() == picture().tobytes()
    with pytest.raises(ImageError, match="cannot be fetched: HTTP Error 404"):
        open_image(f"{site}/y.png", allow_url=True)
    with pytest.raises(ImageError, match=r"is not http or https"):
        open_image("gs://bucket/x.png", allow_url=True)
    monkeypatch.setattr(image_io, "MAX_DOWNLOAD", 10)
    with pytest.raises(ImageError, match="more than 10 bytes"):
        open_image(url, allow_url=True)


def test_many_threads_encode_once(toy: Backbone, calls: list[int]) -> None:
    threads = [threading.Thread(target=encode_images, args=(toy, [picture()])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [1]


def test_no_format_that_starts_another_program_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin

    started: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *given: started.append(given))
    file = io.BytesIO()
    picture().save(file, "EPS")
    for source in (file.getvalue(), dspy.Image("data:image/png;base64," + base64.b64encode(file.getvalue()).decode())):
        with pytest.raises(ImageError, match="cannot be read as an image"):
            open_image(source)
    assert started == []


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "ICO"])
def test_plain_picture_formats_are_decoded(kind: str) -> None:
    file = io.BytesIO()
    picture().save(file, kind)
    assert open_image(file.getvalue()).mode == "RGB"


@pytest.mark.parametrize("scheme", ["https", "HTTPS", "gs", "s3"])
def test_urls_are_named_without_password_and_query(scheme: str) -> None:
    for allow_url in (False, True):
        with pytest.raises(ImageError, match=rf"image '{scheme}://h:1/x\.png' ") as caught:
            open_image(f"{scheme}://me:hid@den@h:1/x.png?sig=abc#abc", allow_url=allow_url)
        assert not any(secret in str(caught.value) for secret in ("me:", "hid", "den", "abc"))
    assert image_io.name_image(dspy.Image("https://me:hidden@h?sig=abc")) == "image 'https://h'"


def test_what_the_client_says_of_a_url_shows_no_query(site: str) -> None:
    with pytest.raises(ImageError, match=r"x\.png' cannot be fetched: InvalidURL;") as caught:
        open_image(f"{site}/x.png?sig=a b", allow_url=True)
    assert "sig" not in str(caught.value)

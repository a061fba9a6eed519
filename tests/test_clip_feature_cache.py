"""Images are encoded once: what another run has encoded is found, and a disk that fails costs nothing but time."""

import json
import logging
import os
import re
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.cli_process import Processes
from helpers.clip_toys import toy_backbone, write_model
from ipo_dspy.clip import feature_cache as cache
from ipo_dspy.clip import feature_store as store
from ipo_dspy.clip import image_features as images
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.cache_config import cache_folder, cache_limit
from ipo_dspy.clip.feature_cache import FeatureCache, origin
from ipo_dspy.clip.image_features import check_images, encode_images
from ipo_dspy.clip.image_io import READING
from ipo_dspy.clip.lmdb_segments import data_file
from ipo_dspy.clip.loading import load_backbone
from ipo_dspy.clip.lru import TensorLRU
from ipo_dspy.errors import ImageError, InputError


class Counted:
    """A backbone that counts the images of each pass, and forgets what it has in memory when asked to."""

    def __init__(self, backbone: Backbone, patch: pytest.MonkeyPatch) -> None:
        self.backbone, self.calls, self.patch = backbone, list[int](), patch
        encode = backbone.encode_pixels

        def counted(pixels: torch.Tensor) -> torch.Tensor:
            self.calls.append(len(pixels))
            return encode(pixels)

        patch.setattr(backbone, "encode_pixels", counted)
        self.forget()

    def forget(self) -> None:
        """As a new process would begin."""
        self.patch.setattr(self.backbone, "image_memo", TensorLRU(1_000_000))
        self.calls.clear()

    def features(self, sources: "list[Path]", batch_size: int = 64) -> torch.Tensor:
        """Of images, in a new run."""
        self.forget()
        return encode_images(self.backbone, sources, batch_size=batch_size).features


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A store of the test's own."""
    monkeypatch.setenv("IPO_DSPY_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache" / "image-features"
    for one in store._STORES:
        one._close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture
def toy(model: Path, monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(load_backbone(f"local-dir:{model}", device="cpu"), monkeypatch)


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    return pictures(tmp_path / "secret-label", range(12))


def pictures(folder: Path, seeds: range) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for seed in seeds:
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    return [folder / f"{seed}.png" for seed in seeds]


def test_a_second_run_encodes_nothing_and_finds_the_same_bits(toy: Counted, photos: list[Path]) -> None:
    first = toy.features(photos, batch_size=4)
    assert toy.calls == [4, 4, 4]
    assert torch.equal(toy.features(photos, batch_size=5), first)
    assert toy.calls == []


def test_without_it_images_are_encoded_as_with_it(
    toy: Counted, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = toy.features(photos)
    monkeypatch.setenv("IPO_DSPY_CACHE", "off")
    torch.testing.assert_close(toy.features(photos), first, rtol=0, atol=1e-5)
    assert toy.calls == [12]


def test_only_what_is_new_is_encoded(toy: Counted, photos: list[Path], tmp_path: Path) -> None:
    every = toy.features(photos)
    assert torch.equal(toy.features(photos[3:6]), every[3:6])
    assert toy.calls == []
    split = [photos[9], *pictures(tmp_path / "more", range(20, 23)), photos[0]]
    assert torch.equal(toy.features(split)[[0, 4]], every[[9, 0]])
    assert toy.calls == [3]
    moved = Path(shutil.copy(photos[5], tmp_path / "elsewhere.png"))
    assert torch.equal(toy.features([moved])[0], every[5])
    assert toy.calls == []


def test_an_image_that_changed_is_encoded_again(toy: Counted, photos: list[Path], tmp_path: Path) -> None:
    before = toy.features(photos)
    shutil.copy(pictures(tmp_path / "more", range(30, 31))[0], photos[4])
    after = toy.features(photos)
    assert toy.calls == [1]
    assert torch.equal(after[:4], before[:4])
    assert not torch.allclose(after[4], before[4], atol=1e-3)


def test_another_model_or_number_format_finds_nothing(
    toy: Counted, model: Path, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.features(photos)
    others = [
        toy_backbone(tmp_path / "other", seed=1),
        load_backbone(f"local-dir:{model}", device="cpu", dtype="bfloat16"),
    ]
    for backbone in others:
        other = Counted(backbone, monkeypatch)
        other.features(photos)
        assert other.calls == [12]


def test_the_same_model_elsewhere_is_the_same(
    toy: Counted, model: Path, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.features(photos)
    shutil.copytree(model, tmp_path / "moved")
    moved = Counted(load_backbone(f"local-dir:{tmp_path / 'moved'}", device="cpu"), monkeypatch)
    moved.features(photos)
    assert moved.calls == []


def test_what_features_depend_on_besides(toy: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    one = origin(toy.backbone)
    assert one.fingerprint == toy.backbone.fingerprint
    assert one.arithmetic == "float32, cpu, matmul highest"
    assert one.software.startswith(f"reading {READING}, Pillow ")
    for package in ("libjpeg", "torch", "torchvision", "open_clip_torch"):
        assert f", {package} " in one.software
    with monkeypatch.context() as patch:
        patch.setattr(cache, "READING", READING + 1)
        assert origin(toy.backbone) != one
    with torch.autocast("cpu", torch.bfloat16):
        assert origin(toy.backbone).arithmetic == "float32, cpu, matmul highest, autocast torch.bfloat16"
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    assert origin(toy.backbone) != one
    torch.set_float32_matmul_precision(before)


def test_what_is_known_is_not_decoded(toy: Counted, tmp_path: Path) -> None:
    """A file that cannot be decoded shows it."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(ImageError, match="cannot be read as an image"):
        check_images([broken], backbone=toy.backbone)
    row = torch.arange(16.0)
    FeatureCache(toy.backbone).store_on_disk({sha256(b"no image").hexdigest(): row})
    toy.forget()
    check_images([broken], backbone=toy.backbone)
    assert torch.equal(toy.features([broken])[0], row)
    with pytest.raises(ImageError, match="cannot be read as an image"):
        check_images([broken])


def test_hashes_and_features_alone_are_written(toy: Counted, photos: list[Path], folder: Path) -> None:
    toy.features(photos)
    written = b"".join(path.read_bytes() for path in folder.parent.rglob("*") if path.is_file())
    assert sha256(photos[0].read_bytes()).digest() in written
    pixels = Image.open(photos[0]).tobytes()
    for needle in (b"secret-label", b"0.png", pixels[:8], photos[0].read_bytes()[60:76]):
        assert needle not in written


def _write_junk(folder: Path) -> None:
    folder.mkdir(parents=True)
    data_file(folder).write_bytes(b"x" * 20_000)


def _put_a_file_in_its_place(folder: Path) -> None:
    folder.parent.write_text("")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (_write_junk, r"is damaged or not a cache .*; remove it with: ipo-dspy cache clear"),
        (
            _put_a_file_in_its_place,
            r"cannot be used \(.*\); take another folder, e\.g\. export IPO_DSPY_CACHE=/a/folder",
        ),
    ],
    ids=["junk", "file"],
)
def test_where_the_store_fails_a_warning_says_so_once_and_the_run_continues(
    break_it: Callable[[Path], None],
    message: str,
    toy: Counted,
    photos: list[Path],
    folder: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    break_it(folder)
    with caplog.at_level(logging.WARNING):
        found = toy.features(photos, batch_size=4)
        toy.features(photos)
    assert toy.calls == [12]
    (record,) = caplog.records
    assert record.name == "ipo_dspy.clip.feature_cache"
    assert f"the image cache {str(folder)!r}" in record.getMessage()
    assert re.search(rf"{message}.*; until then images are encoded without it$", record.getMessage())
    alone = toy.backbone.encode_pixels(torch.stack([toy.backbone.preprocess(images.open_image(p)) for p in photos]))
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-6)


def test_a_damaged_row_is_computed_again(
    toy: Counted, photos: list[Path], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = toy.features(photos)
    data = data_file(folder).read_bytes()
    right = first[3].numpy().tobytes()
    other = tmp_path / "copy" / "image-features"
    other.mkdir(parents=True)
    data_file(other).write_bytes(data.replace(right, bytes(len(right))))
    monkeypatch.setenv("IPO_DSPY_CACHE", str(other.parent))
    assert torch.allclose(toy.features(photos), first, rtol=0, atol=1e-6)
    assert 1 <= sum(toy.calls) <= len(photos)


@contextmanager
def little_space() -> Iterator[None]:
    """No file may be written to behind its first pages, as on a full disk; within a test, for pytest writes too."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_on_a_full_disk_what_is_known_is_found_and_the_rest_encoded(
    toy: Counted, photos: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    toy.features(photos[:8])
    with little_space(), caplog.at_level(logging.WARNING):
        for _ in range(2):
            toy.features(photos, batch_size=4)
            assert toy.calls == [4]
    (record,) = caplog.records
    assert "cannot be written (File too large); free space, or take another folder" in record.getMessage()
    assert record.getMessage().endswith("; nothing more is kept until then")


SCRIPT = """
import sys
from pathlib import Path
from ipo_dspy.clip.loading import load_backbone
from ipo_dspy.clip.image_features import encode_images
backbone = load_backbone(f"local-dir:{sys.argv[1]}", device="cpu")
calls, encode = [], backbone.encode_pixels
backbone.encode_pixels = lambda pixels: calls.append(len(pixels)) or encode(pixels)
found = encode_images(backbone, [Path(path) for path in sys.argv[3:]], batch_size=int(sys.argv[2]),
                      progress=lambda done, total: print(done, file=sys.stderr, flush=True))
print(sys.argv[3], sum(calls), found.features.sum(1).tolist(), sep="|")
"""


TWICE = f"""
import os, sys
sys.argv[3:] = sys.argv[3:43] if (child := os.fork()) else sys.argv[62:22:-1]
{SCRIPT}
if child:
    assert os.waitpid(child, 0)[1] == 0
"""
"""Two processes at once: one for the first 40 of 60 images, one for the last 40 in reverse."""


@pytest.fixture
def processes(tmp_path: Path, forking_parent: Processes) -> Processes:
    return Processes(tmp_path, {"IPO_DSPY_CACHE": os.environ["IPO_DSPY_CACHE"]}, parent=forking_parent)


@pytest.mark.end_to_end
def test_a_killed_run_has_kept_every_batch_that_it_reported(
    toy: Counted, model: Path, tmp_path: Path, processes: Processes
) -> None:
    photos = pictures(tmp_path / "many", range(60))
    child = processes.begin_python(SCRIPT, str(model), "2", *map(str, photos))
    while processes.so_far().count("\n") < 6:
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    done = max(int(line) for line in processes.end().err.split("\n")[:-1] if line.isdigit())
    found = toy.features(photos)
    assert 0 < sum(toy.calls) <= 60 - done
    alone = toy.backbone.encode_pixels(torch.stack([toy.backbone.preprocess(images.open_image(p)) for p in photos]))
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-5)


@pytest.mark.end_to_end
def test_runs_at_once_share_what_they_find(toy: Counted, model: Path, tmp_path: Path, processes: Processes) -> None:
    photos = pictures(tmp_path / "many", range(60))
    done = processes.python(TWICE, str(model), "3", *map(str, photos))
    assert done.code == 0, done.err
    runs = {
        first: (int(encoded), json.loads(sums))
        for first, encoded, sums in (line.split("|") for line in done.out.splitlines())
    }
    assert sum(encoded for encoded, _ in runs.values()) <= 80
    sums = toy.features(photos).sum(1)
    assert toy.calls == []
    for first, numbers in ((0, range(40)), (59, range(59, 19, -1))):
        found = torch.tensor(runs[str(photos[first])][1])
        torch.testing.assert_close(found, sums[list(numbers)], rtol=0, atol=1e-5)


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for word in ("", "off", "OFF ", "0", "no", "none", "false"):
        monkeypatch.setenv("IPO_DSPY_CACHE", word)
        assert cache_folder() is None
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("IPO_DSPY_CACHE", "~/mine")
    assert cache_folder() == tmp_path / "mine" / "image-features"
    monkeypatch.delenv("IPO_DSPY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "ipo_dspy" / "image-features"
    for unset in ("", "relative"):  # which the specification says to ignore
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert cache_folder() == tmp_path / ".cache" / "ipo_dspy" / "image-features"


def test_how_large_it_may_be(monkeypatch: pytest.MonkeyPatch, toy: Counted, photos: list[Path]) -> None:
    assert cache_limit() == 10_000_000_000
    for word, size in (("2GB", 2e9), ("1.5 tb", 1.5e12), ("60000000", 6e7), ("500MB", 5e8)):
        monkeypatch.setenv("IPO_DSPY_CACHE_LIMIT", word)
        assert cache_limit() == size
    for word in ("ten", "10 GiB", "-5GB"):
        monkeypatch.setenv("IPO_DSPY_CACHE_LIMIT", word)
        with pytest.raises(
            InputError, match=r"IPO_DSPY_CACHE_LIMIT must be a size, got '.*'; for example IPO_DSPY_CACHE_LIMIT=10GB"
        ):
            toy.features(photos)
    monkeypatch.setenv("IPO_DSPY_CACHE_LIMIT", "5MB")
    with pytest.raises(InputError, match="IPO_DSPY_CACHE_LIMIT must be at least 50MB, got"):
        cache_limit()


def test_the_limit_may_change_within_a_process(
    toy: Counted, photos: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.features(photos[:4])
    monkeypatch.setenv("IPO_DSPY_CACHE_LIMIT", "60MB")
    toy.features(photos)
    assert toy.calls == [8]
    assert cache._disks[folder].store.limit == 60_000_000

"""Thumbnails of the images that a journal names, and the changed predictions that they illustrate."""

import base64
import io
import os
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from helpers.report_journals import (
    change,
    draw_picture,
)
from helpers.report_pages import text_of
from ipo_dspy.data import load_webdataset
from ipo_dspy.report import render_report
from ipo_dspy.report import thumbnails as pictures
from ipo_dspy.report.summary import changed
from ipo_dspy.run.events import PredictionChangedEvent
from ipo_dspy.run.journal import Journal


def test_changed_pictures_are_capped_and_counted() -> None:
    def row(source: int, before: str, after: str) -> PredictionChangedEvent:
        where: Any = {"predictor": "self", "split": "test", "class_split": "all", "source": str(source), "label": "owl"}
        return cast(PredictionChangedEvent, {"event": "prediction_changed", **where, "before": before, "after": after})

    fixed = [row(i, "fish", "owl") for i in range(100)]
    broken = [row(i, "owl", "fish") for i in range(5)]
    first, second = changed(fixed + broken)
    assert (len(first.shown), first.recorded, len(second.shown), second.recorded) == (19, 100, 5, 5)
    first, second = changed(fixed + broken * 20)
    assert (len(first.shown), len(second.shown)) == (12, 12)


def test_pictures_are_of_the_most_informative_split_and_the_others_are_counted(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        for split, times in (("train", 5), ("test", 2)):
            for number in range(times):
                change(journal, f"{split}{number}.png", "owl", "fish", "owl", split=split)
        change(journal, "lost.png", "owl", "fish", "crab")
    page = render_report(tmp_path)
    text = text_of(page)
    assert "Fixed 2 recorded (test)" in text
    assert "owl/<wbr>test0.png" in page  # a file name alone says little: each class may have a 1.jpg
    assert "train0.png" not in text
    assert "1 more changed from one wrong class to another; 5 recorded on other images are not shown" in text


def decoded(address: str | None) -> Image.Image:
    assert address is not None
    assert address.startswith("data:image/")
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))


def test_thumbnails_are_small_and_encoded_again(tmp_path: Path) -> None:
    path = tmp_path / "big.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    exif[0x010E] = "home address"
    Image.new("RGB", (1200, 600), "red").save(path, exif=exif, comment=b"secret")
    thumb = decoded(pictures.thumbnail(str(path)))
    assert thumb.size == (48, 96)
    assert not thumb.getexif()
    assert b"home address" not in base64.b64decode((pictures.thumbnail(str(path)) or "").partition(",")[2])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_thumbnails_of_every_mode(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "x.tiff"
    Image.new(mode, (300, 20)).save(path)
    assert max(decoded(pictures.thumbnail(str(path))).size) <= 96


def broken_sources(folder: Path) -> Iterator[str]:
    """Sources that give no picture."""
    (folder / "text.png").write_text("not a picture")
    draw_picture("owl", 0).save(folder / "ok.png")
    (folder / "cut.png").write_bytes((folder / "ok.png").read_bytes()[:100])
    (folder / "x.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (folder / "bad.parquet").write_bytes(b"PAR1 no")
    pq.write_table(pa.table({"label": [1]}), folder / "nocolumn.parquet")
    names = ("none.png", "text.png", "cut.png", "x.eps", "bad.parquet#0", "nocolumn.parquet#0", "ok.parquet#x", "")
    yield from (str(folder / name) for name in names)
    draw_picture("owl", 0).save("here.png")
    yield "here.png"
    yield from ("//host/share/x.png", "\\\\host\\share\\x.png", "https://example.org/x.png", "a\0b", "\ud800")


def test_what_cannot_be_read_gives_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [pictures.thumbnail(source) for source in broken_sources(tmp_path)] == [None] * 14


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert pictures.thumbnail(str(tmp_path / "pipe.png")) is None


@pytest.mark.parametrize("side", [10_000, 14_000])
def test_oversized_pictures_are_left_alone(tmp_path: Path, side: int) -> None:
    """Above the limit of Pillow's warning and of Pillow's error."""
    Image.new("1", (side, side)).save(tmp_path / "bomb.png")
    assert pictures.thumbnail(str(tmp_path / "bomb.png")) is None


def test_rows_of_a_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "pictures.parquet"
    rows: list[dict[str, object]] = []
    for color in ("red", "lime", "blue"):
        buffer = io.BytesIO()
        Image.new("RGB", (40, 40), color).save(buffer, "PNG")
        rows.append({"bytes": buffer.getvalue(), "path": None})
    Image.new("RGB", (40, 40), "white").save(tmp_path / "white.png")
    rows.append({"bytes": None, "path": str(tmp_path / "white.png")})
    pq.write_table(pa.table({"image": rows, "label": list("abcd")}), path, row_group_size=2)
    seen = [decoded(pictures.thumbnail(f"{path}#{row}")).convert("RGB").getpixel((20, 20)) for row in range(4)]
    wanted = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
    for found, expected in zip(seen, wanted, strict=True):
        assert isinstance(found, tuple)
        assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) < 12
    assert pictures.thumbnail(f"{path}#4") is None
    assert pictures.thumbnail(f"{path}#-1") is None


def test_the_image_column_of_a_parquet_file_may_have_any_name(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(buffer, "PNG")
    cell = {"bytes": buffer.getvalue(), "path": None}
    pq.write_table(pa.table({"label": ["a"], "photo": [cell]}), tmp_path / "one.parquet")
    pq.write_table(pa.table({"left": [cell], "right": [cell]}), tmp_path / "two.parquet")
    assert decoded(pictures.thumbnail(f"{tmp_path}/one.parquet#0")).size == (40, 40)
    assert pictures.thumbnail(f"{tmp_path}/two.parquet#0") is None


def test_members_of_tar_files(tmp_path: Path) -> None:
    path = tmp_path / "shard-0.tar"
    write_shard(path, {f"pets/{name}": name for name in ("red", "blue")})
    sources = [example.source for example in load_webdataset(path)]
    assert sources == [f"{path}#pets/red.png", f"{path}#pets/blue.png"]
    red, blue = (decoded(pictures.thumbnail(source)).convert("RGB").getpixel((20, 20)) for source in sources)
    assert isinstance(red, tuple)
    assert isinstance(blue, tuple)
    assert (red[0] > 200, blue[0] > 200) == (True, False)
    assert pictures.thumbnail(f"{path}#pets/green.png") is None
    path.write_bytes(b"no tar")
    assert pictures.thumbnail(sources[0]) is None


def write_shard(path: Path, colors: Mapping[str, str]) -> None:
    with tarfile.open(path, "w") as file:
        for name, color in colors.items():
            buffer = io.BytesIO()
            Image.new("RGB", (40, 40), color).save(buffer, "PNG")
            for member, content in ((f"{name}.png", buffer.getvalue()), (f"{name}.cls", color.encode())):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))

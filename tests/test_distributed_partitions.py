"""Locations of the images of a part, and their features on disk; nothing here needs Ray."""

import io
import os
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from ipo_dspy import demo
from ipo_dspy.clip.lmdb_segments import CacheNamespace
from ipo_dspy.clip.text_features import class_features
from ipo_dspy.distributed.discovery import discover_partitions
from ipo_dspy.distributed.model_ref import ModelRef
from ipo_dspy.distributed.partition_store import StoredPartition, file_name, read, write
from ipo_dspy.distributed.partitions import CHUNK, STEP, Partition, Rows, Tar, in_memory_partitions, part_size
from ipo_dspy.distributed.worker import Asked, EncodeJob, ScoringActor, _targets
from ipo_dspy.errors import DataError, InputError
from ipo_dspy.template import Template


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, shade, shade)).save(buffer, format="PNG")
    return buffer.getvalue()


def labels(parts: Iterable[Partition]) -> list[str | int]:
    return [label for part in parts for label in part.read()[1]]


def table(file: Path, column: Sequence[Any], *, group: int = 1000, **more: Any) -> Path:
    pq.write_table(
        pa.table({"image": [png(i % 256) for i in range(len(column))], "label": column, **more}), file, group
    )
    return file


def tar(file: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(file, "w") as shard:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))
    return file


@given(count=st.integers(1, 9000), workers=st.integers(1, 40))
def test_parts_of_a_list_are_its_images_in_full_passes(count: int, workers: int) -> None:
    size = part_size(count, workers)
    parts = in_memory_partitions([b""] * count, [""] * count, None, size=size)
    assert [part.first for part in parts] == list(range(0, count, size))
    assert sum(part.count for part in parts) == count
    assert max(part.count for part in parts) <= size <= CHUNK
    assert size % STEP == 0


def test_a_table_of_paths_has_no_stamp(tmp_path: Path) -> None:
    """An image file next to the list may change without it."""
    (whole,) = discover_partitions(table(tmp_path / "1.parquet", ["cat", "dog"]))
    assert whole.stamp() is not None
    for number, cells in enumerate((["a.png"], [{"bytes": None, "path": "a.png"}], [{"bytes": b"x", "path": "a.png"}])):
        pq.write_table(pa.table({"image": cells, "label": ["cat"]}), tmp_path / f"{number}.parquet")
        (part,) = discover_partitions(tmp_path / f"{number}.parquet")
        assert (part.stamp() is None) == (number < 2)


def test_a_folder_of_classes_is_one_whatever_lies_next_to_them(tmp_path: Path) -> None:
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "1.png").write_bytes(png(1))
    (tmp_path / "photos" / "dog").mkdir()
    (tmp_path / "photos" / "dog" / "1.png").write_bytes(png(2))
    tar(tmp_path / "photos" / "backup.tar", {})
    assert labels(discover_partitions(tmp_path / "photos")) == ["cat", "dog"]


def test_empty_tables_next_to_others_are_skipped(tmp_path: Path) -> None:
    table(tmp_path / "0.parquet", ["cat", "dog"])
    pq.write_table(pq.read_table(tmp_path / "0.parquet").slice(0, 0), tmp_path / "1.parquet")
    assert labels(discover_partitions(tmp_path)) == ["cat", "dog"]
    with pytest.raises(DataError, match="has a header but no rows"):
        discover_partitions(tmp_path / "1.parquet")


def test_images_are_addressed_as_another_machine_finds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    image = Image.new("RGB", (2, 2))
    given: list[Any] = ["a.png", Path("b.png"), dspy.Image(url="data:image/png;base64,AA=="), b"abc", image]
    (part,) = in_memory_partitions(given, ["x"] * 5, None, size=STEP)
    assert part.images == (f"{tmp_path}/a.png", f"{tmp_path}/b.png", "data:image/png;base64,AA==", b"abc", image)
    assert part.place(2) == "image 3 of 5"


def test_a_stamp_changes_with_a_file_a_label_and_content(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(png(0))

    def stamp(image: Any, label: str = "cat") -> str | None:
        return in_memory_partitions([image], [label], None, size=STEP)[0].stamp()

    before = stamp(file)
    os.utime(file, ns=(1, 1))
    assert len({before, stamp(file), stamp(file, "dog"), stamp(png(0)), stamp(png(1))}) == 5
    assert stamp(Image.new("RGB", (2, 2))) == stamp(Image.new("RGB", (2, 2)))
    pixels = torch.arange(12, dtype=torch.uint8).reshape(3, 2, 2)
    channels_last = pixels.permute(1, 2, 0).numpy()
    assert stamp(pixels) == stamp(channels_last) == stamp(Image.fromarray(channels_last)) != stamp(pixels + 1)
    assert stamp(pixels[:2]) == stamp(pixels[:2])  # no image: whoever encodes it says so
    assert len({stamp(np.full((2, 2), shade, np.uint8)) for shade in (0, 1, 1)}) == 2
    assert stamp("https://example.org/a.png") is None  # what is there may change


def test_row_groups_of_tables_are_parts(tmp_path: Path) -> None:
    table(tmp_path / "1.parquet", [i % 2 for i in range(5000)], group=1500)
    table(tmp_path / "2.parquet", ["dog", "cat"])
    first, second, third = discover_partitions(tmp_path)
    assert isinstance(second, Rows)
    assert (first.count, second.groups, second.first, second.count, third.count) == (3000, (2, 3), 3000, 2000, 2)
    assert second.place(7) == f"row 3007 of {tmp_path}/1.parquet"
    assert labels([second, third]) == [*[0, 1] * 1000, "dog", "cat"]
    images, _ = second.read()
    assert len(images) == len(list(images)) == 2000
    assert (images[0], images[1999]) == (png(3000 % 256), png(4999 % 256))


def test_numbers_are_read_by_the_names_next_to_them(tmp_path: Path) -> None:
    """Their order need not be that of the program's classes."""
    members = {"1.png": png(1), "1.cls": b"1", "2.png": png(2), "2.cls": b"cat"}
    tar(tmp_path / "00.tar", members)
    assert labels(discover_partitions(tmp_path / "00.tar")) == ["1", "cat"]
    (tmp_path / "classnames.txt").write_text("dog\ncat\n")
    tar(tmp_path / "01.tar", members)
    parts = discover_partitions(f"{tmp_path}/{{00..01}}.tar")
    assert all(isinstance(part, Tar) for part in parts)
    assert labels(parts) == ["cat"] * 4
    assert labels(discover_partitions(tmp_path / "*.tar")) == ["cat"] * 4


def test_numbers_that_have_no_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "classnames.txt").write_text("dog\ncat\n")
    tar(tmp_path / "00.tar", {"1.png": png(1), "1.cls": b"2"})
    with pytest.raises(DataError, match=r"00\.tar has the label 2 but class names only for 0 to 1; add the others"):
        labels(discover_partitions(tmp_path / "00.tar"))


def test_labels_are_read_as_on_one_machine() -> None:
    (part,) = in_memory_partitions([b""] * 2, ["x"] * 2, None, size=STEP)

    def targets(*given: Any) -> list[int]:
        kept = StoredPartition(torch.zeros(len(given), 1), given, tuple(range(len(given))), ("",) * len(given), ())
        return [int(i) for i in _targets(kept, ("cat", "caf\u00e9", "dog"), part)]

    assert targets("dog ", "cafe\u0301", 2, "1") == [2, 1, 2, 1]
    for odd in (True, 1.0, 3, "emu"):
        with pytest.raises(DataError, match=r"image 2 of 2 has the unknown label .*; expected"):
            targets("cat", odd)


def test_a_worker_scores_only_the_partitions_that_it_is_asked_about() -> None:
    """It may hold others: those that went to another worker when an answer was lost."""
    task = demo.load("grey-food", shots=1)
    backbone = task.program.backbone
    images, worker = [png(shade) for shade in range(STEP + 9)], ScoringActor()
    text = class_features(backbone, [Template.parse("a photo of a <CLASS>.")], task.classes)
    job = EncodeJob(ModelRef.of(backbone), task.classes, allow_url=False, threads=1, store=None)
    for index, part in enumerate(in_memory_partitions(images, [task.classes[0]] * len(images), None, size=STEP)):
        worker.encode((0, index), job, part)
    for parts, count in (((0,), STEP), ((1,), 9), ((0, 1), STEP + 9)):
        asked = Asked(0, parts, (0,), torch.float32, logit_scale=1.0, logit_bias=0.0)
        (tally,) = worker.tally(asked, text.numpy())
        given = worker.predict(asked, text[0].numpy())
        assert (tally.images, sum(map(len, given.values())), tuple(given)) == (count, count, parts)


def test_folders_and_lists_are_read_here(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "1.png").write_bytes(png(len(name)))
    (tmp_path / "list.csv").write_text("image,label\nphotos/dog/1.png,dog\nphotos/cat/1.png,cat\n")
    assert labels(discover_partitions(tmp_path / "photos")) == ["cat", "dog"]
    assert labels(discover_partitions(tmp_path / "list.csv")) == ["dog", "cat"]


def test_places_that_do_not_exist_are_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'.*/photos' does not exist .*; pass a folder, a table or shards"):
        discover_partitions(tmp_path / "photos")
    with pytest.raises(DataError, match=r"nothing matches '.*/\*.parquet'"):
        discover_partitions(tmp_path / "*.parquet")
    tar(tmp_path / "1.tar", {})
    table(tmp_path / "1.parquet", ["cat"], split=["train"])
    with pytest.raises(
        DataError, match=r"matches files of several kinds \(.parquet, .tar\); select one, e.g. '\*.tar'"
    ):
        discover_partitions(tmp_path)
    with pytest.raises(DataError, match="has a column 'split'; save the rows of one split to a separate file"):
        discover_partitions(tmp_path / "1.parquet")
    (tmp_path / "1.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        discover_partitions(tmp_path / "1.parquet")


def test_features_on_disk_are_what_was_written_or_nothing(tmp_path: Path) -> None:
    kept = StoredPartition(torch.randn(2, 3), ("cat", 1), (0, 2), ("a", "b"), ((1, "image 'x.png' is damaged"),))
    origin = CacheNamespace("model", "float32, cpu", "reading 1", "shown")
    name = file_name(origin, "stamp")
    assert read(str(tmp_path), name) is None
    write(str(tmp_path), name, kept)
    found = read(str(tmp_path), name)
    assert found is not None
    assert torch.equal(found.features, kept.features)
    assert (found.labels, found.indices, found.keys, found.skipped) == (("cat", 1), (0, 2), ("a", "b"), kept.skipped)
    whole = (tmp_path / name).read_bytes()
    for size in (0, 5, len(whole) // 2, len(whole) - 1):
        (tmp_path / name).write_bytes(whole[:size])
        assert read(str(tmp_path), name) is None
    start = whole.rindex(kept.features.numpy().tobytes())
    (tmp_path / name).write_bytes(whole[:start] + bytes([whole[start] ^ 1]) + whole[start + 1 :])  # a bit flipped
    assert read(str(tmp_path), name) is None
    (tmp_path / name).write_bytes(whole.replace(b"cat", b"cau"))  # a bit flipped in a label
    assert read(str(tmp_path), name) is None
    (tmp_path / "other").write_bytes(whole)  # the features of others under this name
    assert read(str(tmp_path), "other") is None
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    assert read(str(tmp_path), name) is None
    (tmp_path / name).unlink()
    foreign = save({"features": kept.features}, metadata={"rows": "{}", "sum": ""})
    (tmp_path / name).write_bytes(foreign)
    assert read(str(tmp_path), name) is None
    others = [replace(origin, **{part: "x"}) for part in ("fingerprint", "arithmetic", "software")]
    assert len({name, *(file_name(other, "stamp") for other in others)}) == 4
    with pytest.raises(InputError, match=r"store '.*' cannot be written .*; pass a folder that all nodes share"):
        write(str(tmp_path / "absent"), name, kept)

"""Tar files of webdataset: what is read, what is never written, and what each mistake is answered with."""

import base64
import io
import json
import logging
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipo_dspy.data import ImageDataset, load_images, load_webdataset
from ipo_dspy.errors import DataError

JPEG = b"\xff\xd8\xff\xe0 a picture of "
CLASSES = ["cat", "dog"]


def shard(path: Path, members: Mapping[str, bytes | str]) -> Path:
    """A tar file with these members, in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            data = content if isinstance(content, bytes) else content.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def pets(path: Path, count: int = 4, first: int = 0) -> Path:
    """Cats and dogs in turn."""
    members: dict[str, bytes | str] = {}
    for at in range(first, first + count):
        members[f"{at:04}.jpg"] = JPEG + str(at).encode()
        members[f"{at:04}.cls"] = CLASSES[at % 2]
    return shard(path, members)


def content(data: ImageDataset) -> list[bytes]:
    return [base64.b64decode(item.image.url.partition(",")[2]) for item in data]


def test_pictures_and_labels_in_order(tmp_path: Path) -> None:
    path = pets(tmp_path / "pets.tar")
    data = load_webdataset(path)
    assert data.classes == ("cat", "dog")
    assert data.labels() == ["cat", "dog", "cat", "dog"]
    assert content(data) == [JPEG + str(at).encode() for at in range(4)]
    assert isinstance(data[0].image, dspy.Image)
    assert data[0].source == f"{path}#0000.jpg"
    assert load_images(path) == data


@pytest.mark.parametrize("pattern", ["", "*.tar", "train-*.tar", "train-{000..002}.tar", "train-00[0-2].tar"])
def test_several_files(tmp_path: Path, pattern: str) -> None:
    for at in (2, 0, 1):
        pets(tmp_path / "shards" / f"train-{at:03}.tar", 2, first=2 * at)
    place = tmp_path / "shards" / pattern
    data = load_webdataset(place)
    assert content(data) == [JPEG + str(at).encode() for at in range(6)]
    assert load_images(str(place)) == data


def test_draws_and_holds_out_like_every_reader(tmp_path: Path) -> None:
    path = pets(tmp_path / "pets.tar", 20)
    train, test = load_webdataset(path).split(test=0.5, shots=2, seed=3)
    assert (train.counts(), test.counts()) == ({"cat": 2, "dog": 2}, {"cat": 5, "dog": 5})
    assert load_images(path).split(test=0.5, shots=2, seed=3) == (train, test)
    assert not {item.source for item in train} & {item.source for item in test}


@pytest.mark.parametrize(
    ("suffix", "labels"),
    [
        ("cls", ["cat", "dog\n"]),
        ("CLS", ["cat", "dog"]),
        ("txt", ["cat", " dog "]),
        ("json", ['{"label": "cat", "width": 8}', '{"label": "dog"}']),
        ("json", ['{"class_name": "cat"}', '{"class_name": "dog"}']),
        ("json", ['{"label": 0}', '{"label": 1}']),
        ("cls", ["0", "1"]),
    ],
)
def test_forms_of_labels(tmp_path: Path, suffix: str, labels: list[str]) -> None:
    members: dict[str, bytes | str] = {}
    for at, label in enumerate(labels):
        members |= {f"a/b.c/{at}.{suffix}": label, f"a/b.c/{at}.png": JPEG, f"a/b.c/{at}.boxes.json": "[]"}
    assert load_webdataset(shard(tmp_path / "x.tar", members), classes=CLASSES).labels() == CLASSES


@pytest.mark.parametrize("text", ["dog\ncat\n", "n01440764 dog\nn01443537 cat\n"])
@pytest.mark.parametrize("next_to_shards", [True, False])
def test_numbers_get_their_names_from_a_separate_list(tmp_path: Path, text: str, next_to_shards: bool) -> None:
    path = shard(tmp_path / "test" / "0.tar", {"0.cls": "1", "0.webp": JPEG, "1.cls": "0", "1.webp": JPEG})
    (tmp_path / ("test" if next_to_shards else ".") / "classnames.txt").write_text(text)
    data = load_webdataset(path)
    assert (data.classes, data.labels()) == (("dog", "cat"), ["cat", "dog"])
    assert load_webdataset(path, classes=["a", "b"]).labels() == ["b", "a"]


def test_anything_but_a_sample_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as file:
        folder, link = tarfile.TarInfo("photos.jpg"), tarfile.TarInfo("photos/link.jpg")
        folder.type, link.type, link.linkname = tarfile.DIRTYPE, tarfile.SYMTYPE, "/etc/passwd"
        for info in (folder, link):
            file.addfile(info)
        for name, data in {"notes.txt": b"x", "1.jpg": JPEG, "1.cls": b"cat", "2.jpg": JPEG, "2.cls": b"dog"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    with caplog.at_level(logging.INFO):
        assert load_webdataset(path).labels() == ["cat", "dog"]
    assert not caplog.records


def samples(names: str = "{key}.png", label: str = "{key}.cls", count: int = 8) -> dict[str, bytes | str]:
    """Pictures of cats and dogs in turn, with names and labels of a form."""
    members: dict[str, bytes | str] = {}
    for at in range(count):
        members[names.format(key=f"{at:04}")] = JPEG + str(at).encode()
        members[label.format(key=f"{at:04}")] = CLASSES[at % 2]
    return members


@pytest.mark.parametrize(
    "members",
    [
        pytest.param(samples("{key}.v2.png", "{key}.v2.cls"), id="dots in names"),
        pytest.param(samples("{key}.image.png", "{key}.cls"), id="a named picture"),
        pytest.param(samples("{key}.jfif"), id="jfif"),
        pytest.param(samples("{key}.JPE"), id="upper case"),
        pytest.param(samples("./a/{key}.png", "./a/{key}.cls"), id="a folder"),
        pytest.param(
            {name: text for key in range(8) for name, text in {
                f"{key}.jpg": JPEG + str(key).encode(), f"{key}.mask.png": b"mask", f"{key}.cls": CLASSES[key % 2],
            }.items()},
            id="a mask for each",
        ),
        pytest.param(
            {name: text for key in range(8) for name, text in {
                f"x.{key}.jpg": JPEG + str(key).encode(), f"x.{key}.cls": CLASSES[key % 2],
            }.items()},
            id="one beginning for all",
        ),
        pytest.param(
            {name: text for key in range(8) for name, text in {
                f"{key}.txt": f"a photo of it, number {key}", f"{key}.png": JPEG + str(key).encode(),
                f"{key}.json": json.dumps({"label": CLASSES[key % 2]}),
            }.items()},
            id="a caption before the label",
        ),
        pytest.param(
            {name: text for key in range(8) for name, text in {
                f"{key}.png": JPEG + str(key).encode(), f"{key}.json": json.dumps({"width": 3}),
                f"{key}.txt": CLASSES[key % 2],
            }.items()},
            id="a JSON file without a label",
        ),
    ],
)  # fmt: skip
def test_every_sample_is_read(
    tmp_path: Path, members: dict[str, bytes | str], caplog: pytest.LogCaptureFixture
) -> None:
    data = load_webdataset(shard(tmp_path / "x.tar", members))
    assert data.labels() == CLASSES * 4
    assert content(data) == [JPEG + str(at).encode() for at in range(8)]
    assert not caplog.records


def test_hidden_members_are_no_samples(tmp_path: Path) -> None:
    members: dict[str, bytes | str] = {}
    for name, data in samples().items():
        members |= {f"._{name}": b"\0\5\x16\7", f"__MACOSX/{name}": b"\0", name: data}
    assert load_webdataset(shard(tmp_path / "x.tar", members)).labels() == CLASSES * 4


def test_files_put_together_are_read_to_the_end(tmp_path: Path) -> None:
    parts = [pets(tmp_path / f"{at}" / "x.tar", 4, first=4 * at).read_bytes() for at in range(3)]
    (tmp_path / "x.tar").write_bytes(b"".join(parts))
    assert content(load_webdataset(tmp_path / "x.tar")) == [JPEG + str(at).encode() for at in range(12)]
    (tmp_path / "x.tar").write_bytes(parts[0] + b"no tar file" * 100)
    with pytest.raises(DataError, match="is truncated or corrupt after"):
        load_webdataset(tmp_path / "x.tar")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["0.png", "0.cls", "0.jpg", "0.cls"], "two members '0.cls' in one sample; give each sample its own name"),
        (["0.png", "0.png", "0.cls"], "two members '0.png' in one sample"),
        (["0.png", "0.PNG", "0.cls"], "two members '0.PNG' in one sample"),
        (["0.png", "0.jpg", "0.cls"], "several images in one sample, '0.png', '0.jpg'; give each its own name"),
        (["0.left.png", "0.right.png", "0.cls"], "several images in one sample, '0.left.png'"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(tmp_path: Path, names: list[str], message: str) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as file:
        for name in names:
            data = b"cat" if name.endswith("cls") else JPEG
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    with pytest.raises(DataError, match=message):
        load_webdataset(tmp_path / "x.tar")


def test_captions_are_no_class_names(tmp_path: Path) -> None:
    members: dict[str, bytes | str] = {}
    for at in range(8):
        members |= {f"{at}.png": JPEG, f"{at}.txt": f"a photo of a cat, number {at}"}
    with pytest.raises(
        DataError, match=r"hold captions such as 'a photo of a cat, number 0', not class names; .* in a \.cls"
    ):
        load_webdataset(shard(tmp_path / "x.tar", members))


def test_samples_without_a_readable_picture_are_counted_by_kind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    others: dict[str, bytes | str] = {f"x{at}.cr2": b"raw" for at in range(3)}
    others |= {"y.npy": b"array", "y.cls": "cat", "info.json": "{}"}
    data = load_webdataset(shard(tmp_path / "x.tar", {**samples(), **others}))
    assert len(data) == 8
    assert "4 files are not used: 3 .cr2 ('x0.cr2'): develop to JPEG; 1 .npy ('y.npy')" in caplog.text


def test_a_header_of_absurd_size_is_one_error(tmp_path: Path) -> None:
    path = pets(tmp_path / "x.tar")
    raw = bytearray(path.read_bytes())
    info = tarfile.TarInfo("0000.jpg")
    info.size = 1 << 62
    raw[:512] = info.tobuf(tarfile.GNU_FORMAT)[:512]
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"truncated or corrupt|cannot be read"):
        load_webdataset(path)


def test_a_named_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.tar")
    with pytest.raises(DataError, match="named pipe"):
        load_webdataset(str(tmp_path / "*.tar"))


def test_names_that_lead_elsewhere_are_only_names(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    path = shard(inner / "x.tar", {"../../up.jpg": JPEG, "../../up.cls": "cat", "/top.jpg": JPEG, "/top.cls": "dog"})
    data = load_webdataset(path)
    assert [item.source for item in data] == [f"{path}#../../up.jpg", f"{path}#/top.jpg"]
    assert sorted(tmp_path.rglob("*")) == [inner, path]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, r"holds no images \(.*\.bmp, .*\); pass tar files that hold 'key\.jpg' and 'key\.cls'"),
        ({"a.cls": "cat"}, "holds no images"),
        ({"a.jpg": JPEG}, r"'a\.jpg' in .* has no label; add its class name as \.cls or \.txt"),
        ({"a.jpg": JPEG, "b.cls": "cat"}, r"'a\.jpg' in .* has no label"),
        ({"a.jpg": b"", "a.cls": "cat"}, r"'a\.jpg' in .* is empty; create the file again"),
        ({"a.jpg": JPEG, "a.cls": ""}, r"'a\.jpg' in .* has no label; expected a class name"),
        ({"a.jpg": JPEG, "a.cls": b"\xff\xfe"}, r"the \.cls file of 'a\.jpg' in .* cannot be read"),
        ({"a.jpg": JPEG, "a.txt": "x" * 500}, "has a label of 500 characters"),
        (
            {"a.jpg": JPEG, "a.txt": "x" * (1 << 21)},
            r"the \.txt file of 'a\.jpg' in .* has 2097152 bytes; expected only the class name",
        ),
        ({"a.jpg": JPEG, "a.json": "{"}, r"the \.json file of 'a\.jpg' in .* cannot be read \(Expecting"),
        ({"a.jpg": JPEG, "a.json": "[" * 100_000}, r"the \.json file of 'a\.jpg' in .* cannot be read"),
        ({"a.jpg": JPEG, "a.json": '{"w": 8}'}, r"cannot be read \(no field 'label' in \{'w': 8\}\)"),
        ({"a.jpg": JPEG, "a.json": '{"label": [0]}'}, r"'a\.jpg' in .* has the label \[0\]"),
        ({"a.jpg": JPEG, "a.cls": "cat"}, r"at least two classes, e\.g\. .*, got \['cat'\]"),
        ({"a.jpg": JPEG, "a.cls": "0", "b.jpg": JPEG, "b.cls": "1"}, r"no names for them; pass classes=\['cat', 'dog'"),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, members: dict[str, Any], message: str) -> None:
    path = shard(tmp_path / "x.tar", members)
    with pytest.raises(DataError, match=message) as caught:
        load_webdataset(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_that_are_no_class(tmp_path: Path) -> None:
    path = shard(tmp_path / "x.tar", {"a.jpg": JPEG, "a.cls": "cat", "b.jpg": JPEG, "b.cls": "dgo"})
    with pytest.raises(DataError, match=r"'b\.jpg' in .* has the unknown label 'dgo'; expected 'dog'"):
        load_webdataset(path, classes=CLASSES)


def test_mistakes_in_the_place(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"file .*/x\.tar does not exist .* download it, or narrow the pattern"):
        load_images(tmp_path / "x.tar")
    with pytest.raises(DataError, match=r"nothing matches '.*/\*\.tar' .* pass e\.g\. 'shards/\*\.tar'"):
        load_webdataset(tmp_path / "*.tar")
    with pytest.raises(DataError, match=r"holds no \.tar files; pass a folder that does"):
        load_webdataset(tmp_path)
    pets(tmp_path / "a-0.tar")
    with pytest.raises(DataError, match=r"file .*/a-1\.tar does not exist"):
        load_webdataset(tmp_path / "a-{0..1}.tar")
    (tmp_path / "gz.tar").write_bytes(b"\x1f\x8b\x08\x00 packed")
    with pytest.raises(
        DataError, match=r"gz\.tar cannot be read as a tar file .* download it again, or unpack it first"
    ):
        load_webdataset(tmp_path / "gz.tar")


@given(cut=st.integers(0, 8 * 1024 - 1))
def test_a_file_that_is_cut_anywhere_is_reported(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    """Four samples are 16 blocks of 512 bytes, then zeros; the smallest loss would be a wrong score."""
    path = pets(tmp_path_factory.mktemp("cut") / "pets.tar")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"is truncated or corrupt|cannot be read as a tar file"):
        load_webdataset(path)


def test_zeros_or_noise_in_the_middle_are_reported(tmp_path: Path) -> None:
    path = pets(tmp_path / "pets.tar")
    whole = bytearray(path.read_bytes())
    whole[4096:4608] = b"noise" * 102 + b"xx"
    path.write_bytes(whole)
    with pytest.raises(DataError, match="is truncated or corrupt after byte 4096; download it again"):
        load_webdataset(path)


def test_a_folder_with_classes_next_to_a_tar_file_is_a_folder_of_classes(tmp_path: Path) -> None:
    pets(tmp_path / "backup.tar")
    for name in CLASSES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(JPEG)
    assert len(load_images(tmp_path)) == 2


def test_json_numbers(tmp_path: Path) -> None:
    path = shard(tmp_path / "x.tar", {"a.jpg": JPEG, "a.json": json.dumps({"label": True})})
    with pytest.raises(DataError, match="has the label True"):
        load_webdataset(path)

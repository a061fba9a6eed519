"""The store of features with a file that is damaged, foreign, or out of reach: an error, and never a wrong row."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import lmdb
import numpy as np
import pytest

from helpers.feature_rows import BATCH, ORIGIN, ROOMY, found, key, row, rows
from ipo_dspy.clip.feature_store import FeatureStore
from ipo_dspy.clip.lmdb_segments import SegmentFile, data_file
from ipo_dspy.errors import StoreError


def replace_bit(data: bytes) -> bytes:
    return bytes([data[0] ^ 1, *data[1:]])


@pytest.fixture
def copied(store: FeatureStore, tmp_path: Path) -> Path:
    """The folder of a store with 64 images that no process has open."""
    for first in range(0, 64, BATCH):
        store.put(ORIGIN, rows(first))
    return Path(shutil.copytree(store.folder, tmp_path / "copy" / "image-features"))


@pytest.mark.parametrize("part", [0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_cut_file_is_refused_before_its_lost_pages_are_looked_at(copied: Path, part: float) -> None:
    with SegmentFile(copied).env as env:
        used = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    os.truncate(data_file(copied), int(used * part))
    store = FeatureStore(copied, ROOMY)
    with pytest.raises(
        StoreError, match=r"image-features' is (cut off|damaged.*); remove it with: ipo-dspy cache clear"
    ):
        store.get(ORIGIN, key(0))
    store.clear()
    store.put(ORIGIN, rows(0))
    assert len(found(store, range(64))) == BATCH


def test_bytes_that_a_whole_file_may_lose_at_its_end_are_not_a_cut(copied: Path) -> None:
    """The hole behind the last page is not data."""
    with SegmentFile(copied).env as env:
        used = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    assert data_file(copied).stat().st_size > used
    os.truncate(data_file(copied), used)
    assert len(found(FeatureStore(copied, ROOMY), range(64))) == 64


def test_a_row_that_is_not_what_was_put_is_never_given(copied: Path) -> None:
    right, wrong = row(5).tobytes(), replace_bit(row(5).tobytes())
    data = data_file(copied).read_bytes()
    data_file(copied).write_bytes(data.replace(right, wrong))  # also in pages that are no longer in use
    store = FeatureStore(copied, ROOMY)
    assert found(store, range(5)) == list(range(5))
    with pytest.raises(StoreError, match="is damaged; remove it with: ipo-dspy cache clear"):
        store.get(ORIGIN, key(5))


def test_a_row_under_the_key_of_another_is_never_given(copied: Path) -> None:
    with SegmentFile(copied).env as env, env.begin(write=True) as txn:
        slot = env.open_db(b"segment 00", txn=txn)
        value = txn.get(bytes.fromhex(key(1)), db=slot)
        assert value is not None
        txn.put(bytes.fromhex(key(2)), value, db=slot)
    with pytest.raises(StoreError, match="is damaged"):
        FeatureStore(copied, ROOMY).get(ORIGIN, key(2))


def test_features_are_those_of_their_model_and_of_no_other(copied: Path) -> None:
    """A bit of the table of segments that flipped could name another model's, and a slot could hold another's rows."""
    other = replace(ORIGIN, fingerprint="4567")
    FeatureStore(copied, ROOMY).put(other, rows(0))
    with SegmentFile(copied).env as env, env.begin(write=True) as txn:
        slots = [env.open_db(f"segment {number:02}".encode(), txn=txn) for number in range(2)]
        values = [txn.get(bytes.fromhex(key(1)), db=slot) for slot in slots]
        for slot, value in zip(slots, reversed(values), strict=True):
            assert value is not None
            txn.put(bytes.fromhex(key(1)), value, db=slot)
    for origin in (ORIGIN, other):
        with pytest.raises(StoreError, match="is damaged"):
            FeatureStore(copied, ROOMY).get(origin, key(1))


@pytest.mark.parametrize("part", range(16))
def test_a_bit_flipped_in_the_table_of_segments_is_reported(copied: Path, part: int) -> None:
    with SegmentFile(copied).env as env, env.begin(write=True) as txn:
        about = env.open_db(b"about", txn=txn)
        table = txn.get(b"segments", db=about)
        assert table is not None
        place = part * len(table) // 16
        flipped = bytes([table[place] ^ 1 << part % 8])
        txn.put(b"segments", table[:place] + flipped + table[place + 1 :], db=about)
    with pytest.raises(StoreError, match="is damaged; remove it with: ipo-dspy cache clear"):
        FeatureStore(copied, ROOMY).get(ORIGIN, key(0))


@pytest.mark.end_to_end
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
@pytest.mark.parametrize("seed", range(16))
def test_damage_inside_the_file_gives_an_error_or_the_right_rows(copied: Path, seed: int) -> None:
    """In a process of its own, which LMDB might end."""
    with SegmentFile(copied).env as env:
        used = (env.info()["last_pgno"] + 1) * (page := env.stat()["psize"])
    rng, data = np.random.default_rng(seed), bytearray(data_file(copied).read_bytes())
    place = int(rng.integers(2, used // page)) * page
    damage = [bytes([data[place] ^ 4]), bytes(page), rng.bytes(page), bytes(data[2 * page : 3 * page])][seed % 4]
    data[place : place + len(damage)] = damage
    data_file(copied).write_bytes(data)
    pid = os.fork()
    if pid == 0:
        try:
            store = FeatureStore(copied, ROOMY)
            found(store, range(64))
            store.put(ORIGIN, rows(100))
        except StoreError:
            pass
        except BaseException:  # noqa: BLE001 - the child of a test must not continue as pytest
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"name,label\n" * 9000], ids=["empty", "short", "table"])
def test_a_foreign_file_in_its_place(store_folder: Path, content: bytes) -> None:
    store_folder.mkdir(parents=True)
    data_file(store_folder).write_bytes(content)
    store = FeatureStore(store_folder, ROOMY)
    if content:
        with pytest.raises(StoreError, match=r"is damaged or not a cache .*; remove it with: ipo-dspy cache clear"):
            store.get(ORIGIN, key(0))
        assert data_file(store_folder).read_bytes() == content
        store.clear()
    store.put(ORIGIN, rows(0))
    assert len(found(store, range(BATCH))) == BATCH


def test_the_lmdb_of_another_program_is_left_alone(store_folder: Path) -> None:
    store_folder.parent.mkdir(parents=True)
    with lmdb.open(str(store_folder)) as env, env.begin(write=True) as txn:
        txn.put(b"about", b"somebody's")
    before = data_file(store_folder).read_bytes()
    with pytest.raises(StoreError, match=r"data\.mdb' belongs to another program; take another folder, e\.g\. export"):
        FeatureStore(store_folder, ROOMY).put(ORIGIN, rows(0))
    assert data_file(store_folder).read_bytes() == before


def test_another_version_is_left_alone(copied: Path) -> None:
    with SegmentFile(copied).env as env, env.begin(write=True) as txn:
        txn.put(b"schema", b"0", db=env.open_db(b"about", txn=txn))
    with pytest.raises(StoreError, match="was written by another version of ipo_dspy; remove it with"):
        FeatureStore(copied, ROOMY).get(ORIGIN, key(0))


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "image-features", Path("/proc/none/image-features")):
        with pytest.raises(
            StoreError, match=r"cannot be used \(.*\); take another folder, e\.g\. export IPO_DSPY_CACHE"
        ):
            FeatureStore(folder, ROOMY).get(ORIGIN, key(0))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission(copied: Path) -> None:
    copied.parent.chmod(0o500)
    with pytest.raises(StoreError, match=r"Permission denied.*take another folder"):
        FeatureStore(copied, ROOMY).get(ORIGIN, key(0))
    copied.parent.chmod(0o700)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
@pytest.mark.parametrize("name", ["data.mdb", "lock.mdb", "../image-features.lock"])
def test_a_named_pipe_in_the_place_of_a_file_is_reported_and_left_alone(store_folder: Path, name: str) -> None:
    store_folder.mkdir(parents=True)
    os.mkfifo(store_folder / name)
    store = FeatureStore(store_folder, ROOMY)
    with pytest.raises(StoreError, match=r"cannot be used \(.*\); take another folder"):
        store.get(ORIGIN, key(0))
    with pytest.raises(StoreError, match=r"cannot be used \(.*\); take another folder"):
        store.put(ORIGIN, rows(0))
    assert (store_folder / name).is_fifo()

"""The store of features: what is found is what was put, within a limit, until it is removed."""

import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from helpers.feature_rows import BATCH, ORIGIN, ROOMY, WIDTH, found, key, rows
from ipo_dspy.clip import feature_store as module
from ipo_dspy.clip import lmdb_segments as segments
from ipo_dspy.clip.feature_store import FeatureStore, Row
from ipo_dspy.clip.lmdb_segments import data_file
from ipo_dspy.errors import StoreError, StoreFullError


@given(row=arrays(np.float32, st.integers(1, 40)), number=st.integers(0, 99))
def test_every_bit_comes_back(tmp_path_factory: pytest.TempPathFactory, row: Row, number: int) -> None:
    store = FeatureStore(tmp_path_factory.getbasetemp() / "bits" / "image-features", ROOMY)
    store.put(ORIGIN, {key(number): row})
    one = store.get(ORIGIN, key(number))
    assert one is not None
    assert one.tobytes() == row.tobytes()
    store._close()


def test_another_model_arithmetic_or_software_finds_nothing(store: FeatureStore) -> None:
    store.put(ORIGIN, rows(0))
    for name in ("fingerprint", "arithmetic", "software"):
        assert found(store, range(BATCH), replace(ORIGIN, **{name: "other"})) == []
    assert len(found(store, range(2 * BATCH), replace(ORIGIN, name="another name of it"))) == BATCH


def test_it_is_made_with_the_first_features_and_says_what_it_holds(store: FeatureStore) -> None:
    assert store.contents() == []
    assert not store.folder.exists()
    store.put(ORIGIN, rows(0))
    other = replace(ORIGIN, fingerprint="4567", name="other")
    store.put(other, rows(0, 3))
    held = {one.origin: one for one in store.contents()}
    assert {origin: one.images for origin, one in held.items()} == {ORIGIN: BATCH, other: 3}
    assert BATCH * WIDTH * 4 < held[ORIGIN].bytes < 100_000
    assert time.time() - held[ORIGIN].used < 3600
    assert store.folder.stat().st_mode & 0o777 == 0o700  # nobody else's business
    assert repr(store) == f"FeatureStore({str(store.folder)!r}, at most 1073741824 bytes)"


@pytest.fixture
def small(store_folder: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    """A store with room for about 850 rows, in which last uses are written down to the moment."""
    monkeypatch.setattr(module, "FRESH_SECONDS", 0.0)
    return FeatureStore(store_folder, 4_000_000)


def whole(store: FeatureStore) -> bool:
    """Return if the file is within its limit, and as long as its content."""
    file = store._file
    assert file is not None
    on_disk = data_file(store.folder).stat()
    return on_disk.st_blocks * 512 <= store.limit and on_disk.st_size >= file.pages * file.page


def test_the_file_keeps_within_its_limit_and_the_latest_stay(small: FeatureStore) -> None:
    for first in range(0, 3000, BATCH):
        small.put(ORIGIN, rows(first, width=768))
        assert whole(small)
    held = found(small, range(3008), width=768)
    assert held == list(range(held[0], 3008))
    assert 600 < len(held) < 900


def test_what_was_used_longest_ago_goes_first(small: FeatureStore) -> None:
    loved, forgotten = replace(ORIGIN, fingerprint="loved"), replace(ORIGIN, fingerprint="forgotten")
    for origin in (loved, forgotten):
        small.put(origin, rows(0, width=768))
    for first in range(1000, 3000, BATCH):
        small.put(ORIGIN, rows(first, width=768))
        assert len(found(small, range(BATCH), loved, width=768)) == BATCH
        small.record_uses()
    assert found(small, range(BATCH), forgotten, width=768) == []
    assert {one.origin for one in small.contents()} == {ORIGIN, loved}


def test_there_are_never_more_segments_than_databases(store_folder: Path) -> None:
    store = FeatureStore(store_folder, ROOMY)
    origins = [replace(ORIGIN, fingerprint=str(number)) for number in range(segments.SEGMENTS + 3)]
    for origin in origins:
        store.put(origin, rows(0, 1))
    assert [len(found(store, range(1), origin)) for origin in origins] == [0] * 3 + [1] * segments.SEGMENTS


def test_a_batch_larger_than_the_limit_is_refused_with_a_message(store_folder: Path) -> None:
    store = FeatureStore(store_folder, 2_000_000)
    with pytest.raises(StoreFullError, match=r"is full at 2000000 bytes; allow more, e\.g\. export IPO_DSPY_CACHE_L"):
        store.put(ORIGIN, rows(0, 64, width=8192))


def test_a_lower_limit_makes_the_file_smaller(small: FeatureStore) -> None:
    small.limit = 40_000_000
    for first in range(0, 3000, 100):
        small.put(ORIGIN, rows(first, 100, width=768))
    small._close()
    small.limit = 4_000_000
    held = found(small, range(3000), width=768)
    assert held == list(range(held[0], 3000))
    assert len(held) > 100
    assert whole(small)
    small.put(ORIGIN, rows(5000, width=768))
    assert whole(small)


def test_clear_of_one_model_keeps_the_others_and_gives_the_space_back(store: FeatureStore) -> None:
    other = replace(ORIGIN, fingerprint="other")
    store.put(other, rows(0))
    for first in range(0, 640, BATCH):
        store.put(ORIGIN, rows(first, width=1024))
    before = data_file(store.folder).stat().st_blocks
    store.clear(lambda origin: origin == ORIGIN)
    assert found(store, range(640), width=1024) == []
    assert len(found(store, range(BATCH), other)) == BATCH
    assert data_file(store.folder).stat().st_blocks < before / 4


def test_clear_removes_the_files_and_nothing_else(store: FeatureStore, tmp_path: Path) -> None:
    store.put(ORIGIN, rows(0))
    (store.folder / "mine.txt").write_text("")
    with pytest.raises(
        StoreError, match=r"contains 'mine\.txt', which is not part of the cache; remove the folder by hand"
    ):
        store.clear()
    (store.folder / "mine.txt").unlink()
    store.clear()
    assert [path.name for path in store.folder.parent.iterdir()] == ["image-features.lock"]
    store.clear()  # there is nothing any more


def test_what_a_killed_process_had_put_aside_is_swept_away(store: FeatureStore) -> None:
    store.put(ORIGIN, rows(0))
    left = segments._trash_path(store.folder)
    shutil.copytree(store.folder, left)
    store.clear()
    assert not left.exists()

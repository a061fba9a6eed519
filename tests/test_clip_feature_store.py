"""The store of features: what is found is what was put, whatever is killed, forked, filled up or damaged."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import lmdb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from helpers.feature_rows import BATCH, ORIGIN, ROOMY, WIDTH, found, key, row, rows
from ipo_dspy.clip import feature_store as module
from ipo_dspy.clip import lmdb_segments as segments
from ipo_dspy.clip.feature_store import FeatureStore, Row
from ipo_dspy.clip.lmdb_segments import SegmentFile, data_file, folder_lock
from ipo_dspy.errors import StoreError, StoreFullError

CHILD = """
import resource, sys
from pathlib import Path
from helpers.feature_rows import *
from ipo_dspy.clip import lmdb_segments as segments
from ipo_dspy.clip.feature_store import FeatureStore
from ipo_dspy.errors import StoreFullError
store = FeatureStore(Path(sys.argv[1]), ROOMY)
"""


def replace_bit(data: bytes) -> bytes:
    return bytes([data[0] ^ 1, *data[1:]])


def child(source: str, *arguments: object) -> "subprocess.Popen[str]":
    """A script in a process of its own, with a store in the folder that is its first argument."""
    return subprocess.Popen(
        [sys.executable, "-c", CHILD + source, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    )


def ended(process: "subprocess.Popen[str]") -> str:
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return out


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "image-features"


@pytest.fixture
def store(folder: Path) -> FeatureStore:
    return FeatureStore(folder, ROOMY)


@pytest.fixture
def copied(store: FeatureStore, tmp_path: Path) -> Path:
    """The folder of a store with 64 images that no process has open."""
    for first in range(0, 64, BATCH):
        store.put(ORIGIN, rows(first))
    return Path(shutil.copytree(store.folder, tmp_path / "copy" / "image-features"))


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


@pytest.mark.end_to_end
def test_processes_at_once_all_keep_what_they_put(folder: Path) -> None:
    """They overlap, found the file together, and read while others write."""
    script = """
for first in range(int(sys.argv[2]), int(sys.argv[2]) + 160, BATCH):
    store.put(ORIGIN, rows(first))
    found(store, range(first, first + BATCH))
print(len(found(store, range(int(sys.argv[2]), int(sys.argv[2]) + 160))))
"""
    processes = [child(script, folder, first) for first in (0, 80, 160, 240)]
    assert [ended(process) for process in processes] == ["160\n"] * 4
    assert len(found(FeatureStore(folder, ROOMY), range(1000))) == 400


@pytest.mark.end_to_end
def test_a_kill_loses_nothing_that_was_put_and_leaves_no_half_batch(folder: Path) -> None:
    script = """
for number in range(int(sys.argv[2]), 10**6):
    store.put(ORIGIN, rows(number * BATCH))
    print(number, flush=True)
"""
    rng, number = np.random.default_rng(0), 0
    for _ in range(8):
        process = child(script, folder, number)
        assert process.stdout is not None
        for _ in range(int(rng.integers(1, 40))):
            number = int(process.stdout.readline())
        time.sleep(rng.uniform(0, 0.01))
        process.send_signal(signal.SIGKILL)
        more, _ = process.communicate()  # what it could still say
        number = 1 + max([number, *map(int, more.split())])
        held = found(FeatureStore(folder, ROOMY), range((number + 2) * BATCH))
        assert set(held) >= set(range(number * BATCH))
        assert len(held) % BATCH == 0


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
def test_a_foreign_file_in_its_place(folder: Path, content: bytes) -> None:
    folder.mkdir(parents=True)
    data_file(folder).write_bytes(content)
    store = FeatureStore(folder, ROOMY)
    if content:
        with pytest.raises(
            StoreError, match=r"is damaged, or no cache at all .*; remove it with: ipo-dspy cache clear"
        ):
            store.get(ORIGIN, key(0))
        assert data_file(folder).read_bytes() == content
        store.clear()
    store.put(ORIGIN, rows(0))
    assert len(found(store, range(BATCH))) == BATCH


def test_the_lmdb_of_another_program_is_left_alone(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    with lmdb.open(str(folder)) as env, env.begin(write=True) as txn:
        txn.put(b"about", b"somebody's")
    before = data_file(folder).read_bytes()
    with pytest.raises(StoreError, match=r"data\.mdb' is of another program; take another folder, e\.g\. export IPO_"):
        FeatureStore(folder, ROOMY).put(ORIGIN, rows(0))
    assert data_file(folder).read_bytes() == before


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


def test_a_full_disk_stops_writing_and_no_reading(folder: Path) -> None:
    """RLIMIT_FSIZE ends files at a size, as a full disk does."""
    script = """
FeatureStore(Path(sys.argv[1]), ROOMY).put(ORIGIN, rows(0))
store = FeatureStore(Path(sys.argv[1]) / ".." / "other" / "image-features", ROOMY)
size = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
number = 0
try:
    while True:
        store.put(ORIGIN, rows(number * BATCH, width=4096))
        number += 1
except StoreFullError as error:
    print(error)
print(number, len(found(store, range((number + 2) * BATCH), width=4096)) // BATCH)
"""
    said, numbers = ended(child(script, folder, 8_000_000)).splitlines()
    assert "cannot be written (File too large); free space, or take another folder" in said
    put, held = map(int, numbers.split())
    assert put == held > 2
    store = FeatureStore(folder / ".." / "other" / "image-features", ROOMY)
    store.put(ORIGIN, rows(put * BATCH, width=4096))  # there is room again
    assert len(found(store, range((put + 2) * BATCH), width=4096)) == (put + 1) * BATCH


def test_a_disk_that_is_full_from_the_start_leaves_no_half_file(folder: Path) -> None:
    script = """
resource.setrlimit(resource.RLIMIT_FSIZE, (70_000, 70_000))
try:
    store.put(ORIGIN, rows(0))
except StoreFullError as error:
    print(error)
"""
    assert "cannot be written" in ended(child(script, folder))
    assert not data_file(folder).exists()
    store = FeatureStore(folder, ROOMY)
    store.put(ORIGIN, rows(0))
    assert len(found(store, range(BATCH))) == BATCH


FULL = """
mount -t tmpfs -o size=2m none "$1" || exit 77
"$2" -c "$3store.put(ORIGIN, rows(0))" "$1/cache" || exit 78
case $4 in
    none) rm -r "$1/cache" ;;
    unlocked) rm "$1/cache/lock.mdb" ;;
esac
head -c 4000000 /dev/zero > "$1/rest" 2> /dev/null
exec "$2" -c "$3$5" "$1/cache"
"""


@pytest.mark.parametrize(("left", "known"), [("none", 0), ("unlocked", 0), ("whole", BATCH)])
def test_a_disk_without_a_free_byte_ends_no_process(tmp_path: Path, left: str, known: int) -> None:
    """On a small disk of its own, where a write into a hole of a mapped file would be the end."""
    script = """
def tried(work):
    try:
        return work()
    except StoreFullError as error:
        return str(error)
print(tried(lambda: len(found(store, range(BATCH)))))
print(tried(lambda: store.put(ORIGIN, rows(BATCH))))
"""
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", FULL, "sh"]
    if shutil.which("unshare") is None or subprocess.run([*command[:3], "true"], capture_output=True).returncode:
        pytest.skip("a process may not have mounts of its own here")
    given = [str(tmp_path), sys.executable, CHILD, left, script]
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run([*command, *given], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    if done.returncode == 77:
        pytest.skip("a process may not have mounts of its own here")
    assert done.returncode == 0, done.stderr
    held, put = done.stdout.splitlines()
    assert held == str(known) or (not known and "cannot be written (No space left on device); free space" in held)
    assert "cannot be written (No space left on device); free space, or take another folder" in put


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
@pytest.mark.parametrize("name", ["data.mdb", "lock.mdb", "../image-features.lock"])
def test_a_named_pipe_in_the_place_of_a_file_is_reported_and_left_alone(folder: Path, name: str) -> None:
    folder.mkdir(parents=True)
    os.mkfifo(folder / name)
    store = FeatureStore(folder, ROOMY)
    with pytest.raises(StoreError, match=r"cannot be used \(.*\); take another folder"):
        store.get(ORIGIN, key(0))
    with pytest.raises(StoreError, match=r"cannot be used \(.*\); take another folder"):
        store.put(ORIGIN, rows(0))
    assert (folder / name).is_fifo()


@pytest.mark.parametrize("size", [64, 8])
def test_a_process_with_little_address_space(folder: Path, size: int) -> None:
    """As batch systems and `ulimit -v` leave it."""
    script = """
size = int(sys.argv[2]) << 30
resource.setrlimit(resource.RLIMIT_AS, (size, size))
store.put(ORIGIN, rows(0))
print(len(found(store, range(2 * BATCH))))
"""
    FeatureStore(folder, ROOMY).put(ORIGIN, rows(BATCH))
    assert ended(child(script, folder, size)) == f"{2 * BATCH}\n"
    assert len(found(FeatureStore(folder, ROOMY), range(2 * BATCH))) == 2 * BATCH


@pytest.fixture
def small(folder: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    """A store with room for about 850 rows, in which last uses are written down to the moment."""
    monkeypatch.setattr(module, "FRESH_SECONDS", 0.0)
    return FeatureStore(folder, 4_000_000)


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


def test_there_are_never_more_segments_than_databases(folder: Path) -> None:
    store = FeatureStore(folder, ROOMY)
    origins = [replace(ORIGIN, fingerprint=str(number)) for number in range(segments.SEGMENTS + 3)]
    for origin in origins:
        store.put(origin, rows(0, 1))
    assert [len(found(store, range(1), origin)) for origin in origins] == [0] * 3 + [1] * segments.SEGMENTS


def test_a_batch_larger_than_the_limit_is_refused_with_a_message(folder: Path) -> None:
    store = FeatureStore(folder, 2_000_000)
    with pytest.raises(
        StoreFullError, match=r"no room within 2000000 bytes; allow more, e\.g\. export IPO_DSPY_CACHE_L"
    ):
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


def test_a_process_whose_store_is_cleared_by_another_continues(store: FeatureStore) -> None:
    script = """
store.put(ORIGIN, rows(0))
print("ready", flush=True)
input()
held = found(store, range(BATCH))
store.put(ORIGIN, rows(BATCH))
print(len(held), len(found(store, range(3 * BATCH))))
"""
    process = child(script, store.folder)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    store.clear()
    out, _ = process.communicate("\n", timeout=60)
    assert out == f"{BATCH} {BATCH}\n"  # what it knew before, and what it put afterwards
    assert found(store, range(3 * BATCH)) == list(range(BATCH, 2 * BATCH))


def test_threads_may_read_and_write_at_once(store: FeatureStore) -> None:
    def work(first: int) -> None:
        for number in range(first, first + 100, 10):
            store.put(ORIGIN, rows(number, 10))
            held.append(found(store, range(400)))

    held: list[list[int]] = []
    threads = [threading.Thread(target=work, args=(first,)) for first in range(0, 400, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 40
    assert found(store, range(400)) == list(range(400))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_may_use_what_its_parent_has_open(store: FeatureStore) -> None:
    """Also while a thread of the parent reads and writes."""
    store.put(ORIGIN, rows(0))
    opened = store._file
    with Busy(store):
        for number in range(1, 9):
            pid = os.fork()
            if pid == 0:
                whole = len(found(store, range(BATCH))) == BATCH
                store.put(ORIGIN, rows(1000 * number))
                kept = len(found(store, range(1000 * number, 1000 * number + BATCH))) == BATCH
                os._exit(0 if whole and kept and store._file is not opened else 1)  # its locks are its parent's
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    for number in range(1, 9):
        assert len(found(store, range(1000 * number, 1000 * number + BATCH))) == BATCH
    store.put(ORIGIN, rows(100))
    assert len(found(store, range(100 + BATCH))) > BATCH


class Busy:
    """A thread that reads and writes."""

    def __init__(self, store: FeatureStore) -> None:
        self.store, self.stop = store, threading.Event()
        self.thread = threading.Thread(target=self._work)

    def _work(self) -> None:
        while not self.stop.is_set():
            self.store.put(ORIGIN, rows(50_000))
            assert len(found(self.store, range(50_000, 50_000 + BATCH))) == BATCH

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()


def test_a_process_that_stands_still_holds_nobody_up_for_ever(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = """
with segments.folder_lock(store.folder):
    print("held", flush=True)
    input()
"""
    monkeypatch.setattr(segments, "_LOCK_SECONDS", 0.2)
    store.put(ORIGIN, rows(0))
    process = child(script, store.folder)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(StoreError, match="was held by another process for 0 s; take another folder"):
        store.put(ORIGIN, rows(BATCH))
    assert len(found(store, range(BATCH))) == BATCH
    process.kill()
    process.communicate()
    store._close()
    FeatureStore(store.folder, ROOMY).put(ORIGIN, rows(BATCH))


def test_a_lock_that_somebody_holds_is_waited_for_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not by each thread in turn."""
    waits: list[Path] = []

    def counted(place: Path) -> AbstractContextManager[object]:
        waits.append(place)
        return folder_lock(place)

    def read() -> None:
        with pytest.raises(StoreError, match="was held by another process"):
            store.get(ORIGIN, key(0))
        ends.append("read")

    monkeypatch.setattr(segments, "_LOCK_SECONDS", 0.2)
    monkeypatch.setattr(segments, "folder_lock", counted)
    store, ends = FeatureStore(folder, ROOMY), list[str]()
    with folder_lock(folder):
        threads = [threading.Thread(target=read) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (len(waits), len(ends)) == (1, 16)


def test_what_a_killed_process_had_put_aside_is_swept_away(store: FeatureStore) -> None:
    store.put(ORIGIN, rows(0))
    left = segments._trash_path(store.folder)
    shutil.copytree(store.folder, left)
    store.clear()
    assert not left.exists()


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """Stores of a test do not stay open."""
    yield
    for store in module._STORES:
        store._close()


assert resource.RLIMIT_FSIZE is not None  # for the scripts

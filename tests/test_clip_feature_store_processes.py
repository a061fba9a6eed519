"""The store of features with processes and threads that share it, are killed or forked, or have no space left."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from helpers.feature_rows import BATCH, CHILD, ORIGIN, ROOMY, child, ended, found, key, rows
from ipo_dspy.clip import lmdb_segments as segments
from ipo_dspy.clip.feature_store import FeatureStore
from ipo_dspy.clip.lmdb_segments import data_file, folder_lock
from ipo_dspy.errors import StoreError


@pytest.mark.end_to_end
def test_processes_at_once_all_keep_what_they_put(store_folder: Path) -> None:
    """They overlap, found the file together, and read while others write."""
    script = """
for first in range(int(sys.argv[2]), int(sys.argv[2]) + 160, BATCH):
    store.put(ORIGIN, rows(first))
    found(store, range(first, first + BATCH))
print(len(found(store, range(int(sys.argv[2]), int(sys.argv[2]) + 160))))
"""
    processes = [child(script, store_folder, first) for first in (0, 80, 160, 240)]
    assert [ended(process) for process in processes] == ["160\n"] * 4
    assert len(found(FeatureStore(store_folder, ROOMY), range(1000))) == 400


@pytest.mark.end_to_end
def test_a_kill_loses_nothing_that_was_put_and_leaves_no_half_batch(store_folder: Path) -> None:
    script = """
for number in range(int(sys.argv[2]), 10**6):
    store.put(ORIGIN, rows(number * BATCH))
    print(number, flush=True)
"""
    rng, number = np.random.default_rng(0), 0
    for _ in range(8):
        process = child(script, store_folder, number)
        assert process.stdout is not None
        for _ in range(int(rng.integers(1, 40))):
            number = int(process.stdout.readline())
        time.sleep(rng.uniform(0, 0.01))
        process.send_signal(signal.SIGKILL)
        more, _ = process.communicate()  # what it could still say
        number = 1 + max([number, *map(int, more.split())])
        held = found(FeatureStore(store_folder, ROOMY), range((number + 2) * BATCH))
        assert set(held) >= set(range(number * BATCH))
        assert len(held) % BATCH == 0


def test_a_full_disk_stops_writing_and_no_reading(store_folder: Path) -> None:
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
    said, numbers = ended(child(script, store_folder, 8_000_000)).splitlines()
    assert "cannot be written (File too large); free space, or take another folder" in said
    put, held = map(int, numbers.split())
    assert put == held > 2
    store = FeatureStore(store_folder / ".." / "other" / "image-features", ROOMY)
    store.put(ORIGIN, rows(put * BATCH, width=4096))  # there is room again
    assert len(found(store, range((put + 2) * BATCH), width=4096)) == (put + 1) * BATCH


def test_a_disk_that_is_full_from_the_start_leaves_no_half_file(store_folder: Path) -> None:
    script = """
resource.setrlimit(resource.RLIMIT_FSIZE, (70_000, 70_000))
try:
    store.put(ORIGIN, rows(0))
except StoreFullError as error:
    print(error)
"""
    assert "cannot be written" in ended(child(script, store_folder))
    assert not data_file(store_folder).exists()
    store = FeatureStore(store_folder, ROOMY)
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


@pytest.mark.parametrize("size", [64, 8])
def test_a_process_with_little_address_space(store_folder: Path, size: int) -> None:
    """As batch systems and `ulimit -v` leave it."""
    script = """
size = int(sys.argv[2]) << 30
resource.setrlimit(resource.RLIMIT_AS, (size, size))
store.put(ORIGIN, rows(0))
print(len(found(store, range(2 * BATCH))))
"""
    FeatureStore(store_folder, ROOMY).put(ORIGIN, rows(BATCH))
    assert ended(child(script, store_folder, size)) == f"{2 * BATCH}\n"
    assert len(found(FeatureStore(store_folder, ROOMY), range(2 * BATCH))) == 2 * BATCH


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


def test_a_lock_that_somebody_holds_is_waited_for_once(store_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    store, ends = FeatureStore(store_folder, ROOMY), list[str]()
    with folder_lock(store_folder):
        threads = [threading.Thread(target=read) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (len(waits), len(ends)) == (1, 16)

"""Settings and fixtures of all tests."""

import os
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import dspy
import pytest
from hypothesis import settings

from helpers.cli_process import Processes

if TYPE_CHECKING:
    import httpx

    from ipo_dspy.clip.feature_store import FeatureStore
    from ipo_dspy.demo import DemoTask

# Time limits of single examples fail on busy machines and say nothing about the code.
settings.register_profile("quick", deadline=None, max_examples=30)
settings.load_profile("quick")

LONGEST = (
    "tutorials",
    "ray",
    "internal_secrets",
    "redaction",
    "packaging",
    "signals",
    "cli_run_command",
    "ray_bench",
    "scoring_memory",
)
"""Files that take longest, most of them with few tests; the two with a Ray cluster not one after the other."""


def pytest_configure(config: pytest.Config) -> None:
    """No test, nor a process that it starts, touches the user's own image features, or is deaf to Ctrl-C."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # what a shell gives to processes in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = tempfile.TemporaryDirectory(prefix="ipo-dspy-tests-")
    config.add_cleanup(folder.cleanup)
    os.environ["IPO_DSPY_CACHE"] = folder.name
    config.option.loadscopereorder = False  # of xdist, which would begin with the files of most tests


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that none is left at the end; then by the number of tests."""
    first = {f"test_{name}.py": rank for rank, name in enumerate(LONGEST)}
    count = Counter(item.path for item in items)
    items.sort(key=lambda item: (first.get(item.path.name, len(first)), -count[item.path]))


@pytest.fixture(scope="module")
def task(request: pytest.FixtureRequest) -> "DemoTask":
    """A bundled task with `SHOTS` images per class, a constant of the test's module, or one."""
    from ipo_dspy import demo

    return demo.load("pixel-animals", shots=getattr(request.module, "SHOTS", 1))


@pytest.fixture(scope="module")
def client(task: "DemoTask") -> Iterator["httpx.Client"]:
    """A client of a server of the bundled task."""
    from helpers.serving import serving

    with serving(task.program) as client:
        yield client


@pytest.fixture(scope="session")
def sample_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of a life-like run of 200 trials."""
    from helpers.report_journals import sample_run
    from ipo_dspy.report import render_report

    return render_report(sample_run(tmp_path_factory.mktemp("sample"), trials=200))


@pytest.fixture(scope="session")
def forking_parent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """A process that has everything imported, for `Processes(folder, environment, parent=forking_parent)`."""
    if not hasattr(os, "fork"):
        pytest.skip("the processes are forked")
    folder = tmp_path_factory.mktemp("forking-parent")
    with Processes(folder, {"HOME": str(folder), "DSPY_CACHEDIR": str(folder / "cache")}) as parent:
        yield parent


@pytest.fixture
def store_folder(tmp_path: Path) -> Iterator[Path]:
    """The folder of stores of features, none of which stays open after its test."""
    from ipo_dspy.clip import feature_store

    yield tmp_path / "cache" / "image-features"
    for store in feature_store._STORES:
        store._close()


@pytest.fixture
def store(store_folder: Path) -> "FeatureStore":
    """An empty store of features with much room."""
    from helpers.feature_rows import ROOMY
    from ipo_dspy.clip.feature_store import FeatureStore

    return FeatureStore(store_folder, ROOMY)


@pytest.fixture
def no_cache() -> Iterator[None]:
    """Without DSPy's cache, so that every question reaches the server."""
    before = dspy.cache
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    yield
    dspy.cache = before


@pytest.fixture(autouse=True)
def _no_known_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key of one test is an ordinary word in the next."""
    monkeypatch.setattr("ipo_dspy._internal.secrets._known", {})

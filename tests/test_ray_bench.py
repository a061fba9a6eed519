"""Sweeps on a real Ray cluster of two nodes on this machine, compared with those of one process."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.bench_small import DeadlySuite, SmallSuite, grid, results, run
from helpers.comparison import assert_alike
from helpers.openai_server import KEY
from helpers.ray_nodes import add_node, kill, nodes
from ipo_dspy.bench.cells import Cell
from ipo_dspy.bench.method_runners import StopSignal
from ipo_dspy.bench.result_rows import ROWS, Row, read_rows
from ipo_dspy.bench.runner import CELLS, SweepObserver
from ipo_dspy.bench.settings import Settings
from ipo_dspy.bench.sweep import SweepResult
from ipo_dspy.cli import main
from ipo_dspy.distributed.ray_tasks import RayTasks
from ipo_dspy.errors import ClusterError, InputError, LanguageModelError
from ipo_dspy.run.journal import FILE_NAME

pytest.importorskip("ray", reason="Ray is not installed: pip install 'ipo_dspy[ray]'")
pytestmark = pytest.mark.end_to_end


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with nodes() as found:
        yield found


@pytest.fixture
def ray(cluster: Any) -> RayTasks:
    return RayTasks(cluster.address)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SweepResult:
    """A sweep in this process."""
    return run(tmp_path_factory.mktemp("whole"))


class Listening(SweepObserver):
    """Records its calls in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.said: list[str] = []

    def begins(self, cell: Cell, number: int, total: int) -> None:
        self.events.append(("begins", cell.key))

    def ended(self, row: Row) -> None:
        self.events.append(("ended", row.key))

    def say(self, text: str) -> None:
        self.said.append(text)


def journals(folder: Path) -> dict[Path, int]:
    """Sizes of the journals of cells that have scored something."""
    files = (folder / CELLS).glob(f"*/{FILE_NAME}")
    return {path: len(content) for path in files if b'"trial"' in (content := path.read_bytes())}


def begun(folder: Path, cells: int = 1) -> None:
    """Wait until cells of IPO have scored something."""
    for _ in range(30_000):
        if len(journals(folder)) >= cells:
            return
        time.sleep(0.01)
    raise AssertionError("no cell has begun")


def test_the_rows_are_those_of_one_process(ray: RayTasks, whole: SweepResult, tmp_path: Path) -> None:
    """Two cells are under way at a time."""
    listening = Listening()
    swept = run(tmp_path, ray=ray, observer=listening)
    assert_alike(results(swept.rows), results(whole.rows))
    assert_alike(results(read_rows(tmp_path)), results(whole.rows))
    assert {row.machine["threads"] for row in swept.rows.values()} == {1}
    assert [what for what, _ in listening.events[:2]] == ["begins", "begins"]
    for key in swept.rows:
        assert [what for what, of in listening.events if of == key] == ["begins", "ended"]


def test_fewer_cells_at_a_time_and_what_is_said_is_said_once(ray: RayTasks, tmp_path: Path) -> None:
    listening = Listening()
    few = grid(datasets=("grey-food",), shots=(17,), methods=("ipo",), settings=Settings(steps=0))
    run(tmp_path, few, ray=RayTasks(ray.address, num_workers=1), observer=listening)
    assert [what for what, _ in listening.events] == ["begins", "ended"] * 2
    (warning,) = listening.said
    assert warning.startswith("grey-food: 5 of 5 classes have fewer than 17 training images")


def test_keys_are_not_sent_and_a_worker_without_one_ends_the_sweep(
    ray: RayTasks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    asking = grid(
        datasets=("grey-food",), methods=("ipo",), seeds=(1,), settings=Settings(steps=1, lm="openai/gpt-4o-mini")
    )
    with pytest.raises(LanguageModelError, match=r"'openai/gpt-4o-mini'.* OPENAI_API_KEY.* \(on node '"):
        run(tmp_path, asking, ray=ray)
    assert read_rows(tmp_path) == {}
    for file in [path for path in tmp_path.rglob("*") if path.is_file()]:
        assert KEY.encode() not in file.read_bytes()


def test_folders_that_nodes_lack_are_reported_before_the_first_cell(ray: RayTasks, tmp_path: Path) -> None:
    suite = SmallSuite()
    suite.folders = (tmp_path / "pictures",)
    with pytest.raises(
        InputError, match=rf"^node '.*', \w{{8}} has no '{tmp_path}/pictures', the folder of the data sets; provide it"
    ):
        run(tmp_path / "out", ray=ray, suite=suite)
    assert read_rows(tmp_path / "out") == {}


def test_a_cluster_without_room_for_a_cell_is_reported(ray: RayTasks, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"no node of the Ray cluster has 64 CPUs and 0 GPUs for a worker \(CPUs"):
        run(tmp_path, ray=RayTasks(ray.address, cpus_per_worker=64))


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--ray-cpus", "2"], 2, "--ray-cpus needs a cluster; for example --ray auto"),
        (["--ray", "head"], 2, "'head' is not a valid Ray address; use 'auto', 'local' or 'HOST:6379'"),
        (["--ray", "ADDRESS", "--ray-cpus", "64"], 1, "add nodes with ray start, or request less: --ray-cpus 1"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    ray: RayTasks,
    options: list[str],
    code: int,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = [ray.address if option == "ADDRESS" else option for option in options]
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--methods", "clip", "--out", str(tmp_path), *options])
    (line,) = capsys.readouterr().err.splitlines()
    assert (ended.value.code, said in line) == (code, True)


def test_a_worker_that_dies_costs_time_and_one_that_dies_again_a_row(
    ray: RayTasks, whole: SweepResult, tmp_path: Path
) -> None:
    (folder := tmp_path / "deaths").mkdir()
    few = grid(methods=("clip",), seeds=(1,))
    suite = DeadlySuite(folder, {"pixel-animals": 1, "grey-food": 9})
    swept = run(tmp_path / "out", few, ray=ray, suite=suite)
    assert sorted(path.name for path in folder.iterdir()) == ["grey-food-0", "grey-food-1", "pixel-animals-0"]
    (failed,) = swept.failed
    assert (failed.dataset, failed.base) == ("grey-food", None)
    assert str(failed.error).startswith("WorkerCrashedError: The worker died unexpectedly")
    again = run(tmp_path / "out", few, ray=ray, retry=True)
    expected = results(whole.rows)
    assert_alike(results(again.rows), {key: expected[key] for key in again.rows})


def test_a_stop_ends_what_runs_and_begins_nothing_more(ray: RayTasks, tmp_path: Path) -> None:
    stopper, listening = StopSignal(), Listening()
    long = grid(methods=("ipo",), settings=Settings(steps=2000, prompts_per_step=2))

    def stop() -> None:
        begun(tmp_path, cells=2)
        stopper.stop()

    waiting = threading.Thread(target=stop)
    waiting.start()
    stopped = run(tmp_path, long, ray=ray, observer=listening, stopper=stopper)
    waiting.join()
    assert (stopped.stopped, stopped.rows) == (True, {})
    assert [what for what, _ in listening.events] == ["begins", "begins"]
    sizes = journals(tmp_path)
    time.sleep(0.5)
    assert journals(tmp_path) == sizes


@pytest.mark.slow
def test_a_node_that_is_killed_costs_time_only(cluster: Any, ray: RayTasks, tmp_path: Path) -> None:
    long = grid(
        methods=("ipo",), datasets=("grey-food",), seeds=(1, 2, 3), settings=Settings(steps=60, prompts_per_step=2)
    )
    doomed = add_node(cluster)

    def end() -> None:
        begun(tmp_path / "far", cells=3)
        kill(cluster, doomed)

    waiting = threading.Thread(target=end)
    waiting.start()
    listening = Listening()
    far = run(tmp_path / "far", long, ray=ray, observer=listening)
    waiting.join()
    assert sum(what == "begins" for what, _ in listening.events) == 3 + 1
    assert_alike(results(far.rows), results(run(tmp_path / "here", long).rows))


@pytest.mark.slow
def test_ctrl_c_prints_the_command_that_resumes(ray: RayTasks, tmp_path: Path) -> None:
    """As a terminal sends it: to all processes of the group."""
    command = ["bench", "--ray", ray.address, "--datasets", "grey-food", "--methods", "ipo", "--shots", "1"]
    code = "import sys; from ipo_dspy.cli import main; main(sys.argv[1:])"
    driver = subprocess.Popen(
        [sys.executable, "-c", code, *command, "--steps", "500", "--out", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    begun(tmp_path, cells=2)
    os.killpg(driver.pid, signal.SIGINT)
    _, err = driver.communicate()
    assert driver.returncode == 130
    lines = err.splitlines()
    assert lines[:2] == [f"ipo, grey-food, 1-shot, seed {seed}: begins" for seed in (1, 2)]
    assert lines[2] == "stopping the running cells; press Ctrl-C again to abort immediately"
    assert lines[-1].startswith(f"stopped after 0 of 3 cells; resume with: ipo-dspy bench --ray {ray.address} ")
    assert read_rows(tmp_path) == {}


@pytest.mark.slow
def test_a_killed_driver_loses_only_what_was_under_way(ray: RayTasks, whole: SweepResult, tmp_path: Path) -> None:
    script = Path(__file__).parent / "helpers" / "bench_small.py"
    driver = subprocess.Popen([sys.executable, str(script), str(tmp_path), ray.address], text=True)
    begun(tmp_path)
    driver.kill()
    assert driver.wait() == -signal.SIGKILL
    measured = read_rows(tmp_path)
    with (tmp_path / ROWS).open("ab") as file:
        file.write(b'{"key": "torn')
    listening = Listening()
    resumed = run(tmp_path, ray=ray, observer=listening)
    assert sum(what == "begins" for what, _ in listening.events) == whole.cells - len(measured)
    assert_alike(results(resumed.rows), results(whole.rows))

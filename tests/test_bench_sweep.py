"""Sweeps on the bundled model: to the end, killed in the middle, with cells that fail, with settings that changed."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.bench_small import SmallSuite, grid, results, run
from helpers.cli_process import Processes
from helpers.comparison import assert_alike
from ipo_dspy.baselines import build_method
from ipo_dspy.baselines.base import FewShotTask, evaluate
from ipo_dspy.bench.cells import Cell
from ipo_dspy.bench.method_runners import StopSignal
from ipo_dspy.bench.result_rows import ROWS, Row, read_rows
from ipo_dspy.bench.runner import CELLS, SweepObserver, with_conditions
from ipo_dspy.bench.settings import Settings
from ipo_dspy.bench.suites import BaseNovelSplit
from ipo_dspy.bench.sweep import SweepResult
from ipo_dspy.clip.bundled import resolve_model_name
from ipo_dspy.clip.loading import load_backbone, resolve_device
from ipo_dspy.errors import InputError, JournalError, LanguageModelError, ModelError
from ipo_dspy.run.journal import FILE_NAME, replay
from ipo_dspy.run.state import RunState
from ipo_dspy.scoring.score import harmonic_mean


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SweepResult:
    """A sweep that nothing disturbs."""
    return run(tmp_path_factory.mktemp("whole"))


class Listening(SweepObserver):
    """Records its calls; `stop` is called at the n-th better template of a method."""

    def __init__(self, stopper: StopSignal | None = None, at: int = 0) -> None:
        self.begun: list[Cell] = []
        self.said: list[str] = []
        self.stopper, self.at, self.steps = stopper, at, 0

    def begins(self, cell: Cell, number: int, total: int) -> None:
        self.begun.append(cell)

    def say(self, text: str) -> None:
        self.said.append(text)

    def event(self, event: object) -> None:
        if isinstance(event, dict) and event["event"] == "step":
            self.steps += 1
            if self.stopper is not None and self.steps == self.at:
                self.stopper.stop()


def of(swept: SweepResult, method: str) -> list[Row]:
    return [row for row in swept.rows.values() if row.method == method]


@pytest.mark.end_to_end
def test_every_cell_is_a_row_with_its_figures(whole: SweepResult) -> None:
    assert not whole.failed
    assert not whole.stopped
    assert len(whole.rows) == whole.cells == 2 + 2 * 2
    for row in whole.rows.values():
        assert row.base is not None
        assert row.novel is not None
        assert row.h == harmonic_mean(row.base, row.novel)
        assert row.base_loss is not None
        assert row.versions["torch"]
        assert row.machine["processor"]
        assert row.seconds > 0
        assert row.train_images == 5
    for row in of(whole, "ipo"):
        assert row.template is not None
        assert row.trials is not None
        assert row.trials > 1
        assert row.evaluations == row.trials * 5
        assert (row.calls, row.tokens, row.cost) == (0, 0, 0.0)


@pytest.mark.end_to_end
def test_the_rows_of_ipo_differ_in_what_is_selected_after_the_same_search(tmp_path: Path) -> None:
    selecting = grid(
        datasets=("pixel-animals",),
        methods=("ipo", "ipo-best", "ipo-ensemble"),
        seeds=(2,),
        settings=Settings(steps=6, prompts_per_step=4),
    )
    cells = {cell.method: cell for cell in selecting.cells()}
    swept = run(tmp_path, selecting)
    assert not swept.failed
    searches = {name: RunState(replay(tmp_path / CELLS / cell.folder)).search("self") for name, cell in cells.items()}
    proposed = {
        name: [str(trial.template) for trial in search.history if trial.stage == "search"]
        for name, search in searches.items()
    }
    assert proposed["ipo"] == proposed["ipo-best"] == proposed["ipo-ensemble"]
    (plainest,), (best,), (ensemble,) = (of(swept, name) for name in cells)
    most_accurate = min(searches["ipo-best"].history, key=lambda trial: trial.rank)
    assert best.template == str(most_accurate.template)
    assert best.trials == len(proposed["ipo-best"])
    lines = (ensemble.template or "").splitlines()
    assert lines[0] == plainest.template != best.template
    assert 2 <= len(lines) <= 4
    assert run(tmp_path, selecting).rows == swept.rows


@pytest.mark.end_to_end
def test_a_linear_probe_has_base_accuracy_and_nothing_else(tmp_path: Path) -> None:
    (row,) = run(tmp_path, grid(datasets=("grey-food",), methods=("linear-probe",), seeds=(1,))).rows.values()
    assert row.error is None
    assert row.base is not None
    assert (row.novel, row.novel_loss, row.h, row.template) == (None,) * 4
    stored = json.loads((tmp_path / ROWS).read_text())
    assert (stored["novel"], stored["h"]) == (None, None)
    split = SmallSuite().load("grey-food", shots=1, seed=1)
    assert split.validation.counts() == dict.fromkeys(split.base.classes, 1)
    shown = [example.image for example in split.base]
    train, validation = split.train, split.validation
    few = FewShotTask(
        load_backbone(resolve_model_name("demo"), None, device="cpu"),
        [example.image for example in train],
        train.labels(),
        train.classes,
        split.template,
        [example.image for example in validation],
        validation.labels(),
    )
    fitted = build_method("linear-probe").fit(few)
    assert evaluate(fitted, shown, split.base.labels(), split.base.classes).accuracy == row.base


def test_seeds_draw_other_images(whole: SweepResult) -> None:
    first, second = [row for row in of(whole, "ipo") if row.dataset == "grey-food"]
    assert (first.seed, second.seed) == (1, 2)
    assert first.template != second.template


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory, forking_parent: Processes) -> Processes:
    return Processes(tmp_path_factory.mktemp("processes"), {}, parent=forking_parent)


@pytest.mark.end_to_end
def test_a_killed_sweep_goes_on_to_the_same_rows(whole: SweepResult, processes: Processes, tmp_path: Path) -> None:
    source = (Path(__file__).parent / "helpers" / "bench_small.py").read_text()
    killed = processes.begin_python(source, str(tmp_path))
    wait_for_trials(tmp_path, cell=2)
    os.kill(killed, signal.SIGKILL)
    assert processes.end().code == -signal.SIGKILL
    measured = read_rows(tmp_path)
    assert 0 < len(measured) < whole.cells
    with (tmp_path / ROWS).open("ab") as file:
        file.write(b'{"key": "torn')
    listening = Listening()
    resumed = run(tmp_path, observer=listening)
    assert len(listening.begun) == whole.cells - len(measured)
    assert_alike(results(resumed.rows), results(whole.rows))


def wait_for_trials(folder: Path, cell: int) -> None:
    """Until the n-th cell of IPO has scored something."""
    for _ in range(3000):
        journals = [path for path in (folder / CELLS).glob(f"*/{FILE_NAME}") if b'"trial"' in path.read_bytes()]
        if len(journals) >= cell:
            return
        time.sleep(0.01)
    raise AssertionError("no cell has begun")


@pytest.mark.end_to_end
def test_a_stop_ends_the_sweep_after_the_step_and_it_can_be_resumed(whole: SweepResult, tmp_path: Path) -> None:
    stopper = StopSignal()
    stopped = run(tmp_path, stopper=stopper, observer=Listening(stopper, at=2))
    assert stopped.stopped
    assert [row.method for row in stopped.rows.values()] == ["clip"]
    resumed = run(tmp_path)
    assert not resumed.stopped
    assert_alike(results(resumed.rows), results(whole.rows))


@pytest.mark.end_to_end
def test_a_failed_cell_is_a_row_and_is_tried_again_on_request_only(whole: SweepResult, tmp_path: Path) -> None:
    broken = run(tmp_path, suite=SmallSuite(broken="grey-food"))
    assert [row.error for row in broken.failed] == ["RuntimeError: the disk has gone"] * 3
    assert {row.dataset for row in broken.rows.values() if row.error is None} == {"pixel-animals"}
    assert all(row.base is None for row in broken.failed)
    assert len(run(tmp_path).failed) == 3
    assert results(run(tmp_path, retry=True).rows).keys() == results(whole.rows).keys()
    assert_alike(results(read_rows(tmp_path)), results(whole.rows))


def test_changed_settings_are_refused_and_named(tmp_path: Path) -> None:
    few = grid(datasets=("grey-food",), seeds=(1,))
    run(tmp_path, few)
    other = replace(few, settings=Settings(steps=1, prompts_per_step=2))
    with pytest.raises(JournalError, match="steps was 3 and is 1"):
        run(tmp_path, other)
    listening = Listening()
    run(tmp_path, other, allow_config_changes=True, observer=listening)
    assert [cell.method for cell in listening.begun] == ["ipo"]


def test_rows_of_other_code_are_not_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = with_conditions(grid(datasets=("grey-food",), seeds=(1,)), SmallSuite(), "auto")
    first, listening = run(tmp_path, few), Listening()
    run(tmp_path, few, observer=listening)
    assert (listening.begun, listening.said) == ([], [])
    monkeypatch.setattr("ipo_dspy.bench.cells.code_digest", lambda: "of other code")
    second = run(tmp_path, few, observer=listening)
    assert len(listening.begun) == 2
    assert listening.said == ["measured again, because code, device or data has changed: 2 cells"]
    assert first.rows.keys().isdisjoint(second.rows)
    assert {row.decisive["code"] for row in second.rows.values()} == {"of other code"}
    assert {row.decisive["device"] for row in first.rows.values()} == {resolve_device("auto").type}


def test_an_error_in_a_row_names_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "planted-and-unmistakable-value")

    class SecretInError(SmallSuite):
        def load(self, name: str, *, shots: int, seed: int) -> BaseNovelSplit:
            raise RuntimeError("GET https://me:hunter2@host/x?key=1 with planted-and-unmistakable-value\nfailed")

    (row,) = run(tmp_path, grid(datasets=("grey-food",), methods=("clip",)), suite=SecretInError()).failed
    assert row.error is not None
    assert [part for part in ("planted", "hunter2", "\n") if part in row.error] == []
    assert "planted" not in (tmp_path / ROWS).read_text()


def test_more_cells_are_no_change(tmp_path: Path) -> None:
    run(tmp_path, grid(datasets=("grey-food",), seeds=(1,), methods=("clip",)))
    assert len(run(tmp_path, grid(datasets=("grey-food",), seeds=(1,))).rows) == 2


def test_more_shots_than_a_class_has_images_are_reported_once(tmp_path: Path) -> None:
    listening = Listening()
    few = grid(datasets=("grey-food",), shots=(17,), methods=("ipo",), settings=Settings(steps=0))
    swept = run(tmp_path, few, observer=listening)
    (warning,) = listening.said
    assert warning.startswith(
        "grey-food: 5 of 5 classes have fewer than 17 training images (all of them are used), e.g. "
    )
    assert [row.train_images for row in swept.rows.values()] == [5 * 16] * 2


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        (
            {"methods": ("gepa",)},
            LanguageModelError,
            "method 'gepa' needs a language model, but none is given; pass prompt_model='openai",
        ),
        ({"methods": ("cop",)}, InputError, "unknown method 'cop'; known: clip,"),
        ({"settings": Settings(model="none")}, ModelError, "none"),
        ({"settings": Settings(arguments={"ipo": {"x": 1}})}, InputError, "method 'ipo' takes no hyper-parameters"),
        ({"settings": Settings(arguments={"clip": {"x": 1}})}, InputError, "clip has no setting 'x'"),
        (
            {"settings": Settings(arguments={"coop@cars": {}})},
            InputError,
            "'coop@cars' names an unknown data set; .* grey-food",
        ),
        ({"settings": Settings(arguments={"coop@grey-food": {"x": 1}})}, InputError, "coop has no setting 'x'"),
    ],
)
def test_what_cannot_be_run_is_refused_before_there_are_rows(
    changed: dict[str, object], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        run(tmp_path / "new", grid(**changed))
    assert not (tmp_path / "new").exists() or not read_rows(tmp_path / "new")

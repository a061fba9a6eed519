"""A compilation by IPO shows in MLflow: what its DSPy autologging gives, and what our observer adds."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.utils import DummyLM

from helpers.openai_server import Writer
from ipo_dspy import IPO, ClipClassifier, demo
from ipo_dspy.errors import InputError
from ipo_dspy.integrations.mlflow import mlflow_observer

SHOTS = 2
"""Of the fixture `task`."""

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),  # SQLAlchemy 2.1 about MLflow
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),  # MLflow about its own types
    pytest.mark.filterwarnings("ignore:For backward compatibility, 'str' dtypes"),  # pandas 3 about MLflow's tables
]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A local MLflow; it reports nothing to anybody."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("DO_NOT_TRACK", "true")
        mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed; pip install 'ipo_dspy[mlflow]'")
        logging.getLogger("alembic").setLevel(logging.ERROR)
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}")
        yield mlflow
        mlflow.set_tracking_uri(before)


@pytest.fixture
def mlflow(database: Any, tmp_path: Path) -> Iterator[Any]:
    """An experiment of its own in it."""
    mlflow = database
    mlflow.set_experiment(experiment_id=mlflow.create_experiment(tmp_path.name, (tmp_path / "artifacts").as_uri()))
    yield mlflow
    while mlflow.active_run() is not None:
        mlflow.end_run()


@pytest.fixture
def autolog(mlflow: Any) -> Iterator[Any]:
    """MLflow as its documentation sets it up for DSPy, undone afterwards."""
    track_usage = dspy.settings.track_usage
    mlflow.dspy.autolog(log_compiles=True, log_evals=True)
    yield mlflow
    mlflow.dspy.autolog(disable=True)
    dspy.configure(track_usage=track_usage)


def only_run(mlflow: Any) -> Any:
    (run,) = mlflow.search_runs(output_format="list", filter_string="tags.mlflow.parentRunId IS NULL")
    return run


def files(mlflow: Any, run: Any) -> set[str]:
    return {file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id)}


def by_step(mlflow: Any, run: Any, metric: str) -> dict[int, float]:
    return {m.step: m.value for m in mlflow.MlflowClient().get_metric_history(run.info.run_id, metric)}


@pytest.mark.end_to_end
def test_autologging_shows_ipo_as_it_shows_copro(autolog: Any, task: demo.DemoTask) -> None:
    best = IPO(proposer="evolution", steps=2).compile(task.program, list(task.trainset), valset=list(task.valset))
    ours = only_run(autolog)
    assert ours.info.status == "FINISHED"
    autolog.MlflowClient().delete_run(ours.info.run_id)
    copro = dspy.COPRO(metric=correct, prompt_model=DummyLM([ANSWER] * 2), breadth=2, depth=1)
    copro.compile(task.program.deepcopy(), trainset=list(task.trainset), eval_kwargs={"num_threads": 1})
    theirs = only_run(autolog)
    assert files(autolog, theirs) <= files(autolog, ours) == {"best_model.json", "trainset.json", "valset.json"}
    saved = autolog.artifacts.download_artifacts(run_id=ours.info.run_id, artifact_path="best_model.json")
    assert ClipClassifier.from_file(saved).template == best.template


@pytest.mark.end_to_end
def test_autologging_leaves_nothing_behind(mlflow: Any, task: demo.DemoTask) -> None:
    mlflow.dspy.autolog(log_compiles=True)
    mlflow.dspy.autolog(disable=True)
    IPO(proposer="evolution", steps=1).compile(task.program, task.trainset)
    assert mlflow.search_runs(output_format="list") == []


def test_the_observer_shows_the_best_of_each_step_in_autologgings_run(autolog: Any, task: demo.DemoTask) -> None:
    optimizer = IPO(proposer="evolution", steps=2, observers=[mlflow_observer()])
    results = optimizer.compile(task.program, task.trainset, valset=task.valset).detailed_results
    run = only_run(autolog)
    assert by_step(autolog, run, "best_accuracy") == {
        step: max(t.score.accuracy for t in results.trials if t.step <= step) for step in range(3)
    }
    assert by_step(autolog, run, "templates")[2] == len(results.trials)
    assert run.data.metrics["train_accuracy"] == results.best.score.accuracy
    assert run.data.metrics["train_accuracy_start"] == results.baseline.score.accuracy
    assert {"best_loss", "step_accuracy", "validation_loss", "seconds"} <= set(run.data.metrics)
    assert run.data.params["start_template"] == "a photo of a <CLASS>."
    assert (run.data.params["classes"], run.data.params["images"]) == ("25", "50")
    assert run.data.tags["template"] == str(results.best.template)
    assert {"best_model.json", "templates.csv"} <= files(autolog, run)


def test_the_observer_logs_to_the_callers_own_run(mlflow: Any, task: demo.DemoTask) -> None:
    with mlflow.start_run() as run:
        IPO(proposer="evolution", steps=1, observers=[mlflow_observer()]).compile(task.program, task.trainset)
    logged = mlflow.get_run(run.info.run_id)
    assert logged.data.metrics["best_accuracy"] > logged.data.metrics["train_accuracy_start"]
    table = mlflow.artifacts.load_text(f"{logged.info.artifact_uri}/templates.csv")
    assert table.splitlines()[0] == "index,step,accuracy,loss,tokens,template"
    assert table.splitlines()[1].endswith(",a photo of a <CLASS>.")


def test_the_words_that_a_search_changed_are_logged(mlflow: Any) -> None:
    task = demo.load("grey-food", shots=16, seed=2, model="demo-vit")
    task.program.template = "<CLASS>, a tilted grey sticker."
    given: dict[str, Any] = {"optimize": "class_texts", "candidates": {"corn cob": ["maize"]}}
    with mlflow.start_run() as run:
        optimizer = IPO(proposer="evolution", **given, observers=[mlflow_observer()], progress=False)
        optimizer.compile(task.program, task.trainset)
    logged = mlflow.get_run(run.info.run_id)
    assert logged.data.metrics["changed_labels"] == 1
    assert mlflow.artifacts.load_dict(f"{logged.info.artifact_uri}/class_texts.json") == {"corn cob": ["maize"]}


def test_without_a_run_nothing_is_searched(mlflow: Any, task: demo.DemoTask) -> None:
    with pytest.raises(InputError, match=r"with mlflow.start_run\(\): optimizer.compile"):
        IPO(proposer="evolution", steps=1, observers=[mlflow_observer()]).compile(task.program, task.trainset)
    assert mlflow.search_runs(output_format="list") == []


def test_two_classifiers_are_reported_apart(mlflow: Any) -> None:
    trial = {"index": 0, "template": "a <CLASS>.", "loss": 1.0, "tokens": 3, "key": "0"}
    with mlflow.start_run() as run:
        observer: Any = mlflow_observer()
        observer({"event": "run_started", "seed": 3, "settings": {"steps": 1, "proposer": "evolution"}})
        for name, accuracy in (("first", 50.0), ("steps[1]", 75.0)):
            observer({"event": "search_started", "predictor": name, "start": "a <CLASS>.", **SEARCH})
            observer({"event": "trial", "predictor": name, "step": 0, "accuracy": accuracy, **trial})
            observer({"event": "lm_response", "predictor": name, "request_id": "step 1/0", **RESPONSE})
            observer({"event": "step", "predictor": name, "step": 1, "calls": 2, "tokens": 30})
    logged = mlflow.get_run(run.info.run_id).data
    assert {k: v for k, v in logged.metrics.items() if "best_accuracy" in k} == {
        "first.best_accuracy": 50.0,
        "steps_1_.best_accuracy": 75.0,
    }
    assert (logged.metrics["first.calls"], logged.metrics["first.tokens"]) == (2, 30)
    assert (logged.metrics["steps_1_.calls"], logged.metrics["steps_1_.tokens"]) == (4, 60)  # of the whole run
    params = logged.params
    assert (params["ipo_seed"], params["ipo_steps"], params["steps_1_.clip_name"]) == ("3", "1", "toy")


def test_a_second_compilation_in_the_run_keeps_the_first_ones_parameters(mlflow: Any, task: demo.DemoTask) -> None:
    with mlflow.start_run() as run:
        first = IPO(proposer="evolution", steps=1, observers=[mlflow_observer()]).compile(task.program, task.trainset)
        IPO(proposer="evolution", steps=2, observers=[mlflow_observer()]).compile(first, task.trainset)
    logged = mlflow.get_run(run.info.run_id).data
    assert logged.params["start_template"] == "a photo of a <CLASS>."
    assert logged.metrics["train_accuracy_start"] == first.detailed_results.best.score.accuracy


@pytest.mark.usefixtures("no_cache")
def test_every_request_counts_not_only_those_of_steps(mlflow: Any, task: demo.DemoTask) -> None:
    with Writer() as server, mlflow.start_run() as run:
        lm = server.lm()
        given: dict[str, Any] = {"steps": 2, "polish": False, "prompts_per_step": 2, "max_described_images": 3}
        optimizer = IPO(prompt_model=lm, description_model=lm, observers=[mlflow_observer()], **given)
        results = optimizer.compile(task.program, task.trainset).detailed_results
    calls = by_step(mlflow, run, "calls")
    assert (calls[0], calls[2]) == (4, 6)  # a connectivity check and three descriptions come before the first step
    metrics = mlflow.get_run(run.info.run_id).data.metrics
    assert (metrics["calls"], metrics["tokens"]) == (results.calls, results.tokens)


def test_a_resumed_run_counts_what_its_earlier_sessions_found(mlflow: Any, task: demo.DemoTask, tmp_path: Path) -> None:
    given: dict[str, Any] = {"proposer": "evolution", "log_dir": tmp_path / "run", "choose": "best"}
    IPO(**given, steps=2).compile(task.program, task.trainset)
    with mlflow.start_run() as run:
        best = IPO(**given, steps=3, observers=[mlflow_observer()]).compile(task.program, task.trainset)
    results = best.detailed_results
    assert by_step(mlflow, run, "best_accuracy") == {3: results.best.score.accuracy}
    assert by_step(mlflow, run, "templates") == {3: len(results.trials)}
    logged = mlflow.get_run(run.info.run_id)
    assert logged.data.params["ipo_steps"] == "3"
    table = mlflow.artifacts.load_text(f"{logged.info.artifact_uri}/templates.csv")
    assert len(table.splitlines()) == 1 + len(results.trials)


def test_a_resumed_run_reports_only_new_metrics(mlflow: Any) -> None:
    with mlflow.start_run() as run:
        observer: Any = mlflow_observer()
        observer({"event": "step", "predictor": "self", "step": 3, "calls": 1, "tokens": 9})
        observer(
            {"event": "run_finished", "status": "finished", "seconds": 2.0, "calls": 1, "tokens": None, "cost": 0.25}
        )
    assert mlflow.get_run(run.info.run_id).data.metrics == {"calls": 1, "seconds": 2.0, "cost": 0.25}


def test_what_mlflow_refuses_is_a_warning(mlflow: Any, caplog: pytest.LogCaptureFixture) -> None:
    with mlflow.start_run() as run:
        observer: Any = mlflow_observer()
        observer({"event": "search_started", "predictor": "self", "start": "a <CLASS>.", **SEARCH})
    mlflow.MlflowClient().delete_run(run.info.run_id)
    observer({"event": "run_finished", "status": "finished", "seconds": 1.0, "calls": 0, "tokens": 0})
    assert "run_finished not logged to MLflow run" in caplog.text


def test_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(InputError, match=r"pip install 'ipo_dspy\[mlflow\]'"):
        mlflow_observer()


def test_unknown_events_pass(mlflow: Any, caplog: pytest.LogCaptureFixture) -> None:
    observer: Any = mlflow_observer(run_id="any")
    observer({"event": "something new"})
    assert caplog.records == []


ANSWER = {"proposed_instruction": "a <CLASS>.", "proposed_prefix_for_output_field": "Label:"}
RESPONSE: dict[str, Any] = {
    **{"model": "toy", "texts": [], "truncated": False, "error": None, "calls": 2, "prompt_tokens": 20},
    **{"completion_tokens": 10, "cost": None, "seconds": 1.0, "run_seconds": 1.0},
}
SEARCH = {"classes": ["a", "b"], "images": 2, "validation_images": 0, "model": {"name": "toy"}}


def correct(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    return bool(example.label == prediction.label)

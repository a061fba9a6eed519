"""Log the events of IPO to an MLflow run, step by step, as an observer.

MLflow's own DSPy autologging (`mlflow.dspy.autolog(log_compiles=True)`) opens a run for `IPO.compile` and keeps the
best program in it. It learns of scores through `dspy.Evaluate`, which IPO does not use: templates are scored together,
exactly and much faster. So this observer logs the scores to the active run: autologging's, or the caller's own.
"""

import csv
import io
import logging
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any

from ipo_dspy.errors import InputError, missing_package
from ipo_dspy.run import events
from ipo_dspy.run.events import Event
from ipo_dspy.run.state import RunState

logger = logging.getLogger(__name__)

_LONGEST = 500
"""Characters of a parameter or tag: the least that any MLflow store keeps whole."""


class MlflowObserver:
    """Logs the events of one compilation to an MLflow run; made by `mlflow_observer`.

    Metrics by step: `best_accuracy` (percent), `best_loss` (nats), `best_value` (of another objective, higher is
    better), `step_accuracy` (the best of the step alone), `templates` (scored so far), `calls` and `tokens` (of the
    whole run so far). At the end: `train_accuracy`, `train_accuracy_start`, the same for `validation` and for loss, and
    the totals `calls`, `tokens`, `seconds` and, if known, `cost` (USD). Parameters: the settings, the model, the
    numbers of classes and images, the start template.
    Tags: the selected template and the images that it was selected on. `templates.csv`: every trial. After a search for
    words: the metrics `changed_labels` and `compared_texts`, and `class_texts.json` with the texts of the labels that
    are not read by their name. In a program with several classifiers their names come first. A resumed run counts what
    its earlier sessions did.
    """

    def __init__(self, run_id: str | None) -> None:
        self._run_id = run_id
        self._client: Any = None
        self._state = RunState()

    def resume(self, past: Iterable[Event]) -> None:
        """Process the events of the run's earlier sessions."""
        self._state = RunState(past)

    def __call__(self, event: Event) -> None:
        """Log an event, if its kind has something to log.

        An MLflow error is only a warning: it must not end a search that was paid for.

        Raises:
            InputError: no run is active; the first event comes before anything is paid for.
        """
        import mlflow
        from mlflow.exceptions import MlflowException

        self._state.fold(event)
        if self._run_id is None:
            if (run := mlflow.active_run()) is None:
                raise InputError(
                    "no MLflow run is active; use `with mlflow.start_run(): optimizer.compile(...)`, or call "
                    "mlflow.dspy.autolog(log_compiles=True) once after importing IPO"
                )
            self._run_id = str(run.info.run_id)
        self._client = (
            self._client or mlflow.MlflowClient()
        )  # not earlier: the caller may name another server until now
        log = getattr(self, f"_on_{event['event']}", None)
        if log is None:
            return
        try:
            log(event, _prefix(str(event.get("predictor", "self"))))
        except MlflowException as error:
            logger.warning("%s not logged to MLflow run %s: %s", event["event"], self._run_id, error)

    def _on_run_started(self, event: Event, prefix: str) -> None:
        self._log_params({f"ipo_{key}": value for key, value in self._state.settings.items()})

    _on_run_resumed = _on_run_started

    def _on_search_started(self, event: events.SearchStartedEvent, prefix: str) -> None:
        params = {"start_template": event["start"], "classes": len(event["classes"]), "images": event["images"]}
        params |= {"validation_images": event["validation_images"]}
        params |= {f"clip_{key}": value for key, value in event["model"].items()}
        self._log_params({f"{prefix}{key}": value for key, value in params.items()})

    def _on_trial(self, event: events.TrialEvent, prefix: str) -> None:
        if event["step"] == 0:  # initial templates belong to no step that ends
            self._log_step(event, prefix)

    def _log_step(self, event: events.TrialEvent | events.StepEvent, prefix: str) -> None:
        history, usage = self._state.search(event["predictor"]).history, self._state.usage
        if not history:
            return
        best = history.best.score
        metrics = {"best_accuracy": best.accuracy, "best_loss": best.loss, "templates": len(history)}
        metrics |= {} if best.value is None else {"best_value": best.value}
        metrics |= {"calls": usage.calls, "tokens": usage.tokens}
        if accuracies := [trial.score.accuracy for trial in history if trial.step == event["step"]]:
            metrics["step_accuracy"] = max(accuracies)
        self._log(metrics={f"{prefix}{key}": value for key, value in metrics.items()}, step=event["step"])

    _on_step = _log_step

    def _on_selected(self, event: events.SelectedEvent, prefix: str) -> None:
        self._log(tags={f"{prefix}template": event["template"], f"{prefix}selected_on": event["selected_on"]})
        table = io.StringIO()
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(["index", "step", "accuracy", "loss", "tokens", "template"])
        for t in self._state.search(event["predictor"]).history:
            rows.writerow([t.index, t.step, t.score.accuracy, t.score.loss, t.tokens, t.template])
        self._client.log_text(self._run_id, table.getvalue(), f"{prefix}templates.csv")

    def _on_class_texts(self, event: events.ClassTextsEvent, prefix: str) -> None:
        changed = {change["label"] for change in event["changes"]}
        self._log(metrics={f"{prefix}changed_labels": len(changed), f"{prefix}compared_texts": event["compared"]})
        self._client.log_dict(self._run_id, event["class_texts"], f"{prefix}class_texts.json")

    def _on_evaluation(self, event: events.EvaluationEvent, prefix: str) -> None:
        name = event["split"] if event["class_split"] == "all" else f"{event['split']}_{event['class_split']}"
        role = "" if event["role"] == "best" else f"_{event['role']}"
        scores = {"accuracy": event["accuracy"], "loss": event["loss"]}
        self._log(metrics={f"{prefix}{name}_{score}{role}": value for score, value in scores.items()})

    def _on_run_finished(self, event: events.RunFinishedEvent, prefix: str) -> None:
        usage = {"calls": event["calls"], "tokens": event["tokens"]}
        totals = {**usage, "seconds": event["seconds"], "cost": event.get("cost")}
        metrics = {key: value for key, value in totals.items() if value is not None}
        last = max((search.steps for search in self._state.searches.values()), default=0)
        self._log(metrics=metrics, tags={"ipo_status": event["status"]}, step=last)

    def _log_params(self, params: Mapping[str, Any]) -> None:
        """Log the parameters that the run does not have yet, since MLflow does not allow a parameter to change."""
        from mlflow.entities import Param

        logged = self._client.get_run(self._run_id).data.params
        new = [Param(key, str(value)[:_LONGEST]) for key, value in params.items() if key not in logged]
        self._client.log_batch(self._run_id, params=new)

    def _log(
        self, *, metrics: Mapping[str, float] | None = None, tags: Mapping[str, Any] | None = None, step: int = 0
    ) -> None:
        from mlflow.entities import Metric, RunTag

        now = int(time.time() * 1000)
        self._client.log_batch(
            self._run_id,
            metrics=[Metric(key, float(value), now, step) for key, value in (metrics or {}).items()],
            tags=[RunTag(key, str(value)[:_LONGEST]) for key, value in (tags or {}).items()],
        )


def mlflow_observer(*, run_id: str | None = None) -> MlflowObserver:
    """Return an observer for `IPO(observers=[...])` that logs one compilation to MLflow.

    `MlflowObserver` lists what it logs. ::

        mlflow.dspy.autolog(log_compiles=True)      # after `from ipo_dspy import IPO`, or it does not know IPO
        IPO(..., observers=[mlflow_observer()]).compile(program, trainset)

    Args:
        run_id: log to this run; by default to the one that is active at the first event.

    Raises:
        InputError: MLflow is not installed.
    """
    try:
        import mlflow  # noqa: F401
    except ImportError as error:
        raise missing_package("MLflow", extra="mlflow", purpose="to record runs") from error
    return MlflowObserver(run_id)


def _prefix(predictor: str) -> str:
    """Return the prefix of names in MLflow, which takes no brackets and quotes.

    >>> _prefix("self"), _prefix("steps[0].classify")
    ('', 'steps_0_.classify.')
    """
    return "" if predictor == "self" else re.sub(r"[^\w\-. :/]", "_", predictor) + "."

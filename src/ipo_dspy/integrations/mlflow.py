"""A run in MLflow, step by step: an observer that logs what IPO tells.

MLflow's own DSPy autologging (`mlflow.dspy.autolog(log_compiles=True)`) opens a run for `IPO.compile` and keeps the
best program in it. It learns of scores through `dspy.Evaluate`, which IPO does not use: templates are scored together,
exactly and much faster. So the scores come from here, into the run that is active: autologging's, or the caller's own.
"""

import csv
import io
import logging
import re
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from ipo_dspy.errors import InputError, missing_package

logger = logging.getLogger(__name__)

_LONGEST = 500
"""Characters of a parameter or tag: the least that any MLflow store keeps whole."""


class MlflowObserver:
    """Logs the events of one compilation to an MLflow run; made by `mlflow_observer`.

    Metrics by step: `best_accuracy` (percent), `best_loss` (nats), `step_accuracy` (the best of the step alone),
    `templates` (scored so far), `calls` and `tokens` (so far). At the end: `train_accuracy`, `train_accuracy_start`,
    the same for `validation` and for loss, `seconds`, and `cost` (USD) where it is known. Parameters: the settings, the
    model, the numbers of classes and images, the start template. Tags: the chosen template and what decided.
    `templates.csv`: every trial. In a program with several classifiers their names come first.
    """

    def __init__(self, run_id: str | None) -> None:
        self._run_id = run_id
        self._client: Any = None
        self._trials: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        self._spent: dict[str, dict[str, float]] = defaultdict(lambda: {"calls": 0, "tokens": 0})

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Log an event, if there is something to log of its kind.

        What MLflow cannot take is a warning: a search that was paid for does not end because of it.

        Raises:
            InputError: no run is active; the first event comes before anything is paid for.
        """
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        self._run_id = self._run_id or _active_run()
        self._client = self._client or MlflowClient()  # not earlier: the caller may name another server until now
        log = getattr(self, f"_on_{event['event']}", None)
        if log is None:
            return
        try:
            log(event, _prefix(event.get("predictor", "self")))
        except MlflowException as error:
            logger.warning("%s not logged to MLflow run %s: %s", event["event"], self._run_id, error)

    def _on_run(self, event: Mapping[str, Any], prefix: str) -> None:
        self._log_params({f"ipo_{key}": value for key, value in {"seed": event["seed"], **event["settings"]}.items()})

    def _on_search(self, event: Mapping[str, Any], prefix: str) -> None:
        params = {
            "start_template": event["start"],
            "classes": len(event["classes"]),
            "images": event["images"],
            "validation_images": event["validation_images"],
            **{f"clip_{key}": value for key, value in event["model"].items()},
        }
        self._log_params({f"{prefix}{key}": value for key, value in params.items()})

    def _on_trial(self, event: Mapping[str, Any], prefix: str) -> None:
        self._trials[prefix].append(event)
        if event["step"] == 0:  # initial templates belong to no step that ends
            self._log_step(prefix, 0)

    def _on_step(self, event: Mapping[str, Any], prefix: str) -> None:
        for key in ("calls", "tokens"):
            self._spent[prefix][key] += event[key]
        self._log_step(prefix, event["step"])

    def _log_step(self, prefix: str, step: int) -> None:
        trials = self._trials[prefix]
        if not trials:  # a run that goes on from its folder tells only what is new
            return
        best = min(trials, key=lambda trial: (-trial["accuracy"], trial["loss"]))
        metrics = {
            "best_accuracy": best["accuracy"],
            "best_loss": best["loss"],
            "templates": len(trials),
            **self._spent[prefix],
        }
        tried = [trial["accuracy"] for trial in trials if trial["step"] == step]
        if tried:
            metrics["step_accuracy"] = max(tried)
        self._log(metrics={f"{prefix}{key}": value for key, value in metrics.items()}, step=step)

    def _on_chosen(self, event: Mapping[str, Any], prefix: str) -> None:
        self._log(tags={f"{prefix}template": event["template"], f"{prefix}decided_by": event["decided_by"]})
        table = io.StringIO()
        columns = ["index", "step", "accuracy", "loss", "tokens", "template"]
        rows = csv.DictWriter(table, columns, extrasaction="ignore", lineterminator="\n")
        rows.writeheader()
        rows.writerows(self._trials[prefix])
        self._client.log_text(self._run_id, table.getvalue(), f"{prefix}templates.csv")

    def _on_evaluation(self, event: Mapping[str, Any], prefix: str) -> None:
        name = event["split"] if event["part"] == "all" else f"{event['split']}_{event['part']}"
        role = "" if event["role"] == "best" else f"_{event['role']}"
        self._log(metrics={f"{prefix}{name}_{score}{role}": event[score] for score in ("accuracy", "loss")})

    def _on_end(self, event: Mapping[str, Any], prefix: str) -> None:
        spent = {key: event[key] for key in ("seconds", "cost") if event.get(key) is not None}
        self._log(metrics=spent, tags={"ipo_status": event["status"]})

    def _log_params(self, params: Mapping[str, Any]) -> None:
        """Of a chain of optimizers in one run the first is kept: MLflow lets no parameter change."""
        from mlflow.entities import Param

        kept = self._client.get_run(self._run_id).data.params
        new = [Param(key, str(value)[:_LONGEST]) for key, value in params.items() if key not in kept]
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
    """An observer for `IPO(observers=[...])` that logs best accuracy and loss by step, settings and trials to MLflow.

    Use one for each compilation. ::

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
    """What names in MLflow begin with; it takes no brackets and quotes.

    >>> _prefix("self"), _prefix("steps[0].classify")
    ('', 'steps_0_.classify.')
    """
    return "" if predictor == "self" else re.sub(r"[^\w\-. :/]", "_", predictor) + "."


def _active_run() -> str:
    import mlflow

    run = mlflow.active_run()
    if run is None:
        raise InputError(
            "no MLflow run is active; write `with mlflow.start_run(): optimizer.compile(...)`, or call "
            "mlflow.dspy.autolog(log_compiles=True) once after importing IPO"
        )
    return str(run.info.run_id)

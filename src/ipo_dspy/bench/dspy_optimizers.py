"""Run the optimizers of DSPy on the classifier of a cell, with the single-image evaluation budget of IPO.

Each optimizer selects on the k shots of the base classes and uses the language model of the sweep. They score one image
at a time, so the budget is counted in images. The other settings are those of docs/composing.md.
"""

import contextlib
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, TextIO

import dspy
from dspy.utils.callback import BaseCallback

from ipo_dspy._internal.renames import renamed_names
from ipo_dspy.baselines.zero_shot import TemplateClassifier
from ipo_dspy.bench.method_runners import CellContext, MethodResult
from ipo_dspy.classifier import ClipClassifier
from ipo_dspy.errors import missing_package
from ipo_dspy.lms import build_lm
from ipo_dspy.lms.client import bounded
from ipo_dspy.lms.usage import cost_usd
from ipo_dspy.metrics import feedback
from ipo_dspy.run.budget import LMResponse, Usage

COPRO_DEPTH = 8
"""A depth of 16 raised a RecursionError, because each candidate signature contains the previous one (DSPy 3.4.1)."""
MINIBATCH, GEPA_MINIBATCH, SIMBA_MINIBATCH = 25, 10, 32

LOGGERS = ("dspy", "gepa", "optuna")
"""Loggers of DSPy's optimizers and of the libraries that they use."""


class EvaluationCounter(BaseCallback):
    """Counts single-image evaluations: calls of a classifier by DSPy, and templates times images in IPO.

    Pass it to DSPy as a callback and to IPO as an observer.
    """

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()
        self._images = self._validation = 0

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Count one evaluation; called by DSPy."""
        if isinstance(instance, ClipClassifier):
            self._add(1)

    def __call__(self, event: Any) -> None:
        """Count the evaluations of an event; called by IPO."""
        if event["event"] == "search_started":
            self._images, self._validation = event["images"], event["validation_images"]
        elif event["event"] == "trial":
            self._add(self._images)
        elif event["event"] == "selected":
            self._add(self._validation * len(event["finalists"]))

    def _add(self, count: int) -> None:
        with self._lock:
            self.count += count


@dataclass(frozen=True, slots=True)
class OptimizerBudget:
    """Inputs of an optimizer other than the program.

    Attributes:
        trainset: images that templates are selected on.
        lm: model that writes templates.
        budget: number of single-image evaluations.
        seed: of the optimizer.
    """

    trainset: list[dspy.Example]
    lm: dspy.BaseLM
    budget: int
    seed: int

    @property
    def passes(self) -> int:
        """Number of templates that can be scored on all training images."""
        return self.budget // len(self.trainset)


def accuracy_metric(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> float:
    """Return 1.0 for a correct prediction, else 0.0; the metric to maximize."""
    return float(example.label == prediction.label)


def confidence_metric(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> float:
    """Return the probability of the correct class, for SIMBA, which proposes nothing with a binary metric."""
    return float(prediction.scores.get(example.label, 0.0))


def compile_copro(student: ClipClassifier, given: OptimizerBudget) -> Any:
    """Run COPRO with as many candidates as the budget allows: ten per round, or more if the depth is at its limit."""
    depth = min(COPRO_DEPTH, max(1, given.passes // 10))
    breadth = max(2, given.passes // depth)
    optimizer = dspy.COPRO(prompt_model=given.lm, metric=accuracy_metric, breadth=breadth, depth=depth)
    settings = {"num_threads": 1, "display_progress": False, "display_table": 0}
    return optimizer.compile(student, trainset=given.trainset, eval_kwargs=settings)


def build_mipro(given: OptimizerBudget) -> tuple[dspy.MIPROv2, dict[str, Any]]:
    """Return MIPROv2 and the arguments of its `compile`: instructions only, one trial per candidate, on minibatches.

    Its instructions are grounded in a few examples that the program classifies correctly. The search for these costs
    about a dozen evaluations per candidate.
    """
    images = len(given.trainset)
    batch = min(MINIBATCH, images)
    trials = max(2, int((given.budget - 2 * images) / (batch + images / 10 + 12)))
    optimizer = dspy.MIPROv2(
        metric=accuracy_metric,
        prompt_model=given.lm,
        task_model=given.lm,
        auto=None,
        num_candidates=trials,
        max_bootstrapped_demos=0,
        max_labeled_demos=0,
        num_threads=1,
        seed=given.seed,
    )
    evaluation = {"minibatch_size": batch, "minibatch_full_eval_steps": 10}
    return optimizer, {"valset": given.trainset, "num_trials": trials, **evaluation}


def compile_mipro(student: ClipClassifier, given: OptimizerBudget) -> Any:
    """Run MIPROv2, which scores the best candidate so far on all images in every tenth trial."""
    if find_spec("optuna") is None:
        raise missing_package("Optuna", extra="bench", purpose="for MIPROv2")
    optimizer, settings = build_mipro(given)
    return optimizer.compile(student, trainset=given.trainset, **settings)


def build_gepa(given: OptimizerBudget, minibatch: int = GEPA_MINIBATCH) -> dspy.GEPA:
    """Return GEPA with a minibatch that detects a better template more reliably than its default of three images."""
    return dspy.GEPA(
        metric=feedback,
        reflection_lm=given.lm,
        max_metric_calls=given.budget,
        reflection_minibatch_size=minibatch,
        num_threads=1,
        seed=given.seed,
    )


def compile_gepa(student: ClipClassifier, given: OptimizerBudget) -> Any:
    """Run GEPA with Pareto selection on the training images."""
    return build_gepa(given).compile(student, trainset=given.trainset, valset=given.trainset)


def compile_simba(student: ClipClassifier, given: OptimizerBudget, metric: Any = confidence_metric) -> Any:
    """Run SIMBA with rules only, because CLIP reads no demonstrations; each rule becomes a line of the template."""
    batch = min(SIMBA_MINIBATCH, len(given.trainset))
    steps = max(1, (given.budget - 7 * len(given.trainset)) // (13 * batch))
    optimizer = dspy.SIMBA(
        metric=metric, bsize=batch, max_steps=steps, max_demos=0, prompt_model=given.lm, num_threads=1
    )
    student.set_lm(given.lm)
    return optimizer.compile(student, trainset=given.trainset, seed=given.seed)


OPTIMIZERS = {"copro": compile_copro, "miprov2": compile_mipro, "gepa": compile_gepa, "simba": compile_simba}


def run(job: CellContext) -> MethodResult:
    """Run the optimizer of DSPy that the cell names."""
    cell, train = job.cell, list(job.split.train)
    settings = cell.settings
    lm_kwargs = {**settings.lm_kwargs, "rollout_id": cell.seed}  # answers are cached; each seed needs its own
    lm = bounded(build_lm(str(settings.lm), role="prompt_model", settings=lm_kwargs))  # see `check_methods`
    templates = 1 + settings.steps * settings.prompts_per_step  # as many as IPO scores
    budget = OptimizerBudget(train, lm, len(train) * templates, cell.seed)
    program, counter = job.program(), EvaluationCounter()
    program.encode([example.image for example in train])
    with suppress_output(), dspy.context(callbacks=[counter]), dspy.track_usage() as usage:
        best = OPTIMIZERS[cell.method](program, budget)
    spent = Usage()
    for model, answers in usage.usage_data.items():  # the token counts of each uncached answer
        prompt = sum(answer.get("prompt_tokens") or 0 for answer in answers)
        completion = sum(answer.get("completion_tokens") or 0 for answer in answers)
        cost = cost_usd(model, prompt, completion)
        spent = spent.plus(LMResponse((), model, len(answers), prompt, completion, cost))
    return job.score(
        TemplateClassifier(job.backbone, best.template),
        template=str(best.template),
        evaluations=counter.count,
        spent=spent,
    )


class _Muted:
    """A stream that drops the output of one thread and forwards that of others, such as a live display."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._thread = stream, threading.get_ident()

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self._thread else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def suppress_output() -> Iterator[None]:
    """Suppress progress bars, log lines, and warnings of the evaluations in this thread; errors are raised.

    The output of other threads and the loggers of other libraries are not affected.
    """
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with (
            contextlib.redirect_stderr(_Muted(sys.stderr)),
            contextlib.redirect_stdout(_Muted(sys.stdout)),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


__getattr__ = renamed_names(
    __name__,
    Evaluations="EvaluationCounter",
    correct="accuracy_metric",
    told="feedback",  # kept: the earlier name
    metric_with_feedback="feedback",
    confident="confidence_metric",
)

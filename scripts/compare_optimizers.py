"""IPO beside DSPy's own optimizers on the bundled tasks, each with the same number of single-image evaluations.

`python -m scripts.compare_optimizers` prints the table of docs/composing.md: accuracy in percent on the training images
and on the test images of base and novel classes, mean and standard error over seeds, and the evaluations really used.
All optimizers select on the training images. The ones that need a language model ask the stand-in of
examples/better_together.py, or the one named with `--lm`.
"""

import argparse
import contextlib
import io
import logging
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dspy
import torch
from examples.better_together import Evaluations, correct, phrase_writer, told

from ipo_dspy import IPO, ClipClassifier, demo
from ipo_dspy.evaluation import evaluate

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Setting:
    """What an optimizer is given: everything but the classifier itself."""

    trainset: list[dspy.Example]
    lm: dspy.LM
    budget: int
    seed: int
    counted: Evaluations

    @property
    def passes(self) -> int:
        """How many templates can be scored on all training images."""
        return self.budget // len(self.trainset)

    def share(self, part: float) -> "Setting":
        """The same with a part of the budget."""
        return Setting(self.trainset, self.lm, int(self.budget * part), self.seed, self.counted)


Optimize = Callable[[ClipClassifier, Setting], Any]
"""Gives back a `ClipClassifier`; DSPy ships no types."""


@dataclass(frozen=True)
class Row:
    """One run: accuracies in percent, evaluations, seconds, the template."""

    method: str
    task: str
    seed: int
    train: float
    base: float
    novel: float
    evaluations: int
    seconds: float
    template: str


def start(student: ClipClassifier, setting: Setting) -> Any:
    """Nothing is optimized."""
    return student


def copro(student: ClipClassifier, setting: Setting) -> Any:
    """DSPy's default breadth; depth from the budget."""
    depth = max(1, setting.passes // 10)
    optimizer = dspy.COPRO(prompt_model=setting.lm, metric=correct, breadth=10, depth=depth)
    settings = {"num_threads": 1, "display_progress": False, "display_table": 0}
    return optimizer.compile(student, trainset=setting.trainset, eval_kwargs=settings)


def mipro(student: ClipClassifier, setting: Setting) -> Any:
    """Instructions only, on minibatches; every tenth trial the best so far is scored on all images."""
    optimizer, settings = build_mipro(setting)
    return optimizer.compile(student, trainset=setting.trainset, **settings)


def build_mipro(setting: Setting) -> tuple[dspy.MIPROv2, dict[str, Any]]:
    """MIPROv2 and the arguments of its `compile`, as many trials as the budget holds and a candidate for each.

    Its instructions are grounded in a few examples that the program gets right. Finding these costs evaluations too,
    about a dozen for each candidate.
    """
    images = len(setting.trainset)
    batch = min(25, images)
    trials = max(2, int((setting.budget - 2 * images) / (batch + images / 10 + 12)))
    optimizer = dspy.MIPROv2(
        metric=correct,
        prompt_model=setting.lm,
        task_model=setting.lm,
        auto=None,
        num_candidates=trials,
        max_bootstrapped_demos=0,
        max_labeled_demos=0,
        num_threads=1,
        seed=setting.seed,
    )
    evaluation = {"minibatch_size": batch, "minibatch_full_eval_steps": 10}
    return optimizer, {"valset": setting.trainset, "num_trials": trials, **evaluation}


def gepa(student: ClipClassifier, setting: Setting) -> Any:
    """Pareto selection on the training images."""
    return build_gepa(setting).compile(student, trainset=setting.trainset, valset=setting.trainset)


def build_gepa(setting: Setting, minibatch: int = 10) -> dspy.GEPA:
    """GEPA with a minibatch that tells a better template apart more often than its default of three images."""
    return dspy.GEPA(
        metric=told,
        reflection_lm=setting.lm,
        max_metric_calls=setting.budget,
        reflection_minibatch_size=minibatch,
        num_threads=1,
        seed=setting.seed,
    )


def gepa_default(student: ClipClassifier, setting: Setting) -> Any:
    """The same with GEPA's default minibatch."""
    return build_gepa(setting, 3).compile(student, trainset=setting.trainset, valset=setting.trainset)


def confident(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> float:
    """The probability of the right class, which SIMBA is given: on right or wrong alone it never proposes anything."""
    return float(prediction.scores.get(example.label, 0.0))


def simba(student: ClipClassifier, setting: Setting, metric: Any = confident) -> Any:
    """Rules only, no demonstrations, which CLIP does not read; a rule is appended as another line of the template."""
    batch = min(32, len(setting.trainset))
    steps = max(1, (setting.budget - 7 * len(setting.trainset)) // (13 * batch))
    optimizer = dspy.SIMBA(
        metric=metric, bsize=batch, max_steps=steps, max_demos=0, prompt_model=setting.lm, num_threads=1
    )
    student.set_lm(setting.lm)
    return optimizer.compile(student, trainset=setting.trainset, seed=setting.seed)


def simba_binary(student: ClipClassifier, setting: Setting) -> Any:
    """The same on right or wrong."""
    return simba(student, setting, correct)


def build_ipo(setting: Setting, **options: Any) -> IPO:
    """As many steps of eight as the budget holds after the start template."""
    steps = max(1, (setting.passes - 1) // 8)
    return IPO(steps=steps, seed=setting.seed, observers=[setting.counted], num_threads=1, **options)


def ipo_lm(student: ClipClassifier, setting: Setting) -> Any:
    """IPO asking the same model as the others, without descriptions."""
    return build_ipo(setting, prompt_model=setting.lm, describer=None).compile(student, setting.trainset)


def ipo_evolution(student: ClipClassifier, setting: Setting) -> Any:
    """IPO with the embedded proposer, without descriptions."""
    return build_ipo(setting, proposer="evolution", describer=None).compile(student, setting.trainset)


def ipo_described(student: ClipClassifier, setting: Setting) -> Any:
    """IPO as it is without a language model: the embedded proposer and CLIP's descriptions."""
    return build_ipo(setting, proposer="evolution").compile(student, setting.trainset)


def together(strategy: str) -> Optimize:
    """A chain in `dspy.BetterTogether`, the budget split evenly; the last program is taken: no step makes it worse."""

    def optimize(student: ClipClassifier, setting: Setting) -> Any:
        keys = strategy.split(" -> ")
        part = setting.share(1 / len(keys))
        mipro_optimizer, mipro_settings = build_mipro(part)
        optimizers = {
            "ipo": build_ipo(part, proposer="evolution", describer=None),
            "gepa": build_gepa(part),
            "mipro": mipro_optimizer,
        }
        arguments = {"gepa": {"valset": setting.trainset}, "mipro": mipro_settings}
        student.set_lm(setting.lm)
        chain = dspy.BetterTogether(metric=correct, **{key: optimizers[key] for key in keys})
        return chain.compile(
            student,
            trainset=setting.trainset,
            valset_ratio=0,
            strategy=strategy,
            num_threads=1,
            seed=setting.seed,
            optimizer_compile_args={key: arguments[key] for key in keys if key in arguments},
        )

    return optimize


METHODS: Mapping[str, Optimize] = {
    "start template": start,
    "COPRO": copro,
    "MIPROv2": mipro,
    "GEPA": gepa,
    "GEPA, minibatch 3": gepa_default,
    "SIMBA": simba,
    "SIMBA, right or wrong": simba_binary,
    "IPO, same model": ipo_lm,
    "IPO, evolution": ipo_evolution,
    "IPO, evolution, descriptions": ipo_described,
    "IPO -> GEPA": together("ipo -> gepa"),
    "GEPA -> IPO": together("gepa -> ipo"),
    "IPO -> MIPROv2": together("ipo -> mipro"),
    "MIPROv2 -> IPO": together("mipro -> ipo"),
}


def measure(method: str, name: str, seed: int, given: argparse.Namespace) -> Row:
    """One optimizer on one task: optimize on base classes, test on both halves."""
    base, novel = (demo.load(name, shots=given.shots, seed=seed, classes=half) for half in ("base", "novel"))
    lm = phrase_writer(seed)
    if given.lm:  # answers are cached, so a seed needs answers of its own
        lm = dspy.LM(given.lm, temperature=1.0, rollout_id=seed, engine="litellm")
    counted = Evaluations()
    setting = Setting(list(base.trainset), lm, given.budget, seed, counted)
    base.program.encode([example.image for example in base.trainset])
    began = time.perf_counter()
    with quiet(), dspy.context(callbacks=[counted]):
        best = METHODS[method](base.program.deepcopy(), setting)
    seconds = time.perf_counter() - began
    train, test, other = (
        evaluate(program, examples, templates=[best.template])[0].score.accuracy
        for program, examples in (
            (base.program, base.trainset),
            (base.program, base.testset),
            (novel.program, novel.testset),
        )
    )
    return Row(method, name, seed, train, test, other, counted.count, seconds, str(best.template))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, log lines and warnings of a thousand small evaluations; errors are raised all the same."""
    logging.disable(logging.CRITICAL)
    try:
        with (
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def table(rows: Sequence[Row]) -> str:
    """Mean and standard error over seeds of the mean over tasks."""
    lines = [
        "| optimizer | train | test base | test novel | evaluations | seconds |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for method in dict.fromkeys(row.method for row in rows):
        mine = [row for row in rows if row.method == method]
        cells = [_cell(mine, field) for field in ("train", "base", "novel")]
        used = statistics.fmean(row.evaluations for row in mine)
        seconds = statistics.fmean(row.seconds for row in mine)
        lines.append(f"| {method} | {' | '.join(cells)} | {used:,.0f} | {seconds:.1f} |")
    return "\n".join(lines)


def by_task(rows: Sequence[Row]) -> str:
    """Accuracy on the test images of base classes, mean over seeds, task by task."""
    tasks = list(dict.fromkeys(row.task for row in rows))
    lines = [f"| optimizer | {' | '.join(tasks)} |", f"|---|{'---:|' * len(tasks)}"]
    for method in dict.fromkeys(row.method for row in rows):
        cells = [_cell([r for r in rows if (r.method, r.task) == (method, task)], "base") for task in tasks]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(rows: Sequence[Row], field: str) -> str:
    means = [
        statistics.fmean(getattr(row, field) for row in rows if row.seed == seed)
        for seed in sorted({row.seed for row in rows})
    ]
    error = statistics.stdev(means) / len(means) ** 0.5 if len(means) > 1 else 0.0
    return f"{statistics.fmean(means):.1f} ± {error:.1f}"


def printed_by() -> str:
    """The command, commit and machine."""
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    versions = ", ".join(f"{name} {version(name)}" for name in ("dspy", "gepa", "optuna", "torch", "open_clip_torch"))
    command = " ".join(["python -m scripts.compare_optimizers", *sys.argv[1:]])
    return (
        f"Printed by `{command}` at commit {git.stdout.strip() or 'unknown'}, {platform.machine()}, "
        f"{torch.get_num_threads()} threads, Python {platform.python_version()}, {versions}."
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="*", default=list(demo.names()))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--shots", type=int, default=4, help="training images a class")
    parser.add_argument("--budget", type=int, default=4_100, help="single-image evaluations")
    parser.add_argument("--lm", help="a LiteLLM name; without it the stand-in answers")
    parser.add_argument("--verbose", action="store_true", help="print every run as it ends")
    given = parser.parse_args()
    torch.set_num_threads(1)  # a handful of short texts at a time: more threads wait for each other
    rows = []
    for method in given.methods:
        for task in given.tasks:
            for seed in given.seeds:
                rows.append(measure(method, task, seed, given))
                if given.verbose:
                    print(rows[-1], file=sys.stderr, flush=True)
    print(table(rows), by_task(rows), printed_by(), sep="\n\n")


if __name__ == "__main__":
    main()

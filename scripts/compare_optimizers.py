"""IPO compared with DSPy's own optimizers on the bundled tasks, each with the same number of single-image evaluations.

`python -m scripts.compare_optimizers` prints the table of docs/composing.md: accuracy in percent on the training images
and on the test images of base and novel classes, mean and standard error over seeds, and the evaluations really used.
All optimizers select on the training images. The ones that need a language model ask the stand-in of
examples/better_together.py, or the one named with `--lm`.
"""

import argparse
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dspy
import torch
from examples.better_together import phrase_writer

from ipo_dspy import IPO, ClipClassifier, demo
from ipo_dspy.bench.dspy_optimizers import (
    EvaluationCounter,
    OptimizerBudget,
    accuracy_metric,
    build_gepa,
    build_mipro,
    compile_copro,
    compile_gepa,
    compile_mipro,
    compile_simba,
    suppress_output,
)
from ipo_dspy.optimizer.evaluation import evaluate

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Setting(OptimizerBudget):
    """Inputs of an optimizer, and the counter of its evaluations."""

    counted: EvaluationCounter

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


def gepa_default(student: ClipClassifier, setting: Setting) -> Any:
    """The same with GEPA's default minibatch."""
    return build_gepa(setting, 3).compile(student, trainset=setting.trainset, valset=setting.trainset)


def simba_binary(student: ClipClassifier, setting: Setting) -> Any:
    """The same on right or wrong."""
    return compile_simba(student, setting, accuracy_metric)


def build_ipo(setting: Setting, **options: Any) -> IPO:
    """As many steps of eight as the budget holds after the start template."""
    steps = max(1, (setting.passes - 1) // 8)
    return IPO(steps=steps, seed=setting.seed, observers=[setting.counted], num_threads=1, **options)


def ipo_lm(student: ClipClassifier, setting: Setting) -> Any:
    """IPO asking the same model as the others, without descriptions."""
    return build_ipo(setting, prompt_model=setting.lm, describer=None).compile(student, setting.trainset)


def ipo_evolution(student: ClipClassifier, setting: Setting) -> Any:
    """IPO with the built-in proposer, without descriptions."""
    return build_ipo(setting, proposer="evolution", describer=None).compile(student, setting.trainset)


def ipo_described(student: ClipClassifier, setting: Setting) -> Any:
    """IPO as it is without a language model: the built-in proposer and CLIP's descriptions."""
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
        chain = dspy.BetterTogether(metric=accuracy_metric, **{key: optimizers[key] for key in keys})
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
    "COPRO": compile_copro,
    "MIPROv2": compile_mipro,
    "GEPA": compile_gepa,
    "GEPA, minibatch 3": gepa_default,
    "SIMBA": compile_simba,
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
    if given.lm:  # answers are cached, so each seed needs separate answers
        lm = dspy.LM(given.lm, temperature=1.0, rollout_id=seed, engine="litellm")
    counted = EvaluationCounter()
    setting = Setting(list(base.trainset), lm, given.budget, seed, counted)
    base.program.encode([example.image for example in base.trainset])
    began = time.perf_counter()
    with suppress_output(), dspy.context(callbacks=[counted]):
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


def table(rows: Sequence[Row]) -> str:
    """Mean and standard error over seeds of the mean over tasks."""
    lines = ["| optimizer | train | test base | test novel | evaluations | seconds |", "|---|---:|---:|---:|---:|---:|"]
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
    parser.add_argument("--shots", type=int, default=4, help="training images per class")
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

"""Requests to a language model

Prompt tokens of the requests for eight templates, by default and in the form of the paper (`PaperAdapter`), with the
same 25 classes, 36 descriptions by CLIP, and trials of a search with the built-in proposer (16 images per class).
Tokens are estimated as in `IPO.estimate`: one for four Latin letters. Later requests are the mean of steps 2 to 8.
"""

import statistics

import dspy

from benchmarks.common import Size, table
from ipo_dspy import IPO, LMProposer, PaperAdapter, demo
from ipo_dspy.describers.clip import ClipDescriber
from ipo_dspy.history import History, Trial
from ipo_dspy.lms.adapters import ProposalAdapter
from ipo_dspy.optimizer.pipeline import stratified_indices
from ipo_dspy.optimizer.search_task import describe_task
from ipo_dspy.proposers import ProposalRequest

SHOTS, DESCRIBED, STEPS = 16, 36, 8


def tokens(task: demo.DemoTask, trials: list[Trial], texts: tuple[str, ...], step: int) -> tuple[int, int]:
    """Return the prompt tokens of a step in both forms."""
    visible = [trial for trial in trials if trial.stage == "search" and trial.step < step]
    ask = ProposalRequest(
        step=step,
        count=8,
        shown=tuple(History(visible).shown(20)),
        trials=tuple(visible),
        descriptions=texts,
        guessed=True,
        task=describe_task(task.classes),
        steps=STEPS,
        images=len(task.trainset),
        error=1.0 if step > 1 else None,
        max_tokens=task.program.backbone.context_length,
    )
    forms = (ProposalAdapter(), PaperAdapter())
    default, paper = (LMProposer(dspy.LM("openai/any"), adapter=form).measure(ask)[1] for form in forms)
    return default, paper


def run(size: Size, seed: int) -> None:
    """Print a line for each bundled task."""
    rows = []
    for name in demo.names():
        task = demo.load(name, shots=SHOTS, seed=seed, classes="base")
        optimizer = IPO(proposer="evolution", steps=STEPS, seed=seed, prefetch=False, progress=False)
        trials = list(optimizer.compile(task.program, task.trainset).detailed_results.trials)
        labels = task.trainset.labels()
        chosen = stratified_indices(labels, DESCRIBED)
        describer = ClipDescriber(task.program.backbone, max_classes=len(task.classes))
        texts = describer.describe([task.trainset[i].image for i in chosen], [labels[i] for i in chosen]).texts
        first, *later = (tokens(task, trials, texts, step) for step in range(1, STEPS + 1))
        mean = [statistics.fmean(column) for column in zip(*later, strict=True)]
        rows.append(
            (name, *first, f"{first[0] / first[1]:.0%}", *(f"{one:.0f}" for one in mean), f"{mean[0] / mean[1]:.0%}")
        )
    table(("task", "first", "paper's form", "share", "later", "paper's form", "share"), rows)

"""Wrong labels found

Five percent of the training images of a bundled task, all classes, get the label of another class, drawn at random. A
template is searched with these labels, and `check_labels` lists those that are suspicious under it, or under the start
template. Recall is the share of the wrong labels that are listed, precision the share of the listed labels that are
wrong: images that the program takes for another class are listed, too. The first ones are as many as there are wrong
labels. Accuracy is on the test images.
"""

from collections.abc import Collection, Sequence

import numpy as np

from benchmarks.common import Size, table
from ipo_dspy import IPO, ClipClassifier, demo
from ipo_dspy.analysis.label_check import check_labels
from ipo_dspy.clip.bundled import DEMO_VIT
from ipo_dspy.optimizer.evaluation import evaluate

SHARE = 0.05


def shares(program: ClipClassifier, examples: Sequence[object], wrong: Collection[int]) -> list[float]:
    """Return recall, precision, and precision among the first ones, in percent."""
    listed = [one.index for one in check_labels(program, examples).suspicious]
    hits = [index in wrong for index in listed]
    return [100.0 * sum(hits) / len(wrong), 100.0 * float(np.mean(hits)), 100.0 * float(np.mean(hits[: len(wrong)]))]


def run(size: Size, seed: int) -> None:
    """Print two lines for each task, before and after the search."""
    rows = []
    for name in demo.names():
        figures: dict[str, list[list[float]]] = {"start": [], "best": []}
        for number in range(seed + 1, seed + (6 if size == "full" else 3)):
            task, rng = demo.load(name, classes="all", seed=number, model=DEMO_VIT), np.random.default_rng(number)
            wrong = set(rng.choice(len(task.trainset), round(SHARE * len(task.trainset)), replace=False).tolist())
            examples = [
                one.copy(label=str(rng.choice([c for c in task.classes if c != one.label]))) if i in wrong else one
                for i, one in enumerate(task.trainset)
            ]
            best = IPO(proposer="evolution", steps=20, seed=number, progress=False).compile(task.program, examples)
            for role, program in (("start", task.program), ("best", best)):
                accuracy = evaluate(program, task.testset)[0].score.accuracy
                figures[role].append([accuracy, *shares(program, examples, wrong)])
        rows += [(f"{name}, {r}", *(f"{mean:.1f}" for mean in np.mean(f, axis=0))) for r, f in figures.items()]
    table(["task and template", "accuracy, %", "recall, %", "precision, %", "precision of the first, %"], rows)

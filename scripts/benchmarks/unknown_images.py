"""Unknown images

Scores that could separate images of unknown classes from those of the 25 base classes of the bundled tasks, `demo-vit`,
with 16 images per class and the template of 20 steps of the built-in search. Each is the AUROC on test images: the
chance that a known image has a higher score than an unknown one. The confidence is that after `calibrate` on the
training images, whose features the last two scores use; logits are those of the model.

Unknown are images of the novel classes of the task, or of the base classes of the other three tasks. Every class of
these tasks is one drawing that is varied, so whoever remembers images recognizes the drawing. Therefore novel classes
are also separated from eight classes of three drawings each. Differences are those to the confidence, with their
standard errors over tasks and seeds.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.calibration import Setting
from benchmarks.common import Size, table
from ipo_dspy import ClipClassifier, demo
from ipo_dspy.clip.bundled import DEMO_VIT
from ipo_dspy.clip.image_features import encode_images
from ipo_dspy.scoring.calibration_fit import Floats, Indices, fit_scaling, log_softmax
from ipo_dspy.scoring.thresholds import auroc, in_distribution_scores

DRAWINGS = 3
"""Drawings of a class where it has several."""


def scores_by(program: ClipClassifier, known: Floats, labels: Indices) -> Callable[[Floats], dict[str, Floats]]:
    """Return a function from features [N, D] to their scores [N], by the name of the score.

    Args:
        program: the classifier.
        known: [M, D] features of the images that it is calibrated on, and labels [M].
        labels: indices of their classes.
    """
    weights = program.class_weights()
    columns = weights.logit_scale * weights.class_embeddings.T  # [D, C]
    scaling = fit_scaling(known @ columns, labels).scaling
    means = np.stack([known[labels == k].mean(axis=0) for k in range(len(weights.labels))])
    means /= np.linalg.norm(means, axis=1, keepdims=True)

    def scores(features: Floats) -> dict[str, Floats]:
        logits = features @ columns
        ranked = np.sort(logits, axis=1)
        return {
            "confidence (MSP)": log_softmax(scaling.apply(logits)).max(axis=1),
            "highest logit (MaxLogit)": ranked[:, -1],
            "energy": np.logaddexp.reduce(logits, axis=1),
            "margin of the logits": ranked[:, -1] - ranked[:, -2],
            "highest logit plus log-odds": in_distribution_scores(logits),
            "nearest class mean": (features @ means.T).max(axis=1),
            "nearest image (kNN)": (features @ known.T).max(axis=1),
        }

    return scores


def features_of(program: ClipClassifier, examples: Sequence[Any]) -> Floats:
    """Return the features of images, [N, D]."""
    return encode_images(program.backbone, [example.image for example in examples]).features.double().numpy()


def aurocs(name: str, seed: int) -> list[dict[str, float]]:
    """Return the AUROC of each score against novel classes, other tasks, and novel classes with several drawings."""
    setting = Setting.of(name, seed, "base")
    task, program = setting.task, setting.program

    def tests(task_name: str, classes: Any) -> Any:
        return demo.load(task_name, seed=seed, classes=classes, model=DEMO_VIT).testset

    train, test, novel = (features_of(program, part) for part in (task.trainset, task.testset, tests(name, "novel")))
    far = features_of(program, [e for other in demo.names() if other != name for e in tests(other, "base")])
    order = np.random.default_rng(seed).permutation(len(task.classes))
    order = order[: len(order) // DRAWINGS * DRAWINGS]
    groups = {f"group {k}": [task.classes[i] for i in part] for k, part in enumerate(order.reshape(-1, DRAWINGS))}
    group_of = {label: k for k, part in enumerate(groups.values()) for label in part}
    merged = ClipClassifier(groups, template=str(program.template), model=program.backbone)
    own, rows = {label: k for k, label in enumerate(task.classes)}, []
    for classifier, index, unknown in ((program, own, novel), (program, own, far), (merged, group_of, novel)):
        kept, known = ([e.label in index for e in part] for part in (task.trainset, task.testset))
        labels = np.array([index[e.label] for e in task.trainset if e.label in index])
        scores = scores_by(classifier, train[kept], labels)
        inside, outside = scores(test[known]), scores(unknown)
        rows.append({score: auroc(inside[score], outside[score]) for score in inside})
    return rows


def run(size: Size, seed: int) -> None:
    """Print the AUROC of each score, and how much it is better than the confidence."""
    found = [aurocs(name, each) for name, each in itertools.product(demo.names(), range(seed + 1, seed + 4))]
    names = list(found[0][0])
    values = np.array([[[row[name] for row in rows] for name in names] for rows in found])  # [runs, scores, conditions]
    gains = values - values[:, :1]
    errors = gains.std(axis=0, ddof=1) / np.sqrt(len(gains))
    table(
        ("", *itertools.chain(*((kind, "difference") for kind in ("novel classes", "other tasks", "three drawings")))),
        (
            (name, *itertools.chain(*((f"{v:.3f}", f"{g:+.3f} ± {e:.3f}") for v, g, e in zip(*row, strict=True))))
            for name, *row in zip(names, values.mean(axis=0), gains.mean(axis=0), errors, strict=True)
        ),
    )

"""Expected accuracies against a known truth

The templates of a search are scored on all test images of a bundled task, and their accuracies there are taken as the
truth. Then some images per class are drawn from them, templates are chosen on these, and the accuracy to expect is
compared with the truth. Optimism is in points; the share is that of interval coverage the truth.
"""

import statistics
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from numpy.typing import NDArray

from benchmarks.common import Size, table
from ipo_dspy import IPO, demo
from ipo_dspy.clip.bundled import DEMO_VIT
from ipo_dspy.clip.image_features import encode_images
from ipo_dspy.clip.text_features import class_features
from ipo_dspy.history import Trial
from ipo_dspy.optimizer.template_choice import Best, Candidates, Choice, Plainest
from ipo_dspy.optimizer.trainset import collect_training_images
from ipo_dspy.scoring.comparison import Comparison, Floats, PairTally

RULES: dict[str, Choice] = {"best": Best(), "plainest": Plainest()}
SHOTS, DRAWS = (1, 4, 16), 6


def outcomes(task: demo.DemoTask, seed: int) -> tuple[tuple[Trial, ...], Floats, NDArray[np.int64]]:
    """Return the trials of a search, and their outcomes [N, 2K] on the test images with their classes [N]."""
    found = IPO(proposer="evolution", steps=40, seed=seed, progress=False).compile(task.program, task.trainset)
    trials = found.detailed_results.trials
    images = collect_training_images(task.program, {"self": task.program}, task.testset, name="testset")["self"]
    features = encode_images(task.program.backbone, images.images).features
    texts = class_features(task.program.backbone, [trial.template for trial in trials], task.classes)  # [K, C, D]
    labels = torch.tensor([task.classes.index(label) for label in images.labels])
    logits = task.program.backbone.logit_scale * torch.einsum("nd,kcd->nkc", features, texts)
    correct = (logits.argmax(dim=2) == labels[:, None]).double()
    losses = F.cross_entropy(logits.transpose(1, 2), labels[:, None].expand(-1, len(texts)), reduction="none")
    return trials, torch.cat([correct, losses.double()], dim=1).numpy(), labels.numpy()


def share_within(correct: Floats, labels: NDArray[np.int64]) -> float:
    """Return the share of the variance of outcomes [N, K] that is within classes, on average over the templates."""
    within = np.mean([correct[labels == label].var(axis=0) for label in np.unique(labels)], axis=0)  # equal classes
    return float((within / np.maximum(correct.var(axis=0), 1e-12)).mean())


def choices(task_name: str, shots: int, seed: int) -> Iterator[tuple[str, float, float, bool, float]]:
    """Yield the rule, true and estimated optimism, whether the interval holds the truth, and `share_within`."""
    task = demo.load(task_name, shots=shots, seed=seed, model=DEMO_VIT)
    trials, population, labels = outcomes(task, seed)
    correct = population[:, : len(trials)]
    truth, share = 100 * correct.mean(axis=0), share_within(correct, labels)
    for draw in range(DRAWS):
        rng = np.random.default_rng([seed, draw])
        rows = np.concatenate([rng.choice(np.flatnonzero(labels == c), shots) for c in range(len(task.classes))])
        compared = Comparison(PairTally.of(population[rows], labels[rows], len(task.classes)), seed=draw)
        common = float(compared.accuracy.mean() - truth.mean())  # luck of the images that all templates share
        for name, rule in RULES.items():
            selection = Candidates.of(trials, compared, trials[0]).select(rule)
            report, true = selection.report(), truth[selection.winner]
            yield (
                name,
                report.accuracy - true - common,
                report.optimism,
                report.interval.low <= true <= report.interval.high,
                share,
            )


def run(size: Size, seed: int) -> None:
    """Print a line for each number of images and each rule."""
    seeds = range(seed + 1, seed + (3 if size == "full" else 2))
    lines, within = [], []
    for shots in SHOTS:
        drawn = [row for task in demo.names() for number in seeds for row in choices(task, shots, number)]
        for name in RULES:
            true, estimated, held, shares = zip(*(row[1:] for row in drawn if row[0] == name), strict=True)
            within += shares
            error = statistics.stdev(true) / len(true) ** 0.5
            share = statistics.fmean(held)
            lines.append(
                (
                    shots,
                    name,
                    f"{statistics.fmean(true):.1f} ± {error:.1f}",
                    f"{statistics.fmean(estimated):.1f}",
                    f"{share:.0%}",
                )
            )
    table(("images per class", "rule", "true optimism", "estimated", "interval coverage"), lines)
    print(f"\nShare of the variance of outcomes within classes: {statistics.fmean(within):.2f}")

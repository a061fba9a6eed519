"""Is the built-in search a search? Evolution against random captions from the same bank, at the same budget.

`python scripts/compare_search.py` prints the table of docs/experiments.md: accuracy in percent on the training images
after 10 steps and at the end, and on the test images of base and novel classes, averaged over tasks and seeds.
"""

import argparse
import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np

from ipo_dspy import IPO, EvolutionProposer, demo
from ipo_dspy.optimizer.evaluation import evaluate
from ipo_dspy.phrase_bank import BANK
from ipo_dspy.proposers import ProposalRequest, Proposals
from ipo_dspy.template_phrases import tidy

FORMS = (
    "a {adjective} {noun} of a <CLASS>.",
    "a {noun} of a <CLASS> {after}.",
    "a {adjective} <CLASS> {after}.",
    "a {adjective} {noun} of the {second} <CLASS>.",
    "a <CLASS>, {adjective} {noun} {after}.",
)


class RandomProposer:
    """Random phrases in random forms; looks at nothing."""

    def propose(self, ask: ProposalRequest) -> Proposals:
        """Captions drawn by seed and step."""
        rng = np.random.default_rng([ask.seed, ask.step])
        return Proposals(tuple(self._caption(rng) for _ in range(ask.count)))

    def _caption(self, rng: np.random.Generator) -> str:
        by_position = {p: [x.text for x in BANK if x.position == p] for p in ("noun", "adjective", "after")}
        words = {position: str(rng.choice(texts)) for position, texts in by_position.items()}
        return tidy(str(rng.choice(FORMS)).format(**words, second=str(rng.choice(by_position["adjective"]))))


class Unpruned(EvolutionProposer):
    """Evolution that never tries the best template with a phrase less."""

    def _pruned(self, ask: ProposalRequest) -> list[str]:
        return []


METHODS: Mapping[str, Mapping[str, Any]] = {
    "evolution, CLIP descriptions": {"proposer": EvolutionProposer()},
    "evolution, no descriptions": {"proposer": EvolutionProposer(), "describer": None},
    "evolution, nothing pruned": {"proposer": Unpruned()},
    "random captions": {"proposer": RandomProposer(), "describer": None},
}


def measure(task: str, seed: int, options: Mapping[str, Any], *, steps: int) -> tuple[float, ...]:
    """Accuracy on train after 10 steps, on train, on test base, on test novel; words of the winner."""
    base, novel = (demo.load(task, seed=seed, classes=half) for half in ("base", "novel"))
    best = IPO(steps=steps, seed=seed, **options).compile(base.program, base.trainset)
    results = best.detailed_results
    early = max(trial.score.accuracy for trial in results.trials if trial.step <= 10)
    tests = [evaluate(p.program, p.testset, templates=[best.template])[0].score.accuracy for p in (base, novel)]
    return early, results.best.score.accuracy, *tests, float(len(str(best.template).split()))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1])
    parser.add_argument("--steps", type=int, default=40)
    given = parser.parse_args()
    print("| search | train after 10 steps | train | test base | test novel | words |\n|---|---:|---:|---:|---:|---:|")
    for name, options in METHODS.items():
        cells = [(task, seed) for task in demo.names() for seed in given.seeds]
        rows = [measure(*cell, options, steps=given.steps) for cell in cells]
        print(
            f"| {name} | " + " | ".join(f"{statistics.fmean(column):.1f}" for column in zip(*rows, strict=True)) + " |"
        )


if __name__ == "__main__":
    main()

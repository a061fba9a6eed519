"""Count what a cross-step cache of text prefixes would save: counted on real searches, without computing a feature.

`python scripts/prefix_reuse.py` prints a table of docs/experiments.md. Each search runs on a bundled task; its
templates are then filled with as many class names as a table row says, and of the distinct token prefixes (nodes of
the trie) of each step those are counted that a store of the best earlier templates' prefixes would have held. A node
costs keys and values of every layer of ViT-B/16's text tower.
"""

import argparse
from collections.abc import Iterable, Sequence

from ipo_dspy import IPO, demo
from ipo_dspy.clip.loading import import_open_clip
from ipo_dspy.history import Trial

NODE_BYTES = 12 * 2 * 512 * 4
"""Layers, key and value, width, float32."""

BUDGETS = {"256 MB": 256e6, "1 GB": 1e9, "no limit": float("inf")}


class Prefixes:
    """Token prefixes of filled templates, each as a hash."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.tokenizer = import_open_clip().get_tokenizer("ViT-B-16")
        self._known: dict[int, frozenset[int]] = {}

    def of(self, trial: Trial) -> frozenset[int]:
        """Of one template with every class name."""
        if trial.index not in self._known:
            texts = [line for name in self.names for line in trial.template.fill(name)]
            self._known[trial.index] = frozenset(self._hashes(texts))
        return self._known[trial.index]

    def _hashes(self, texts: Iterable[str]) -> Iterable[int]:
        start, end = self.tokenizer.sot_token_id, self.tokenizer.eot_token_id
        for text in texts:
            ids = (start, *self.tokenizer.encode(text), end)
            yield from (hash(ids[:length]) for length in range(1, len(ids) + 1))


def saved(trials: Sequence[Trial], prefixes: Prefixes, budget: float) -> tuple[int, int]:
    """Nodes of all steps, and those that the prefixes of the best earlier templates would have saved."""
    total = spared = 0
    for step in sorted({trial.step for trial in trials}):
        wanted = frozenset[int]().union(*(prefixes.of(trial) for trial in trials if trial.step == step))
        kept: set[int] = set()
        for trial in sorted((trial for trial in trials if trial.step < step), key=lambda trial: trial.rank):
            kept |= prefixes.of(trial)
            if len(kept) * NODE_BYTES > budget:
                break
        total, spared = total + len(wanted), spared + len(wanted & kept)
    return total, spared


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    class_names = import_open_clip().IMAGENET_CLASSNAMES
    print("| search | class names | nodes a step | " + " | ".join(f"saved with {name}" for name in BUDGETS) + " |")
    print("|---|---:|---:|" + "---:|" * len(BUDGETS))
    for name in demo.names():
        task = demo.load(name, seed=options.seed)
        best = IPO(proposer="evolution", steps=options.steps, seed=options.seed).compile(task.program, task.trainset)
        trials = best.detailed_results.trials
        steps = len({trial.step for trial in trials})
        for count in (10, 100, 1000):
            prefixes = Prefixes(class_names[:count])
            found = [saved(trials, prefixes, budget) for budget in BUDGETS.values()]
            shares = " | ".join(f"{spared / total:.1%}" for total, spared in found)
            print(f"| {name} | {count:,} | {found[0][0] / steps:,.0f} | {shares} |", flush=True)


if __name__ == "__main__":
    main()

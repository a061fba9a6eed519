"""A language model in the loop, recorded

Searches with the recorded answers of a strong language model that saw nothing but the requests (tests/conversations,
16 images per class, 8 steps of 8 templates), next to the built-in search with as many steps and with five times as many
(mean over seeds 0 to 2 on the same images). Accuracy in percent: the best training accuracy after 1, 2, 4 and 8 steps,
and test accuracy of the selected template.
"""

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import Size, table
from ipo_dspy import IPO, ClipClassifier, demo, harmonic_mean
from ipo_dspy.optimizer.evaluation import evaluate

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from helpers.conversations import SEED, SHOTS, STEPS, Recorded, search

AFTER = (1, 2, 4, 8)


def figures(best: ClipClassifier, novel: demo.DemoTask, base: demo.DemoTask) -> list[float]:
    """Return the columns of a search."""
    trials = best.detailed_results.trials
    train = [max(t.score.accuracy for t in trials if t.step <= step and t.stage == "search") for step in AFTER]
    on_base, on_novel = (
        evaluate(task.program, task.testset, templates=[best.template])[0].score.accuracy for task in (base, novel)
    )
    return [*train, on_base, on_novel, harmonic_mean(on_base, on_novel)]


def _mean(rows: Sequence[Sequence[float]]) -> list[str]:
    return [f"{statistics.fmean(column):.1f}" for column in zip(*rows, strict=True)]


def run(size: Size, seed: int) -> None:
    """Print a line for each bundled task and way of search, and their means."""
    rows: dict[str, list[list[float]]] = {}
    lines = []
    for name in demo.names():
        base, novel = (demo.load(name, shots=SHOTS, seed=SEED, classes=half) for half in ("base", "novel"))
        with Recorded(name) as server:
            _, best = search(server, name)
        if server.unseen:
            raise SystemExit(f"{name}: a request changed; python scripts/record_conversation.py {name} --model NAME")
        ways = {"recorded language model": [figures(best, novel, base)]}
        for steps in (STEPS, 5 * STEPS):
            ways[f"built-in, {steps} steps"] = [
                figures(
                    IPO(proposer="evolution", steps=steps, seed=number, progress=False).compile(
                        base.program, base.trainset
                    ),
                    novel,
                    base,
                )
                for number in range(3)
            ]
        for way, found in ways.items():
            rows.setdefault(way, []).append([statistics.fmean(column) for column in zip(*found, strict=True)])
            lines.append((name, way, *_mean(found)))
        print(f"{name}: `{best.template}`", flush=True)
    print()
    lines += [("mean", way, *_mean(found)) for way, found in rows.items()]
    table(("task", "proposals", *(f"train, {step}" for step in AFTER), "base", "novel", "H"), lines)

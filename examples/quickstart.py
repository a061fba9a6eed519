"""IPO on a bundled task, with no network and no key: `python examples/quickstart.py`."""

from pathlib import Path

import dspy

from ipo_dspy import IPO, ClipClassifier, demo

task = demo.load("pixel-animals", shots=16, seed=0)

optimizer = IPO(proposer="evolution", steps=8, seed=0)
best = optimizer.compile(task.program, task.trainset, valset=task.valset)

print(f"{task.program.template}  ->  {best.template}")
print(best.detailed_results.baseline.score, "->", best.detailed_results.best.score)


def correct(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    return bool(example.label == prediction.label)


evaluate = dspy.Evaluate(devset=task.testset[:200], metric=correct, num_threads=2)
print("test accuracy:", evaluate(task.program).score, "->", evaluate(best).score)

saved = Path("best.json").resolve()
best.save(saved)
print(f"saved in {saved}, and loaded from there: {ClipClassifier.from_file(saved).template}")

"""IPO on a bundled task, with no network and no key: `python examples/bundled_images.py`."""

import dspy

from ipo_dspy import IPO, demo

task = demo.load("pixel-animals", shots=16, seed=0)

optimizer = IPO(proposer="evolution", auto="light", seed=0)
best = optimizer.compile(task.program, task.trainset, valset=task.valset)

print(f"{task.program.template}  ->  {best.template}")
print(best.detailed_results.baseline.score, "->", best.detailed_results.best.score)


def correct(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    return bool(example.label == prediction.label)


evaluate = dspy.Evaluate(devset=task.testset, metric=correct, num_threads=2)
print("test accuracy:", evaluate(task.program).score, "->", evaluate(best).score)

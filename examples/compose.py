"""A classifier inside a larger DSPy program: only its template is changed, the rest stays as it is."""

from pathlib import Path
from typing import Any

import dspy

from ipo_dspy import IPO, ClipClassifier, demo


class Sorter(dspy.Module):
    """Classifies a picture and sends it to a person when CLIP is unsure."""

    def __init__(self, classes: tuple[str, ...], threshold: float) -> None:
        super().__init__()
        self.classify = ClipClassifier(classes, model="demo")
        self.threshold = threshold

    def forward(self, image: Any) -> dspy.Prediction:
        found = self.classify(image=image)
        return dspy.Prediction(label=found.label, ask_a_person=found.confidence < self.threshold)


task = demo.load("pixel-animals", shots=4)
sorter = Sorter(task.classes, threshold=0.5)
better = IPO(proposer="evolution", steps=5).compile(sorter, task.trainset)

for name, program in (("before", sorter), ("after", better)):
    asked = sum(program(image=example.image).ask_a_person for example in task.testset[:100])
    print(f"{name:<7} {program.classify.template}   {asked} of 100 pictures go to a person")

saved = Path("sorter.json").resolve()
better.save(saved)
again = Sorter(task.classes, threshold=0.5)  # it is loaded into a program of the same kind
again.load(saved)
print(f"saved in {saved}, and loaded from there: {again.classify.template}")

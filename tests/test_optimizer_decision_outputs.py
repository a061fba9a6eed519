"""IPO finds and improves outputs of predictors that CLIP answers."""

from pathlib import Path
from typing import Annotated, Any, Literal

import dspy
import pytest
from dspy.experimental import Choice, Noul

from ipo_dspy import IPO, ClipClassifier, ClipDecider, demo, load_program
from ipo_dspy.data import load_image_folder
from ipo_dspy.errors import DataError, InputError, LanguageModelError
from ipo_dspy.optimizer.trainset import collect_training_images, find_classifiers

SHOTS = 4


def predictor(instructions: str, inputs: tuple[str, ...] = ("image",), **outputs: Any) -> dspy.Predict:
    fields: dict[str, Any] = {name: (dspy.Image, dspy.InputField()) for name in inputs}
    fields |= {name: (kind, dspy.OutputField(desc=description)) for name, (kind, description) in outputs.items()}
    program = dspy.Predict(dspy.Signature(fields, instructions))
    program.lm = ClipDecider("demo")
    return program


def animals(task: demo.DemoTask) -> Any:
    return Choice[tuple((label, None) for label in task.classes)]


def accuracy(program: dspy.Module, examples: Any, output: str = "label") -> float:
    found = [getattr(program(**example.inputs()), output) for example in examples]
    hits = [bool(getattr(x, "value", x) == example[output]) for x, example in zip(found, examples, strict=True)]
    return 100 * sum(hits) / len(hits)


@pytest.mark.end_to_end
def test_ipo_improves_a_predictor_like_the_equal_classifier(task: demo.DemoTask, tmp_path: Path) -> None:
    program = predictor("Name the animal.", label=(animals(task), "the animal"))
    optimizer = IPO(proposer="evolution", steps=3, seed=0, log_dir=tmp_path / "run")
    best = optimizer.compile(program, task.trainset)
    expected = IPO(proposer="evolution", steps=3, seed=0).compile(
        ClipClassifier(task.classes, model="demo"), task.trainset
    )
    assert best.signature.instructions == str(expected.template)
    assert program.signature.instructions == "Name the animal."
    assert accuracy(best, task.trainset) == best.detailed_results.best.score.accuracy > accuracy(program, task.trainset)
    demo.export("pixel-animals", tmp_path / "images")
    folder = load_image_folder(tmp_path / "images")[:4]
    found = collect_training_images(program, find_classifiers(program), folder, name="trainset")["self"]
    assert [str(image) for image in found.images] == [example.image for example in folder]
    restored = predictor("", label=(animals(task), "the animal"))
    load_program(restored, tmp_path / "run" / "best.json")
    assert restored.signature.instructions == best.signature.instructions
    assert restored(image=task.testset[0].image).label == best(image=task.testset[0].image).label


def test_another_template_or_other_texts_drop_decision_weights(
    task: demo.DemoTask, caplog: pytest.LogCaptureFixture
) -> None:
    program = predictor("art of a <CLASS>.", label=(animals(task), "the animal"))
    program.fields["label"] = {"weights": {label: 1.0 + (i % 3) for i, label in enumerate(task.classes)}}
    output = find_classifiers(program)["self"]
    assert output.is_calibrated
    output.template = "art of a <CLASS>."
    assert "weights" in program.fields["label"]
    best = IPO(proposer="evolution", steps=3, seed=0).compile(program, task.trainset)
    assert best.signature.instructions != program.signature.instructions
    assert "weights" not in best.fields.get("label", {})
    assert "weights" in program.fields["label"]
    assert "the calibration of 'self' was dropped" in caplog.text
    assert accuracy(best, task.trainset) == best.detailed_results.best.score.accuracy
    output.classes = {label: f"little {label}" for label in task.classes}
    assert "weights" not in program.fields["label"]


class Scene(dspy.Module):
    """Two questions about one image, behind a name of its own."""

    def __init__(self, task: demo.DemoTask) -> None:
        super().__init__()
        self.look = predictor(
            "a drawing of a <CLASS>.",
            inputs=("picture",),
            animal=(Literal[tuple(task.classes)], "the animal"),
            legs=(Choice[(2, "bird"), (4, ["dog", "cow"])], "an animal such as a <CLASS>."),
            tame=(Noul[(True, "farm animal"), (False, "wild animal")], "whether it is tame"),
        )

    def forward(self, photo: Any) -> dspy.Prediction:
        return self.look(picture=photo)


def examples(task: demo.DemoTask) -> list[dspy.Example]:
    birds = {"duck", "eagle", "dove", "chicken"}
    return [
        dspy.Example(photo=e.image, animal=e.label, legs=2 if e.label in birds else 4).with_inputs("photo")
        for e in task.trainset
    ]


@pytest.mark.end_to_end
def test_several_outputs_get_a_template_each(task: demo.DemoTask) -> None:
    program, trainset = Scene(task), examples(task)
    found = find_classifiers(program)
    assert list(found) == ["look.animal", "look.legs"]
    assert [str(c.template) for c in found.values()] == ["a drawing of a <CLASS>.", "an animal such as a <CLASS>."]
    assert found["look.legs"].class_texts == {"2": ("bird",), "4": ("dog", "cow")}
    images = collect_training_images(program, found, trainset, name="trainset")
    assert set(images["look.legs"].labels) == {"2", "4"}
    assert images["look.animal"].images == tuple(example.photo for example in trainset)
    best = IPO(proposer="evolution", steps=2, seed=0).compile(program, trainset)
    written = {name: config["instructions"] for name, config in best.look.fields.items()}
    results = {search.predictor: str(search.best.template) for search in best.detailed_results.searches}
    assert {f"look.{name}": text for name, text in written.items()} == results
    assert best.look.signature.instructions == program.look.signature.instructions
    assert program.look.fields == {}
    assert accuracy(best, trainset, "animal") > accuracy(program, trainset, "animal")


def test_texts_of_classes_are_written_into_the_predictor(task: demo.DemoTask) -> None:
    program = Scene(task)
    legs = find_classifiers(program)["look.legs"]
    legs.classes = {"2": "feathered animal", "4": ["dog", "cow", "4"]}
    assert program.look.get_criteria("legs") == {"2": ["feathered animal"], "4": ["dog", "cow", "4"]}
    assert find_classifiers(program)["look.legs"].class_texts == legs.class_texts


def test_a_predictor_next_to_a_classifier(task: demo.DemoTask) -> None:
    class Both(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = ClipClassifier(task.classes, model="demo")
            self.second = predictor("Name it.", label=(animals(task), "the animal"))
            self.other = dspy.Predict("question -> answer")

        def forward(self, image: Any) -> dspy.Prediction:
            self.first(image=image)
            return self.second(image=image)

    program = Both()
    found = find_classifiers(program)
    assert list(found) == ["first", "second"]
    images = collect_training_images(program, found, list(task.trainset), name="trainset")
    assert images["first"].images == images["second"].images


def test_errors_name_the_predictor_and_the_example(task: demo.DemoTask) -> None:
    mixed = predictor("Name it.", label=(animals(task), "the animal"), reason=(str, "why"))
    with pytest.raises(InputError, match=r"predictor 'self' .* by its ClipDecider: Unsupported System One output 'rea"):
        find_classifiers(mixed)
    program = predictor("Name it.", label=(animals(task), "the animal"))
    with pytest.raises(DataError, match=r"trainset\[0\]: a decision by CLIP is about one image, got 0"):
        IPO(proposer="evolution").compile(program, [dspy.Example(photo="x.png", label="cat").with_inputs("photo")])
    with pytest.raises(DataError, match="has the label 'unicorn'"):
        IPO(proposer="evolution").compile(
            program, [dspy.Example(image=task.testset[0].image, label="unicorn").with_inputs("image")]
        )
    with dspy.context(lm=ClipDecider("demo")), pytest.raises(LanguageModelError, match="no language model to propose"):
        IPO().compile(program, task.trainset)


@pytest.mark.parametrize("output", ["animal", "legs", "label"])
def test_a_metric_of_dspy_gets_what_the_predictor_returns(task: demo.DemoTask, output: str) -> None:
    """A `Choice`, or a value of its own type such as 2, as in `dspy.Evaluate`."""
    legs = Literal[2, 4]
    kinds: dict[str, Any] = {
        "animal": Literal[tuple(task.classes)],
        "legs": Annotated[legs, Choice[(2, "bird"), (4, "dog")]],
        "label": animals(task),
    }
    program = predictor("a drawing of a <CLASS>.", **{output: (kinds[output], "what it is")})
    trainset = [
        dspy.Example(
            image=e.image, **{output: 2 if e.label == "duck" else 4} if output == "legs" else {output: e.label}
        )
        for e in task.trainset[:20]
    ]
    trainset = [example.with_inputs("image") for example in trainset]
    seen: list[Any] = []

    def metric(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> float:
        seen.append(prediction[output])
        return float(example[output] == getattr(prediction[output], "value", prediction[output]))

    found = IPO(proposer="evolution", steps=0, metric=metric, progress=False).compile(program, trainset)
    searched = seen[1 : 1 + len(trainset)]  # the first call is a check
    by_calls = [program(image=example.image)[output] for example in trainset]
    assert [type(one) for one in searched] == [type(one) for one in by_calls]
    assert [getattr(one, "value", one) for one in searched] == [getattr(one, "value", one) for one in by_calls]
    if output == "label":
        assert searched[0].probabilities == pytest.approx(by_calls[0].probabilities, abs=1e-5)
        assert searched[0].confidence == pytest.approx(by_calls[0].confidence, abs=1e-5)
    assert found.detailed_results.baseline.score.value == pytest.approx(
        found.detailed_results.baseline.score.accuracy / 100
    )

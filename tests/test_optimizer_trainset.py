"""Training sets of each classifier of a program, with stub classifiers that need no weights."""

from pathlib import Path
from typing import Any

import dspy
import pytest

from ipo_dspy.classifier import ClipClassifier
from ipo_dspy.errors import DataError, InputError
from ipo_dspy.optimizer.trainset import PROBED, collect_training_images, find_classifiers


class Stub(ClipClassifier):
    """Answers without a label and counts its calls."""

    def __init__(self, classes: list[str] | None = None) -> None:
        super().__init__(classes)
        self.calls: list[dict[str, Any]] = []

    def forward(self, **inputs: Any) -> dspy.Prediction:
        self.calls.append(inputs)
        self._classes_for(inputs)
        return self._finish(inputs)


PETS = ["cat", "dog"]


def pets(n: int = 6, **more: Any) -> list[dspy.Example]:
    return [dspy.Example(image=f"{i}.png", label=PETS[i % 2], **more).with_inputs("image") for i in range(n)]


class Nested(dspy.Module):
    def __init__(self, classifier: ClipClassifier, change: Any = None) -> None:
        super().__init__()
        self.inner = dspy.Module()
        self.inner.classify = classifier
        self.change = change or (lambda inputs: inputs)

    def forward(self, **inputs: Any) -> dspy.Prediction:
        return self.inner.classify(**self.change(inputs))


class Two(dspy.Module):
    def __init__(self, sometimes: bool = False) -> None:
        super().__init__()
        self.animal, self.style, self.sometimes = Stub(PETS), Stub(["drawn", "photo"]), sometimes

    def forward(self, image: Any) -> dspy.Prediction:
        found = self.animal(image=image)
        if not (self.sometimes and image == "4.png"):
            self.style(image=f"corner of {image}")
        return found


def gathered(program: dspy.Module, examples: list[dspy.Example], **more: Any) -> Any:
    return collect_training_images(program, find_classifiers(program), examples, name="trainset", **more)


def test_finds_bare_and_nested_classifiers() -> None:
    assert list(find_classifiers(Stub(PETS))) == ["self"]
    assert list(find_classifiers(Nested(Stub(PETS)))) == ["inner.classify"]
    assert list(find_classifiers(Two())) == ["animal", "style"]
    with pytest.raises(InputError, match="student Predict holds no ClipClassifier to optimize; make one an attribute"):
        find_classifiers(dspy.Predict("question -> answer"))
    with pytest.raises(InputError, match=r"student is a str; pass a dspy.Module, e.g. ClipClassifier"):
        find_classifiers("program")


def test_a_bare_classifier_is_not_run() -> None:
    program = Stub(PETS)
    images = gathered(program, pets())["self"]
    assert images.images == tuple(f"{i}.png" for i in range(6))
    assert images.sources == tuple(str(Path(f"{i}.png").absolute()) for i in range(6))
    assert images.labels == ("cat", "dog") * 3
    assert (images.classes, images.choices, program.calls) == (("cat", "dog"), None, [])
    assert images.keep([4, 1]).images == ("4.png", "1.png")


def test_unchanged_fields_are_probed_only() -> None:
    program = Nested(Stub(PETS))
    images = gathered(program, pets(8))["inner.classify"]
    assert images.images == tuple(f"{i}.png" for i in range(8))
    assert len(program.inner.classify.calls) == PROBED


@pytest.mark.parametrize("num_threads", [1, 3])
def test_what_a_module_before_it_makes_is_what_it_is_trained_on(num_threads: int) -> None:
    program = Nested(Stub(PETS), lambda inputs: {"image": f"crop of {inputs['image']}"})
    images = gathered(program, pets(7), num_threads=num_threads)["inner.classify"]
    assert images.images == tuple(f"crop of {i}.png" for i in range(7))
    assert images.sources[3] == str(Path("3.png").absolute())
    assert len(program.inner.classify.calls) == 7


def test_classes_made_by_a_module_before_it() -> None:
    def with_classes(inputs: dict[str, Any]) -> dict[str, Any]:
        return {**inputs, "classes": ["cat", "dog", f"class {inputs['image'][0]}"]}

    for classifier in (Stub(), Stub(["never", "these"])):
        images = gathered(Nested(classifier, with_classes), pets(4))["inner.classify"]
        assert images.choices[3] == ("cat", "dog", "class 3")
        assert images.classes == ("cat", "dog", "class 0", "class 1", "class 2", "class 3")


def test_classes_as_a_field_of_the_examples() -> None:
    examples = [dspy.Example(image="0", label="dog", classes=["dog", "emu"]).with_inputs("image", "classes")]
    assert gathered(Stub(), examples)["self"].choices == (("dog", "emu"),)
    # Not an input of the program, so the classifier will never see it.
    assert gathered(Stub(PETS), pets(2, classes=["x", "y"]))["self"].classes == ("cat", "dog")
    with pytest.raises(DataError, match=r"trainset\[0\] has no class names; use ClipClassifier\(classes=\[...\]\)"):
        gathered(Stub(), pets())


def test_two_classifiers_with_a_label_field_each() -> None:
    fields = {"animal": "label", "style": "look"}
    found = gathered(Two(), pets(look="photo"), label_field=fields)
    assert found["animal"].labels == ("cat", "dog") * 3
    assert found["style"].labels == ("photo",) * 6
    assert found["style"].images[5] == "corner of 5.png"
    with pytest.raises(DataError, match=r"has no entry for classifier 'style'; pass label_field=\{'style': 'label'"):
        gathered(Two(), pets(look="photo"), label_field={"animal": "label"})


def test_a_classifier_that_is_not_always_called() -> None:
    with pytest.raises(DataError, match=r"never called its classifier 'style' on trainset\[4\]; remove such examples"):
        gathered(Two(sometimes=True), pets(look="photo"), label_field={"animal": "label", "style": "look"})


def test_labels_match_classes_with_the_same_spelling() -> None:
    examples = [dspy.Example(image="a.png", label=label).with_inputs("image") for label in ("beer_mug", "beer mug")]
    program = ClipClassifier(["beer mug", "tea_cup"], model="demo")
    assert gathered(program, examples)["self"].labels == ("beer mug", "beer mug")
    with pytest.raises(DataError, match="indistinguishable in a prompt"):
        program.classes = ("beer  mug", "beer__mug")


@pytest.mark.parametrize("failing", [0, 5])
def test_an_error_of_the_program_stays_its_own_and_says_on_which_example(failing: int) -> None:
    def fails(inputs: dict[str, Any]) -> dict[str, Any]:
        if inputs["image"] == f"{failing}.png":
            raise ZeroDivisionError("in the user's module")
        return {"image": f"crop of {inputs['image']}"}

    with pytest.raises(ZeroDivisionError, match="in the user's module") as caught:
        gathered(Nested(Stub(PETS), fails), pets())
    (note,) = caught.value.__notes__
    assert note.startswith(f"your program failed on trainset[{failing}]: ")
    assert note.endswith(f"fix it so that program(**trainset[{failing}].inputs()) works")


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], r"trainset is empty; pass a list of dspy.Example\(image=..., label=...\)"),
        (
            [dspy.Example(picture="x", label="cat").with_inputs("picture")],
            r"\[0\] has no field 'image' \(it has picture,",
        ),
        (
            [dspy.Example(image="x", kind="cat").with_inputs("image")],
            r"has no field 'label' \(it has image, kind\); pass the field",
        ),
        (
            [*pets(2), dspy.Example(image="x", label="emu").with_inputs("image")],
            r"trainset\[2\] has the label 'emu', which",
        ),
    ],
)
def test_bad_examples(examples: list[dspy.Example], message: str) -> None:
    with pytest.raises(DataError, match=message):
        gathered(Stub(PETS), examples)


def test_examples_that_do_not_say_their_inputs() -> None:
    example = dspy.Example(image="x", label="cat")
    assert gathered(Stub(PETS), [example])["self"].images == ("x",)
    with pytest.raises(
        DataError, match=r"trainset\[0\] does not declare its input fields; call .with_inputs\('image'\)"
    ):
        gathered(Nested(Stub(PETS)), [example])


@pytest.mark.parametrize(
    ("sources", "name"),
    [
        (["/data/pets/cat/1.jpg", "/data/pets/dog/1.jpg"], "pets"),
        (["/data/pets/train/cat/1.jpg", "/data/pets/train/dog/1.jpg"], "pets"),
        (["/data/pets.parquet#0", "/data/pets.parquet#7"], "pets"),
        (["/data/pets/0.tar#a/1.jpg", "/data/pets/1.tar#b/1.jpg"], "pets"),
        (["/work/someone/pets#3", "/work/someone/pets#4"], "pets"),
        (["/home/ann/cat/1.jpg", "/home/ann/dog/1.jpg"], ""),
        (["", ""], ""),
    ],
)
def test_data_is_named_after_its_folder_or_table_but_not_after_the_home_folder(
    sources: list[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.setenv("USERPROFILE", "/home/ann")
    examples = [example.copy(source=source) for example, source in zip(pets(2), sources, strict=True)]
    assert gathered(Stub(PETS), examples)["self"].data_name == name

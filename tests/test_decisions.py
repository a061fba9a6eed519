"""CLIP answers the decisions of any `dspy.Predict`."""

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import dspy
import numpy as np
import pytest
from dspy.experimental import Choice, Noul, Score
from PIL import Image
from torch import Tensor

from ipo_dspy import demo
from ipo_dspy.classifier import ClipClassifier
from ipo_dspy.clip import batching
from ipo_dspy.clip.lru import TensorLRU
from ipo_dspy.decisions import ClipDecider, find_image
from ipo_dspy.errors import ImageError, InputError, ProgramFileError, TemplateError
from ipo_dspy.program_files import load_program

SHOTS = 1
IMAGE = dspy.InputField()


def predictor(instructions: str = "pixel art of a <CLASS>.", **outputs: Any) -> dspy.Predict:
    """A predictor with an image input and these outputs, given as a type or as a type and a description."""
    fields: dict[str, Any] = {"image": (dspy.Image, dspy.InputField())}
    for name, output in outputs.items():
        kind, description = output if isinstance(output, tuple) else (output, "what the picture shows")
        fields[name] = (kind, dspy.OutputField(desc=description))
    program = dspy.Predict(dspy.Signature(fields, instructions))
    program.lm = ClipDecider("demo")
    return program


def animals(*names: str) -> Any:
    return Choice[tuple((name, None) for name in names)]


@pytest.fixture
def image(task: demo.DemoTask) -> dspy.Image:
    return task.testset[0].image


@pytest.fixture
def passes(task: demo.DemoTask, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches of images that are encoded; none has been yet."""
    sizes: list[int] = []
    backbone = task.program.backbone
    encode = backbone.encode_pixels

    def counted(pixels: Tensor) -> Tensor:
        sizes.append(len(pixels))
        return encode(pixels)

    monkeypatch.setenv("IPO_DSPY_CACHE", "off")
    monkeypatch.setattr(backbone, "image_memo", TensorLRU(100_000))
    monkeypatch.setattr(backbone, "encode_pixels", counted)
    return sizes


def noise(count: int) -> list[dspy.Image]:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 40, 40, 3), dtype=np.uint8)
    return [dspy.Image(Image.fromarray(array)) for array in pixels]


def test_a_predictor_and_a_classifier_give_the_same_probabilities(task: demo.DemoTask) -> None:
    texts = {**dict.fromkeys(task.classes), "cat": "house cat", "frog": ["green frog", "toad"]}
    options = Choice[tuple(texts.items())]
    program = predictor(label=options)
    classifier = ClipClassifier(
        {name: text or name for name, text in texts.items()}, template="pixel art of a <CLASS>.", model="demo"
    )
    for example in task.testset[:5]:
        label, expected = program(image=example.image).label, classifier(image=example.image)
        assert (label.value, label.confidence) == (expected.label, pytest.approx(expected.confidence, abs=1e-6))
        assert {name: label.probabilities[name] for name in expected.scores} == pytest.approx(expected.scores, abs=1e-6)


def test_several_questions_cost_one_encoding(image: dspy.Image, passes: list[int]) -> None:
    program = predictor(
        animal=animals("cat", "dog", "cow"),
        size=(Literal["small", "large"], "a <CLASS> animal."),
        tame=Noul[(True, "farm animal"), (False, "wild animal")],
        indoors=(Annotated[bool, Noul[(True, "indoors"), (False, "outdoors")]], "a photo taken <CLASS>."),
    )
    prediction = program(image=image)
    assert passes == [1]
    assert prediction.animal.value in {"cat", "dog", "cow"}
    assert prediction.size in {"small", "large"}
    assert 0 <= prediction.tame.probability <= 1
    assert isinstance(prediction.indoors, bool)
    program(image=image)
    assert passes == [1]


def test_calls_made_together_are_one_batch(passes: list[int]) -> None:
    program, images = predictor(animal=animals("cat", "dog")), noise(batching.BATCH_SIZE)
    _ = program.lm.backbone

    async def ask() -> list[Any]:
        return await asyncio.gather(*(program.acall(image=image) for image in images))

    together = asyncio.run(ask())
    assert passes == [batching.BATCH_SIZE]
    for image, answer in zip(images, together, strict=True):
        assert answer.animal.probabilities == pytest.approx(program(image=image).animal.probabilities, abs=1e-5)


def test_one_bad_image_fails_its_own_call_only() -> None:
    program, good = predictor(animal=animals("cat", "dog")), noise(2)

    async def ask() -> list[Any]:
        images = [good[0], dspy.Image("data:image/png;base64,AAAA"), good[1]]
        return await asyncio.gather(*(program.acall(image=image) for image in images), return_exceptions=True)

    answers = asyncio.run(ask())
    assert isinstance(answers[1], ImageError)
    assert [answers[i].animal.value in {"cat", "dog"} for i in (0, 2)] == [True, True]


@pytest.mark.parametrize(
    ("instructions", "description", "read"),
    [
        ("pixel art of a <CLASS>.", "an animal", "pixel art of a <CLASS>."),
        ("pixel art of a <CLASS>.", "a drawing of a <class>.", "a drawing of a <CLASS>."),
        ("Say what the picture shows.", "an animal", "a photo of a <CLASS>."),
    ],
)
def test_the_template_is_that_of_the_output_else_of_the_signature_else_of_the_decider(
    image: dspy.Image, instructions: str, description: str, read: str
) -> None:
    program = predictor(instructions, animal=(animals("cat", "dog"), description))
    expected = ClipClassifier(["cat", "dog"], template=read, model="demo")(image=image).scores
    assert program(image=image).animal.probabilities == pytest.approx(expected, abs=1e-6)


def test_criteria_and_weights_of_the_program_are_used(image: dspy.Image) -> None:
    program = predictor(animal=animals("crane", "dog"))
    program.set_criteria("animal", {"crane": ["crane bird", "water bird"], "dog": "puppy"})
    first = program(image=image).animal
    expected = ClipClassifier(
        {"crane": ["crane bird", "water bird"], "dog": "puppy"}, template="pixel art of a <CLASS>.", model="demo"
    )
    assert first.probabilities == pytest.approx(expected(image=image).scores, abs=1e-6)
    other = ({"crane", "dog"} - {first.value}).pop()
    program.fields["animal"]["weights"] = {first.value: 0.0}
    assert program(image=image).animal.value == other


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (Score["poor", "fair", "good"], r"output 'answer' must be a Choice, .* got the question type 'score'"),
        (bool, r"output 'answer' must have criteria for both outcomes, got \{\}; pass what .* Noul\[\(True, "),
        (Noul[(True, "helmet")], r"must have criteria for both outcomes, got \{'true': 'helmet'"),
        (Choice[("cat", "pet"), ("dog", "pet")], "text 'pet' of class 'dog' must not be"),
        (Choice[("cat", {"looks": "furry"}), ("dog", None)], "class 'cat' must have a text or a list of texts"),
        (Choice[("cat", [1]), ("dog", None)], "class 'cat' must have a text or a list of texts"),
        (Literal["cat"], "at least two"),
    ],
)
def test_questions_that_clip_cannot_answer(image: dspy.Image, output: Any, message: str, passes: list[int]) -> None:
    with pytest.raises(InputError, match=message):
        predictor(answer=output)(image=image)
    assert passes == []


def test_instructions_that_are_no_template_and_requests_for_text(image: dspy.Image) -> None:
    with pytest.raises(TemplateError, match=r"'Answer in one word\.' has no <CLASS>"):
        predictor("a <CLASS>.\nAnswer in one word.", animal=animals("cat", "dog"))(image=image)
    with pytest.raises(InputError, match="answers decisions about an image, not text"):
        ClipDecider("demo")("Hello")


def test_exactly_one_image_is_needed(image: dspy.Image) -> None:
    two = dspy.Signature({"first": (dspy.Image, IMAGE), "second": (dspy.Image, IMAGE)}, "a <CLASS>.")
    program = dspy.Predict(two.append("animal", dspy.OutputField(desc="an animal"), type_=animals("cat", "dog")))
    program.lm = ClipDecider("demo")
    with pytest.raises(ImageError, match=r"about one image, got 2 in the inputs \('first', 'second'\)"):
        program(first=image, second=image)
    with pytest.raises(ImageError, match=r"got 0 in the inputs \('first', 'second'\); pass one, e.g. image="):
        program(first=None, second=None)
    with pytest.raises(ImageError, match=r"got the text 'a/x.webp' .* pass dspy.Image.from_path\('a/x.webp'\)"):
        program(first="a/x.webp", second=None)


def as_dspy_writes(parts: object) -> str:
    return f"<<CUSTOM-TYPE-START-IDENTIFIER>>{json.dumps(parts)}<<CUSTOM-TYPE-END-IDENTIFIER>>"


def test_images_are_found_in_lists_and_as_objects(image: dspy.Image) -> None:
    written = as_dspy_writes([{"type": "image_url", "image_url": {"url": image.url}}])
    assert image.model_dump() == written
    picture = Image.new("RGB", (8, 8))
    for inputs in ({"image": written}, {"question": "<<CUSTOM-TYPE-START-IDENTIFIER>>", "images": [written]}):
        assert find_image(inputs) == image.url
    assert find_image({"image": picture, "count": 3, "none": None}) is picture
    pixels: Any = np.zeros((4, 4), np.uint8)
    assert find_image({"image": pixels}) is pixels


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (as_dspy_writes([{"image_url": {"url": "/etc/passwd"}}]), "must be a data URI or a URL"),
        (as_dspy_writes([{"type": "input_audio", "input_audio": {"data": "AAAA"}}]), "got 0"),
        (as_dspy_writes([{"image_url": "data:,"}, 3, None]), "got 0"),
        (as_dspy_writes({"image_url": {"url": 3}}), "got 0"),
        ("<<CUSTOM-TYPE-START-IDENTIFIER>>[<<CUSTOM-TYPE-END-IDENTIFIER>>", "not an image as DSPy writes it"),
        (as_dspy_writes([[[[[[[[[[]]]]]]]]]]), "nested deeper"),
        ([[[[[[[[[[]]]]]]]]]], "nested deeper"),
        ("/etc/passwd", "got 0"),
        ({}, "got 0"),
    ],
)
def test_inputs_that_others_wrote_cannot_name_files(value: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        find_image({"image": value})


def test_urls_are_fetched_only_if_allowed() -> None:
    program = predictor(animal=animals("cat", "dog"))
    with pytest.raises(ImageError, match="on the network"):
        program(image=dspy.Image("https://localhost:1/cat.png"))
    program.lm = ClipDecider("demo", allow_url=True)
    with pytest.raises(ImageError, match="cannot be fetched"):
        program(image=dspy.Image("https://localhost:1/cat.png"))


def test_a_saved_decider_names_its_model_and_starts_no_download() -> None:
    state = ClipDecider("ViT-B-16", "openai", template="art of a <CLASS>.", dtype="float16").dump_state()
    assert json.loads(json.dumps(state)) == state
    assert not {"api_key", "device", "cache"} & set(state)
    loaded = ClipDecider.load_state({**state, "allow_url": True, "device": "cuda:7"})
    assert loaded.dump_state() == state
    assert (loaded._spec.downloads, loaded.allow_url, loaded._spec.device) == ("refused", False, "auto")
    with pytest.raises(ProgramFileError, match="the saved ClipDecider must have a model, got None"):
        ClipDecider.load_state({"template": "a <CLASS>."})


def test_arguments_of_a_decider_are_checked() -> None:
    with pytest.raises(TemplateError, match="has no <CLASS>"):
        ClipDecider("demo", template="a photo.")
    with pytest.raises(InputError, match="allow_url must be True or False"):
        ClipDecider("demo", allow_url="no")  # type: ignore[arg-type]


class Kennel(dspy.Module):
    """A program with a predictor that CLIP answers and one that a language model answers."""

    def __init__(self, decider: ClipDecider | None = None) -> None:
        super().__init__()
        self.breed = predictor(breed=animals("husky", "poodle"))
        self.breed.lm = decider
        self.name = dspy.Predict("breed -> name")


@pytest.mark.parametrize("make", [Kennel, lambda lm: Kennel(lm).breed])
def test_a_program_with_a_decider_is_saved_and_loaded(tmp_path: Path, make: Any) -> None:
    path = tmp_path / "program.json"
    make(ClipDecider("ViT-B-16", "openai", template="art of a <CLASS>.")).save(str(path))
    fresh = make(None)
    with pytest.raises(ValueError, match="Refusing to import"):
        fresh.load(str(path))
    load_program(fresh, path)
    loaded = getattr(fresh, "breed", fresh).lm
    assert (loaded.model, loaded._spec.downloads, str(loaded.template)) == ("ViT-B-16", "refused", "art of a <CLASS>.")
    mine = ClipDecider("demo")
    named = make(mine)
    load_program(named, path)
    assert getattr(named, "breed", named).lm is mine
    trusted = make(None)
    trusted.load(str(path), allow_unsafe_lm_state=True)
    assert getattr(trusted, "breed", trusted).lm.dump_state() == loaded.dump_state()


def test_a_damaged_decider_in_a_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "program.json"
    Kennel(ClipDecider("demo")).save(str(path))
    state = json.loads(path.read_text())
    state["breed"]["lm"]["template"] = "a photo."
    path.write_text(json.dumps(state))
    with pytest.raises(ProgramFileError, match=r"program\.json'.*has no <CLASS>"):
        load_program(Kennel(), path)
    for name in ("x" * 100_000, "local-dir:" + "x" * 100_000):
        state["breed"]["lm"] |= {"template": "a <CLASS>.", "model": name, "pretrained": "y" * 100_000}
        path.write_text(json.dumps(state))
        with pytest.raises(ProgramFileError, match=r"program\.json'"):
            load_program(Kennel(), path)

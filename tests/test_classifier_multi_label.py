"""Images with several labels or none: predictions, evaluation, search, saved programs, and early refusals."""

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pytest
import torch
from PIL import Image

from helpers.clip_toys import shared_toy, write_model, write_sigmoid_demo
from ipo_dspy import IPO, ClipClassifier, RayScorer, demo
from ipo_dspy._internal.file_kinds import PROGRAM_FILE
from ipo_dspy.analysis.label_check import check_labels
from ipo_dspy.analysis.program_check import check
from ipo_dspy.cli import main
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.image_io import open_image
from ipo_dspy.clip.loading import load_backbone
from ipo_dspy.errors import DataError, InputError, JournalError, ModelError, ProgramFileError
from ipo_dspy.optimizer.evaluation import evaluate
from ipo_dspy.report import render_report

CLASSES = ("bat", "crocodile", "dog", "eagle", "giraffe", "gorilla")
TEMPLATE = "pixel art of a <CLASS>."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sigmoid_demo(tmp_path_factory.mktemp("models") / "sigmoid")


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return load_backbone(f"local-dir:{folder}", device="cpu")


def next_to(left: Image.Image, right: Image.Image) -> Image.Image:
    picture = Image.new("RGB", (left.width + right.width, left.height), "white")
    picture.paste(left, (0, 0))
    picture.paste(right, (left.width, 0))
    return picture


@pytest.fixture(scope="module")
def examples() -> list[dspy.Example]:
    """Pictures of one animal, of two side by side, and of noise."""
    test = demo.load("pixel-animals", shots=1).testset
    by_class = {name: [open_image(e.image) for e in test if e.label == name] for name in CLASSES}
    rows: list[tuple[Any, list[str]]] = [(by_class[name][i], [name]) for i in range(4) for name in CLASSES]
    for i, left in enumerate(CLASSES):
        for j, right in enumerate(CLASSES[:i]):
            rows.append((next_to(by_class[left][4 + j], by_class[right][4 + i]), [left, right]))
    random = np.random.default_rng(0)
    rows += [(Image.fromarray(random.integers(0, 255, (64, 64, 3)).astype("uint8")), []) for _ in range(3)]
    return [dspy.Example(image=image, label=labels).with_inputs("image") for image, labels in rows]


def run(arguments: list[str]) -> Any:
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    return exit.value.code


def classifier(backbone: Backbone, classes: Any = CLASSES, **options: Any) -> ClipClassifier:
    return ClipClassifier(classes, model=backbone, multi_label=True, template=TEMPLATE, **options)


def test_probabilities_are_the_sigmoids_of_the_logits(backbone: Backbone, examples: list[dspy.Example]) -> None:
    program = classifier(backbone, top_k=2)
    answers = [program(image=example.image) for example in examples]
    features = torch.cat([backbone.encode_pixels(backbone.preprocess(e.image)[None]) for e in examples])
    shares = program.probabilities(features, program.template, CLASSES)
    softmax = ClipClassifier(CLASSES, model=backbone, template=TEMPLATE).probabilities(
        features, program.template, CLASSES
    )
    assert not torch.allclose(shares, softmax, atol=0.1)
    seen = set()
    for row, answer in zip(shares.tolist(), answers, strict=True):
        expected = dict(zip(CLASSES, row, strict=True))
        assert answer.probabilities == pytest.approx(expected, abs=1e-5)
        present = sorted((name for name, share in expected.items() if share >= 0.5), key=lambda name: -expected[name])
        assert answer.labels == present
        assert answer.label == (present[0] if present else None)
        assert answer.confidence == max(answer.probabilities.values())
        assert list(answer.scores) == sorted(CLASSES, key=lambda name: -expected[name])[:2]
        seen.add(len(present))
    assert {0, 1, 2} <= seen
    again = asyncio.run(program.acall(image=examples[0].image))
    assert again.labels == answers[0].labels
    assert [each.labels for each in program.batch(examples[:3])] == [each.labels for each in answers[:3]]


def test_one_class_alone_is_there_or_not(backbone: Backbone, examples: list[dspy.Example]) -> None:
    program = classifier(backbone, ["eagle"])
    answers = [program(image=example.image) for example in examples]
    there = [example.label == ["eagle"] for example in examples]
    ranked = sorted(zip([answer.confidence for answer in answers], there, strict=True), reverse=True)
    assert sum(flag for _, flag in ranked[:4]) >= 2
    assert {tuple(answer.labels) for answer in answers} == {(), ("eagle",)}
    with pytest.raises(DataError, match="needs at least two classes"):
        ClipClassifier(["eagle"], model=backbone)
    with pytest.raises(DataError, match=r"needs at least one class, e\.g\. \['cat'\], got \[\]"):
        classifier(backbone, [])


def test_classes_may_come_with_each_call(backbone: Backbone, examples: list[dspy.Example]) -> None:
    program, fixed = classifier(backbone, None), classifier(backbone)
    for given in (["giraffe"], list(CLASSES)):
        answer, other = program(image=examples[4].image, classes=given), fixed(image=examples[4].image)
        assert answer.labels == [name for name in other.labels if name in given]
        assert answer.label == (answer.labels or [None])[0]
    with pytest.raises(DataError, match="must have no field 'classes' with multi_label=True"):
        evaluate(program, [dspy.Example(image=e.image, label=e.label, classes=CLASSES) for e in examples])


def test_saved_programs_keep_it_and_old_files_load(
    backbone: Backbone, folder: Path, examples: list[dspy.Example], tmp_path: Path
) -> None:
    program = classifier(backbone, {"eagle": ["eagle", "bird of prey"], "dog": "dog"})
    program.save(tmp_path / "program.json")
    loaded = ClipClassifier.from_file(tmp_path / "program.json", model=f"local-dir:{folder}")
    assert loaded.multi_label
    assert loaded.class_texts == program.class_texts
    assert loaded(image=examples[3].image).probabilities == pytest.approx(
        program(image=examples[3].image).probabilities, abs=1e-6
    )
    assert program.deepcopy().multi_label
    other = ClipClassifier(CLASSES, model=backbone)
    assert "multi_label" not in other.dump_state()["clip"]
    program.load_state(other.dump_state())
    assert (program.multi_label, program.classes) == (False, CLASSES)
    assert "labels" not in program(image=examples[0].image)

    plain = ClipClassifier(CLASSES, model="demo")
    before = plain.dump_state()
    with pytest.raises(ProgramFileError, match="must be a model with a sigmoid head"):
        plain.load(tmp_path / "program.json")
    assert plain.dump_state() == before
    state = json.loads((tmp_path / "program.json").read_text())
    state["clip"]["multi_label"] = "yes"
    (tmp_path / "program.json").write_text(json.dumps(state))
    with pytest.raises(ProgramFileError, match="multi_label must be True or False"):
        program.load(tmp_path / "program.json")


def test_other_models_are_refused_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipo_dspy.clip.loading.load_backbone", lambda **_: pytest.fail("a model was loaded"))
    plain = write_model(tmp_path / "plain")
    remedy = "pass model='ViT-B-16-SigLIP' and pretrained='webli'"
    for model in ("demo", "ViT-B-32", "ViT-B-16-quickgelu", f"local-dir:{plain}"):
        with pytest.raises(ModelError, match=f"model must be a model with a sigmoid head .*{remedy}"):
            ClipClassifier(CLASSES, model=model, multi_label=True)
    with pytest.raises(ModelError, match="sigmoid head"):
        ClipClassifier(CLASSES, model=shared_toy(), multi_label=True)
    assert ClipClassifier(CLASSES, model="ViT-B-16-SigLIP", pretrained="webli", multi_label=True).multi_label
    assert ClipClassifier(CLASSES, model="hf-hub:org/name", multi_label=True).multi_label
    with pytest.raises(InputError, match="multi_label must be True or False, got 'yes'"):
        ClipClassifier(CLASSES, model=shared_toy("siglip"), multi_label="yes")  # type: ignore[arg-type]


def test_a_model_that_turns_out_to_have_no_sigmoid_head_is_refused_on_first_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ipo_dspy.clip.model_spec.lacks_sigmoid_head", lambda name: False)
    program = ClipClassifier(CLASSES, model=f"local-dir:{write_model(tmp_path / 'plain')}", multi_label=True)
    for _ in range(2):
        with pytest.raises(ModelError, match="sigmoid head"):
            program(image=Image.new("RGB", (32, 32)))


def test_evaluation_has_average_precisions(backbone: Backbone, examples: list[dspy.Example]) -> None:
    program = classifier(backbone, (*CLASSES, "horse"))
    (result,) = evaluate(program, examples)
    there = np.array([[name in e.label for name in CLASSES] for e in examples])
    shares = np.array([list(program(image=e.image).probabilities.values()) for e in examples])
    assert list(result.average_precision) == list(CLASSES)  # no image has a horse
    for i, name in enumerate(CLASSES):
        ranked = there[np.argsort(-shares[:, i]), i]
        precisions = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
        assert result.average_precision[name] == pytest.approx(100 * precisions[ranked].mean(), abs=1e-6)
        found = shares[:, i] >= 0.5
        assert result.per_class[name] == ((found & there[:, i]).sum(), there[:, i].sum())
    mean = result.measures["mean_average_precision"]
    assert mean == pytest.approx(np.mean(list(result.average_precision.values())))
    assert mean > 2 * 100 * there.mean()  # of a ranking by chance
    full = np.hstack([there, np.zeros((len(there), 1), bool)])
    assert result.score.accuracy == pytest.approx(100 * ((shares >= 0.5) == full).mean(), abs=1e-9)
    loss = -np.where(full, np.log(shares), np.log(1 - shares)).mean()
    assert result.score.loss == pytest.approx(loss, abs=1e-5)
    assert result.predicted == tuple(
        ", ".join(name for name in program.classes or () if name in program(image=e.image).labels) or "(none)"
        for e in examples
    )


def test_labels_may_be_one_text_a_list_or_nothing(backbone: Backbone, examples: list[dspy.Example]) -> None:
    program = classifier(backbone)
    one = [dspy.Example(image=e.image, label=e.label[0]) for e in examples[:6]]
    (alone,), (listed,) = evaluate(program, one), evaluate(program, examples[:6])
    assert alone.measures == listed.measures
    nothing = [dspy.Example(image=e.image, label=[]) for e in examples[:3]]
    (result,) = evaluate(program, nothing)
    assert set(result.measures) == {"accuracy", "loss"}
    assert (result.per_class, result.average_precision) == ({}, {})
    for wrong, message in (
        (["emu"], r"examples\[0\] has the label 'emu', which is not among the 6 classes"),
        (None, "has no field 'label'"),
        ([["dog"]], r"has the label \['dog'\]"),
    ):
        with pytest.raises(DataError, match=message):
            evaluate(program, [dspy.Example(image=examples[0].image, label=wrong)])


class Listed:
    """Proposes a fixed list once."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts

    def propose(self, ask: Any) -> Any:
        from ipo_dspy.proposers import Proposals

        self.ask = ask
        return Proposals(tuple(self.texts))


def test_ipo_searches_a_template(backbone: Backbone, examples: list[dspy.Example], tmp_path: Path) -> None:
    student = ClipClassifier(CLASSES, model=backbone, multi_label=True, template="a photo of a <CLASS>.")
    proposer = Listed(["pixel art of a <CLASS>.", "a drawing of the <CLASS>.", "<CLASS>"])
    optimizer = IPO(proposer=proposer, steps=1, describer=None, log_dir=tmp_path / "run", progress=False)
    best = optimizer.compile(student, examples, valset=examples[::2])
    search = best.detailed_results.searches[0]
    assert proposer.ask.task == "Say for each of 6 classes whether an image shows it: " + ", ".join(CLASSES) + "."
    assert search.finalists[0].validation.rank <= next(
        f.validation.rank for f in search.finalists if f.trial.key == search.baseline.key
    )
    for trial in search.trials:
        (result,) = evaluate(student, examples, templates=[trial.template])
        assert (result.score.accuracy, result.score.loss) == (trial.score.accuracy, trial.score.loss)
    again = IPO(proposer=proposer, steps=1, describer=None, log_dir=tmp_path / "run", progress=False)
    assert str(again.compile(student, examples, valset=examples[::2]).template) == str(best.template)
    loaded = ClipClassifier.from_file(tmp_path / "run" / PROGRAM_FILE, model=f"local-dir:{_path(backbone)}")
    assert (loaded.multi_label, str(loaded.template)) == (True, str(best.template))
    page = render_report(tmp_path / "run")
    assert "Mean average precision" in page
    other = [dspy.Example(image=e.image, label=[]).with_inputs("image") for e in examples]
    with pytest.raises(JournalError, match="holds a run with other images, labels or classes"):
        IPO(proposer=proposer, steps=1, describer=None, log_dir=tmp_path / "run", progress=False).compile(
            student, other, valset=examples[::2]
        )


def _path(backbone: Backbone) -> str:
    return backbone.name.removeprefix("local-dir:")


def test_the_loss_can_be_the_objective(backbone: Backbone, examples: list[dspy.Example]) -> None:
    student = ClipClassifier(CLASSES, model=backbone, multi_label=True)
    optimizer = IPO(proposer="evolution", steps=3, objective="loss", progress=False, seed=1)
    search = optimizer.compile(student, examples).detailed_results.searches[0]
    assert search.best.score.value == -round(search.best.score.loss, 4)
    assert search.best.score.loss <= search.baseline.score.loss
    assert (search.choice.objective, search.choice.accuracy) == ("loss", search.best.score.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "macro_f1"}, "objective must be 'accuracy' or 'loss' for images .*, got 'macro_f1'"),
        ({"min_recall": {"dog": 0.5}}, "min_recall must be None for images with several labels, got {'dog': 0.5}"),
        ({"metric": lambda example, prediction: 1.0}, "metric must be None for images with several labels"),
        (
            {"optimize": ["template", "class_texts"], "candidates": {"dog": ["puppy"]}},
            "optimize must be 'template' for images with several labels",
        ),
        ({"also": ["demo"]}, r"also must be empty for images with several labels, got \['demo'\]"),
        ({"backend": RayScorer("auto")}, "backend must be None for images with several labels, got 'RayScorer'"),
    ],
    ids=["objective", "floors", "metric", "words", "encoders", "ray"],
)
def test_what_is_not_supported_is_refused_before_slow_work(
    options: dict[str, Any], message: str, backbone: Backbone, examples: list[dspy.Example]
) -> None:
    def explode(*_: Any) -> None:
        pytest.fail("slow work began")

    optimizer = IPO(proposer="evolution", steps=1, observers=[explode], progress=False, **options)
    with pytest.raises(InputError, match=message):
        optimizer.compile(classifier(backbone), examples)


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("calibrate", ClipClassifier.calibrate),
        ("check a program", check),
        ("find suspicious labels", check_labels),
    ],
)
def test_what_needs_one_label_is_refused(
    name: str, task: Callable[..., Any], backbone: Backbone, examples: list[dspy.Example]
) -> None:
    with pytest.raises(InputError, match=f"multi_label must be False to {name}, got True"):
        task(classifier(backbone), examples)


def test_another_model_must_have_a_sigmoid_head_too(backbone: Backbone, folder: Path) -> None:
    assert classifier(backbone).with_model(f"local-dir:{folder}").multi_label
    with pytest.raises(ModelError, match="sigmoid head"):
        classifier(backbone).with_model("demo")


def test_images_that_cannot_be_read_are_left_out_with_their_labels(
    backbone: Backbone, examples: list[dspy.Example], tmp_path: Path
) -> None:
    missing = dspy.Example(image=str(tmp_path / "missing.png"), label=["dog", "bat"])
    (result,) = evaluate(classifier(backbone), [missing, *examples], skip_unreadable=True)
    (whole,) = evaluate(classifier(backbone), examples)
    assert (result.score, result.average_precision) == (whole.score, whole.average_precision)


def test_optimizers_of_decisions_see_no_decision(backbone: Backbone) -> None:
    assert classifier(backbone).signature.output_fields["label"].annotation is str


def test_the_command_line_shows_labels_and_average_precisions(
    folder: Path, backbone: Backbone, examples: list[dspy.Example], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = classifier(backbone)
    program.save(tmp_path / "program.json")
    for i, example in enumerate(examples[:12]):
        place = tmp_path / "images" / example.label[0]
        place.mkdir(parents=True, exist_ok=True)
        example.image.save(place / f"{i}.png")
    arguments = [str(tmp_path / "program.json"), str(tmp_path / "images"), "--model", f"local-dir:{folder}"]
    assert run(["evaluate", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "average precision %" in shown
    assert re.search(r"mean average precision \S +\d+\.\d\d %", shown)
    assert run(["evaluate", *arguments, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    (result,) = evaluate(program, [dspy.Example(image=e.image, label=e.label) for e in examples[:12]])
    assert figures["average_precision"] == pytest.approx(dict(result.average_precision))
    assert run(["classify", *arguments, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    by_file = {str(tmp_path / "images" / e.label[0] / f"{i}.png"): e for i, e in enumerate(examples[:12])}
    for row in rows:
        answer = program(image=by_file[row["image"]].image)
        assert (row["labels"], row["label"]) == (answer.labels, answer.label)
    examples[-1].image.save(tmp_path / "noise.png")
    assert run(["classify", arguments[0], str(tmp_path / "noise.png"), *arguments[2:]]) == 0
    assert "(none)" in capsys.readouterr().out

"""Labels and the texts that CLIP reads for them, from the constructor, files and the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ipo_dspy import IPO, ClipClassifier, demo, load_class_texts
from ipo_dspy.class_texts import MAX_TEXTS, parse_classes
from ipo_dspy.cli import main
from ipo_dspy.clip.text_features import class_features, plain_class_features
from ipo_dspy.errors import DataError, IPOError, ProgramFileError
from ipo_dspy.optimizer.evaluation import evaluate
from ipo_dspy.run.journal import replay
from ipo_dspy.template import Template

WORDS = {"crane": "crane bird", "nail": ["metal nail", "fingernail"], "dog": "dog"}


@pytest.fixture(scope="module")
def task() -> demo.DemoTask:
    return demo.load("pixel-animals", shots=2)


def hidden(task: demo.DemoTask) -> tuple[dict[str, str], list[Any]]:
    """Return ids with the names of a task as texts, and its test images with ids for labels."""
    ids = {f"n{i:08d}": name for i, name in enumerate(task.classes)}
    labels = {name: label for label, name in ids.items()}
    return ids, [example.copy(label=labels[example.label]).with_inputs("image") for example in task.testset]


def test_a_label_with_one_text_is_answered_as_the_text_would_be(task: demo.DemoTask) -> None:
    ids, examples = hidden(task)
    named, coded = ClipClassifier(task.classes, model="demo"), ClipClassifier(ids, model="demo")
    image = task.testset[0].image
    by_name, by_id = named(image=image), coded(image=image)
    assert ids[by_id.label] == by_name.label
    assert list(by_id.scores.values()) == list(by_name.scores.values())
    assert evaluate(coded, examples)[0].score == evaluate(named, task.testset)[0].score
    wordless = ClipClassifier(list(ids), model="demo")
    assert evaluate(wordless, examples)[0].score.accuracy < evaluate(coded, examples)[0].score.accuracy - 10


@pytest.mark.parametrize("template", ["<CLASS>", "a photo of a <CLASS>.", "a <CLASS>.\na photo of a <CLASS>."])
def test_several_texts_are_averaged_like_the_lines_of_a_template(template: str) -> None:
    classifier = ClipClassifier(WORDS, model="demo")
    parsed, texts = Template.parse(template), classifier.texts_of(classifier.classes or ())
    backbone = classifier.backbone
    features = class_features(backbone, [parsed], texts)
    torch.testing.assert_close(features, plain_class_features(backbone, [parsed], texts), atol=1e-5, rtol=0)
    lines = Template(tuple(line.replace("<CLASS>", text) + " <CLASS>" for text in texts[1] for line in parsed.lines))
    assert len(lines.lines) == 2 * len(parsed.lines)
    assert [len(one) for one in texts] == [1, 2, 1]
    prompts = [line.replace("<CLASS>", text) for text in texts[1] for line in parsed.lines]
    each = class_features(backbone, [Template(("<CLASS>",))], prompts)[0]
    torch.testing.assert_close(features[0, 1], torch.nn.functional.normalize(each.mean(0), dim=-1))


def test_texts_are_saved_loaded_copied_and_changed(tmp_path: Path) -> None:
    program = ClipClassifier(WORDS, model="demo", template="<CLASS>")
    program.save(tmp_path / "words.json")
    loaded = ClipClassifier.from_file(tmp_path / "words.json")
    assert loaded.class_texts == program.class_texts == program.deepcopy().class_texts
    assert loaded.class_texts == {"crane": ("crane bird",), "nail": ("metal nail", "fingernail"), "dog": ("dog",)}
    loaded.set_criteria("label", {"crane": None, "nail": "nail", "dog": ["puppy"]})
    assert loaded.texts_of(["crane", "nail", "dog", "cat"]) == (("crane",), ("nail",), ("puppy",), ("cat",))
    assert program.class_texts["dog"] == ("dog",)
    loaded.classes = ["dog", "wolf"]
    assert loaded.class_texts == {"dog": ("puppy",), "wolf": ("wolf",)}
    plain = ClipClassifier(["dog", "wolf"], model="demo")
    assert plain.class_texts == {"dog": ("dog",), "wolf": ("wolf",)}
    assert "fields" not in plain.dump_state()


@pytest.mark.parametrize(
    "criteria",
    [
        {"crane": ["x"]},
        {"crane": "a\u202eb", "nail": None, "dog": None},
        {"crane": "dog", "nail": "a", "dog": None},
        [],
    ],
)
def test_a_file_with_bad_texts_is_refused_whole(criteria: Any, tmp_path: Path) -> None:
    program = ClipClassifier(WORDS, model="demo")
    program.save(tmp_path / "words.json")
    state = json.loads((tmp_path / "words.json").read_text())
    state["fields"]["label"]["criteria"] = criteria
    (tmp_path / "bad.json").write_text(json.dumps(state))
    before = program.class_texts
    with pytest.raises(ProgramFileError):
        program.load(tmp_path / "bad.json")
    assert program.class_texts == before


def test_labels_that_kept_texts_are_read_like_are_an_error(task: demo.DemoTask, tmp_path: Path) -> None:
    program = ClipClassifier({"crane": "crane bird", "dog": "puppy"}, model="demo")
    message = "text 'crane bird' of class 'crane' must not be a text or the name of class 'crane bird'"
    with pytest.raises(DataError, match=message):
        program.classes = ["crane", "crane bird"]
    assert program.class_texts == {"crane": ("crane bird",), "dog": ("puppy",)}
    with pytest.raises(DataError, match=message):
        program(image=task.testset[0].image, classes=["crane", "crane bird"])
    assert program(image=task.testset[0].image, classes=["crane", "heron"]).label in ("crane", "heron")
    ClipClassifier(["crane", "crane bird"], model="demo").save(tmp_path / "names.json")
    program.load(tmp_path / "names.json")
    assert program.class_texts == {"crane": ("crane",), "crane bird": ("crane bird",)}


@pytest.mark.end_to_end
def test_texts_of_evaluate_replace_the_saved_ones(
    task: demo.DemoTask, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo.export("pixel-animals", tmp_path / "images")
    labels = sorted(path.name for path in (tmp_path / "images").iterdir())
    first, second = labels[:2]
    names = {label: label for label in labels}
    for name, texts in (("wrong", {first: "a chair", second: "a table"}), ("half", {second: "a table"}), ("none", {})):
        ClipClassifier({**names, **texts}, model="demo").save(tmp_path / f"{name}.json")
    (tmp_path / "words.json").write_text(json.dumps({first: first}))

    def loss(program: str, *arguments: str) -> float:
        with pytest.raises(SystemExit):
            main(["evaluate", str(tmp_path / f"{program}.json"), str(tmp_path / "images"), "--json", *arguments])
        return float(json.loads(capsys.readouterr().out)["loss"])

    found = loss("wrong", "--class-texts", str(tmp_path / "words.json"))
    assert found == pytest.approx(loss("half"), abs=1e-6)
    assert found != pytest.approx(loss("none"), abs=1e-6)
    (tmp_path / "words.json").write_text(json.dumps(names))
    assert loss("wrong", "--class-texts", str(tmp_path / "words.json")) == pytest.approx(loss("none"), abs=1e-6)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"crane": "", "dog": "dog"}, r"text of class 'crane' '' must be a non-empty string"),
        ({"crane": [], "dog": "dog"}, r"class 'crane' must have at least one text, got \[\]"),
        ({"crane": None, "dog": "dog"}, "class 'crane' must have a text or a list of texts, got None"),
        ({"crane": ["a", 3], "dog": "dog"}, "class 'crane' must have a text or a list of texts"),
        (
            {"crane": "bird", "heron": ["Bird"]},
            "text 'Bird' of class 'heron' must not be a text or the name of .*'crane'",
        ),
        ({"crane": "dog", "dog": "puppy"}, "text 'dog' of class 'crane' must not be a text or the name of class 'dog'"),
        ({"crane": "a\x00b", "dog": "dog"}, "contains the control character"),
        ({"crane": ["x"] * (MAX_TEXTS + 1), "dog": "dog"}, "must have at most 1,000 texts"),
        ({"crane": "x" * 5001, "dog": "dog"}, "must have at most 5,000 characters"),
        ({"crane": "crane bird"}, "at least two classes"),
    ],
)
def test_bad_texts_are_one_clear_error(classes: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ClipClassifier(classes, model="demo")


def test_files_in_the_form_of_cupl_and_as_csv(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(
        '{"nail": ["A nail is made of metal.", "A nail is pointed."], "dog": "A dog barks."}'
    )
    (tmp_path / "a.csv").write_text(
        'label,text\nnail,A nail is made of metal.\nnail,"A nail is pointed."\ndog,A dog barks.\n'
    )
    assert load_class_texts(tmp_path / "a.json") == load_class_texts(tmp_path / "a.csv")
    assert parse_classes(load_class_texts(tmp_path / "a.csv"))[0] == ("nail", "dog")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "[1]", "it is a list, not an object"),
        ("a.json", "{", "cannot be used"),
        ("a.json", "{}", "must have at least one label"),
        ("a.json", '{"a": 3}', "class 'a' must have a text"),
        ("a.json", '{"clip": {}, "fields": {"label": {"criteria": [1]}}}', "class 'clip' must have"),
        ("a.json", "[" * 100_000, "nested"),
        ("a.csv", "name,text\na,b\n", "it has no column 'label'"),
        ("a.csv", "label,text\na,\n", "must be a non-empty string"),
        ("a.csv", "label,text\na,\xff", "cannot be used"),
        ("a.csv", f"{'x' * 200_000},text\na,b\n", "field larger than field limit"),
        ("a.csv", f"label,text\na,{'x' * 200_000}\n", "field larger than field limit"),
    ],
)
def test_a_file_of_another_form_is_one_clear_error(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=message):
        load_class_texts(tmp_path / name)
    with pytest.raises(DataError, match="cannot be read"):
        load_class_texts(tmp_path / "missing.json")


def test_a_search_reads_the_texts_and_a_resumed_one_needs_the_same(task: demo.DemoTask, tmp_path: Path) -> None:
    ids = {f"n{i:08d}": name for i, name in enumerate(task.classes)}
    labels = {name: label for label, name in ids.items()}
    trainset = [example.copy(label=labels[example.label]).with_inputs("image") for example in task.trainset]
    settings: dict[str, Any] = {"proposer": "evolution", "steps": 2, "seed": 3}
    named = IPO(**settings).compile(task.program, task.trainset)
    coded = IPO(**settings, log_dir=tmp_path).compile(ClipClassifier(ids, model="demo"), trainset)
    assert str(coded.template) == str(named.template)
    assert coded.detailed_results.best.score == named.detailed_results.best.score
    setup = next(event for event in replay(tmp_path) if event["event"] == "search_started")
    assert setup["class_texts"] == {label: [name] for label, name in ids.items()}
    with pytest.raises(IPOError, match="a run with other class texts"):
        IPO(**settings, log_dir=tmp_path).compile(ClipClassifier(list(ids), model="demo"), trainset)


@pytest.mark.end_to_end
def test_texts_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo.export("pixel-animals", tmp_path / "images")
    first = sorted(path.name for path in (tmp_path / "images").iterdir())[0]
    (tmp_path / "images" / first).rename(tmp_path / "images" / "Straßenhund (x)")
    (tmp_path / "words.json").write_text(json.dumps({"Straßenhund (x)": [first]}))
    run = ["optimize", str(tmp_path / "images"), "--model", "demo", "--steps", "1", "--shots", "2", "--test", "3"]

    def code(*arguments: str) -> int | str | None:
        with pytest.raises(SystemExit) as exit_info:
            main([*run, *arguments])
        return exit_info.value.code

    assert code("--log-dir", str(tmp_path / "a")) == 0
    assert "CLIP may not understand 1 class name ('Straßenhund (x)'); pass English words" in capsys.readouterr().err
    texts = ["--class-texts", str(tmp_path / "words.json")]
    assert code("--log-dir", str(tmp_path / "b"), *texts) == 0
    assert "may not understand" not in capsys.readouterr().err
    search = ["--optimize", "template", "--optimize", "class_texts"]
    assert code("--dry-run", *search, "--candidates", texts[1]) == 0
    assert "may not understand" not in capsys.readouterr().err
    best = ClipClassifier.from_file(tmp_path / "b" / "best.json")
    assert best.class_texts["Straßenhund (x)"] == (first,)
    assert "CLIP may not understand the class names Straßenhund (x)" in (tmp_path / "a" / "report.html").read_text()
    assert f"Straßenhund (x): {first}" in (tmp_path / "b" / "report.html").read_text()
    (tmp_path / "words.json").write_text('{"unknown": "x"}')
    assert code("--log-dir", str(tmp_path / "c"), *texts) == 2
    assert "class_texts must be for the" in capsys.readouterr().err

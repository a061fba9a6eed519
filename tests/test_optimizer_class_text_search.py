"""The search for words of the classes, on bundled tasks."""

import html
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import dspy
import pytest
from dspy.experimental import Choice

from helpers.conversations import WORDS, Recorded, search_words
from helpers.openai_server import OpenAIServer, Reply, text_of
from ipo_dspy import IPO, ClipClassifier, demo, load_class_texts
from ipo_dspy.cli import main
from ipo_dspy.clip.bundled import DEMO_VIT
from ipo_dspy.decisions import ClipDecider
from ipo_dspy.errors import DataError, InputError, JournalError, TemplateError
from ipo_dspy.optimizer.class_text_search import ROUNDS
from ipo_dspy.optimizer.evaluation import evaluate
from ipo_dspy.report import render_report
from ipo_dspy.run.events import Event
from ipo_dspy.run.journal import replay

TEMPLATE = "<CLASS>, a tilted grey sticker."
CANDIDATES = {"corn cob": ["maize", "corn"], "honey pot": "beehive honey", "chocolate bar": ["block of chocolate"]}

BAD_CANDIDATES: tuple[Any, ...] = ({"egg": 5}, {"egg": [5]}, {"egg": []}, {"egg": {"maize": 1}}, {5: ["maize"]})


def food(shots: int = 16, seed: int = 2) -> demo.DemoTask:
    task = demo.load("grey-food", shots=shots, seed=seed, model=DEMO_VIT)
    task.program.template = TEMPLATE
    return task


def words(task: demo.DemoTask, **given: Any) -> ClipClassifier:
    options: dict[str, Any] = {"optimize": "class_texts", "proposer": "evolution", "progress": False, **given}
    best = IPO(**options).compile(task.program, task.trainset)
    assert isinstance(best, ClipClassifier)
    return best


@pytest.fixture(scope="module")
def given_words() -> tuple[demo.DemoTask, ClipClassifier]:
    """A task, and the result of a search among the words of the user."""
    task = food()
    return task, words(task, candidates=CANDIDATES)


class WholeRun(NamedTuple):
    """A run with the recorded model that nothing interrupts."""

    task: demo.DemoTask
    best: ClipClassifier
    folder: Path
    server: OpenAIServer


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeRun]:
    folder = tmp_path_factory.mktemp("whole")
    with Recorded(WORDS) as server:
        yield WholeRun(*search_words(server, "grey-food", 1, log_dir=folder), folder, server)


def test_words_that_the_user_gives_replace_a_label_that_is_not_recognized(
    tmp_path: Path, given_words: tuple[demo.DemoTask, ClipClassifier]
) -> None:
    task, best = given_words
    found = best.detailed_results.searches[0].class_texts
    changes = {change.label: change for change in found.changes}
    assert best.class_texts["corn cob"] == changes["corn cob"].after == ("maize",)
    assert task.program.class_texts["corn cob"] == ("corn cob",)
    assert changes["corn cob"].recognized[0] < 2 < 10 < changes["corn cob"].recognized[1]
    assert found.after.accuracy == pytest.approx(found.before.accuracy + found.gain.accuracy)
    assert all(change.accuracy > 0.2 or change.loss > 1e-5 for change in found.changes)  # on images that did not choose
    assert (best.template, best.classes) == (task.program.template, task.program.classes)
    on_train = evaluate(best, task.trainset)[0].score
    assert (on_train.accuracy, on_train.loss) == pytest.approx((found.after.accuracy, found.after.loss), abs=1e-4)
    best.save(tmp_path / "best.json")
    loaded = ClipClassifier(task.classes, model=DEMO_VIT)
    loaded.load(tmp_path / "best.json")
    assert loaded.class_texts == best.class_texts


def test_words_that_do_not_help_are_left_out() -> None:
    best = words(food(), candidates={"banana": ["truck"], "apple": ["ship at sea", "fountain pen"]})
    assert best.detailed_results.searches[0].class_texts.changes == ()
    assert best.class_texts == food().program.class_texts


def test_texts_with_the_same_tokens_are_no_change() -> None:
    task = demo.load("pixel-animals", shots=8, model=DEMO_VIT)
    same = {label: [label.upper(), label.title()] for label in task.classes}
    assert words(task, candidates=same).detailed_results.searches[0].class_texts.changes == ()


def test_the_validation_images_decide() -> None:
    task = food()
    optimizer = IPO(optimize="class_texts", proposer="evolution", candidates=CANDIDATES, progress=False)
    best = optimizer.compile(task.program, task.trainset, valset=task.valset)
    found = best.detailed_results.searches[0].class_texts
    assert found.decided_by == "validation"
    assert found.changes[0].images == 4
    assert found.after.accuracy > found.before.accuracy


def test_no_class_falls_below_its_floor() -> None:
    task = food()
    free, held = (words(task, candidates=CANDIDATES, max_recall_drop=drop) for drop in (100, 0))
    lost = [[change.lost for change in best.detailed_results.searches[0].class_texts.changes] for best in (free, held)]
    assert max(lost[0]) > 0 == max(lost[1], default=0)


@pytest.mark.end_to_end
def test_the_words_follow_the_template() -> None:
    task = food()
    task.program.template = "a photo of a <CLASS>."
    best = words(task, optimize=["class_texts", "template"], candidates=CANDIDATES, steps=3)
    (search,) = best.detailed_results.searches
    assert search.best.step > 0
    assert search.class_texts.template == best.template != task.program.template
    assert best.detailed_results.to_dict()["searches"][0]["class_texts"]["texts"]["corn cob"]
    assert best.candidate_programs[0]["program"].class_texts == best.class_texts


@pytest.mark.end_to_end
def test_a_recorded_language_model_finds_words_within_its_estimate(whole_run: WholeRun) -> None:
    task, best, folder, server = whole_run
    estimate = IPO(prompt_model=server.lm(), optimize="class_texts").estimate(task.program, task.trainset).total
    found = best.detailed_results.searches[0].class_texts
    assert server.unseen == []
    assert re.search(r"tried, the best first, each with the images recognized: \w.* \d+, ", text_of(server.requests[2]))
    assert found.after.accuracy > found.before.accuracy + 5
    assert {"corn cob", "honey pot"} <= {change.label for change in found.changes}
    assert best.detailed_results.spent.calls == len(server.requests) == 1 + ROUNDS == estimate.calls
    assert estimate.prompt_tokens > best.detailed_results.spent.prompt_tokens
    page = render_report(folder)
    assert "Words of the classes" in page
    assert "maize" in page
    assert "expected on new images with the template alone, 95 % interval" in page


@pytest.mark.end_to_end
@pytest.mark.usefixtures("no_cache")
@pytest.mark.parametrize("calls", [1, 2, 3])
def test_a_run_that_is_resumed_asks_no_answered_request_again_and_ends_the_same(
    calls: int, tmp_path: Path, whole_run: WholeRun
) -> None:
    whole = whole_run.best
    with Recorded(WORDS) as server:
        _, first = search_words(server, "grey-food", 1, log_dir=tmp_path, max_lm_calls=calls)
        assert first.class_texts != whole.class_texts
        _, second = search_words(server, "grey-food", 1, log_dir=tmp_path, allow_config_changes=True)
    assert len({text_of(body) for body in server.requests}) == len(server.requests) == 1 + ROUNDS
    assert second.class_texts == whole.class_texts
    ends = [best.detailed_results.searches[0].class_texts for best in (second, whole)]
    assert ends[0] == ends[1]
    assert sum(event["event"] == "class_texts" for event in replay(tmp_path)) == 1  # that of the last session


def answered(answer: str, **given: Any) -> tuple[ClipClassifier, list[Event], OpenAIServer]:
    events: list[Event] = []
    with OpenAIServer({"Say: ready": Reply("ready"), "Classes that lose most": Reply(answer)}) as server:
        options = {"optimize": "class_texts", "progress": False, "observers": [events.append], **given}
        task = food()
        best = IPO(prompt_model=server.lm(cache=False), **options).compile(task.program, task.trainset)
    return best, events, server


@pytest.mark.usefixtures("no_cache")
def test_untrusted_answers_are_checked() -> None:
    lines = [
        "corn cob: maize | apple | a <CLASS> | ma\x07ize | " + "x" * 300,
        "unheard of: maize",
        "egg: " + "many words " * 18,
    ]
    best, events, _ = answered("\n".join(f"<INS>{line}</INS>" for line in lines))
    rejected = {event["text"][:20]: event["reason"] for event in events if event["event"] == "rejection"}
    assert best.class_texts["corn cob"] == ("maize",)
    assert "unheard of" not in best.class_texts
    assert {"corn cob: apple", "corn cob: a <CLASS>", "corn cob: ma\x07ize"} <= rejected.keys()
    assert rejected[f"egg: {'many words ' * 2}"[:20]] == "too long"


@pytest.mark.usefixtures("no_cache")
def test_a_failing_model_leaves_the_words_of_the_user() -> None:
    best, events, server = answered("I cannot help with that.", candidates=CANDIDATES)
    assert best.class_texts["corn cob"] == ("maize",)
    assert any(
        "no words for classes were proposed" in event["message"] for event in events if event["event"] == "error"
    )
    assert best.detailed_results.status == "finished"
    assert len(server.requests) == 1 + ROUNDS


@pytest.mark.usefixtures("no_cache")
def test_the_model_is_shown_confusions_and_images() -> None:
    _, _, server = answered("<INS>corn cob: maize</INS>", images_in_request=2)
    said = text_of(server.requests[1])
    assert "corn cob: read as 'corn cob'; 0 of 16 images recognized, the others taken for" in said
    assert "a picture of" in said
    assert str(server.requests[1]["messages"]).count("data:image") == 2


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({"optimize": "words"}, InputError, "optimize must be one of 'template', 'class_texts', got 'words'"),
        ({"optimize": []}, InputError, "optimize must be a part or a list of parts"),
        ({"optimize": "class_texts"}, InputError, "without a language model or candidates"),
        ({"candidates": CANDIDATES}, InputError, "candidates must be None if class texts are not searched"),
        ({"optimize": "class_texts", "candidates": ["maize"]}, InputError, "must be a mapping"),
        *(
            (
                {"optimize": "class_texts", "candidates": bad},
                InputError,
                "candidates must be a mapping from labels to texts",
            )
            for bad in BAD_CANDIDATES
        ),
        ({"optimize": "class_texts", "candidates": CANDIDATES, "steps": 3}, InputError, "steps must be 0 or None"),
        ({"optimize": "class_texts", "candidates": {"maize": ["x"]}}, InputError, "candidates must be given for"),
        ({"optimize": "class_texts", "candidates": {"egg": ["apple"]}}, DataError, "name of class 'apple'"),
        ({"optimize": "class_texts", "candidates": {"egg": ["very " * 50]}}, TemplateError, "tokens"),
        (
            {"optimize": "class_texts", "candidates": CANDIDATES, "objective": "macro_f1"},
            InputError,
            "objective must be",
        ),
        ({"optimize": "class_texts", "candidates": CANDIDATES, "max_recall_drop": -1}, InputError, "max_recall_drop"),
    ],
)
def test_bad_arguments_fail_before_slow_work(given: dict[str, Any], error: type[Exception], match: str) -> None:
    task = food(shots=1)
    with pytest.raises(error, match=match):
        IPO(proposer="evolution", progress=False, **given).compile(task.program, task.trainset)


def test_classes_that_come_with_each_image_have_no_words() -> None:
    task = food(shots=1)
    examples = [example.copy(classes=list(task.classes)).with_inputs("image", "classes") for example in task.trainset]
    optimizer = IPO(proposer="evolution", optimize="class_texts", candidates=CANDIDATES, progress=False)
    with pytest.raises(InputError, match="passed with each image"):
        optimizer.compile(ClipClassifier(model=DEMO_VIT), examples)


def test_words_of_a_classifier_inside_a_program() -> None:
    class Kitchen(dspy.Module):
        def __init__(self, classify: ClipClassifier) -> None:
            super().__init__()
            self.classify = classify

        def forward(self, image: Any) -> dspy.Prediction:
            return self.classify(image=image)

    task = food()
    optimizer = IPO(proposer="evolution", optimize="class_texts", candidates=CANDIDATES, progress=False)
    best = optimizer.compile(Kitchen(task.program), task.trainset)
    assert best.classify.class_texts["corn cob"] == ("maize",)


def test_words_become_the_criteria_of_a_predictor_that_clip_answers(
    given_words: tuple[demo.DemoTask, ClipClassifier],
) -> None:
    task, expected = given_words
    options: Any = Choice[tuple((label, None) for label in task.classes)]
    fields = {"image": (dspy.Image, dspy.InputField()), "label": (options, dspy.OutputField(desc="the food"))}
    program = dspy.Predict(dspy.Signature(fields, TEMPLATE))
    program.lm = ClipDecider(DEMO_VIT)
    optimizer = IPO(proposer="evolution", optimize="class_texts", candidates=CANDIDATES, progress=False)
    best = optimizer.compile(program, task.trainset)
    assert best.fields["label"]["criteria"]["corn cob"] == ["maize"]
    found = [each.detailed_results.searches[0].class_texts for each in (best, expected)]
    assert found[0] == found[1]


@pytest.mark.end_to_end
def test_the_command_line_finds_words_and_leaves_novel_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    demo.export("grey-food", tmp_path / "photos")
    (tmp_path / "texts.csv").write_text("label,text\ncorn cob,maize\nchocolate bar,block of chocolate\n")
    arguments = ["--model", DEMO_VIT, "--template", TEMPLATE, "--base-novel", "--test", "0.5"]
    options = [
        "--optimize",
        "class_texts",
        "--candidates",
        str(tmp_path / "texts.csv"),
        "--steps",
        "0",
        "--log-dir",
        str(tmp_path / "run"),
    ]
    with pytest.raises(SystemExit) as exit:
        main(["optimize", str(tmp_path / "photos"), *arguments, *options])
    shown = " ".join(capsys.readouterr().out.split())
    assert exit.value.code in (0, None)
    assert "corn cob as maize" in shown
    assert "novel classes read by their names" in shown
    assert "template alone " in shown
    assert " expected " not in shown.partition("template alone ")[0]
    saved = ClipClassifier(["a", "b"], model=DEMO_VIT)
    saved.load(tmp_path / "run" / "best.json")
    assert saved.class_texts["corn cob"] == ("maize",)
    texts = {label: saved.class_texts.get(label, (label,)) for label in saved.classes or ()}
    assert load_class_texts(tmp_path / "run" / "best.json") == texts
    page = render_report(tmp_path / "run")
    assert '<th scope="row">Template alone</th>' in page
    assert "of 1 tied" not in page
    (again,) = [shlex.split(html.unescape(text)) for text in re.findall(r"ipo-dspy optimize[^<]*", page)]
    assert again[-2:] == ["--class-texts", "run/best.json"]
    assert not {"--optimize", "--candidates", "--template", "--steps"} & set(again)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit:
        main([*again[1:], "--dry-run"])
    assert exit.value.code in (0, None)
    assert "class texts 2 of 25 classes (chocolate bar: block of chocolate, corn cob: maize)" in " ".join(
        capsys.readouterr().err.split()
    )


def test_a_run_is_not_resumed_with_other_candidates(tmp_path: Path) -> None:
    task = food(shots=2)
    words(task, candidates={"egg": ["boiled egg"]}, log_dir=tmp_path)
    words(task, candidates={"egg": "boiled egg"}, log_dir=tmp_path)
    with pytest.raises(JournalError, match="candidates was '1, SHA-256"):
        words(task, candidates={"egg": ["fried egg"]}, log_dir=tmp_path)

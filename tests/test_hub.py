"""Programs that are published on a hub and fetched from it: over HTTP, with huggingface_hub, in processes of their own.

The endpoint of huggingface_hub is an environment variable that it reads when it is imported.
"""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard

from helpers.cli_process import Processes
from helpers.hub_server import TOKEN, HubHandler, empty, running_hub
from ipo_dspy import IPO, ClipClassifier, demo
from ipo_dspy.clip.model_spec import ModelSpec, local_files
from ipo_dspy.errors import InputError, ModelError, ProgramFileError
from ipo_dspy.hub.card import evaluation_results, fenced, program_card, search_results
from ipo_dspy.hub.repository import check_repository_name
from ipo_dspy.optimizer.evaluation import evaluate

PRELUDE = """
import json, sys
from ipo_dspy import ClipClassifier, IPO, demo
from ipo_dspy.errors import IPOError
task = demo.load("pixel-animals", shots=2)
def labels(program):
    return [program(image=example.image).label for example in task.testset[:8]]
def tried(action):
    try:
        print(json.dumps(action()))
    except IPOError as error:
        print(json.dumps({"error": str(error), "kind": type(error).__name__}))
"""


class Hub:
    """A hub, and scripts that use it."""

    def __init__(self, address: str, state: type[HubHandler], processes: Processes) -> None:
        self.address, self.state, self.processes = address, state, processes

    def run(self, *actions: str, setup: str = "") -> list[Any]:
        """The results of expressions in one process."""
        calls = "\n".join(f"tried(lambda: {action})" for action in actions)
        done = self.processes.python(f"{PRELUDE}{setup}\n{calls}")
        assert done.code == 0, done.err
        assert TOKEN not in done.out + done.err
        return [json.loads(line) for line in done.out.splitlines()]


@pytest.fixture(scope="module")
def open_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("hub")
    with running_hub() as (address, state):
        environment = {"HF_ENDPOINT": address, "HF_TOKEN": TOKEN, "HF_HOME": str(folder / "home")}
        environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        with Processes(folder / "processes", environment) as processes:
            yield Hub(address, state, processes)


@pytest.fixture
def hub(open_hub: Hub) -> Hub:
    """A hub without repositories, and an empty cache."""
    empty(open_hub.state)
    shutil.rmtree(open_hub.processes.environment["HF_HOME"], ignore_errors=True)
    return open_hub


@pytest.mark.end_to_end
def test_a_program_goes_to_the_hub_and_comes_back_with_the_same_labels(hub: Hub, tmp_path: Path) -> None:
    before, address, after, again = hub.run(
        "labels(task.program)",
        "task.program.push_to_hub('me/pets', license='mit', private=True, commit_message='First')",
        "labels(ClipClassifier.from_pretrained('me/pets'))",
        "task.program.push_to_hub('me/pets', commit_message='Second')",
    )
    assert address == f"{hub.address}/me/pets/commit/{1:040x}"
    assert before == after
    assert hub.state.private == {"me/pets"}
    assert hub.state.messages == ["First", "Second"]
    assert again == f"{hub.address}/me/pets/commit/{2:040x}"
    files = hub.state.repositories["me/pets"]
    assert set(files) == {"best.json", "README.md"}
    assert all(TOKEN.encode() not in data for data in files.values())
    task = demo.load("pixel-animals", shots=2)
    task.program.warm_up()
    task.program.save(tmp_path / "best.json")
    assert json.loads(files["best.json"]) == json.loads((tmp_path / "best.json").read_text())
    assert {token for _, _, token in hub.state.asked} == {TOKEN}  # a private repository
    assert not any(path.endswith("README.md") for _, path, _ in hub.state.asked)  # best.json alone is fetched
    fetched = [path for method, path, _ in hub.state.asked if method == "GET"]
    assert fetched == [f"/me/pets/resolve/{1:040x}/best.json"]  # the commit whose size was checked


@pytest.mark.end_to_end
def test_without_the_hub_the_fetched_copy_is_read(hub: Hub) -> None:
    fetched = "labels(ClipClassifier.from_pretrained('me/pets'))"
    _, first = hub.run("task.program.push_to_hub('me/pets')", fetched)
    hub.state.mood = "gone"
    (second, missing) = hub.run(fetched, "ClipClassifier.from_pretrained('me/others')")
    assert first == second
    assert missing["error"].startswith("'me/others' cannot be fetched (")
    assert missing["error"].endswith(f"; check the network, and that {hub.address} is a hub")


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("action", "message"),
    [
        (
            "ClipClassifier.from_pretrained('me/none')",
            r"'me/none' cannot be fetched \(HTTP 404\); check the name; a",
        ),
        ("ClipClassifier.from_pretrained('me/empty')", "no best.json; pass a repository that push_to_hub wrote"),
        ("ClipClassifier.from_pretrained('me/p', revision='v9')", "check the name and revision='v9'; a private"),
        ("ClipClassifier.from_pretrained('me/large')", "bytes, more than the 67,108,864 of a program"),
        ("ClipClassifier.from_pretrained('me/broken')", "is not valid JSON"),
        (
            "task.program.push_to_hub('other/pets')",
            r"published \(HTTP 403: You don't have.*\); run",
        ),
        ("task.program.push_to_hub('me/p', license='none-such')", 'cannot be published .*"license" must be one of'),
        (
            "task.program.push_to_hub('me/p', token='wrongwrongwrong')",
            r"401: Invalid token \[hidden\] in .*pass token=",
        ),
        (
            "task.program.push_to_hub('me/p', token='hf_wrongwrongwrong\\nX: y')",
            r"LocalProtocol.* b'\[hidden\]'\)",
        ),
    ],
)
def test_what_a_hub_refuses_is_one_error(hub: Hub, action: str, message: str) -> None:
    hub.state.repositories |= {"me/empty": {}, "me/broken": {"best.json": b"{"}, "me/p": {"best.json": b"{}"}}
    hub.state.repositories["me/large"] = {"best.json": b" " * (64 * 1024**2 + 1)}
    (result,) = hub.run(action)
    assert result["kind"] == "ProgramFileError"
    assert "\n" not in result["error"]
    assert "wrongwrong" not in result["error"]
    assert re.search(message, result["error"]), result["error"]
    assert ("GET", "/me/large/resolve/main/best.json", TOKEN) not in hub.state.asked


@pytest.mark.end_to_end
@pytest.mark.parametrize("mood", ["silent", "page", "gone"])
def test_a_server_that_is_not_a_hub_is_one_error(hub: Hub, mood: str) -> None:
    hub.state.mood = mood
    results = hub.run(
        "ClipClassifier.from_pretrained('me/pets')",
        "task.program.push_to_hub('me/pets')",
        setup="from ipo_dspy.hub import repository; repository.TIMEOUT = 0.3",
    )
    for result, verb in zip(results, ("fetched", "published"), strict=True):
        assert result["error"].startswith(f"'me/pets' cannot be {verb} (")
        assert result["error"].endswith(f"; check the network, and that {hub.address} is a hub")


@pytest.mark.parametrize("name", ["pets", "a/b/c", "../x", "me/--", "me/p\n", "", "https://hub/me", "me/", 3])
def test_other_names_are_refused_before_anything_is_sent(name: Any) -> None:
    with pytest.raises(ProgramFileError, match=r"name must be 'user/name' of letters.*; for example 'user/pets'"):
        check_repository_name(name)


@pytest.mark.parametrize(
    ("model", "pretrained"),
    [
        ("local-dir:/home/ann/clip", None),
        ("transformers:/home/ann/clip", None),
        ("transformers:~/clip", None),
        ("ViT-B-32", "/home/ann/secret/weights.pt"),
        ("ViT-B-32", "weights.pt"),
    ],
)
def test_a_model_of_one_machine_is_refused_also_on_another(model: str, pretrained: str | None) -> None:
    program = ClipClassifier(["a", "b"], model=model, pretrained=pretrained)
    with pytest.raises(ModelError, match=r"model must not be on this machine only, got '.*'; publish it as well"):
        program.push_to_hub("me/pets")


def test_a_folder_does_not_make_a_model_of_the_hub_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("me/pets").mkdir(parents=True)
    Path("openai").touch()
    assert local_files(ModelSpec("hf-hub:me/pets", None)) is None
    assert local_files(ModelSpec("ViT-B-32", "openai")) is None
    assert local_files(ModelSpec("transformers:me/pets", None)) == "transformers:me/pets"  # the folder is loaded


def test_a_replaced_image_encoder_is_refused() -> None:
    program = demo.load("pixel-animals", shots=1).program
    backbone = program.backbone.with_image_encoder(program.backbone.model.encode_image, "learned")
    with pytest.raises(ModelError, match="with a replaced image encoder cannot be exported"):
        ClipClassifier(["a", "b"], model=backbone).push_to_hub("me/pets")


@pytest.mark.end_to_end
def test_programs_are_published_from_several_threads(hub: Hub) -> None:
    setup = """
from concurrent.futures import ThreadPoolExecutor
from huggingface_hub import get_session
def publish():
    before = get_session().timeout
    with ThreadPoolExecutor(6) as threads:
        addresses = list(threads.map(lambda i: task.program.push_to_hub(f"me/p{i}"), range(6)))
    return [len(addresses), get_session().timeout == before]
"""
    assert hub.run("publish()", setup=setup) == [[6, True]]


def test_a_folder_is_read_as_transformers_reads_one(tmp_path: Path) -> None:
    task = demo.load("pixel-animals", shots=1)
    task.program.save(tmp_path / "best.json")
    for place in (tmp_path, str(tmp_path), tmp_path / "best.json"):
        assert ClipClassifier.from_pretrained(place).classes == task.program.classes
    with pytest.raises(ProgramFileError, match="cannot be read"):
        ClipClassifier.from_pretrained(tmp_path.parent)
    with pytest.raises(
        ProgramFileError, match=r"revision must be None for '.*' on this machine, got 'v9'; omit it, or"
    ):
        ClipClassifier.from_pretrained(tmp_path, revision="v9")
    name: Any
    for name in ("a" * 300, None, 0, Path("a" * 300)):
        with pytest.raises(ProgramFileError, match="name must be 'user/name' of letters"):
            ClipClassifier.from_pretrained(name)


HOSTILE = "</div><script>alert(1)</script> | ``` ![x](http://evil/x.png) \x1b[2J\n---\nlicense: evil"


def head_and_body(card: str) -> tuple[dict[str, Any], str]:
    """The card as the hub's own library reads it."""
    read: Any = ModelCard(card)
    return read.data.to_dict(), read.text


def test_text_from_outside_stays_in_blocks_of_a_card() -> None:
    card = program_card(
        "me/pets",
        template=f"{HOSTILE} <CLASS>",
        class_texts={"dog": ("dog", "puppy"), "```": ("```",), HOSTILE: (HOSTILE,), "lone \ud800": ("x",)},
        model={"model": f"hf-hub:{HOSTILE}", "fingerprint": HOSTILE, "calibration": {"unknown_label": HOSTILE}},
        results=[HOSTILE],
        license=HOSTILE,
        needs_download=True,
    )
    card.encode()
    head, body = head_and_body(card)
    assert (head["license"], head["base_model"]) == (HOSTILE, HOSTILE)
    outside = re.sub(r"^(`{3,})text\n.*?\n\1$", "", body, flags=re.MULTILINE | re.DOTALL)
    assert not any(word in outside for word in ("script", "evil", "\x1b", "puppy"))
    assert "dog: dog; puppy" in body
    assert "\x1b" not in body
    assert "from_pretrained('me/pets', allow_download=True)" in body


def test_a_card_says_nothing_about_what_is_not_known() -> None:
    _, body = head_and_body(program_card("me/pets", template="a <CLASS>", class_texts={}, model={"model": "demo"}))
    assert "## Accuracy" not in body
    assert "fingerprint" not in body
    assert "license" not in body
    assert "classes=['cat', 'dog']" in body


@pytest.mark.parametrize("kind", ["hf-hub:", "transformers:"])
def test_a_card_names_the_model_that_the_hub_has(kind: str) -> None:
    card = program_card("me/pets", template="a <CLASS>", class_texts={}, model={"model": f"{kind}google/siglip"})
    assert head_and_body(card)[0]["base_model"] == "google/siglip"


def test_many_classes_are_not_all_shown() -> None:
    texts = {f"class {i}": (f"class {i}",) for i in range(1200)}
    card = program_card("me/pets", template="a <CLASS>", class_texts=texts, model={"model": "demo"})
    assert "class 999\n... and 200 more in best.json" in card
    assert fenced(["x"]) == "```text\nx\n```"


@pytest.fixture(scope="module")
def compiled() -> ClipClassifier:
    task = demo.load("pixel-animals", shots=4)
    optimizer = IPO(proposer="evolution", describer="clip", steps=2, progress=False)
    return optimizer.compile(task.program, trainset=task.trainset, valset=task.valset)


def known(program: ClipClassifier) -> list[str]:
    details, print_ = getattr(program, "detailed_results", None), program.backbone.fingerprint
    return search_results(details, str(program.template), program.class_texts, print_, program.is_calibrated)


def test_a_compiled_program_knows_its_accuracy(compiled: ClipClassifier) -> None:
    choice, task = compiled.detailed_results.searches[0].choice, demo.load("pixel-animals", shots=4)
    first, *others = known(compiled)
    interval = choice.interval
    assert first.startswith(
        f"Expected: {choice.expected:.1f} % on new images of these classes, 95 % interval {interval}"
    )
    assert others[-1] == (
        f"Data: {len(task.trainset)} training images and {len(task.valset)} validation images; "
        f"{choice.compared} templates compared."
    )


def test_a_changed_program_knows_nothing(compiled: ClipClassifier, tmp_path: Path) -> None:
    other = compiled.deepcopy()
    assert known(other) == known(compiled)
    other.template = "<CLASS>, changed"
    assert known(other) == []
    assert known(compiled.with_model("demo-vit")) == []
    fewer = compiled.deepcopy()
    fewer.classes = list(compiled.classes or ())[:2]
    assert known(fewer) == []
    reworded = compiled.deepcopy()
    reworded.classes = compiled.class_texts | {"cat": ("cat", "kitten")}
    assert known(reworded) == []
    compiled.save(tmp_path / "best.json")
    assert known(ClipClassifier.from_file(tmp_path / "best.json")) == []


def test_a_calibrated_program_says_that_its_accuracy_is_older(compiled: ClipClassifier) -> None:
    valset = demo.load("pixel-animals", shots=4).valset
    assert known(compiled.calibrate(valset))[0].startswith("Expected before calibration: ")


@pytest.mark.end_to_end
def test_an_evaluation_is_shown_with_its_interval(compiled: ClipClassifier) -> None:
    (result,) = evaluate(compiled, demo.load("pixel-animals", shots=4).testset)
    (line,) = evaluation_results(result, compiled.scored_parts)
    assert line.startswith(
        f"Measured on {len(result.predicted)} images: accuracy {result.measures['accuracy']:.1f} % (95 % "
    )
    assert "balanced accuracy" in line


@pytest.mark.end_to_end
def test_an_evaluation_of_another_program_is_refused(compiled: ClipClassifier) -> None:
    testset = demo.load("pixel-animals", shots=4).testset
    (result,) = evaluate(compiled, testset)
    calibrated, reworded, rewritten = (compiled.deepcopy() for _ in range(3))
    calibrated = calibrated.calibrate(testset[:100])
    reworded.classes = compiled.class_texts | {"cat": ("cat", "kitten")}
    rewritten.template = "another <CLASS>"
    others = {"template": rewritten, "classes": reworded, "calibration": calibrated}
    for part, other in {**others, "model": compiled.with_model("demo-vit")}.items():
        with pytest.raises(InputError, match=f"evaluation must be of the program's own {part}; pass a result of eval"):
            other.push_to_hub("me/pets", evaluation=result)
        (own,) = evaluate(other, testset)
        assert evaluation_results(own, other.scored_parts)
        (plain,) = evaluate(other, testset, templates=[other.template])
        assert (plain.program == other.scored_parts) is (part != "calibration")


def test_an_evaluation_is_before_the_threshold(compiled: ClipClassifier) -> None:
    task = demo.load("pixel-animals", shots=4)
    calibrated = compiled.calibrate(task.valset, coverage=0.5)
    (result,) = evaluate(calibrated, task.testset)
    assert calibrated.calibration is not None
    threshold = calibrated.calibration.threshold
    answered = np.mean([label is not None for label in calibrated.predict([e.image for e in task.testset])])
    line = evaluation_results(result, calibrated.scored_parts, calibrated.calibration)[1]
    expected = f"Note: measured before the threshold of {threshold:.3f}; {100 * answered:.1f} % of the images reach it."
    assert line == expected
    (several,) = [replace(result, probabilities=())]
    assert evaluation_results(several, calibrated.scored_parts, calibrated.calibration)[1].endswith(
        f"threshold of {threshold:.3f}."
    )
    separated = replace(calibrated.calibration, threshold=12.5, threshold_score="in_distribution")
    line = evaluation_results(result, calibrated.scored_parts, separated)[1]
    assert line == "Note: measured before the threshold of 12.500, which applies to the in-distribution score."


@pytest.mark.end_to_end
def test_the_page_runs(hub: Hub) -> None:
    page = (Path(__file__).parent.parent / "docs" / "deploy" / "hub.md").read_text()
    blocks: list[str] = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    done = hub.processes.python("\n".join(blocks))
    assert done.code == 0, done.err
    promised = re.findall(r"^print\(.*\)  # (.*)$", "\n".join(blocks), flags=re.MULTILINE)
    assert promised
    assert [line for line in promised if line not in done.out.splitlines()] == []

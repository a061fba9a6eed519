"""Program files as other systems write them, files of another kind, and models that a file names."""

import json
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import dspy
import pytest
from PIL import Image

from helpers.cli_process import Processes
from helpers.clip_toys import write_model
from helpers.local_toys import tokenizer
from helpers.loopback import LoopbackServer
from ipo_dspy import ClipClassifier, demo, load_program
from ipo_dspy.errors import ModelError, ProgramFileError

CLASSES = ("café", "дом", "犬")


class Both(dspy.Module):
    """A classifier inside a program."""

    def __init__(self) -> None:
        super().__init__()
        self.classify = ClipClassifier(["cat", "dog"], model="demo")
        self.explain = dspy.Predict("label -> reason")

    def forward(self, image: Any) -> Any:
        return self.classify(image=image)


def saved(folder: Path, **options: Any) -> Path:
    path = folder / "plain.json"
    ClipClassifier(CLASSES, template="art of a <CLASS>.", model="demo", **options).save(path)
    return path


def as_other_dspy(text: str) -> bytes:
    state = json.loads(text)
    state["metadata"]["dependency_versions"] |= {"litellm": "1.0", "dspy": "9.9", "rust": "1"}
    return json.dumps(state).encode()


def without_metadata(text: str) -> bytes:
    return json.dumps({key: value for key, value in json.loads(text).items() if key != "metadata"}).encode()


FORMS = {
    "byte order mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16 big endian": lambda text: text.encode("utf-16-be"),
    "UTF-32": lambda text: text.encode("utf-32"),
    "Windows line ends": lambda text: text.replace("\n", "\r\n").encode(),
    "another DSPy": as_other_dspy,
    "no versions": without_metadata,
}


@pytest.mark.parametrize("form", FORMS)
def test_a_program_that_another_system_wrote_is_read(tmp_path: Path, form: str) -> None:
    path = saved(tmp_path)
    path.write_bytes(FORMS[form](path.read_text()))
    for program in (ClipClassifier.from_file(path), ClipClassifier(["a", "b"], model="demo")):
        program.load(path)
        assert (program.classes, str(program.template)) == (CLASSES, "art of a <CLASS>.")


@pytest.mark.parametrize("form", FORMS)
def test_load_program_reads_them_into_composed_programs(tmp_path: Path, form: str) -> None:
    program, path = Both(), tmp_path / "both.json"
    program.classify.template = "art of a <CLASS>."
    program.explain.signature = program.explain.signature.with_instructions("Explain.")
    program.save(str(path))
    path.write_bytes(FORMS[form](path.read_text()))
    other = Both()
    load_program(other, path)
    assert str(other.classify.template) == "art of a <CLASS>."
    assert other.explain.signature.instructions == "Explain."


def test_a_program_of_another_kind_is_named_with_its_file(tmp_path: Path) -> None:
    with pytest.raises(ProgramFileError, match=r"plain\.json' lacks 'classify'.*here Both"):
        load_program(Both(), saved(tmp_path))


def nested(path: Path) -> None:
    path.write_bytes(b"[" * 200_000 + b"]" * 200_000)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(40 * 1024**3)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (nested, "nested deeper than"),
        (os.mkfifo, "named pipe, not a regular file"),
        (sparse, "42,949,672,960 bytes, more than"),
        (lambda path: path.write_bytes(b""), "is not valid JSON"),
        (lambda path: path.write_bytes(b"\xff\xfe{"), "is not valid JSON"),
        (lambda path: path.write_text("[1, 2]"), "does not contain a saved program"),
    ],
)
def test_a_file_without_a_program_is_one_error(tmp_path: Path, write: Any, message: str) -> None:
    path = tmp_path / "p.json"
    write(path)
    for load in (ClipClassifier.from_file, ClipClassifier(["a", "b"], model="demo").load, _into_both):
        with pytest.raises(ProgramFileError, match=message) as caught:
            load(path)
        assert "\n" not in str(caught.value)


def _into_both(path: Path) -> None:
    load_program(Both(), path)


def test_a_name_that_is_too_long_is_one_error() -> None:
    with pytest.raises(ProgramFileError, match=r"cannot be read \(File name too long\); pass the path used with save"):
        ClipClassifier.from_file("a" * 300)


def test_a_file_of_another_kind_says_which(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "journal.jsonl").write_text('{"event": "run_started"}\n')
    (run / "report.html").write_text("<!doctype html>")
    (tmp_path / "table.csv").write_text("image,label\n")
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "cat.png")
    for name, kind in {
        "run/journal.jsonl": "the journal of a run",
        "run/report.html": "an HTML page",
        "run": "the folder of a run",
        "empty": "a folder",
        "table.csv": "a table",
        "cat.png": "an image",
    }.items():
        with pytest.raises(ProgramFileError, match=rf"is {kind}, not a saved program; pass a file written by"):
            ClipClassifier.from_file(tmp_path / name)


@pytest.mark.parametrize("name", ["p.pkl", "p.pickle", "p", "p.txt"])
def test_what_could_not_be_loaded_is_refused_when_saving(tmp_path: Path, name: str) -> None:
    program = ClipClassifier(["a", "b"], model="demo")
    with pytest.raises(ProgramFileError, match=r"path must end in \.json, got .*program\.save\('best\.json'\)"):
        program.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_said_when_saving(tmp_path: Path) -> None:
    with pytest.raises(ProgramFileError, match=r"No such file or directory.*a path in an existing folder"):
        ClipClassifier(["a", "b"], model="demo").save(tmp_path / "new" / "best.json")


def test_a_saved_program_is_what_dspy_loads(tmp_path: Path) -> None:
    """DSPy's own `load` reads what is written here."""
    path, program = saved(tmp_path), ClipClassifier(["a", "b"], model="demo")
    super(ClipClassifier, program).load(path)
    assert program.classes == CLASSES


def test_top_k_is_saved_and_allow_url_is_not(tmp_path: Path) -> None:
    path = saved(tmp_path, top_k=2, allow_url=True)
    program = ClipClassifier.from_file(path)
    assert (program.top_k, program.allow_url) == (2, False)
    picture = demo.load("pixel-animals", shots=1).testset[0].image
    assert len(program(image=picture).scores) == 2


HUB_TOKEN = "hf_plantedtokenplantedtokenplanted"


class Hub(BaseHTTPRequestHandler):
    """The files of one repository, as the Hugging Face Hub serves them; it remembers who asked."""

    folder: Path
    asked: list[tuple[str, str | None]]

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        self.asked.append((self.path, self.headers.get("Authorization")))
        file = self.folder / Path(self.path).name
        if "/resolve/" not in self.path or not file.is_file():
            self.send_response(404, "Entry not found")
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = file.read_bytes()
        self.send_response(200)
        for name, value in {"ETag": f'"{file.name}{len(data)}"', "X-Repo-Commit": "0" * 40}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, type[Hub]]]:
    """A hub with one small CLIP, whose tokenizer transformers reads."""
    folder = write_model(tmp_path / "repo")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] |= {"hf_tokenizer_name": "stranger/clip", "pool_type": "last"}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    tokenizer().save_pretrained(folder)
    handler = type("OneHub", (Hub,), {"folder": folder, "asked": []})
    server = LoopbackServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    server.server_close()


SCRIPT = """
import os, sys, urllib.request
from contextlib import suppress
from ipo_dspy import ClipClassifier
from ipo_dspy.errors import ModelError
path, *ways = sys.argv[1:]
for way in ways:
    given = {"model": "hf-hub:stranger/clip"} if way == "named" else {"allow_download": way == "allowed"}
    program = ClipClassifier.from_file(path, device="cpu", **given)
    try:
        program.warm_up()
        print(way, "loaded")
    except ModelError as error:
        print(way, error)
    with suppress(OSError):
        urllib.request.urlopen(f"{os.environ['HF_ENDPOINT']}/done")
"""


@pytest.mark.end_to_end
def test_a_file_reaches_the_network_only_where_that_is_allowed(tmp_path: Path, hub: tuple[str, type[Hub]]) -> None:
    address, server = hub
    path = tmp_path / "stranger.json"
    ClipClassifier(["cat", "dog"], model="hf-hub:stranger/clip").save(path)
    assert json.loads(path.read_text())["clip"]["pretrained"] == ""

    environment = {"HF_ENDPOINT": address, "HF_TOKEN": HUB_TOKEN, "HF_HOME": str(tmp_path / "home")}
    with Processes(tmp_path / "processes", {**environment, "HF_HUB_DISABLE_XET": "1"}) as processes:
        assert_asked_only_where_allowed(processes, path, server)


def assert_asked_only_where_allowed(processes: Processes, path: Path, server: type[Hub]) -> None:
    def run(*ways: str) -> str:
        server.asked.clear()
        done = processes.python(SCRIPT, str(path), *ways)
        assert done.code == 0, done.err
        return done.out

    output = run("refused", "allowed")
    assert output.startswith("refused 'hf-hub:stranger/clip' is named by a file and not on this machine")
    assert "allow_download=True" in output
    assert output.endswith("allowed loaded\n")
    assert server.asked[0] == ("/done", None)  # nothing was asked before
    assert len(server.asked) > 3
    assert {token for _, token in server.asked} == {None}
    assert run("refused") == "refused loaded\n"  # it is on this machine now
    assert server.asked == [("/done", None)]
    shutil.rmtree(processes.environment["HF_HOME"])
    assert run("named") == "named loaded\n"
    assert f"Bearer {HUB_TOKEN}" in {token for _, token in server.asked}


def test_weights_of_a_tag_that_are_here_load_and_others_are_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "own.json"
    ClipClassifier(["cat", "dog"], model="ViT-B-16-quickgelu", pretrained="openai").save(path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ModelError, match="'ViT-B-16-quickgelu' with weights 'openai' is named by a file"):
        ClipClassifier.from_file(path, device="cpu").warm_up()


def test_a_wrong_model_name_shows_at_once(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model 'ViT-B16'; close names: ViT-B-16"):
        ClipClassifier(["x", "y"], model="ViT-B16")
    with pytest.raises(ModelError, match=r"no model 'demoo'; close names: demo.*for example model='demo'"):
        ClipClassifier(["x", "y"], model="demoo")


@pytest.mark.parametrize("model", ["demo", "demo-vit", "local-dir:/nowhere", "hf-hub:org/name"])
def test_weights_next_to_a_model_that_has_its_own_are_refused(model: str) -> None:
    with pytest.raises(ModelError, match=rf"pretrained must be None for '{model}', which has its own"):
        ClipClassifier(["x", "y"], model=model, pretrained="laion2b")


def test_weights_for_no_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="pretrained must be None without a model, got 'laion2b'"):
        ClipClassifier.from_file(saved(tmp_path), pretrained="laion2b")


def test_a_model_named_without_weights_has_those_of_the_class_and_not_random_ones(tmp_path: Path) -> None:
    constructed = ClipClassifier(["a", "b"], model="RN50")
    assert ClipClassifier.from_file(saved(tmp_path), model="RN50")._spec == constructed._spec

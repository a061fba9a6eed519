"""`ipo-dspy doctor`: each line says what is so, a red one what to write, and no key shows anywhere."""

import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from helpers.openai_server import KEY, OpenAIServer, Reply, images_of
from ipo_dspy import demo
from ipo_dspy.cli import doctor_models, main
from ipo_dspy.cli.doctor import MARKS, catch_as_failure
from ipo_dspy.cli.doctor_environment import KEYS, Check, folder, packages, torchvision
from ipo_dspy.clip.lmdb_segments import SegmentFile

READY = {"Say: ready": "ready"}
PLANTED = {name: f"{name.lower()}-planted-0123456789" for name in KEYS} | {"OPENAI_API_KEY": KEY}


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    for name in ("OPENAI_API_BASE", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def closed_port() -> Iterator[str]:
    """An address where nothing answers, and that no one else can take meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as exit:
        main(["doctor", *arguments])
    out, err = capsys.readouterr()
    assert err == ""
    return int(exit.value.code or 0), out


def checks(text: str) -> dict[str, Check]:
    return {row["name"]: Check(**row) for row in json.loads(text)["checks"]}


def asked(capsys: pytest.CaptureFixture[str], address: str, option: str = "--prompt-model") -> Check:
    """The line of a language model at an address."""
    arguments = [option, "openai/toy", f"{option}-kwargs", f"api_base={address}", "--json"]
    code, text = call(capsys, *arguments)
    check = checks(text)[f"{option} openai/toy"]
    assert (code == 1) == (check.state == "fail") == bool(check.remedy)
    return check


def test_all_is_well_here_and_nothing_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = call(capsys)
    notes = sum(line.startswith(MARKS["warn"][0]) for line in text.splitlines())
    assert notes > 1
    assert (code, text.splitlines()[-1]) == (0, f"no problems found, {notes} notes")
    for name in ("python", "dspy", "litellm", "torch", "open_clip_torch", "transformers", "CLIP demo", "terminal"):
        assert f"\n{MARKS['ok'][0]}  {name}  " in f"\n{text}", name
    assert "loads in" in text
    assert "--prompt-model" not in text
    assert {line[:4] for line in text.splitlines()[:-1]} <= {MARKS["ok"][0], MARKS["warn"][0], "    "}


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = call(capsys, "--json")
    found = json.loads(text)
    assert (code, found["ok"]) == (0, True)
    assert all(set(row) == {"name", "state", "found", "remedy"} for row in found["checks"])


def test_models_that_answer_with_time_and_price(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with OpenAIServer(READY) as server:
        at = f"api_base={server.url}"
        options = [
            "--prompt-model",
            "openai/gpt-4o-mini",
            "--prompt-model-kwargs",
            at,
            "--description-model",
            "openai/toy",
            "--description-model-kwargs",
            at,
            "--json",
        ]
        code, text = call(capsys, *options)
    assert code == 0
    assert server.unseen == []
    assert [len(images_of(body)) for body in server.requests] == [0, 1]
    priced, unpriced = checks(text)["--prompt-model openai/gpt-4o-mini"], checks(text)["--description-model openai/toy"]
    assert priced.found.endswith(" s; 0.15 USD in and 0.60 USD out per million tokens")
    assert unpriced.found.endswith(" s; price unknown")
    assert checks(text)["keys"].found == "OPENAI_API_KEY set"


@pytest.mark.parametrize(
    ("reply", "found", "remedy"),
    [
        (Reply(f"Incorrect API key provided: {KEY}", 401), "Incorrect API key", "export OPENAI_API_KEY=YOUR_KEY"),
        (
            Reply("The model `toy` does not exist", 404),
            "does not exist",
            "choose a model that the server provides, e.g. --prompt-model",
        ),
        (Reply("slow down", 429), "slow down", "retry in a minute"),
        (Reply("out of order", 500), "out of order", "--prompt-model-kwargs api_base=http://HOST:PORT/v1"),
    ],
)
def test_models_that_refuse(
    reply: Reply, found: str, remedy: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with OpenAIServer({"Say": reply}) as server:
        check = asked(capsys, server.url)
    assert check.state == "fail"
    assert found in check.found
    assert remedy in check.remedy
    assert "To fix" not in check.found
    assert len(server.requests) == 1  # a doctor does not try again


def test_a_model_that_is_not_multimodal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with OpenAIServer({"color": Reply("image_url is not supported", 400)}) as server:
        check = asked(capsys, server.url, "--description-model")
    assert check.remedy == "use a multimodal model, e.g. --description-model openai/gpt-4o-mini"


def test_a_server_that_is_not_there(
    closed_port: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    check = asked(capsys, closed_port)
    assert "onnection" in check.found
    assert f"(asked at {closed_port.removeprefix('http://')})" in check.found
    assert check.remedy.startswith(
        "start the server, or pass its address: --prompt-model openai/toy --prompt-model-kwargs api_base=http"
    )


def test_a_server_that_never_answers(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(doctor_models, "ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        check = asked(capsys, f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert check.state == "fail"
    assert check.remedy.startswith("retry if a local model was still loading; otherwise start the server")


def test_a_missing_key_and_an_unknown_name_are_reported_without_a_request(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = call(capsys, "--prompt-model", "openai/toy", "--description-model", "opnai/toy")
    assert code == 1
    lines = text.splitlines()
    red = [i for i, line in enumerate(lines) if line.startswith(MARKS["fail"][0])]
    assert [lines[i + 1].strip() for i in red] == [
        "-> set OPENAI_API_KEY in the environment, or use a self-hosted server: --prompt-model openai/toy "
        "--prompt-model-kwargs api_base=http://HOST:PORT/v1",
        "-> use provider/name, e.g. 'openai/gpt-4o-mini' or 'ollama_chat/phi3'",
    ]
    assert lines[-1].startswith("2 problems found, ")


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_no_key_shows_anywhere(
    form: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    said = f"Incorrect API key provided: {KEY}, not {PLANTED['GROQ_API_KEY']}; Authorization: Bearer {KEY}"
    with OpenAIServer({"": Reply(said, 401)}) as server:
        at = f"api_base={server.url.replace('//', '//me:pass-0123456789@')}"
        code, text = call(
            capsys,
            "--prompt-model",
            "openai/a",
            "--prompt-model-kwargs",
            at,
            "--description-model",
            "openai/b",
            "--description-model-kwargs",
            at,
            *form,
        )
    assert code == 1
    assert text.count("Incorrect API key provided: [hidden]") == 2
    for value in [*PLANTED.values(), "pass-0123456789"]:
        assert value not in text
        assert value[-10:] not in text
    assert all(name in text for name in KEYS)


def test_a_check_that_falls_over_is_a_red_line_without_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "planted-0123456789")

    def falls() -> Iterator[Check]:
        yield Check("first", "ok", "fine")
        raise RuntimeError("planted-0123456789 is bad")

    first, second = catch_as_failure("name", falls)
    assert first.state == "ok"
    assert (second.state, second.found) == ("fail", "this check failed: RuntimeError: [hidden] is bad")


def test_versions_that_do_not_fit_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.0.1")
    found = {check.name: check for check in packages()}
    assert found["dspy"].state == "fail"
    assert found["dspy"].remedy.startswith("pip install 'dspy")
    assert "is needed" in found["torch"].found
    assert found["ipo_dspy"].state == "ok"


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DSPY_CACHEDIR", str(tmp_path / "file" / "cache"))
    code, text = call(capsys, "--json")
    found = checks(text)["DSPy cache"]
    assert code == 1
    assert "cache cannot be written (Not a directory)" in found.found
    assert found.remedy == "export DSPY_CACHEDIR=/a/folder/that/you/may/write"


def test_without_a_place_for_image_features_a_run_continues(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("IPO_DSPY_CACHE", str(tmp_path / "file"))
    code, text = call(capsys, "--json")
    found = checks(text)["image cache"]
    assert (code, found.state) == (0, "warn")
    assert "cannot be written (Not a directory)" in found.found
    assert found.remedy == "export IPO_DSPY_CACHE=/a/folder/that/you/may/write"


def test_an_image_cache_of_another_version(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPO_DSPY_CACHE", str(tmp_path))
    with SegmentFile(tmp_path / "image-features").env as env, env.begin(write=True) as txn:
        txn.put(b"schema", b"0", db=env.open_db(b"about", txn=txn))
    code, text = call(capsys, "--json")
    found = checks(text)["image cache"]
    assert (code, found.state) == (0, "warn")
    assert "written by another version of ipo_dspy; remove it with: ipo-dspy cache clear" in found.found


def test_a_limit_of_the_image_cache_that_is_not_a_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPO_DSPY_CACHE", str(tmp_path))
    monkeypatch.setenv("IPO_DSPY_CACHE_LIMIT", "a lot")
    code, text = call(capsys, "--json")
    found = checks(text)["image cache"]
    assert (code, found.state) == (1, "fail")
    assert "IPO_DSPY_CACHE_LIMIT must be a size, got 'a lot'; for example IPO_DSPY_CACHE_LIMIT=10GB" in found.found


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "(Permission denied)" in folder("runs", tmp_path / "runs", "cd elsewhere").found


def test_a_folder_with_files_is_measured(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file").write_bytes(b"x" * 2500)
    assert f"{tmp_path}: 2.5 kB, " in folder("runs", tmp_path, "").found


def test_a_model_that_is_here_and_one_that_does_not_exist() -> None:
    names = ["demo-vit", f"local-dir:{demo.model_path()}", "ViT-B-61"]
    *here, unknown = (doctor_models.clip(name, "openai", "cpu") for name in names)
    assert all(one.found.startswith("loads in ") for one in here)
    assert [one.state for one in (*here, unknown)] == ["ok", "ok", "fail"]
    assert "open_clip has no model 'ViT-B-61'" in unknown.found
    assert unknown.remedy.startswith("for example --model ViT-B-16")


def test_whether_the_weights_that_optimize_takes_by_default_are_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    absent = doctor_models.default_model()
    assert (absent.state, constants.HF_HUB_OFFLINE) == ("warn", False)
    assert absent.found.endswith("openai: not downloaded yet; the first optimize fetches about 600 MB")
    assert "--model demo" in absent.remedy
    cached = tmp_path / "hub" / "models--timm--vit_base_patch16_clip_224.openai"
    file = cached / "snapshots" / "abc" / "open_clip_model.safetensors"
    for path, text in ((cached / "refs" / "main", "abc"), (file, "weights")):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    here = doctor_models.default_model()
    assert (here.state, here.found) == ("ok", f"ViT-B-16-quickgelu, openai: {file}")


def test_a_torchvision_that_does_not_fit_is_said_to_be_handled() -> None:
    check = torchvision()
    assert (check.state, check.remedy) == ("ok", "")
    mismatch = "was built for a torch other than .*; worked around here, but exported scripts need a matching one"
    assert re.fullmatch(rf"[\d.+\w]+( {mismatch})?", check.found)


def test_a_model_that_is_not_downloaded_with_and_without_a_network(
    closed_port: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", closed_port)
    code, text = call(capsys, "--model", "ViT-B-16-quickgelu", "--json")
    assert code == 1
    found = checks(text)["CLIP ViT-B-16-quickgelu"]
    assert re.fullmatch(r"not downloaded, and no network \(Connect(ion)?Error\)", found.found)
    assert "--model local-dir:PATH" in found.remedy
    with OpenAIServer({}) as hub:  # it answers a HEAD request with an error, so there is a network
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        check = doctor_models.not_downloaded("CLIP x")
    assert (check.state, check.remedy) == ("warn", "the first use downloads it")

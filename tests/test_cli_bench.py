"""`ipo-dspy bench` as a user calls it."""

import csv
import io
import json
from pathlib import Path

import pytest

from helpers import cli_calls
from helpers.bench_small import SmallSuite
from helpers.data_trees import plant_dtd
from helpers.openai_server import KEY, OpenAIServer, Reply
from ipo_dspy import demo
from ipo_dspy.bench import suites

CALL = ("bench", "--datasets", "grey-food", "--shots", "1", "--seeds", "1,2", "--steps", "1", "--methods", "ipo,clip")


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, with few of the bundled test images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(suites, "DemoSuite", SmallSuite)


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Call the command; options after those of `CALL` replace them."""
    if arguments[: len(CALL)] == CALL:
        more = arguments[len(CALL) :]
        usual = [part for pair in zip(CALL[1::2], CALL[2::2], strict=True) if pair[0] not in more for part in pair]
        arguments = ("bench", *usual, *more)
    return cli_calls.call(capsys, *arguments)


@pytest.mark.end_to_end
def test_the_table_is_printed_and_printed_again_without_measuring(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, *CALL)
    assert code == 0
    assert out.startswith("**1-shot, base to novel**\n\n| data set | method | base | novel | H |")
    assert [line.split(" | ")[1] for line in out.splitlines() if line.startswith("| grey-food")] == ["CLIP", "IPO"]
    assert err.count("H ") == 3
    page = Path("runs", "bench", "results.md").read_text()
    assert out.strip() in page
    assert f"$ ipo-dspy {' '.join(CALL)} --out runs/bench\n" in page
    assert [Path("runs", "bench", f"curves-1-shot.{kind}").stat().st_size > 5000 for kind in ("svg", "png")] == [
        True
    ] * 2
    code, again, err = call(capsys, *CALL)
    assert (code, again) == (0, out)
    assert err.count("H ") == 0
    _, text, _ = call(capsys, *CALL, "--format", "csv")
    assert len(list(csv.DictReader(io.StringIO(text)))) == 2
    _, text, _ = call(capsys, *CALL, "--json")
    assert {row["method"] for row in json.loads(text)["rows"]} == {"clip", "ipo"}


@pytest.mark.parametrize(
    "options", [["--prompt-model", "openai/gpt-4o-mini"], ["--description-model", "openai/gpt-4o-mini"]]
)
def test_a_model_without_a_key_is_reported_before_the_first_cell(
    options: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    code, out, err = call(capsys, *CALL, *options)
    assert (code, out) == (2, "")
    assert f"{options[0]} 'openai/gpt-4o-mini' needs a key; set OPENAI_API_KEY" in err
    assert Path("runs", "bench", "rows.jsonl").read_text() == ""


def test_a_wrong_key_ends_the_sweep_and_is_not_a_result(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with OpenAIServer({"": Reply("wrong key", status=401)}) as server:
        code, _, err = call(
            capsys, *CALL, "--prompt-model", "openai/toy", "--prompt-model-kwargs", f"api_base={server.url}"
        )
    assert (code, "set OPENAI_API_KEY to a valid API key" in err) == (2, True)
    rows = [json.loads(line) for line in Path("runs", "bench", "rows.jsonl").read_text().splitlines()]
    assert [row["method"] for row in rows] == ["clip"]


def test_a_file_of_sentences_and_random_crops(capsys: pytest.CaptureFixture[str]) -> None:
    classes = demo.load("grey-food").classes
    Path("texts.json").write_text(json.dumps({name.replace(" ", "_"): [f"a {name}.", f"{name}s."] for name in classes}))
    one = ("bench", "--datasets", "grey-food", "--shots", "1", "--seeds", "1", "--model", "demo-vit", "--json")
    given = ("coprompt.sentences=texts.json", "coprompt.epochs=1", "coop.augment=true", "coop.epochs=2")
    options = [part for setting in given for part in ("--method-arg", setting)]
    code, out, err = call(capsys, *one, "--methods", "coprompt,coop", *options)
    assert (code, [row["error"] for row in json.loads(out)["rows"]]) == (0, [None] * 2), err
    arguments = {row["method"]: row["decisive"]["arguments"] for row in json.loads(out)["rows"]}
    assert arguments["coop"] == {"augment": True, "epochs": 2}
    assert set(arguments["coprompt"]) == {"sentences", "epochs"}
    Path("texts.json").write_text("{}")
    code, out, _ = call(
        capsys, *one, "--methods", "coprompt", "--method-arg", "coprompt.sentences=texts.json", "--out", "b"
    )
    assert code == 1
    assert "has no sentences" in json.loads(out)["rows"][0]["error"]


@pytest.mark.end_to_end
def test_an_ablation_prints_its_own_table(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(
        capsys, *CALL[:5], "--seeds", "1", *CALL[7:9], "--ablate", "descriptions", "--ablate", "feedback"
    )
    assert code == 0
    assert "**IPO by descriptions, 1-shot**" in out
    assert "| data set | feedback | base | novel | H |" in out
    assert [line.split(" | ")[1] for line in out.splitlines() if line.startswith("| grey-food")] == [
        "without",
        "with",
        "loss",
        "accuracy",
        "loss and accuracy",
    ]
    page = Path("runs", "bench", "results-ablations.md").read_text()
    assert "| grey-food | IPO, descriptions: without | 1 | 1 |" in page
    assert "| grey-food | IPO, descriptions: with, feedback: loss and accuracy | 1 | 1 |" in page


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--methods", "cop"], "unknown method 'cop'; known: clip, clip-ensemble,"),
        (["--datasets", "cars"], "suite 'demo' has no data set 'cars'; known: faint-places,"),
        (["--suite", "papr"], "'papr' is not one of 'demo', 'paper'"),
        (["--suite", "paper"], "pass their folder: --data ROOT"),
        (["--shots", "0"], "--shots '0' must be a comma-separated list of integers >= 1; for example --shots 1,2"),
        (["--seeds", "one"], "--seeds 'one' must be a comma-separated list of integers >= 0"),
        (["--format", "html"], "'html' is not one of 'md', 'latex', 'csv'"),
        (["--ablate", "luck"], "unknown ablation 'luck'; known: descriptions, history,"),
        (["--ablate", "lm"], "compares language models, but none is given; pass --prompt-model openai/"),
        (["--methods", "simba"], "method 'simba' needs a language model, but none is given"),
        (["--method-arg", "coop"], "--method-arg 'coop' must name a method"),
        (["--method-arg", "coprompt.sentences=nowhere.json"], "must be a JSON file, got 'nowhere.json' (No such file"),
        (["--method-arg", "coop.augment=yes"], "augment must be true or false, got 'yes'; for example augment=False"),
        (["--method-arg", "maple.n_ctx=two"], "n_ctx must be an integer, got 'two'; for example n_ctx=2"),
        (["--ablate", "history"], "--ablate varies only IPO; use either --methods or --ablate"),
        (
            ["--prompt-model", "openai/a", "--prompt-model", "openai/b"],
            "--prompt-model names 2 models; pass one, or compare them: --ablate lm",
        ),
    ],
)
def test_what_cannot_be_used_is_one_line(capsys: pytest.CaptureFixture[str], more: list[str], said: str) -> None:
    code, out, err = call(capsys, *CALL, *more)
    assert (code, out) == (2, "")
    assert said in " ".join(err.replace("│", " ").split())
    assert not Path("runs").exists()


def test_a_dry_run_prints_the_cost_and_measures_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--prompt-model", "openai/gpt-4o-mini", "--description-model", "openai/gpt-4o-mini")
    code, out, _ = call(capsys, *CALL, "--steps", "10", *asked, "--dry-run", "--json")
    found = json.loads(out)
    assert code == 0
    # Two seeds: a ping, a description of each image, the requests for templates, one for rewordings.
    assert found["calls"] == 2 * (1 + 5 + 10 + 1)
    assert found["cost"] > 0
    assert not Path("runs").exists()


@pytest.mark.end_to_end
def test_a_dry_run_counts_all_that_ask(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--prompt-model", "openai/gpt-4o-mini", "--dry-run", "--json", "--model", "demo-vit", "--methods")
    calls = [
        json.loads(call(capsys, *CALL, *asked, names)[1])["calls"] for names in ("ipo", "vpt+ipo", "ipo,vpt+ipo,clip")
    ]
    assert calls[0] == calls[1] > 0
    assert calls[2] == 2 * calls[0]


@pytest.mark.end_to_end
def test_each_row_of_ipo_asks_for_itself(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--prompt-model", "openai/gpt-4o-mini", "--dry-run", "--json", "--methods")
    calls = [json.loads(call(capsys, *CALL, *asked, names)[1])["calls"] for names in ("ipo", "ipo,ipo-best")]
    assert calls[1] == 2 * calls[0] - 2 > 0  # the best of two seeds is not reworded


@pytest.mark.end_to_end
def test_what_a_linear_probe_cannot_classify_is_said_in_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, *CALL, "--methods", "ipo,linear-probe,clip")
    assert code == 0
    titles = [line.split(" | ")[1] for line in out.splitlines() if line.startswith("| grey-food")]
    assert titles == ["CLIP", "Linear probe", "IPO"]
    line = next(line for line in err.splitlines() if line.startswith("linear-probe, grey-food, 1-shot, seed 1: base "))
    assert "cannot classify novel classes" in line
    row = next(row for row in json.loads(call(capsys, *CALL, "--json", "--methods", "linear-probe")[1])["rows"])
    assert (row["novel"], row["h"]) == (None, None)
    _, _, err = call(
        capsys, *CALL, "--methods", "linear-probe", "--transfer", "grey-food", "--datasets", "faint-places"
    )
    assert "cannot classify the targets" in err


def test_a_password_in_an_address_is_kept_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    address = "api_base=http://me:planted@127.0.0.1:9/v1?key=planted"
    for more in ((), ("--steps", "2")):  # the second time the changed settings are listed
        _, out, err = call(capsys, *CALL, "--prompt-model", "openai/x", "--prompt-model-kwargs", address, *more)
        assert "planted" not in out + err
    files = [path for path in Path("runs").rglob("*") if path.is_file()]
    assert any(path.name == "bench.json" for path in files)
    assert not [path for path in files if b"planted" in path.read_bytes()]


def test_changed_settings_are_refused_in_the_words_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    call(capsys, *CALL)
    code, _, err = call(capsys, *CALL, "--steps", "2")
    assert code == 1
    assert "steps was 1 and is 2" in err
    assert "--allow-config-changes" in err


def test_missing_data_sets_are_reported_as_data_check_reports_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plant_dtd(tmp_path)
    options = ("--suite", "paper", "--data", str(tmp_path), "--datasets", "DTD,eurosat", "--shots", "1")
    code, _, err = call(capsys, "bench", *options)
    assert code == 2
    assert "eurosat: " in err
    assert "missing; from github.com/phelber/EuroSAT: EuroSAT.zip" in err
    assert "dtd: " not in err


@pytest.mark.end_to_end
def test_methods_that_the_model_cannot_run_are_left_out_with_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    call_all = ("bench", "--datasets", "grey-food", "--shots", "1", "--seeds", "1", "--steps", "1", "--json")
    quick = ("--method-arg", "coop.epochs=1", "--method-arg", "cocoop.epochs=1")
    code, out, err = call(capsys, *call_all, *quick, "--model", "demo")
    assert code == 0
    methods = {row["method"] for row in json.loads(out)["rows"]}
    assert {"clip", "coop", "ipo"} <= methods
    assert "promptsrc" not in methods
    left_out = next(line for line in err.splitlines() if line.startswith("skipped: "))
    assert "promptsrc" in left_out
    assert "the image tower of" in left_out
    assert "does not support learned tokens" in left_out
    code, out, err = call(capsys, *CALL, "--methods", "clip,promptsrc", "--model", "demo", "--out", "named")
    assert (code, out) == (2, "")
    assert "does not support learned tokens" in err
    assert Path("named", "rows.jsonl").read_text() == ""

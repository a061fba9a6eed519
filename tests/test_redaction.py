"""Keys of many shapes are planted in many places and quoted by a server in many ways; none is written or shown."""

import logging
import string
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.bench_small import SmallSuite, grid
from helpers.planted_keys import ANSWERS, PLACES, SHAPES, Planted, drawn, shapes
from ipo_dspy import IPO, demo, write_report
from ipo_dspy._internal.secrets import (
    holds_credentials,
    names_secret,
    redact,
    remember_secrets,
    remember_settings,
    without_secrets,
)
from ipo_dspy._internal.untrusted import one_line
from ipo_dspy.bench import suites
from ipo_dspy.bench.markdown_page import Content, write_page
from ipo_dspy.bench.settings import Settings
from ipo_dspy.bench.sweep import sweep
from ipo_dspy.cli import main
from ipo_dspy.errors import IPOError, LanguageModelError
from ipo_dspy.lms.redaction import remember_lm


@pytest.fixture(params=shapes())
def planted(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Planted]:
    """A server that quotes secrets, with DSPy's cache and the log in the folder that is searched."""
    made = Planted(request.param, tmp_path, monkeypatch)
    before, handler = dspy.cache, logging.FileHandler(made.folder / "debug.log")
    dspy.configure_cache(disk_cache_dir=str(made.folder / "dspy"))
    monkeypatch.setattr(logging.getLogger("openai"), "propagate", True)
    for name in ("ipo_dspy", "dspy", "LiteLLM", "httpx", "httpcore", "openai"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.DEBUG)
    logging.getLogger().addHandler(handler)
    with made.server:
        yield made
    logging.getLogger().removeHandler(handler)
    handler.close()
    dspy.cache = before


def test_ten_shapes_are_planted_in_twelve_places_or_more() -> None:
    assert len(SHAPES) == 10
    assert len(set(PLACES)) == 17  # as docs/running.md says


@pytest.mark.end_to_end
def test_no_planted_key_is_written_or_shown_by_a_run(planted: Planted, capfd: pytest.CaptureFixture[str]) -> None:
    lm, cached = planted.lm(planted.address), planted.lm(planted.server.url)
    task = demo.load("pixel-animals", shots=1)
    models = {"prompt_model": lm, "description_model": cached, "max_described_images": 2, "max_consecutive_errors": 2}
    shown: list[Any] = []
    for status in (200, 500, 403, 401):
        planted.server.status = status
        run = planted.folder / f"run-{status}"
        try:
            best = IPO(log_dir=run, steps=2, observers=[shown.append], **models).compile(task.program, task.trainset)
            shown += [best, best.detailed_results, write_report(run)]
        except IPOError as error:
            logging.getLogger("ipo_dspy").exception("failed")
            shown += [error, repr(error)]
    (planted.folder / "shown").write_text("\n".join([*map(str, shown), *capfd.readouterr()]))
    assert len(planted.server.requests) > 8
    assert list(planted.unquoted()) == []
    sent = planted.server.headers[0]
    assert planted.secrets["header X-Api-Key"] == sent["X-Api-Key"]
    assert "Proxy-Authorization" in sent
    assert (planted.folder / "run-200" / "best.json").exists()
    assert "[hidden]" in (planted.folder / "run-200" / "journal.jsonl").read_text()
    assert "[hidden]" in (planted.folder / "shown").read_text()
    assert planted.found() == []


@pytest.mark.end_to_end
@pytest.mark.parametrize("planted", shapes(quick=["seven letters"]), indirect=True)
def test_no_planted_key_is_written_or_shown_wherever_an_answer_quotes_it(
    planted: Planted, capfd: pytest.CaptureFixture[str]
) -> None:
    task = demo.load("pixel-animals", shots=1)
    shown: list[Any] = []
    for number, says in enumerate(ANSWERS.values()):
        planted.server.says, run = says, planted.folder / f"run-{number}"
        cached = planted.lm(planted.server.url, seed=number)
        models = {"prompt_model": planted.lm(planted.address), "description_model": cached}
        optimizer = IPO(
            log_dir=run, steps=1, max_described_images=2, max_consecutive_errors=2, observers=[shown.append], **models
        )
        try:
            shown.append(optimizer.compile(task.program, task.trainset).detailed_results)
        except IPOError as error:
            logging.getLogger("ipo_dspy").exception("failed")
            shown += [error, repr(error)]
        assert (run / "journal.jsonl").stat().st_size > 500
    (planted.folder / "shown").write_text("\n".join([*map(str, shown), *capfd.readouterr()]))
    assert (planted.folder / "shown").read_text().count("[hidden]") > 100
    assert planted.found() == []


@pytest.mark.end_to_end
@pytest.mark.parametrize("status", [200, 500])
def test_no_planted_key_is_written_or_shown_by_a_sweep_of_another_optimizer(
    planted: Planted, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    planted.server.status = status
    sweeps = Settings(steps=1, prompts_per_step=2, lm="openai/toy", lm_kwargs=planted.settings(planted.address))
    cells = grid(datasets=("pixel-animals",), methods=("copro",), seeds=(1,), settings=sweeps)
    suite = SmallSuite()
    swept = sweep([cells], suite, planted.folder / "bench", device="cpu")
    write_page(planted.folder / "results.md", Content((), tuple(swept.rows.values()), 1, suite, "ipo-dspy bench"))
    (row,) = swept.rows.values()
    assert (row.error is None) == (status == 200)
    assert status == 200 or "[hidden]" in str(row.error)
    (planted.folder / "shown").write_text("".join(capfd.readouterr()))
    assert "headers" not in (planted.folder / "bench" / "bench.json").read_text()
    assert planted.found() == []


@pytest.mark.end_to_end
@pytest.mark.parametrize("planted", shapes(quick=["seven letters"]), indirect=True)
def test_no_planted_key_is_written_or_shown_by_the_command_line(
    planted: Planted, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which takes no key as an argument, but all else that is planted."""
    remember_lm(planted.lm(planted.address))
    monkeypatch.chdir(planted.folder)
    monkeypatch.setattr(suites, "DemoSuite", SmallSuite)
    small = ("--shots", "1", "--steps", "1", "--prompt-model", "openai/toy", "--prompt-model-kwargs", "num_retries=0")
    at = ("--prompt-model-kwargs", f"api_base={planted.address}")
    demo_run = ("demo", *small, *at, "--description-model", "openai/toy", "--description-model-kwargs", "num_retries=0")
    bench = ("bench", "--datasets", "grey-food", "--seeds", "1", "--methods", "ipo,copro", *small, *at)
    calls = (
        *(
            (status, ("doctor", "--prompt-model", "openai/toy", *at, "--prompt-model-kwargs", "num_retries=0"))
            for status in (401, 500, 200)
        ),
        *((status, (*demo_run, "--log-dir", f"demo-{status}")) for status in (401, 200)),
        *((status, (*bench, "--out", f"bench-{status}")) for status in (500, 200)),
    )
    monkeypatch.setenv("OPENAI_API_BASE", planted.address)  # of the multimodal model
    for planted.server.status, arguments in calls:
        with pytest.raises(SystemExit):
            main(list(arguments))
    shown = planted.folder / "shown"
    shown.write_text("".join(capfd.readouterr()))
    assert shown.read_text().count("does not answer") > 2
    assert (planted.folder / "demo-200" / "best.json").exists()
    assert (planted.folder / "bench-200" / "results.md").exists()
    assert planted.found() == []


@pytest.mark.parametrize(
    "name",
    [
        "authorization",
        "auth",
        "Authorization",
        "apiKey",
        "basic_auth",
        "password",
        "access_token",
        "x_api_key",
        "cookie",
    ],
)
def test_a_setting_that_names_a_secret_is_refused_on_the_command_line(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for argument in (f"{name}=planted", f'extra_body=[{{"{name.replace("_", "-")}": "planted"}}]'):
        with pytest.raises(SystemExit) as ended:
            main(["bench", "--prompt-model", "openai/toy", "--prompt-model-kwargs", argument, "--dry-run"])
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert "would expose a secret" in said
        assert "planted" not in said


def test_folders_are_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell's working folder is in PWD, and a key may be given by the place of its file."""
    (tmp_path / "server.pem").touch()
    monkeypatch.setenv("PWD", str(tmp_path))
    monkeypatch.setenv("OLDPWD", "/a/folder/that/is/gone")
    monkeypatch.setenv("SSL_KEY", str(tmp_path / "server.pem"))
    monkeypatch.setenv("DB_PWD", "/correct-horse-battery-9")
    said = f"there is no {tmp_path}/x, /a/folder/that/is/gone/y, {tmp_path}/server.pem; /correct-horse-battery-9"
    assert redact(said) == said.replace("/correct-horse-battery-9", "[hidden]")


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("openai/deployments/gpt-4o-mini-2024-07-18", None),
        ("serving-endpoints/databricks-meta-llama-3-1-70b-instruct", None),
        ("v1/projects/my_project.of_2026/Qwen2.5-VL-7B-Instruct", None),
        ("abcdefghijklmno/v1", None),
        ("abcdefghijklmnop/v1", "[hidden]/v1"),
        ("v1/123e4567-e89b-12d3-a456-426614174000/openai", "v1/[hidden]/openai"),
        ("//sk-proj-Ab12Cd34Ef56/v1", "//[hidden]/v1"),
        ("a%2Bb%2Fc%3D98765432", None),
        ("a%2Bb%2Fc%3D9876543219", "[hidden]"),
    ],
)
def test_a_segment_of_a_path_that_looks_like_a_key_is_a_secret(path: str, kept: str | None) -> None:
    address = f"https://abcdef0123456789abcdef.gateway.example/{path}"
    without = f"https://abcdef0123456789abcdef.gateway.example/{kept or path}"
    assert without_secrets({"api_base": f"{address}?token=t#f"}) == {"api_base": without}
    assert holds_credentials(address) == (without != address)
    remember_settings({"api_base": address})
    shown = redact(f"GET {address} is 404", keep_words=True)
    assert (
        shown == f"GET {address} is 404" if kept is None else shown.startswith(f"GET {without.partition('[')[0]}[hid")
    )
    assert kept is None or not set(path.split("/")) - set(kept.split("/")) & set(shown.split("/"))


def test_litellm_may_change_while_its_settings_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lazy imports add names to the module, also from other threads."""
    litellm = ModuleType("litellm")
    litellm.__dict__.update(api_key=None, timeout=None)
    monkeypatch.setitem(sys.modules, "litellm", litellm)

    def add_a_name(name: str) -> bool:
        litellm.__dict__[f"lazy_{name}"] = None
        return False

    monkeypatch.setattr("ipo_dspy.lms.redaction.names_secret", add_a_name)
    remember_lm(None)


def test_logs_of_libraries_hold_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    remember_lm(dspy.LM("openai/toy", engine="litellm", api_key="quite secret"))
    logger = logging.getLogger("httpx")
    try:
        raise ValueError("quite secret")
    except ValueError:
        logger.exception("%s", "the key quite secret")
    logger.warning("quite secret %d", "no number")
    assert "the key [hidden]" in caplog.text
    assert "ValueError: [hidden]" in caplog.text
    assert "[hidden] %d" in caplog.text
    assert "quite" not in caplog.text


def test_settings_are_kept_without_secrets() -> None:
    given = {"n": 1, "auth": "a", "max_tokens": 5, "inner": [{"x-token": "b", "url": "https://me:c@host/v1?d=e#f"}]}
    assert without_secrets(given) == {"n": 1, "max_tokens": 5, "inner": [{"url": "https://host/v1"}]}
    assert not any(map(names_secret, ("max_tokens", "output_cost_per_token", "tokenizer", "signature", "seed")))


def test_what_is_given_as_a_secret_goes_and_other_words_stay_in_answers() -> None:
    remember_settings({"api_key": "photo", "headers": {"X-Title": "grainy", "X-Run": "run-77-of-9", "X-Auth": "dark"}})
    said = "a dark, grainy photo of photographs, run-77-of-9"
    assert redact(said, keep_words=True) == "a [hidden], grainy [hidden] of photographs, [hidden]"
    assert redact(said) == "a [hidden], [hidden] [hidden] of photographs, [hidden]"


@pytest.mark.parametrize("before", [" ", "key%3A%20", "key%3a%3d", r"line\n", r"line\r\n", r"\u003c", "'"])
def test_a_short_secret_is_redacted_after_an_escape(before: str) -> None:
    remember_secrets(["mynbiqp"])
    assert redact(f"{before}mynbiqp%3B", keep_words=True) == f"{before}[hidden]%3B"
    assert redact("thousandmynbiqps, 2mynbiqp", keep_words=True) == "thousandmynbiqps, 2mynbiqp"


def test_a_placeholder_of_a_key_is_not_a_secret() -> None:
    remember_settings({"api_key": "none"})
    remember_settings({"api_key": "x"})
    assert redact("none of them, x-ray", keep_words=True) == "none of them, x-ray"


def test_errors_of_the_package_hold_no_secret() -> None:
    remember_secrets(["quite secret"])
    assert str(LanguageModelError("the key 'quite secret' is wrong")) == "the key '[hidden]' is wrong"


@settings(max_examples=10)
@given(
    secret=st.text(st.sampled_from(string.ascii_letters + string.digits + "-_+/=."), min_size=8, max_size=60),
    before=st.text(max_size=30),
    after=st.text(max_size=30),
    cut=st.integers(0, 40),
)
def test_no_secret_survives_whatever_surrounds_it(secret: str, before: str, after: str, cut: int) -> None:
    remember_secrets([secret])
    shown = one_line(f"{before} {secret} {after}", 400)
    assert secret not in shown
    part = secret[:cut] + "***"
    if cut >= 12:
        assert secret[:12] not in redact(f"{before} {part} {after}", keep_words=True)


def test_redaction_is_quick() -> None:
    """A quadratic one would take hours for a runaway answer."""
    remember_secrets(drawn(string.ascii_letters, 40) for _ in range(20))
    assert redact("a grainy <CLASS> " * 30_000, keep_words=True).startswith("a grainy")

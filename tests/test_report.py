"""The report page of finished, running, empty, and damaged runs, and the file that it is written to."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from helpers.browser import browser, needs_browser
from helpers.report_journals import START, add, begin, evaluation, imagenet, response, sample_run, search, trial
from helpers.report_pages import text_of, to_copy
from ipo_dspy.errors import JournalError
from ipo_dspy.report import render_report, write_report
from ipo_dspy.run.journal import Journal


def test_opens_with_start_best_and_the_images_they_were_measured_on(sample_page: str) -> None:
    text = text_of(sample_page)
    hero = text[text.index("Start") : text.index("Trials")]
    for part in ("a photo of a <CLASS> .", "55.8 %", "pixel art of a <CLASS> .", "81.0 %", "+25.2", "500 test images"):
        assert part in hero


@pytest.mark.parametrize(
    "part",
    ["Start and best", "Best prompts 20 of 201", "Finalists", "on 200 validation images", "2026-03-01 09:30 UTC",
     "Fixed", "Broken",
     "image not available", "Image descriptions 10 of 25", "Rejections", "duplicate", "410,233", "801", "12 min 34 s",
     "prompt_model", "openai/gpt-4o-mini", "torch", "ViT-B-16-quickgelu", "The start template ranks"],
)  # fmt: skip
def test_shows(sample_page: str, part: str) -> None:
    assert part in text_of(sample_page)


def test_says_that_novel_classes_are_missing_in_the_pictures(tmp_path: Path) -> None:
    matrix = {"classes": ["apple"], "counts": [[3, 2]]}
    confusions = [{"label": "apple", "predicted": "pear", "images": 2}]
    with Journal(tmp_path) as journal:
        begin(journal)
        search(journal)
        trial(journal, 0, START, 50.0, 1.0)
        given: Any = {"per_class": {"apple": [3, 5]}, "matrix": matrix, "confusions": confusions}
        for role in ("start", "best"):
            evaluation(journal, role, 60.0, part="base", **given)
    alone = "images: test, base classes"
    for heading in ("Confusion matrix", "Most confused classes 1 of 1 pairs,"):
        assert f"{heading} {alone} " in text_of(render_report(tmp_path))
    with Journal(tmp_path) as journal:
        for role in ("start", "best"):
            evaluation(journal, role, 30.0, part="novel", per_class={"wizard": [1, 5]})
    for heading in ("Confusion matrix", "Most confused classes 1 of 1 pairs,"):
        assert f"{heading} {alone} (novel classes are not shown)" in text_of(render_report(tmp_path))


def test_a_running_journal_gives_the_best_so_far(tmp_path: Path) -> None:
    text = text_of(render_report(sample_run(tmp_path, trials=30, finished=False)))
    assert "This run has not finished" in text
    assert "Best so far" in text
    assert "chosen" not in text
    assert "24 LLM tokens 12,300" in text


def test_a_running_journal_says_which_model_is_waited_for_since_when(tmp_path: Path) -> None:
    given = {
        "predictor": "self",
        "request_id": "step 1/0",
        "model": "openai/<toy>",
        "timeout": None,
        "run_seconds": 1.0,
    }
    with Journal(tmp_path) as journal:
        begin(journal)
        journal.append({"event": "lm_request", "started": "2026-03-01T09:30:12.345+00:00", **given})
        waiting = "the run had been waiting for openai/<toy> since 2026-03-01 09:30 UTC."
        assert waiting in text_of(render_report(tmp_path))
        response(journal, "step 1/0", calls=1, prompt_tokens=90, completion_tokens=10)
    assert "waiting" not in text_of(render_report(tmp_path))


def test_an_unfinished_run_counts_every_request(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        begin(journal)
        for question in ("greet prompt_model x", "describe 0", "describe 1", "step 1/0"):  # kept: in journals
            response(journal, question, calls=1, prompt_tokens=90, completion_tokens=10)
    assert "LLM calls 4 LLM tokens 400" in text_of(render_report(tmp_path))


def test_a_torn_last_line_is_ignored(tmp_path: Path) -> None:
    run = sample_run(tmp_path, trials=30, finished=False)
    whole = (run / "journal.jsonl").read_bytes()
    (run / "journal.jsonl").write_bytes(whole[:-5])
    assert "This run has not finished" in render_report(run)


@pytest.mark.parametrize("with_search", [False, True])
def test_an_empty_journal_gives_a_page(tmp_path: Path, with_search: bool) -> None:
    with Journal(tmp_path) as journal:
        begin(journal)
        if with_search:
            search(journal)
    text = text_of(render_report(tmp_path))
    assert ("nothing scored yet" if with_search else "No search is in the journal yet") in text


def test_a_journal_without_any_event_gives_a_page(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_bytes(b"")
    assert "No search" in render_report(tmp_path)


def test_a_run_resumed_after_its_end_counts_as_running(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        begin(journal)
        search(journal)
        trial(journal, 0, START, 50.0, 1.0)
        journal.append({"event": "run_finished", "status": "interrupted", "seconds": 1.0, "calls": 1, "tokens": None})
    assert "interrupted" in text_of(render_report(tmp_path))
    add(tmp_path, "evaluation", predictor="self", split="test", class_split="all", role="start", template=START,
              accuracy=50.0, loss=1.0, images=3, per_class={})  # fmt: skip
    assert "interrupted" in text_of(render_report(tmp_path))
    add(tmp_path, "trial", predictor="self", index=1, step=1, template="a <CLASS>", accuracy=51.0, loss=1.0,
              tokens=4, key="1")  # fmt: skip
    assert "This run has not finished" in text_of(render_report(tmp_path))


def test_two_searches_get_a_section_each(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        begin(journal)
        for name, best in (("animals", "a furry <CLASS>"), ("tools", "a steel <CLASS>")):
            search(journal, name)
            trial(journal, 0, START, 50.0, 1.0, predictor=name)
            trial(journal, 1, best, 60.0, 0.9, predictor=name)
    page = render_report(tmp_path)
    first, second = page.split('id="search-2"')
    assert "a furry <b>" in first
    assert "a furry <b>" not in second
    assert "a steel <b>" in second
    assert 'href="#search-2"' in page


def test_ensembles_show_a_line_each_and_fold_when_long(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        begin(journal)
        search(journal)
        trial(journal, 0, "\n".join(f"form {i} of <CLASS>" for i in range(80)), 50.0, 1.0)
    page = render_report(tmp_path)
    assert page.count("<span>form 0 of <b>&lt;CLASS&gt;</b></span>") >= 1
    assert "76 more lines" in page


def test_many_classes_fold(tmp_path: Path) -> None:
    names = [f"class {i}" for i in range(1000)]
    with Journal(tmp_path) as journal:
        begin(journal)
        search(journal, classes=names)
        evaluation(journal, "start", 50.0, per_class={name: [5, 10] for name in names})
        evaluation(journal, "best", 51.0, per_class={name: [i % 11, 10] for i, name in enumerate(names)})
    page = render_report(tmp_path)
    assert "All 1,000 classes" in page
    assert len(page) < 1_500_000


def test_no_journal_there(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="no journal"):
        render_report(tmp_path)


def test_the_same_journal_gives_the_same_bytes(tmp_path: Path) -> None:
    run = sample_run(tmp_path, trials=50)
    assert write_report(run, tmp_path / "a.html").read_bytes() == write_report(run, tmp_path / "b.html").read_bytes()


def test_writes_into_the_run_folder_and_leaves_nothing_else(tmp_path: Path) -> None:
    run = sample_run(tmp_path, trials=10)
    assert write_report(run) == run / "report.html"
    assert write_report(run / "journal.jsonl") == run / "report.html"
    assert sorted(path.name for path in run.iterdir()) == ["journal.jsonl", "report.html"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    run = sample_run(tmp_path, trials=10, finished=False)
    with pytest.raises(JournalError, match=r"cannot be written.*report\.html"):
        write_report(run, tmp_path / "no" / "such.html")
    (tmp_path / "folder").mkdir()
    with pytest.raises(JournalError, match="cannot be written"):
        write_report(run, tmp_path / "folder")
    assert not list(tmp_path.glob(".*part"))


@pytest.mark.end_to_end
def test_thousands_of_trials_stay_small_and_quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        run = sample_run(tmp_path, trials=6000)
    begun = time.process_time()
    size = len(render_report(run).encode())
    assert size < 3_000_000
    assert time.process_time() - begun < 5


def test_importing_and_writing_loads_nothing_heavy(tmp_path: Path) -> None:
    """No torch ever, matplotlib and PIL only to draw, pyarrow only where a picture is looked up in a table."""
    run = sample_run(tmp_path, trials=10, finished=False)
    code = (
        "import sys, ipo_dspy.report as r;"
        "heavy = {'torch', 'matplotlib', 'matplotlib.pyplot', 'PIL', 'pyarrow', 'open_clip', 'litellm'};"
        "print(heavy & set(sys.modules)); r.render_report(sys.argv[1]); print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["set()", "['PIL', 'matplotlib']"]


def chromium() -> str | None:
    """A Chromium on PATH."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def browse(page: Path, profile: Path, *flags: str) -> str:
    """Open a page headless, without network, and return what the flags print."""
    browser = chromium()
    assert browser
    quiet = (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--disable-default-apps", "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={profile}",
    )  # fmt: skip
    command = [browser, *quiet, *flags, page.resolve().as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.slow
@pytest.mark.skipif(chromium() is None, reason="no chromium on PATH; on Debian: apt-get install chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_opens_in_a_browser(tmp_path: Path, scheme: str) -> None:
    """The DOM is whole, and the screenshot has the scheme's ground and the accent color on it."""
    page = write_report(sample_run(tmp_path, trials=800))
    dark = ("--force-dark-mode", "--blink-settings=preferredColorScheme=0") if scheme == "dark" else ()
    shot = tmp_path / "shot.png"
    dom = browse(page, tmp_path / "profile1", "--dump-dom")
    browse(page, tmp_path / "profile2", "--window-size=1200,2400", f"--screenshot={shot}", *dark)
    assert dom.count("<svg") == 2
    assert dom.count("<img") == 24 - dom.count("image not available")
    assert "</footer>" in dom
    assert dom.count('class="copy">Copy') == len(to_copy(page.read_text()))  # the script ran
    image = Image.open(shot).convert("RGB")
    ground = image.getpixel((3, 3))
    assert isinstance(ground, tuple)
    assert (sum(ground) > 600) == (scheme == "light")
    assert len(image.getcolors(1 << 22) or []) > 100


@pytest.mark.slow
@needs_browser
def test_the_scores_fit_a_phone(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        begin(journal)
        search(journal)
        trial(journal, 0, START, 50.0, 1.0)
        for split in ("test", "validation"):
            for role in ("start", "best"):
                evaluation(journal, role, 100.0, split=split)
        imagenet(journal, "all", 100.0, 100.0)
    page = write_report(tmp_path)
    with browser(tmp_path / "profile") as window:
        window.look(tmp_path / "phone.png", width=390, dark=False)
        window.open(page.resolve().as_uri())
        widths = (
            "const box = document.querySelector('.scores').parentElement; return [box.scrollWidth, box.clientWidth]"
        )
        content, box = window.run(widths)
    assert content == box < 390

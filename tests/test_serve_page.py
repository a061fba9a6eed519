"""The server's page in a real browser, next to the command that serves it and the classifier itself."""

import base64
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import pytest

from helpers.browser import Browser, browser, needs_browser
from ipo_dspy import ClipClassifier
from ipo_dspy.clip.image_features import open_image
from ipo_dspy.demo import DemoTask

pytestmark = [pytest.mark.slow, needs_browser]

COMMAND = [sys.executable, "-c", "from ipo_dspy.cli import main; main()", "serve"]
PATIENCE = 60
HOSTILE = "<img src=x onerror=alert(1)>"
TRANSFER = """
const files = new DataTransfer();
for (const [name, type, content] of arguments[1]) {
  files.items.add(new File([Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0))], name, { type }));
}
const made = arguments[0] === "paste" ? new ClipboardEvent("paste", { clipboardData: files, bubbles: true })
  : new DragEvent(arguments[0], { dataTransfer: files, bubbles: true, cancelable: true });
document.querySelector("#drop").dispatchEvent(made);
return made.defaultPrevented;
"""


@pytest.fixture(scope="module")
def classifier(task: DemoTask) -> ClipClassifier:
    """A program with a class whose name is markup."""
    return ClipClassifier([*(task.program.classes or ()), HOSTILE], model="demo")


@pytest.fixture(scope="module")
def pictures(task: DemoTask, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / f"{i}.png" for i in range(4)]
    for path, example in zip(paths, task.testset[::40], strict=False):
        open_image(example.image).save(path)
    return paths


@contextmanager
def page(
    folder: Path, classifier: ClipClassifier, token: str = ""
) -> Iterator[tuple[Browser, "subprocess.Popen[str]"]]:
    """The page in a browser, and the process that serves it."""
    classifier.save(folder / "best.json")
    environment = {**os.environ, **({"IPO_DSPY_SERVE_TOKEN": token} if token else {})}
    process = subprocess.Popen(
        [*COMMAND, str(folder / "best.json"), "--port", "0"], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        line = cast(IO[str], process.stdout).readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, line
        with browser(folder / "profile") as window:
            window.open(f"{found[0]}/")
            yield window, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 0


def sent(*paths: Path) -> list[list[str]]:
    """Names, types and contents for `TRANSFER`."""
    return [[path.name, "image/png", base64.b64encode(path.read_bytes()).decode()] for path in paths]


def answers(window: Browser, count: int) -> dict[str, str]:
    """Return the text of each picture's card by the picture's name, once all have their answer."""
    read = (
        "return [...document.querySelectorAll('#results li')].map((item) => [item.querySelector('.name').textContent, "
        "item.querySelector('.label, .outcome .notice')?.innerText ?? ''])"
    )
    window.wait(lambda: sum(bool(text) for _, text in window.run(read)) == count, f"{count} answers")
    return dict(window.run(read))


def expected(classifier: ClipClassifier, picture: Path) -> str:
    answer = classifier(image=str(picture))
    return f"{answer.label} {100 * answer.confidence:.1f} %"


def test_the_endpoints_have_a_page(classifier: ClipClassifier, tmp_path: Path) -> None:
    with page(tmp_path, classifier) as (window, _):
        window.open(f"{window.run('return location.origin')}/docs")
        window.wait_for("/v1/systemone")
        window.click(".opblock-summary")
        window.wait_for("Classify images: files of a form, or base64 texts in JSON.")
        assert window.complaints == []


def test_pictures_are_dropped_chosen_and_pasted(
    classifier: ClipClassifier, pictures: list[Path], tmp_path: Path
) -> None:
    text = tmp_path / f"{HOSTILE.replace('/', '')}.png"
    text.write_text("not an image")
    cut = tmp_path / "cut.png"
    cut.write_bytes(pictures[0].read_bytes()[:200])
    with page(tmp_path, classifier) as (window, _):
        window.wait_for("Template and classes")
        assert window.text("#template") == str(classifier.template)
        assert window.text("#class-count") == str(len(classifier.classes or ()))
        assert HOSTILE in window.text("#classes")
        assert window.run(TRANSFER, "dragover", [])  # else the browser would open the picture
        assert window.run("return document.querySelector('#drop').className").endswith("over")
        assert window.run(TRANSFER, "drop", sent(*pictures[:2], text, cut))
        shown = answers(window, 4)
        window.type("#choose", str(pictures[2]))
        shown = answers(window, 5)
        window.run(TRANSFER, "paste", sent(pictures[3]))
        shown = answers(window, 6)
        assert {path.name: shown[path.name] for path in pictures} == {
            path.name: expected(classifier, path) for path in pictures
        }
        assert shown[text.name] == f"{text.name} cannot be read as an image; save it as JPEG or PNG."
        assert re.fullmatch(r"cut\.png is damaged \(.+\); fetch it again or leave it out\.", shown[cut.name])
        assert window.text("#model").startswith("Model: demo")
        assert window.text("#count") == "6 pictures"
        assert window.run("return [...document.images].every((image) => image.src.startsWith('blob:'))")
        bars = "return [...document.querySelectorAll('#results li:last-child .bar i')].map((bar) => bar.style.width)"
        first = classifier(image=str(pictures[0])).scores
        widths = [float(width.removesuffix("%")) for width in window.run(bars)]
        assert widths == pytest.approx([100 * share for share in first.values()], abs=0.01)
        for width in (360, 1280):
            for dark in (False, True):
                window.look(tmp_path / "page.png", width=width, dark=dark)
                assert window.run("return document.documentElement.scrollWidth") <= width
        window.click("#clear")
        assert (window.text("#results"), window.text("#count")) == ("", "")
        assert [line for line in window.complaints if "/classify" not in line] == []


def test_a_rejected_picture_has_no_confidence(task: DemoTask, pictures: list[Path], tmp_path: Path) -> None:
    calibrated = task.program.calibrate(task.testset[::20], threshold=1.0, unknown_label="other")
    with page(tmp_path, calibrated) as (window, _):
        window.run(TRANSFER, "drop", sent(pictures[0]))
        assert answers(window, 1) == {pictures[0].name: "other"}


def test_what_is_not_a_picture_and_a_server_that_is_gone(
    classifier: ClipClassifier, pictures: list[Path], tmp_path: Path
) -> None:
    with page(tmp_path, classifier) as (window, process):
        window.wait_for("Template and classes")
        window.run(TRANSFER, "drop", [])  # as a link or a text
        assert "only files can be dropped here" in window.text("#count")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
        window.run(TRANSFER, "drop", sent(pictures[0]))
        assert answers(window, 1)[pictures[0].name] == "The server does not answer. Is it still running?"


def test_a_token_is_asked_for_and_kept_in_memory_only(
    classifier: ClipClassifier, pictures: list[Path], tmp_path: Path
) -> None:
    with page(tmp_path, classifier, token="secret-1") as (window, _):
        window.wait_for("asks for a token")
        assert str(classifier.template) not in window.text()
        window.run(TRANSFER, "drop", sent(*pictures))  # they wait for the token
        window.type("#token", "secret-2")
        window.click("#login button")
        window.wait_for("did not accept")
        window.type("#token", " secret-1 ")
        window.click("#login button")
        shown = answers(window, 4)
        assert shown == {path.name: expected(classifier, path) for path in pictures}
        assert str(classifier.template) in window.text()
        token_field = "document.querySelector('#token').value"
        kept = f"return [localStorage.length, sessionStorage.length, document.cookie, {token_field}]"
        assert window.run(kept) == [0, 0, "", ""]

"""The release: a wheel with the demo in it, pinned versions, examples and README lines that run."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from helpers.cli_process import Done, Processes
from helpers.openai_server import KEY, Reply, Writer
from ipo_dspy.clip.bundled import BUNDLED

ROOT = Path(__file__).resolve().parent.parent
MOST_BYTES = 25_000_000


def test_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / "README.md").read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", ".github/workflows/ci.yml", "scripts/lowest.py"])
def test_the_selection_of_make_test_is_the_same_elsewhere(name: str) -> None:
    selected = re.findall(r'^ALL := -m "(.+)"', (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert re.findall(r"[\"'](not slow[^\"']+)[\"']", (ROOT / name).read_text()) == selected


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)], check=True, capture_output=True)
    return folder


@pytest.mark.slow
def test_the_source_distribution_holds_what_its_own_tests_read(distributions: Path, tmp_path: Path) -> None:
    (archive,) = distributions.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    files = ["test_packaging.py", "test_architecture.py", "test_release.py", "test_backends_doc.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-m", "not slow and not network and not gpu"]
    command += [f"tests/{name}" for name in files]
    places = {**os.environ, "PYTHONPATH": f"{unpacked / 'src'}{os.pathsep}{unpacked / 'tests'}"}
    done = subprocess.run(command, cwd=unpacked, env=places, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_wheel_holds_the_demo_and_is_small(distributions: Path) -> None:
    (wheel,) = distributions.glob("*.whl")
    assert wheel.stat().st_size <= MOST_BYTES
    names = zipfile.ZipFile(wheel).namelist()
    (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
    shown = zipfile.ZipFile(wheel).read(metadata).decode()
    assert "# ipo_dspy" in shown
    assert re.findall(r"\]\((?!https?:|#)[^)]*", shown) == []  # they would lead nowhere outside the repository
    assert all(f"ipo_dspy/demo/assets/{folder}/open_clip_model.safetensors" in names for folder in BUNDLED.values())
    assert "ipo_dspy/py.typed" in names
    assert sum(name.endswith(".parquet") for name in names) == 4
    pages = ("style.css", "copy.js", "template.html.j2", "words.html.j2", "calibration.html.j2", "macros.html.j2")
    served = ("page.html", "page.js", "api.html", "api.js", "run.html", "run.js", "chart.js", "dom.js", "pages.css")
    assert {f"ipo_dspy/report/{name}" for name in pages} | {"ipo_dspy/bench/published.json"} <= set(names)
    assert {f"ipo_dspy/serve/{name}" for name in served} <= set(names)
    assert not [name for name in names if name.startswith(("tests", "scripts"))]


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory, forking_parent: Processes) -> Processes:
    return Processes(tmp_path_factory.mktemp("processes"), {}, parent=forking_parent)


@pytest.mark.end_to_end
@pytest.mark.parametrize("name", ["quickstart", "swap_backends", "compose", "better_together"])
def test_an_example_runs(name: str, processes: Processes, tmp_path: Path) -> None:
    path = ROOT / "examples" / f"{name}.py"
    done = ran(processes, f"import runpy\nrunpy.run_path({str(path)!r}, run_name='__main__')", tmp_path)
    assert "<CLASS>" in done.out
    assert "it/s" not in done.err  # progress bars would bury what is printed
    for file in tmp_path.iterdir():
        assert f"saved in {file}" in done.out


def test_git_ignores_the_folders_that_the_readme_writes() -> None:
    folders = set(re.findall(r"--export (\w+)", (ROOT / "README.md").read_text()))
    assert folders
    assert {f"/{folder}/" for folder in folders} <= set((ROOT / ".gitignore").read_text().splitlines())


PAGES = "".join((ROOT / page).read_text() for page in ("README.md", "docs/common-tasks.md"))
BLOCKS: list[str] = re.findall(r"```python\n(.*?)```", PAGES, flags=re.DOTALL)
PHOTOS = """
from pathlib import Path
from ipo_dspy import demo
from ipo_dspy.clip.image_features import open_image
task = demo.load("pixel-animals", shots=6)
for i, e in enumerate(task.trainset):
    Path("photos", e.label).mkdir(parents=True, exist_ok=True)
    open_image(e.image).save(Path("photos", e.label, f"{i}.png"))
open_image(e.image).save("x.jpg")
"""


def block_with(text: str) -> str:
    (found,) = (block for block in BLOCKS if text in block)
    return found


def replaced(code: str, before: str, after: str) -> str:
    """Return the code with a text replaced, which must be there: pages change."""
    assert before in code
    return code.replace(before, after)


def ran(processes: Processes, code: str, folder: Path, **environment: str) -> Done:
    """Run a script in a folder; it must not fail."""
    done = processes.python(f"import os\nos.chdir({str(folder)!r})\nos.environ |= {environment!r}\n{code}")
    assert done.code == 0, done.err
    return done


@pytest.mark.end_to_end
def test_the_python_lines_of_the_readme_run(processes: Processes, tmp_path: Path) -> None:
    """With a folder of bundled pictures, the bundled model and no language model in them."""
    block = block_with("load_image_folder")
    block = replaced(block, 'model="ViT-B-16-quickgelu", pretrained="openai"', 'model="demo"')
    block = replaced(
        block, 'ClipClassifier.from_file("best.json")', 'print(ClipClassifier.from_file("best.json").template)'
    )
    block, count = re.subn(r"IPO\(.*?\)", 'IPO(proposer="evolution", steps=2)', block)
    assert count
    ran(processes, PHOTOS + block, tmp_path)
    assert (tmp_path / "best.json").is_file()


@pytest.mark.end_to_end
def test_the_offline_lines_of_the_readme_run_as_they_are(tmp_path: Path) -> None:
    """In a Python of their own, as users run them."""
    command = [sys.executable, "-c", block_with("demo.load")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "<CLASS>" in done.stdout


@pytest.mark.end_to_end
def test_the_commands_of_the_readme_run_one_after_the_other(tmp_path: Path, forking_parent: Processes) -> None:
    """But for those that need a key or run until Ctrl-C; the search is cut short."""
    lines = re.findall(r"^\$ ipo-dspy (.*?)(?: +#.*)?$", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    commands = [line.split() for line in lines if not re.match("watch|serve|.*openai/", line)]
    assert [name for name, *_ in commands] == ["demo", "optimize", "evaluate", "classify", "export"]
    processes = Processes(tmp_path, {}, parent=forking_parent)
    for name, *arguments in commands:
        done = processes.run(name, *arguments, *(["--steps", "1"] if name == "optimize" else []))
        assert done.code == 0, done.err


@pytest.mark.end_to_end
def test_the_program_of_the_common_tasks_runs(processes: Processes, tmp_path: Path) -> None:
    """As it is written, but for the CLIP and a server that stands in for the provider."""
    program = block_with("class Sorter")
    program = replaced(program, "classes=trainset.classes", 'classes=trainset.classes, model="demo"')
    before = "import dspy\nfrom ipo_dspy import IPO, ClipClassifier, demo\n"
    before += "trainset = demo.load('pixel-animals', shots=1).trainset\n"
    after = "print(better.classify.template, better.reply.signature)"
    tried = before + replaced(program, "IPO()", "IPO(steps=2)") + after
    with Answering() as server:
        done = ran(processes, tried, tmp_path, OPENAI_API_KEY=KEY, OPENAI_API_BASE=server.url)
    assert "<CLASS>" in done.out
    assert server.asked == 2


class Answering(Writer):
    """Writes templates, and answers whatever else it is asked in the form that DSPy asks for."""

    def answer(self, body: dict[str, Any]) -> Reply:
        reply = super().answer(body)
        return reply if "<INS>" in reply.text else Reply("[[ ## answer ## ]]\nyes\n\n[[ ## completed ## ]]")


@pytest.mark.end_to_end
def test_the_python_lines_of_the_baselines_page_run(processes: Processes, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "baselines.md").read_text(), flags=re.DOTALL)
    code = "\n".join(["from ipo_dspy import IPO, ClipClassifier", *blocks, "print(best.template, found.accuracy)"])
    quick = replaced(code, "shots=16", "shots=1")
    quick = replaced(quick, 'IPO(proposer="evolution")', 'IPO(proposer="evolution", steps=1)')
    assert "<CLASS>" in ran(processes, quick, tmp_path).out

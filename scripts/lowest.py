"""`python scripts/lowest.py [TEST ...]` runs a core of the tests with the lowest versions that pyproject.toml allows.

The environment is created from scratch in `.venv-lowest`. Each direct dependency is installed at its floor, other
packages at the newest release that fits. PyTorch comes as a CPU build where pip's indexes have one; the index of
PyTorch does: `PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make lowest`. Other builds bring gigabytes of
CUDA packages.
"""

import os
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv-lowest"
EXTRAS = ("heif", "hub", "mlflow")
"""Besides the dependencies; Ray, Optuna and the packages of local chat models have too many other requirements."""
TOOLS = ("pytest>=8", "hypothesis>=6.100", "pytest-xdist>=3.6")
CORE = (
    "classifier", "classifier_encoding", "classifier_models", "classifier_saving", "cli", "cli_run_command",
    "clip_backbone", "clip_feature_store", "clip_feature_store_damage", "clip_feature_store_processes",
    "clip_image_features", "clip_image_io", "clip_text_features", "data_folder", "data_hub", "data_table", "demo",
    "integrations_mlflow", "lms", "lms_client", "lms_signatures", "optimizer_ipo", "program_files", "report",
    "report_charts", "report_choice", "report_thumbnails", "resume", "template_phrases",
)  # fmt: skip
"""Test files, without `test_`."""


def floors(requirements: list[str]) -> list[str]:
    """Return each requirement at its lowest version.

    >>> floors(["dspy>=3.4.1,<3.5", "ray[data]>=2.60"])
    ['dspy==3.4.1', 'ray==2.60']
    """
    parsed = map(Requirement, requirements)
    return [f"{one.name}=={spec.version}" for one in parsed for spec in one.specifier if spec.operator == ">="]


def main(tests: list[str]) -> None:
    """Make the environment, print its versions and run the tests in it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [one for extra in EXTRAS for one in project["optional-dependencies"][extra]]
    venv.create(FOLDER, clear=True, with_pip=True)
    python = str(FOLDER / "bin" / "python")
    constraints = FOLDER / "constraints.txt"
    constraints.write_text("\n".join(floors([*project["dependencies"], *extras])) + "\n")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", str(constraints)]
    subprocess.run([*install, *TOOLS, "-e", f"{ROOT}[{','.join(EXTRAS)}]"], check=True)
    print(constraints.read_text())
    command = [python, "-m", "pytest", "-q", "-n", "logical", "--dist", "loadfile"]
    command += ["-m", "not slow and not network and not gpu"]
    command += tests or [f"tests/test_{name}.py" for name in CORE]
    sys.exit(subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False).returncode)


if __name__ == "__main__":
    main(sys.argv[1:])

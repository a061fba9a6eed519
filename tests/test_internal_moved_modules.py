"""Import paths of earlier versions still work, with a warning that names the new path."""

import importlib
import subprocess
import sys

import pytest

from ipo_dspy._internal.moved_modules import MOVED


@pytest.mark.parametrize("old", MOVED)
def test_an_old_path_gives_what_the_new_one_has(old: str) -> None:
    sys.modules.pop(old, None)
    with pytest.warns(
        DeprecationWarning, match=f"^{old} has moved to {MOVED[old]}; the old path will be removed"
    ) as seen:
        module = importlib.import_module(old)
    new = importlib.import_module(MOVED[old])
    public = [name for name in vars(new) if not name.startswith("_")]
    assert public
    assert all(getattr(module, name) is getattr(new, name) for name in public)
    assert len(seen) == 1


def test_the_warning_points_at_the_import_and_unknown_modules_stay_unknown() -> None:
    code = "from ipo_dspy.events import Event\nimport ipo_dspy.nothing_here"
    done = subprocess.run([sys.executable, "-W", "always", "-c", code], capture_output=True, text=True)
    assert "<string>:1: DeprecationWarning: ipo_dspy.events has moved to ipo_dspy.run.events" in done.stderr
    assert "No module named 'ipo_dspy.nothing_here'" in done.stderr


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("ipo_dspy.proposers", "Ask", "ProposalRequest"),
        ("ipo_dspy.baselines.base", "FewShot", "FewShotTask"),
        ("ipo_dspy.bench.dspy_optimizers", "told", "feedback"),  # kept: the earlier name
    ],
)
def test_an_old_name_gives_the_new_object(module: str, old: str, new: str) -> None:
    home = importlib.import_module(module)
    with pytest.warns(DeprecationWarning, match=f"^{old} is deprecated .*; use {new}$"):
        assert getattr(home, old) is getattr(home, new)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = home.nothing

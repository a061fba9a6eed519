"""The number of CPU threads follows the user's word, the container, and the size of the products."""

from pathlib import Path

import pytest
import torch
from torch import nn

from ipo_dspy import demo
from ipo_dspy.clip import cpu_threads
from ipo_dspy.clip.cpu_threads import _cgroup_quota, choose_threads, limited_to

LARGE = nn.Linear(512, 2048)


@pytest.fixture(autouse=True)
def _two_threads(monkeypatch: pytest.MonkeyPatch) -> object:
    """PyTorch with two threads, and a user who has not chosen any."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cpu_threads, "usable_cpus", lambda: 2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("model", ["demo", "demo-vit"])
def test_the_bundled_models_take_one_thread_on_any_machine(model: str) -> None:
    backbone = demo.load("pixel-animals", model=model).program.backbone
    assert choose_threads(backbone.model).count == 1
    assert "too small" in str(choose_threads(backbone.model))


def test_more_threads_are_taken_while_they_are_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(8)
    monkeypatch.setattr(cpu_threads, "usable_cpus", lambda: 8)
    seconds = {1: 0.08, 2: 0.04, 4: 0.02, 8: 0.019}
    monkeypatch.setattr(cpu_threads, "_seconds", lambda *_, threads: seconds[threads])
    assert choose_threads(LARGE).count == 4


def test_a_busy_machine_gets_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_threads, "_seconds", lambda *_, threads: 0.01 * threads)
    assert choose_threads(LARGE).count == 1


def test_the_users_number_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert str(choose_threads(LARGE)) == "2 threads (OMP_NUM_THREADS is set)"


def test_the_quota_of_a_container_bounds_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_threads, "usable_cpus", lambda: 1)
    assert choose_threads(LARGE).count == 1


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": "strange\n"}, None),
        ({}, None),
    ],
)
def test_the_quota_is_read_from_both_versions_of_control_groups(
    tmp_path: Path, files: dict[str, str], quota: float | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert _cgroup_quota(tmp_path) == quota


def test_a_pass_leaves_the_callers_number_as_it_was() -> None:
    backbone = demo.load("pixel-animals").program.backbone
    seen: list[int] = []
    hook = backbone.model.visual.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    backbone.encode_pixels(torch.zeros(1, 3, 64, 64))
    hook.remove()
    assert seen == [backbone.cpu_threads.count]
    assert torch.get_num_threads() == 2


def test_an_error_inside_leaves_the_callers_number_as_it_was() -> None:
    with pytest.raises(ZeroDivisionError), limited_to(1):
        raise ZeroDivisionError
    assert torch.get_num_threads() == 2
    with limited_to(64):
        assert torch.get_num_threads() == 2

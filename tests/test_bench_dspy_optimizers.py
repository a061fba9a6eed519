"""DSPy's optimizers as methods of the bench: on the same program, within the number of evaluations that IPO makes."""

import logging
import runpy
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import dspy
import pytest

from helpers.bench_small import grid, run
from helpers.openai_server import KEY, OpenAIServer
from ipo_dspy import demo
from ipo_dspy.bench.dspy_optimizers import (
    EvaluationCounter,
    OptimizerBudget,
    compile_copro,
    compile_gepa,
    compile_mipro,
    compile_simba,
    suppress_output,
)
from ipo_dspy.bench.settings import Settings
from ipo_dspy.classifier import ClipClassifier
from ipo_dspy.errors import InputError

EXAMPLES = Path(__file__).parent.parent / "examples"
BUDGET = 500


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("compile_program", "least"),
    [(compile_copro, 0.5), (compile_mipro, 0.3), (compile_gepa, 0.9), (compile_simba, 0.3)],
)
def test_the_budget_is_kept_and_used(compile_program: Any, least: float) -> None:
    task = demo.load("pixel-animals", shots=1)
    lm: dspy.LM = runpy.run_path(str(EXAMPLES / "better_together.py"))["phrase_writer"]()
    counted = EvaluationCounter()
    with suppress_output(), dspy.context(callbacks=[counted]):
        best = compile_program(task.program.deepcopy(), OptimizerBudget(list(task.trainset), lm, BUDGET, 1))
    assert "<CLASS>" in str(best.template)
    # They cannot all be given a limit: a step that has begun is finished.
    assert least * BUDGET < counted.count <= 1.2 * BUDGET


def test_without_optuna_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(
        InputError, match=r"^Optuna must be installed for MIPROv2; run pip install 'ipo_dspy\[bench\]'$"
    ):
        compile_mipro(ClipClassifier(), OptimizerBudget([], dspy.LM("openai/a"), 10, 0))


def test_quiet_holds_for_the_thread_and_the_optimizers_only(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("dspy"), "propagate", True)
    with suppress_output():
        sys.stdout.write("an evaluation")
        warnings.warn("an evaluation", stacklevel=1)
        logging.getLogger("dspy.teleprompt").error("an evaluation")
        logging.getLogger("another").error("a fault")
        for stream in (sys.stdout, sys.stderr):
            thread = threading.Thread(target=print, args=("a display",), kwargs={"file": stream})
            thread.start()
            thread.join()
    assert capsys.readouterr() == ("a display\n", "a display\n")
    assert caplog.messages == ["a fault"]
    logging.getLogger("dspy.teleprompt").error("later")
    assert caplog.messages[-1] == "later"


def test_a_cell_of_copro_records_its_requests_and_its_result(
    tmp_path: Path, no_cache: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    fields = {"proposed_instruction": "pixel art of a <CLASS>.", "proposed_prefix_for_output_field": "Label:"}
    text = "\n\n".join(f"[[ ## {name} ## ]]\n{value}" for name, value in fields.items())
    with OpenAIServer({"proposed_instruction": text}) as server:
        given = {"api_base": server.url, "num_retries": 0}
        settings = Settings(steps=1, prompts_per_step=2, lm="openai/toy", lm_kwargs=given)
        few = grid(datasets=("pixel-animals",), methods=("copro",), seeds=(1,), settings=settings)
        (row,) = run(tmp_path, few).rows.values()
        assert not server.unseen
    assert row.error is None
    assert row.template == "pixel art of a <CLASS>."
    assert row.calls == len(server.requests)
    assert row.tokens == server.tokens
    assert row.cost is None  # nobody knows the price of a toy
    assert row.evaluations is not None
    assert 0 < row.evaluations <= 5 * (1 + 2)

"""Keys of cells, which differ where results may differ, and the rows on disk."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ipo_dspy._internal.renames import OLD_BENCH_SETTINGS
from ipo_dspy.baselines import build_method
from ipo_dspy.bench.author_settings import _SET, official
from ipo_dspy.bench.cells import Cell, Grid, distinct, without_conditions
from ipo_dspy.bench.registry import with_sentences
from ipo_dspy.bench.result_rows import ROWS, ResultLog, Row, read_rows
from ipo_dspy.bench.settings import Settings
from ipo_dspy.bench.suites import PAPER, DemoSuite, PaperSuite
from ipo_dspy.data import BENCHMARKS
from ipo_dspy.errors import InputError, JournalError

CELL = Cell("demo", "grey-food", "ipo", 1, 1, Settings())


def row(key: str, **more: object) -> Row:
    fields = {"suite": "demo", "dataset": "grey-food", "method": "ipo", "shots": 1, "seed": 1, "decisive": {}}
    return Row(**{**fields, "key": key, **more})  # type: ignore[arg-type]  # of many types


@pytest.mark.parametrize(
    "other",
    [
        replace(CELL, suite="paper"),
        replace(CELL, dataset="pixel-animals"),
        replace(CELL, method="clip"),
        replace(CELL, shots=16),
        replace(CELL, seed=2),
        *(
            replace(CELL, settings=replace(Settings(), **changed))
            for changed in (
                {"model": "ViT-B-16"},
                {"steps": 41},
                {"prompts_per_step": 4},
                {"history_size": 0},
                {"descriptions": False},
                {"feedback": "loss"},
                {"lm": "openai/gpt-4o-mini"},
                {"lm_kwargs": {"temperature": 0.5}},
                {"vlm": "openai/gpt-4o-mini"},
            )
        ),
    ],
    ids=lambda cell: str(cell),
)
def test_whatever_decides_a_result_is_in_the_key(other: Cell) -> None:
    assert other.key != CELL.key


def test_what_a_method_does_not_read_is_not_in_its_key() -> None:
    clip = replace(CELL, method="clip")
    other = replace(clip, shots=16, seed=3, settings=Settings(steps=1, lm="openai/gpt-4o-mini", feedback="loss"))
    assert clip.key == other.key
    assert clip.key != replace(clip, settings=Settings(model="ViT-B-16")).key
    assert CELL.key == replace(CELL, settings=Settings(arguments={"clip": {"x": 1}})).key


def test_what_the_authors_set_for_a_data_set_gives_way_to_the_user() -> None:
    cell = Cell("paper", "eurosat", "coprompt", 16, 1, Settings())
    assert cell.arguments == {"depth": 12, "n_ctx": 2, "consistency_weight": 0.1}
    assert replace(cell, suite="demo").arguments == {}
    assert Cell("paper", "food101", "coprompt", 16, 1, Settings()).arguments["epochs"] == 5
    assert Cell("paper", "imagenet", "coop", 16, 1, Settings()).arguments == {"epochs": 50}
    own: dict[str, dict[str, Any]] = {
        "coprompt": {"consistency_weight": 3.0, "n_ctx": 8},
        "coprompt@eurosat": {"n_ctx": 6},
        "coprompt@dtd": {"n_ctx": 1},
    }
    other = replace(cell, settings=Settings(arguments=own))
    assert other.arguments == {"depth": 12, "n_ctx": 6, "consistency_weight": 3.0}
    assert other.decisive["arguments"] == other.arguments
    assert other.key != cell.key


def test_sentences_are_in_the_key_and_rows_repeat_their_digest_only(tmp_path: Path) -> None:
    texts = {f"class {number}": [f"class {number} is seen from above."] for number in range(100)}
    keys = set()
    for name, sentences in (("a", texts), ("b", texts), ("c", {**texts, "class 0": ["another text."]})):
        (tmp_path / f"{name}.json").write_text(json.dumps(sentences))
        arguments = with_sentences(
            {"coprompt@dtd": {"sentences": str(tmp_path / f"{name}.json"), "consistency_weight": 3.0}}
        )
        cell = Cell("paper", "dtd", "coprompt", 16, 1, Settings(arguments=arguments))
        assert cell.arguments["sentences"] == sentences
        assert cell.decisive["arguments"]["sentences"].startswith("sha256:")
        assert cell.decisive["arguments"]["consistency_weight"] == 3.0
        assert len(json.dumps(cell.settings.plain)) < 2000
        keys.add(cell.key)
    assert len(keys) == 2  # wherever the file lies
    own: dict[str, dict[str, Any]] = {"coprompt": {"sentences": {"cat": ["a cat."]}}, "vpt": {"sentences": "no.json"}}
    assert with_sentences(own) == own
    with pytest.warns(DeprecationWarning, match="use batch_size="):
        assert with_sentences({"coop": {"batch": 4}}) == {"coop": {"batch_size": 4}}


def test_cells_of_other_code_devices_and_data_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    here = replace(CELL, device="cpu", data={"grey-food": "0"})
    others = [replace(here, device="cuda"), replace(here, data={"grey-food": "1"})]
    keys = {one.key for one in (here, *others)}
    assert {"code", "device", "dtype", "data"} <= here.decisive.keys()
    monkeypatch.setattr("ipo_dspy.bench.cells.code_digest", lambda: "of other code")
    assert len(keys | {here.key}) == 4
    assert without_conditions(here.decisive) == without_conditions(others[0].decisive)


def test_a_data_set_is_known_by_its_lists_and_names(tmp_path: Path) -> None:
    folder = tmp_path / "dtd"
    (folder / "images" / "dotted").mkdir(parents=True)
    (folder / "split_zhou_DescribableTextures.json").write_text("{}")
    suite = PaperSuite(tmp_path)
    seen = [suite.fingerprint("dtd")]
    (folder / "images" / "lined").mkdir()
    seen.append(suite.fingerprint("dtd"))
    (folder / "split_zhou_DescribableTextures.json").write_text("[]")
    seen.append(suite.fingerprint("dtd"))
    assert len(set(seen)) == 3
    assert suite.fingerprint("dtd") == seen[-1]
    assert DemoSuite().fingerprint("grey-food") != DemoSuite().fingerprint("pixel-animals")


def test_what_the_authors_set_is_taken_by_the_methods() -> None:
    for name in BENCHMARKS:
        for method in ("coop", "coprompt"):
            build_method(method, **official("paper", name, method))
    assert set(_SET["coprompt"]) == set(PAPER)


def test_a_password_in_an_address_decides_nothing_and_is_not_kept() -> None:
    one, two = (
        replace(
            CELL, settings=Settings(lm="openai/x", lm_kwargs={"api_base": f"http://me:{word}@host:80/v1?key={word}"})
        )
        for word in ("planted", "another")
    )
    assert one.key == two.key
    assert "planted" not in json.dumps(one.decisive)
    assert one.decisive["lm_kwargs"] == {"api_base": "http://host:80/v1"}


def test_a_grid_has_each_cell_once_and_ablations_share_the_usual_one() -> None:
    grid = Grid("demo", ("a", "b"), ("clip", "ipo"), (1, 16), (1, 2, 3), Settings())
    assert len(grid.cells()) == 2 * (1 + 2 * 3)
    varied = replace(grid, methods=("ipo",), variants={"20": {"history_size": 20}, "0": {"history_size": 0}})
    assert len(varied.cells()) == 2 * 2 * 3 * 2
    assert len(distinct([grid, varied])) == len(grid.cells()) + 2 * 2 * 3


def test_an_unknown_method_lists_the_known() -> None:
    with pytest.raises(InputError, match=r"unknown method 'copo'; known: clip, clip-ensemble, .*ipo, .*gepa"):
        _ = replace(CELL, method="copo").key


def test_rows_are_kept_and_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    with ResultLog(tmp_path) as rows:
        rows.append(row("a", base=50.0))
        rows.append(row("b", error="RuntimeError: no"))
    whole = (tmp_path / ROWS).read_bytes()
    for cut in range(1, len(whole)):
        (tmp_path / ROWS).write_bytes(whole[:cut])
        left = whole[:cut].count(b"\n")
        assert len(read_rows(tmp_path)) == left
    (tmp_path / ROWS).write_bytes(whole[:-5])
    with ResultLog(tmp_path) as rows:
        assert list(rows.latest) == ["a"]
        rows.append(row("b", base=40.0))
    assert [json.loads(line)["key"] for line in (tmp_path / ROWS).read_text().splitlines()] == ["a", "b"]


def test_a_later_row_of_a_cell_takes_the_place_of_an_earlier(tmp_path: Path) -> None:
    with ResultLog(tmp_path) as rows:
        rows.append(row("a", error="ValueError: no"))
        rows.append(row("a", base=50.0))
    assert read_rows(tmp_path)["a"].base == 50.0


def test_damage_in_the_middle_names_the_line(tmp_path: Path) -> None:
    (tmp_path / ROWS).write_text('{"key": "a"}\nnot a row\n')
    with pytest.raises(JournalError, match=r"rows.jsonl' is damaged in line 1"):
        ResultLog(tmp_path)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with ResultLog(tmp_path), pytest.raises(JournalError, match="is being written by another sweep"):
        ResultLog(tmp_path)
    with ResultLog(tmp_path):
        pass


def test_changed_settings_are_listed(tmp_path: Path) -> None:
    with ResultLog(tmp_path) as rows:
        rows.agree({"steps": 40, "lm": None})
        rows.agree({"steps": 5, "lm": None})  # nothing was measured under the first
        rows.append(row("a"))
    with ResultLog(tmp_path) as rows:
        rows.agree({"steps": 5, "lm": None})
        with pytest.raises(
            JournalError, match=r"steps was 5 and is 6; lm was None and is 'x'; .*pass allow_config_changes=True"
        ):
            rows.agree({"steps": 6, "lm": "x"})
        rows.agree({"steps": 6, "lm": "x"}, allow_config_changes=True)
        rows.agree({"steps": 6, "lm": "x"})


def test_rows_of_earlier_names_of_settings_are_found_again(tmp_path: Path) -> None:
    settings = Settings(lm="openai/x", lm_kwargs={"temperature": 0.5}, request_mode="single", history_only=True)
    cell = replace(CELL, method="ipo", settings=settings)
    decisive = json.dumps(dict(cell.decisive)).replace('"request_mode": "single"', '"asking": "singles"')
    plain = json.dumps(settings.plain).replace('"request_mode": "single"', '"asking": "singles"')
    for old, new in OLD_BENCH_SETTINGS.items():
        decisive, plain = decisive.replace(f'"{new}"', f'"{old}"'), plain.replace(f'"{new}"', f'"{old}"')
    assert '"window": true' in decisive
    assert "request_mode" not in decisive
    with ResultLog(tmp_path) as rows:
        rows.agree(json.loads(plain))
        rows.append(replace(row("an earlier key"), decisive=json.loads(decisive)))
    assert list(read_rows(tmp_path)) == [cell.key]
    with ResultLog(tmp_path) as rows:
        rows.agree(settings.plain)
        assert list(rows.latest) == [cell.key]

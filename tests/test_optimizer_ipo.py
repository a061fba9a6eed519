"""The optimizer on the bundled CLIP: results, determinism, composed programs, and every refusal before slow work."""

import json
from pathlib import Path
from typing import Any, cast

import dspy
import pytest
from torch.utils.data import Subset

from ipo_dspy import IPO, ClipClassifier, ClipDecider, demo
from ipo_dspy.errors import DataError, InputError, JournalError, LanguageModelError, TemplateError
from ipo_dspy.proposers import LMResponse, ProposalRequest, Proposals
from ipo_dspy.run.journal import replay
from ipo_dspy.run.state import RunState
from ipo_dspy.scoring.imagenet_prompts import imagenet_templates
from ipo_dspy.scoring.template_lists import PAPER
from ipo_dspy.template import Template

SHOTS = 3
"""Of the fixture `task`."""
LONG = [PAPER[name] for name in ("oxford_pets", "fgvc_aircraft")]
"""Templates of the paper that are too long for the bundled models."""


class Listed:
    """Proposes a fixed list, a few at a time."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def propose(self, ask: ProposalRequest) -> Proposals:
        first = (ask.step - 1) * ask.count
        texts = self.texts[first : first + ask.count]
        return Proposals(ask.once(f"step {ask.step}/0", lambda: LMResponse(texts, prompt_tokens=10)).texts)


class Explodes:
    """A proposer that must not be reached."""

    def propose(self, ask: ProposalRequest) -> Proposals:
        raise AssertionError("slow work began before the input was checked")


def templates(program: Any) -> list[str]:
    return [str(trial.template) for trial in program.detailed_results.trials]


def test_the_student_stays_and_a_better_copy_comes_back(task: demo.DemoTask, tmp_path: Path) -> None:
    optimizer = IPO(proposer="evolution", steps=4, log_dir=tmp_path / "run", seed=1)
    best = optimizer.compile(task.program, task.trainset, valset=task.valset)
    assert str(task.program.template) == "a photo of a <CLASS>."
    assert isinstance(best, ClipClassifier)
    results = best.detailed_results
    assert best.template == results.best.template
    assert str(results.baseline.template) == "a photo of a <CLASS>."
    search = results.searches[0]
    assert search.decided_by == "validation"
    start = next(f for f in search.finalists if f.trial.index == 0)
    assert search.finalists[0].rank <= start.rank
    scores = [row["score"] for row in best.candidate_programs]
    assert scores == sorted(scores, reverse=True)
    assert best.template in [row["program"].template for row in best.candidate_programs]
    assert ClipClassifier.from_file(tmp_path / "run" / "best.json").template == best.template
    events = replay(tmp_path / "run")
    assert [e["template"] for e in events if e["event"] == "trial"] == templates(best)
    assert events[0]["event"] == "run_started"
    assert events[-1]["event"] == "run_finished"
    assert {(e["split"], e["role"]) for e in events if e["event"] == "evaluation"} == {
        (split, role) for split in ("train", "validation") for role in ("start", "best")
    }


def test_the_same_seed_gives_the_same_trials(task: demo.DemoTask) -> None:
    runs = [IPO(proposer="evolution", steps=3, seed=seed).compile(task.program, task.trainset) for seed in (7, 7, 8)]
    assert runs[0].detailed_results.trials == runs[1].detailed_results.trials
    assert templates(runs[0]) != templates(runs[2])


def test_trainset_may_be_named_and_stats_left_out(task: demo.DemoTask) -> None:
    optimizer = IPO(proposer=Listed("pixel art of a <CLASS>."), steps=1, describer=None, track_stats=False)
    best = optimizer.compile(student=task.program, trainset=task.trainset)
    assert not hasattr(best, "detailed_results")


def test_rejections_are_counted_and_spending_is_reported(task: demo.DemoTask) -> None:
    listed = Listed(
        "a dog", "a photo of a <CLASS>.", "word " * 60 + "<CLASS>", "", "<INS>a <CLASS>", "pixel art of a <CLASS>."
    )
    best = IPO(proposer=listed, steps=1, describer=None, choose="best").compile(task.program, task.trainset)
    results = best.detailed_results
    assert dict(results.rejections) == {
        "no class placeholder": 1,
        "duplicate": 1,
        "too long": 1,
        "empty": 1,
        "cut off": 1,
    }
    assert (results.calls, results.tokens) == (1, 10)
    plain = results.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert (plain["status"], plain["spent"]["calls"]) == ("finished", 1)
    (search,) = plain["searches"]
    assert (search["predictor"], search["best"]) == ("self", str(best.template))
    assert [trial["template"] for trial in search["trials"]] == templates(best)
    assert search["trials"][0]["score"]["accuracy"] == results.baseline.score.accuracy
    assert [rejection["reason"] for rejection in search["rejections"]].count("duplicate") == 1
    assert len(results.trials) == 2


def test_initial_templates_are_scored_first(task: demo.DemoTask) -> None:
    optimizer = IPO(proposer=Listed(), steps=0, describer=None, initial_templates=["pixel art of a <CLASS>."])
    best = optimizer.compile(task.program, task.trainset)
    assert templates(best) == ["a photo of a <CLASS>.", "pixel art of a <CLASS>."]
    assert all(trial.step == 0 for trial in best.detailed_results.trials)


class Pair(dspy.Module):
    """Two classifiers, each with labels of its own, and a predictor that must stay as it is."""

    def __init__(self, task: demo.DemoTask) -> None:
        super().__init__()
        model = f"local-dir:{demo.model_path()}"
        self.animal = ClipClassifier(task.classes, model=model)
        self.group = ClipClassifier(["bird", "mammal"], model=model)
        self.explain = dspy.Predict("label -> reason")

    def forward(self, image: Any) -> dspy.Prediction:
        return dspy.Prediction(animal=self.animal(image=image).label, group=self.group(image=image).label)


def test_both_classifiers_of_a_program_are_optimized_and_nothing_else(task: demo.DemoTask) -> None:
    student = Pair(task)
    examples = [
        dspy.Example(image=e.image, label=e.label, group="mammal" if i % 3 else "bird").with_inputs("image")
        for i, e in enumerate(task.trainset)
    ]
    proposer = Listed("pixel art of a <CLASS>.", "<CLASS>")
    optimizer = IPO(proposer=proposer, steps=1, describer=None, label_field={"animal": "label", "group": "group"})
    best = optimizer.compile(student, examples)
    assert [s.predictor for s in best.detailed_results.searches] == ["animal", "group"]
    assert best.animal.template == best.detailed_results.searches[0].best.template
    assert best.group.template == best.detailed_results.searches[1].best.template
    assert best.explain.signature.instructions == student.explain.signature.instructions
    assert str(student.animal.template) == str(student.group.template) == "a photo of a <CLASS>."


def test_classes_given_at_call_time_limit_each_images_choice(task: demo.DemoTask) -> None:
    pairs = [sorted({e.label, task.classes[i % 5]} | {task.classes[-1]}) for i, e in enumerate(task.trainset)]
    examples = [
        dspy.Example(image=e.image, label=e.label, classes=names).with_inputs("image", "classes")
        for e, names in zip(task.trainset, pairs, strict=True)
    ]
    open_ended = ClipClassifier(model=f"local-dir:{demo.model_path()}")
    best = IPO(proposer=Listed("<CLASS>"), steps=1, describer=None).compile(open_ended, examples)
    limited = best.detailed_results.baseline.score
    full = IPO(proposer=Listed("<CLASS>"), steps=1, describer=None).compile(task.program, task.trainset)
    assert limited.accuracy >= full.detailed_results.baseline.score.accuracy
    right = sum(open_ended(**e.inputs()).label == e.label for e in examples)
    assert limited.accuracy == pytest.approx(100 * right / len(examples))


def test_without_any_model_the_error_names_the_three_ways(task: demo.DemoTask) -> None:
    with pytest.raises(LanguageModelError, match=r"prompt_model=.*dspy\.configure\(lm=.*proposer='evolution'"):
        IPO().compile(task.program, task.trainset)
    with pytest.raises(LanguageModelError, match="description_model"):
        IPO(proposer="evolution", describer="lm").compile(task.program, task.trainset)


def test_an_unknown_llm_name_is_refused_before_anything_slow(task: demo.DemoTask) -> None:
    with pytest.raises(LanguageModelError, match="prompt_model 'opnai/gpt-4o' is not a model that LiteLLM knows"):
        IPO(prompt_model="opnai/gpt-4o").compile(task.program, task.trainset)
    with pytest.raises(LanguageModelError, match="description_model 'nonsense' is not a model that LiteLLM knows"):
        IPO(proposer="evolution", description_model="nonsense").compile(task.program, task.trainset)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"auto": "huge"}, "'light', 'medium', 'heavy'"),
        (
            {"auto": "light", "steps": 3},
            "steps must be None if auto is given, got 3; pass either steps=3 or auto='light'",
        ),
        ({"steps": -1}, "steps must be an integer of at least 0, got -1; for example steps=8"),
        ({"steps": 1.5}, "steps must be an integer of at least 0, got 1.5"),
        ({"prompts_per_step": 0}, "prompts_per_step must be an integer of at least 1, got 0"),
        ({"patience": 0}, "patience must be an integer of at least 1, got 0"),
        ({"num_threads": -1}, "num_threads must be an integer of at least 1, got -1"),
        ({"log_dir": ""}, "log_dir must be the path of a folder, got ''"),
        ({"max_cost": float("inf")}, "max_cost must be .*, got inf"),
        (
            {"initial_templates": ["papers"]},
            "initial_templates must be templates with <CLASS>, 'paper' or 'imagenet-80', got 'papers'",
        ),
    ],
)
def test_bad_settings_are_refused_when_they_are_made(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        IPO(**arguments)


@pytest.mark.parametrize("arguments", [{"proposer": "gradient"}, {"proposer": "evolution", "describer": "poet"}])
def test_unknown_names_list_the_known_ones(arguments: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"must be one of ('auto', 'lm', 'clip'|'lm', 'evolution'), got"):
        IPO(**arguments)


def test_bad_examples_are_refused_before_anything_slow(task: demo.DemoTask, tmp_path: Path) -> None:
    optimizer = IPO(proposer=Explodes(), describer=None, log_dir=tmp_path / "run")
    with pytest.raises(DataError, match="trainset is empty"):
        optimizer.compile(task.program, [])
    stray = dspy.Example(image=task.trainset[0].image, label="dragonfruit").with_inputs("image")
    with pytest.raises(DataError, match=r"trainset\[1\] has the label 'dragonfruit'"):
        optimizer.compile(task.program, [task.trainset[0], stray])
    with pytest.raises(DataError, match=r"valset\[0\] has the label 'dragonfruit'"):
        optimizer.compile(task.program, task.trainset, valset=[stray])
    others: list[tuple[Any, str]] = [
        (None, "NoneType"),
        (5, "int"),
        ([dict(stray)], "dict"),
        ([stray, None], "NoneType"),
    ]
    for images, kind in others:
        with pytest.raises(
            DataError, match=rf"trainset must be a list of labeled examples, got a {kind}; pass dspy\.Ex"
        ):
            optimizer.compile(task.program, images)
    with pytest.raises(DataError, match=r"trainset\[0\] has the label 'dragonfruit'"):
        optimizer.compile(task.program, cast(Any, Subset(cast(Any, [*task.trainset, stray]), [len(task.trainset)])))
    with pytest.raises(InputError, match="holds no ClipClassifier"):
        optimizer.compile(dspy.Predict("question -> answer"), task.trainset)
    assert not (tmp_path / "run").exists()


def test_a_start_template_that_does_not_fit_is_refused_before_images_are_read(task: demo.DemoTask) -> None:
    program = ClipClassifier(
        task.classes, model=f"local-dir:{demo.model_path()}", template="very " * 40 + "long <CLASS>."
    )
    broken = [dspy.Example(image="missing.png", label=task.classes[0]).with_inputs("image")]
    with pytest.raises(TemplateError, match="shorten"):
        IPO(proposer=Explodes()).compile(program, broken)


def test_an_unwritable_log_dir_is_refused(task: demo.DemoTask, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="cannot be written"):
        IPO(proposer=Explodes(), log_dir=tmp_path / "file" / "run").compile(task.program, task.trainset)


def test_unreadable_images_are_named_or_left_out(task: demo.DemoTask, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_text("no picture")
    bad = dspy.Example(image=str(tmp_path / "broken.png"), label=task.classes[0]).with_inputs("image")
    examples = [*task.trainset, bad]
    with pytest.raises(DataError, match=r"broken\.png"):
        IPO(proposer=Explodes(), describer=None).compile(task.program, examples)
    seen: list[Any] = []
    optimizer = IPO(proposer=Listed(), steps=0, describer=None, skip_unreadable=True, observers=[seen.append])
    optimizer.compile(task.program, examples)
    assert next(e for e in seen if e["event"] == "search_started")["images"] == len(task.trainset)
    assert any("broken.png" in e["message"] for e in seen if e["event"] == "image_skipped")


def test_dspy_callbacks_see_the_compilation(task: demo.DemoTask) -> None:
    from dspy.utils.callback import BaseCallback

    class Watches(BaseCallback):
        def __init__(self) -> None:
            self.seen: list[str] = []

        def on_compile_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
            self.seen.append("start")

        def on_compile_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
            self.seen.append("end")

    callback = Watches()
    IPO(proposer=Listed(), steps=0, describer=None, callbacks=[callback]).compile(task.program, task.trainset)
    assert callback.seen == ["start", "end"]


def test_the_journal_holds_no_pictures(task: demo.DemoTask, tmp_path: Path) -> None:
    IPO(proposer=Listed("<CLASS>"), steps=1, log_dir=tmp_path).compile(task.program, task.trainset)
    text = (tmp_path / "journal.jsonl").read_text()
    assert "base64" not in text
    assert max(len(line) for line in text.splitlines()) < 20_000
    json.loads(text.splitlines()[0])


def test_a_template_object_is_taken_as_it_is() -> None:
    assert IPO(initial_templates=[Template.parse("a <CLASS>")]).config.templates[0].lines == ("a <CLASS>",)


def test_a_program_compiled_again_does_not_carry_its_earlier_story(task: demo.DemoTask) -> None:
    first = IPO(proposer=Listed("<CLASS>"), steps=1, describer=None).compile(task.program, task.trainset)
    silent = IPO(proposer=Listed("<CLASS>"), steps=1, describer=None, track_stats=False)
    second = silent.compile(first, task.trainset)
    assert not hasattr(second, "detailed_results")
    third = IPO(proposer=Listed("<CLASS>"), steps=1, describer=None).compile(first, task.trainset)
    assert not hasattr(third.candidate_programs[0]["program"], "candidate_programs")
    assert hasattr(first, "candidate_programs")


def test_unreadable_images_are_left_out_inside_a_program_too(task: demo.DemoTask, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_text("no picture")
    bad = dspy.Example(image=str(tmp_path / "broken.png"), label=task.classes[0], group="bird").with_inputs("image")
    good = [dspy.Example(image=e.image, label=e.label, group="bird").with_inputs("image") for e in task.trainset]
    seen: list[Any] = []
    fields = {"animal": "label", "group": "group"}
    optimizer = IPO(
        proposer=Listed(), steps=0, describer=None, skip_unreadable=True, observers=[seen.append], label_field=fields
    )
    optimizer.compile(Pair(task), [bad, *good])
    assert [e["images"] for e in seen if e["event"] == "search_started"] == [len(good)] * 2
    with pytest.raises(DataError, match=r"broken\.png"):
        IPO(proposer=Explodes(), describer=None, label_field=fields).compile(Pair(task), [bad, *good])


def test_one_string_of_initial_templates_is_not_a_list_of_letters() -> None:
    with pytest.raises(InputError, match=r"for example initial_templates=\['a <CLASS>\.'\]"):
        IPO(initial_templates="a <CLASS>.")


def test_published_templates_that_fit_are_scored_first(
    task: demo.DemoTask, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """The bundled model reads 32 tokens, fewer than two of the paper's prompts have."""
    given = ["a <CLASS>.", "paper", "imagenet-80"]
    made = IPO(proposer=Listed(), steps=0, describer=None, log_dir=tmp_path / "run", initial_templates=given)
    scored = templates(made.compile(task.program, task.trainset))
    expected = [str(task.program.template), "a <CLASS>.", *PAPER.values(), *imagenet_templates().lines]
    assert scored == [text for text in dict.fromkeys(expected) if text not in LONG]
    assert "self: 2 of 11 templates of 'paper' are longer than the model reads" in caplog.text
    assert RunState(replay(tmp_path / "run")).settings["initial_templates"] == given


def test_published_templates_fit_all_models(task: demo.DemoTask, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = ClipClassifier(task.classes, model="demo-vit").backbone
    monkeypatch.setattr(backbone, "context_length", 13)
    optimizer = IPO(proposer=Listed(), steps=0, describer=None, initial_templates="paper", also=[backbone])
    assert PAPER["imagenet"] in (scored := templates(optimizer.compile(task.program, task.trainset)))
    assert len(scored) < 1 + len(PAPER) - len(LONG)
    monkeypatch.setattr(backbone, "context_length", 8)
    with pytest.raises(TemplateError, match="the model takes 8"):
        optimizer.compile(task.program, task.trainset)


def test_a_refused_run_leaves_the_folder_free_for_the_next(task: demo.DemoTask, tmp_path: Path) -> None:
    broken = [dspy.Example(image=str(tmp_path / "missing.png"), label=task.classes[0]).with_inputs("image")]
    with pytest.raises(DataError, match="missing"):
        IPO(proposer=Explodes(), describer=None, log_dir=tmp_path / "run").compile(task.program, broken)
    assert not (tmp_path / "run").exists()
    IPO(proposer=Listed(), steps=0, describer=None, log_dir=tmp_path / "run").compile(task.program, task.trainset)


def test_a_program_is_saved_without_the_secrets_of_its_language_models(task: demo.DemoTask, tmp_path: Path) -> None:
    student = Pair(task)
    lm = dspy.LM(
        "openai/gpt-4o-mini",
        api_key="sk-planted-1",
        extra_headers={"Authorization": "Bearer planted-2"},
        extra_body={"auth": {"token": "planted-4"}, "mode": "fast"},
        api_base="http://user:planted-3@localhost/v1",
        temperature=0.5,
        engine="litellm",
    )
    student.set_lm(lm)
    examples = [dspy.Example(image=e.image, label=e.label, group="bird").with_inputs("image") for e in task.trainset]
    fields = {"animal": "label", "group": "group"}
    optimizer = IPO(proposer=Listed(), steps=0, describer=None, label_field=fields, log_dir=tmp_path)
    optimizer.compile(student, examples)
    saved = (tmp_path / "best.json").read_text()
    assert "planted" not in saved
    again = Pair(task)
    again.load(tmp_path / "best.json")
    assert (again.explain.lm.model, again.explain.lm.kwargs["temperature"]) == ("openai/gpt-4o-mini", 0.5)
    assert isinstance(again.animal.lm, ClipDecider)  # its own


def test_mlflow_cannot_write_into_the_optimizer() -> None:
    optimizer = IPO(proposer=Listed())
    optimizer.get_params()["student"] = "written"
    assert not hasattr(optimizer, "student")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"observers": print}, "observers must be a list, got one function"),
        ({"observers": [1]}, "observers must be a list of functions"),
        ({"observers": 5}, "observers must be a list of functions"),
        ({"describer": object()}, r"describer must have a method describe\(\)"),
        ({"proposer": object()}, r"proposer must have a method propose\(\)"),
        ({"backend": "gpu"}, r"backend must have a method check\(\), got 'gpu'"),
        ({"prefetch": "no"}, "prefetch must be True or False, got 'no'"),
        ({"skip_unreadable": 1}, "skip_unreadable must be True or False, got 1"),
        ({"track_stats": "no"}, "track_stats must be True or False"),
        ({"allow_config_changes": "no"}, "allow_config_changes must be True or False"),
        ({"progress": "no"}, "progress must be True or False"),
        ({"callbacks": "x"}, "callbacks must be a list of DSPy callbacks, got 'x'"),
        ({"callbacks": 5}, r"callbacks must be a list of DSPy callbacks, got 5; for example callbacks=\[callback\]"),
        ({"log_dir": 5}, "log_dir must be the path of a folder, got 5; for example log_dir='runs/1'"),
    ],
)
def test_arguments_of_a_wrong_type_are_refused_at_once(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        IPO(**{"proposer": "evolution", **wrong})


def test_a_flag_of_the_classifier_must_be_one() -> None:
    with pytest.raises(InputError, match="allow_url must be True or False, got 'no'"):
        ClipClassifier(["a", "b"], allow_url="no")  # type: ignore[arg-type]


def test_the_settings_make_an_equal_optimizer_and_hold_nothing_private(tmp_path: Path) -> None:
    lm = dspy.LM("openai/gpt-4o-mini", api_key="sk-planted-key", engine="litellm")
    options: dict[str, Any] = {"prompt_model": lm, "auto": "light", "max_tokens": 9, "seed": 3, "log_dir": tmp_path}
    optimizer = IPO(**options, observers=[print], initial_templates=["a <CLASS>."])
    params = optimizer.get_params()
    assert {"prompt_model": lm, "steps": 20, "max_tokens": 9, "seed": 3}.items() <= params.items()
    assert not [name for name in params if name.startswith("_") or name in {"plan", "limits"}]
    assert IPO(**params).get_params() == params
    params["new"] = 1
    assert "new" not in optimizer.get_params()
    text = repr(optimizer)
    assert text.startswith("IPO(prompt_model='openai/gpt-4o-mini', steps=20, ")
    assert "planted" not in text
    assert "seed=3" in text
    assert repr(IPO(proposer="evolution", steps=2)) == "IPO(proposer='evolution', steps=2, prefetch=False)"


def test_a_teacher_may_be_none_and_nothing_else(task: demo.DemoTask) -> None:
    optimizer = IPO(proposer=Listed(), steps=0, describer=None)
    assert optimizer.compile(task.program, trainset=task.trainset, teacher=None, valset=task.valset)
    with pytest.raises(InputError, match="teacher must be None, got a ClipClassifier"):
        optimizer.compile(task.program, trainset=task.trainset, teacher=task.program)  # type: ignore[arg-type]

"""The real loop with a toy scorer, a toy proposer and a toy clock: what holds whatever is proposed."""

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.toy_pairs import pairs_of
from ipo_dspy.clip.template_tokens import TemplateTokens
from ipo_dspy.errors import BudgetError, TemplateError
from ipo_dspy.lms.proposal_parsing import read_proposal
from ipo_dspy.optimizer.config import OptimizerConfig
from ipo_dspy.optimizer.final_stage import FINALISTS
from ipo_dspy.optimizer.search import STEPS_WITHOUT_TRIAL, Search, SearchResult
from ipo_dspy.optimizer.search_context import SearchContext
from ipo_dspy.proposers import EvolutionProposer, LMResponse, ProposalError, ProposalRequest, Proposals
from ipo_dspy.run.journal import FILE_NAME, Journal, replay
from ipo_dspy.run.ledger import Budget, Ledger
from ipo_dspy.run.recorder import EventRecorder
from ipo_dspy.scoring.comparison import PairTally
from ipo_dspy.scoring.score import Score
from ipo_dspy.template import Template

START = Template.parse("a photo of a <CLASS>.")
WORTH = {"blurry": 10.0, "dark": 20.0, "pixel": 15.0, "nice": -5.0}


class ToyScorer:
    """50 % plus what the words are worth; case does not matter to its tokenizer."""

    def __init__(self, worth: dict[str, float] = WORTH, context: int = 12) -> None:
        self.worth, self.context = worth, context
        self.scored: list[str] = []

    def check(self, template: Template) -> TemplateTokens:
        longest = max(len(line.split()) for line in template.lines) + 2
        if longest > self.context:
            raise TemplateError(f"template {str(template)!r} has {longest} tokens; shorten it", reason="too long")
        return TemplateTokens(str(template).lower(), longest)

    def score(self, templates: Sequence[Template]) -> list[Score]:
        self.scored += [self.check(template).key for template in templates]
        return [self._score(str(template)) for template in templates]

    def tally_pairs(self, templates: Sequence[Template]) -> PairTally:
        return pairs_of([self._score(str(template)) for template in templates])

    def _score(self, text: str) -> Score:
        gain = sum(worth for word, worth in self.worth.items() if word in text.lower())
        return Score(50.0 + gain, 1.0 - gain / 100.0)


class Script:
    """Gives out prepared answers in turn, or faults, and keeps what it was asked."""

    def __init__(self, *answers: Sequence[str] | ProposalError) -> None:
        self.answers, self.asked = list(answers), list[ProposalRequest]()

    def propose(self, ask: ProposalRequest) -> Proposals:
        self.asked.append(ask)
        answer = self.answers.pop(0) if self.answers else ()
        if isinstance(answer, ProposalError):
            raise answer
        texts = tuple(answer)
        kept = ask.once(f"step {ask.step}/0", lambda: LMResponse(texts, prompt_tokens=6, completion_tokens=4))
        return Proposals(kept.texts)


def configure(**given: Any) -> OptimizerConfig:
    return OptimizerConfig(**{"prefetch": False, "choose": "best", **given})


def toy_clock() -> Callable[[], float]:
    ticks: Iterator[int] = itertools.count()
    return lambda: float(next(ticks))


def search(
    proposer: Any,
    config: OptimizerConfig | None = None,
    *,
    scorer: ToyScorer | None = None,
    journal: Journal | None = None,
    observers: Sequence[Any] = (),
    initial: Sequence[Template] = (START,),
    validator: ToyScorer | None = None,
    limits: Budget | None = None,
    clock: Callable[[], float] = time.monotonic,
    stop: Callable[[], bool] = lambda: False,
) -> SearchResult:
    recorder = EventRecorder(journal, observers, past=() if journal is None else journal.past)
    steps = len(proposer.answers) if isinstance(proposer, Script) else 3
    engine = Search(
        scorer or ToyScorer(),
        SearchContext(
            proposer=proposer,
            config=config or configure(steps=steps),
            ledger=Ledger(recorder, limits, clock=clock),
            stop=stop,
        ),
        clock=toy_clock(),
    )
    return engine.run(initial, validator=validator)


proposed = st.lists(
    st.one_of(
        st.sampled_from(["a blurry <CLASS>.", "a BLURRY <CLASS>.", "a dog.", "", "<INS>a <CLASS>", "a \x00 <CLASS>"]),
        st.lists(st.sampled_from([*WORTH, "of", "very"]), max_size=14).map(lambda w: f"a {' '.join(w)} <CLASS>."),
    ),
    max_size=6,
)
script = st.lists(st.one_of(proposed, st.just(None)), max_size=6)


@given(script, st.dictionaries(st.sampled_from([*WORTH]), st.floats(-16, 16)))
def test_invariants(
    tmp_path_factory: pytest.TempPathFactory, answers: list[list[str] | None], validation_worth: dict[str, float]
) -> None:
    # A fault may come at any step but the first, which would be a proposer that never answered.
    script = Script([], *(ProposalError("busy") if answer is None else answer for answer in answers))
    scorer, validator = ToyScorer(), ToyScorer(validation_worth)
    folder = tmp_path_factory.mktemp("runs") / "run"
    seen: list[Any] = []
    with Journal(folder) as journal:
        result = search(script, scorer=scorer, validator=validator, journal=journal, observers=[seen.append])

    assert result.baseline.template == START
    assert result.finalists[0].rank <= min(f.rank for f in result.finalists)
    (start,) = (f for f in result.finalists if f.trial == result.baseline)
    assert result.finalists[0].deciding.accuracy >= start.deciding.accuracy
    assert len(scorer.scored) == len(set(scorer.scored)) == len(result.trials)
    assert [t.index for t in result.trials] == list(range(len(result.trials)))
    assert all(r.message and r.reason for r in result.rejections)
    said = [[], *answers, *[[]] * len(script.asked)]
    answered = [ask for ask, answer in zip(script.asked, said, strict=False) if answer is not None]
    given = sum(len(answer) for answer in [*answers][: max(0, len(script.asked) - 1)] if answer is not None)
    assert len(result.trials) - 1 + len(result.rejections) == given

    kept = replay(folder)
    assert kept == seen
    assert sum(e["event"] == "lm_response" for e in kept) == len({ask.step for ask in answered})
    assert [e["template"] for e in kept if e["event"] == "trial"] == [str(t.template) for t in result.trials]
    assert [e["reason"] for e in kept if e["event"] == "rejection"] == [r.reason for r in result.rejections]


def test_finds_the_better_template_and_leaves_the_worse() -> None:
    result = search(Script(["a nice <CLASS>.", "a blurry <CLASS>."], ["a dark blurry <CLASS>."], ["a dark <CLASS>."]))
    assert str(result.best.template) == "a dark blurry <CLASS>."
    assert (result.best.score.accuracy, result.status, result.decided_by) == (80.0, "finished", "train")
    assert str(search(Script(["a nice <CLASS>."])).best.template) == str(START)


def test_rejections_are_counted_by_reason_and_reported() -> None:
    script = Script(["a dog.", "a <CLASS> " + "very " * 20, "<INS>a <CLASS> in", "A PHOTO of a <CLASS>.", " "], ["x"])
    result = search(script)
    assert result.rejected == {
        "no class placeholder": 2,
        "too long": 1,
        "cut off": 1,
        "duplicate": 1,
        "empty": 1,
    }
    assert script.asked[0].rejected == ()
    rejected = script.asked[1].rejected
    assert "a dog. (no class placeholder: write <CLASS> where the class name goes)" in rejected
    assert "A PHOTO of a <CLASS>. (duplicate: tried before)" in rejected


def test_a_duplicate_is_shown_once_and_what_is_unusable_again() -> None:
    script = Script(["a photo of a <CLASS>.", "a dog."], ["a dark <CLASS>."], ["a blurry <CLASS>."])
    search(script)
    remedy = "write <CLASS> where the class name goes"
    shown = ["a photo of a <CLASS>. (duplicate: tried before)", f"a dog. (no class placeholder: {remedy})"]
    assert [list(ask.rejected) for ask in script.asked] == [[], shown, shown[1:]]


def test_the_proposer_sees_the_best_last_and_the_start_always() -> None:
    texts = [f"a {'very ' * i}blurry <CLASS>." for i in range(5)]
    script = Script(texts, ["a dark <CLASS>."], [])
    search(script, configure(steps=3, history_size=2, prompts_per_step=7, seed=5))
    ask = script.asked[2]
    assert [t.index for t in ask.shown] == [0, 1, 6]
    assert (len(ask.trials), ask.step, ask.count, ask.seed) == (7, 3, 7, 5)


def test_several_lines_are_an_ensemble_and_a_broken_line_is_joined() -> None:
    result = search(Script(["a blurry <CLASS>.\na dark < class >.", "a pixel\nphoto of a <CLASS>."]))
    assert [t.template.lines for t in result.trials[1:]] == [
        ("a blurry <CLASS>.", "a dark <CLASS>."),
        ("a pixel photo of a <CLASS>.",),
    ]
    assert read_proposal("\u201c a <CLASS>. \u201d") == Template.parse("a <CLASS>.")


@pytest.mark.parametrize("max_consecutive_errors", [1, 2, 3])
def test_faults_in_a_row_stop_it_and_everything_is_kept(tmp_path: Path, max_consecutive_errors: int) -> None:
    busy = [ProposalError("busy")] * max_consecutive_errors
    script = Script(["a blurry <CLASS>."], *busy[1:], ["a dark <CLASS>."], *busy, ["never asked <CLASS>"])
    with Journal(tmp_path / "run") as journal:
        result = search(script, configure(steps=9, max_consecutive_errors=max_consecutive_errors), journal=journal)
    assert (result.status, result.fault) == ("errors", "busy")
    assert (len(script.asked), len(result.trials)) == (2 + 2 * max_consecutive_errors - 1, 3)
    assert str(result.best.template) == "a dark <CLASS>."
    faults = [e for e in replay(tmp_path / "run") if e["event"] == "error"]
    assert [(e["step"], e["message"]) for e in faults] == [(2, "busy")] * (max_consecutive_errors - 1) + [
        (3, "busy")
    ] * max_consecutive_errors


def test_a_step_without_an_answer_is_asked_again_and_one_with_an_unusable_answer_is_over() -> None:
    script = Script(
        ["a blurry <CLASS>."],
        ProposalError("busy"),
        ProposalError("all refusals", answered=True),
        ["a dark <CLASS>."],
    )
    result = search(script, configure(steps=3))
    assert [ask.step for ask in script.asked] == [1, 2, 2, 3]
    assert (result.status, [t.step for t in result.trials]) == ("finished", [0, 1, 3])


def test_a_fault_that_no_retry_fixes_stops_at_once() -> None:
    script = Script(["a blurry <CLASS>."], ProposalError("wrong key", fatal=True), ["never asked <CLASS>"])
    result = search(script)
    assert (result.status, result.fault, len(script.asked)) == ("errors", "wrong key", 2)


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
@pytest.mark.parametrize("patience", [1, 2, None])
@pytest.mark.parametrize("initial", [(START,), (START, Template.parse("the <CLASS>."))])
def test_a_proposer_that_never_answers(steps: int, patience: int | None, initial: tuple[Template, ...]) -> None:
    script = Script(*[ProposalError("no such host")] * 20)
    result = search(script, configure(steps=steps, patience=patience), initial=initial)
    assert (result.status, result.fault, result.best) == (
        "errors",
        "no such host",
        min(result.trials, key=lambda t: t.rank),
    )
    assert len(script.asked) == 3


@pytest.mark.parametrize("patience", [1, None])
def test_a_search_without_one_usable_proposal_says_so_however_short(patience: int | None, tmp_path: Path) -> None:
    plan = configure(steps=1, patience=patience)
    for _ in range(2):  # the second session finds the only step taken
        with Journal(tmp_path / "run") as journal:
            refused = search(Script(ProposalError("refusals", answered=True)), plan, journal=journal)
        assert (refused.status, refused.fault, refused.best) == ("errors", "refusals", refused.baseline)
    useless = search(Script(["a dog.", "a cat.", str(START)]), configure(steps=1, patience=patience))
    fault = "all 3 proposals were rejected: 2 no class placeholder, 1 duplicate"
    assert (useless.status, useless.fault) == ("errors", fault)


def test_a_proposer_with_nothing_new_is_not_asked_for_ever() -> None:
    script = Script(["a blurry <CLASS>."], *[[]] * 50)
    result = search(script)
    assert (result.status, len(script.asked)) == ("exhausted", 1 + STEPS_WITHOUT_TRIAL)


@pytest.mark.parametrize("prefetch", [False, True])
def test_a_proposer_that_repeats_itself_is_given_up_after_three_steps(tmp_path: Path, prefetch: bool) -> None:
    plan = configure(steps=12, prefetch=prefetch)
    for asked in (4, 0):  # the second session knows it
        script = Script(*[["a blurry <CLASS>.", "a dark <CLASS>."]] * 12)
        with Journal(tmp_path) as journal:
            result = search(script, plan, journal=journal)
        assert (result.status, result.fault, len(script.asked)) == ("exhausted", None, asked)
        assert result.rejected == {"duplicate": 6}


def test_steps_in_which_everything_is_rejected_count_as_errors() -> None:
    useless = ["a dog.", "a cat.", str(START)]
    script = Script(["a blurry <CLASS>."], useless, useless, ["a dark <CLASS>.", "a dog."], *[useless] * 9)
    result = search(script)
    assert (result.status, len(script.asked)) == ("errors", 4 + 3)
    assert result.fault == "all 3 proposals were rejected: 2 no class placeholder, 1 duplicate"


def test_errors_of_both_kinds_are_counted_together_also_by_a_resumed_run(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        search(Script(["a blurry <CLASS>."], ["a dog."], ["a cat."]), journal=journal)
    script = Script(ProposalError("all refusals", answered=True), ["never asked <CLASS>"])
    with Journal(tmp_path) as journal:
        result = search(script, configure(steps=9), journal=journal)
    assert (result.status, result.fault, len(script.asked)) == ("errors", "all refusals", 1)


def test_repaired_placeholders_are_counted(tmp_path: Path) -> None:
    texts = ["a blurry <CLASS>.", "a dark {class}.", "a pixel <class>.", "a [CLASS] photo.", "a dog."]
    with Journal(tmp_path) as journal:
        result = search(Script(texts), journal=journal)
    assert [str(trial.template) for trial in result.trials[2:]] == [
        "a dark <CLASS>.",
        "a pixel <CLASS>.",
        "a <CLASS> photo.",
    ]
    (step,) = (event for event in replay(tmp_path) if event["event"] == "step")
    assert (step["proposed"], step["accepted"], step["repaired"]) == (5, 4, 3)


def test_stopping_ends_it_after_the_step() -> None:
    script = Script(*[[f"a {'very ' * i}dark <CLASS>."] for i in range(5)])
    result = search(script, stop=lambda: len(script.asked) == 2)
    assert (result.status, len(script.asked), len(result.trials)) == ("interrupted", 2, 3)


def test_a_limit_ends_it_with_what_was_found(tmp_path: Path) -> None:
    script = Script(*[[f"a {'very ' * i}dark <CLASS>."] for i in range(5)])
    with Journal(tmp_path / "run") as journal:
        result = search(script, journal=journal, limits=Budget(max_tokens=25))
    assert (result.status, len(result.trials)) == ("max_tokens", 1 + 3)  # ten tokens an answer: the third oversteps
    (reached,) = (e for e in replay(tmp_path / "run") if e["event"] == "limit_reached")
    assert (reached["limit"], reached["limit_value"], reached["spent"]) == ("max_tokens", 25, 30)


def test_time_runs_out_also_where_nothing_is_asked() -> None:
    given: dict[str, Any] = {"limits": Budget(max_seconds=2.5), "clock": toy_clock()}
    result = search(EvolutionProposer(), configure(steps=50), scorer=ToyScorer(context=30), **given)
    assert result.status == "max_seconds"
    assert len(result.trials) > 1


class Words:
    """Writes templates that depend on all that it is shown, at a price."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def propose(self, ask: ProposalRequest) -> Proposals:
        def answer() -> LMResponse:
            self.asked.append(ask.step)
            worth = sum(ord(c) for t in ask.trials for c in t.key) + len(ask.rejected)
            words = [list(WORTH)[(worth + i) % 4] for i in range(4)]
            texts = [f"a {words[0]} {words[1]} <CLASS>.", "a dog.", f"{words[2]} {'so ' * ask.step}a <CLASS>.", "x"]
            return LMResponse((*texts, texts[0]), prompt_tokens=1)

        return Proposals(ask.once(f"step {ask.step}/0", answer).texts)


@pytest.mark.end_to_end
@given(st.floats(0, 1), st.booleans())
def test_a_run_cut_anywhere_goes_on_to_the_same_end_and_asks_nothing_twice(
    tmp_path_factory: pytest.TempPathFactory, cut: float, prefetch: bool
) -> None:
    plan, folder = configure(steps=6, prefetch=prefetch), tmp_path_factory.mktemp("runs")
    with Journal(folder / "whole") as journal:
        whole = search(Words(), plan, journal=journal)
    content = (folder / "whole" / FILE_NAME).read_bytes()
    (folder / "cut").mkdir()
    (folder / "cut" / FILE_NAME).write_bytes(content[: round(cut * len(content))])
    for _ in range(2):
        proposer = Words()
        with Journal(folder / "cut") as journal:
            known = {e["request_id"] for e in journal.past if e["event"] == "lm_response"}
            again = search(proposer, plan, journal=journal)
        assert again.trials == whole.trials
        assert again.rejections == whole.rejections
        assert again.best == whole.best
        assert {f"step {step}/0" for step in proposer.asked} & known == set()
    assert proposer.asked == []


class Shaky(ToyScorer):
    """A scorer whose losses move in the seventh digit, as on another processor."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._noise = random.Random(seed)

    def _score(self, text: str) -> Score:
        score = super()._score(text)
        return Score(score.accuracy, score.loss + self._noise.uniform(-1e-6, 1e-6))


@settings(max_examples=15)
@given(st.floats(0, 1))
def test_what_was_scored_is_kept_and_a_seventh_digit_changes_no_rank(
    tmp_path_factory: pytest.TempPathFactory, cut: float
) -> None:
    folder = tmp_path_factory.mktemp("runs")
    with Journal(folder / "whole") as journal:
        whole = search(Words(), configure(steps=6), journal=journal, scorer=Shaky(1))
    content = (folder / "whole" / FILE_NAME).read_bytes()
    (folder / "cut").mkdir()
    (folder / "cut" / FILE_NAME).write_bytes(content[: round(cut * len(content))])
    with Journal(folder / "cut") as journal:
        kept = sum(event["event"] == "trial" for event in journal.past)
        again = search(Words(), configure(steps=6), journal=journal, scorer=Shaky(2))
    assert again.trials[:kept] == whole.trials[:kept]
    ranked = [[trial.key for trial in sorted(one.trials, key=lambda t: t.rank)] for one in (again, whole)]
    assert ranked[0] == ranked[1]
    assert again.best.key == whole.best.key


def test_with_overlap_the_next_question_is_asked_before_the_answers_are_scored() -> None:
    order: list[str] = []

    class Waits(ToyScorer):
        def score(self, templates: Sequence[Template]) -> list[Score]:
            if len(order) == 1:
                asked_again.wait(10)
            order.append("scored")
            return super().score(templates)

    class Announces:
        def propose(self, ask: ProposalRequest) -> Proposals:
            order.append(f"asked {ask.step}")
            if ask.step == 2:
                asked_again.set()
            shown.append([t.step for t in ask.trials])
            return Proposals((f"a {'very ' * ask.step}dark <CLASS>.",))

    asked_again, shown = threading.Event(), list[list[int]]()
    order.clear()
    search(Announces(), configure(steps=3, prefetch=True), scorer=Waits())
    assert order.index("asked 2") < [i for i, what in enumerate(order) if what == "scored"][1]
    assert shown == [[0], [0], [0, 1]]  # scores come a step late


def test_patience() -> None:
    script = Script(["a blurry <CLASS>."], [], ["a dark <CLASS>."], ["a nice <CLASS>."], [], ["never asked <CLASS>"])
    result = search(script, configure(steps=6, patience=2))
    assert (result.status, len(script.asked)) == ("patience", 5)


def test_the_validation_images_decide() -> None:
    answers = ["a blurry <CLASS>.", "a dark <CLASS>."]
    result = search(Script(answers), validator=ToyScorer({"blurry": 5.0, "dark": -5.0}))
    assert (str(result.best.template), result.decided_by) == ("a blurry <CLASS>.", "validation")
    result = search(Script(answers), validator=ToyScorer({"blurry": -5.0, "dark": -5.0}))
    assert result.best == result.baseline


def test_the_start_is_a_finalist_however_many_did_better() -> None:
    better = [f"a {'very ' * i}dark <CLASS>." for i in range(8)] + [f"a {'so ' * i}dark <CLASS>." for i in range(1, 8)]
    result = search(Script(better), validator=ToyScorer({"dark": -5.0}))
    assert len(result.finalists) == FINALISTS
    assert result.best == result.baseline


def test_a_resumed_run_with_another_start_template_compares_with_that_one(tmp_path: Path) -> None:
    better = [f"a {'very ' * i}blurry <CLASS>." for i in range(FINALISTS + 2)]
    with Journal(tmp_path) as journal:
        first = search(Script(better), scorer=ToyScorer(context=99), journal=journal)
    assert first.baseline.template == START
    nice = Template.parse("a nice <CLASS>.")  # worse than all others on training images, best on validation images
    given: dict[str, Any] = {"scorer": ToyScorer(context=99), "validator": ToyScorer({"nice": 40.0}, context=99)}
    with Journal(tmp_path) as journal:
        result = search(Script([]), configure(steps=1), journal=journal, initial=(nice,), **given)
    assert (result.baseline.template, result.best.template) == (nice, nice)
    assert len(result.trials) == len(first.trials) + 1


def test_initial_templates_are_the_callers_so_a_bad_one_is_an_error() -> None:
    twice = [START, Template.parse("A photo of a <CLASS>."), Template.parse("a dark <CLASS>.")]
    assert [str(t.template) for t in search(Script(), initial=twice).trials] == [str(START), "a dark <CLASS>."]
    with pytest.raises(TemplateError, match="tokens; shorten it"):
        search(Script(), initial=[Template.parse("very " * 20 + "<CLASS>")])


def test_same_seed_same_trials() -> None:
    def run(seed: int) -> list[str]:
        scorer = ToyScorer(context=30)
        result = search(EvolutionProposer(), configure(steps=4, prompts_per_step=3, seed=seed), scorer=scorer)
        return [str(t.template) for t in result.trials]

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_an_answer_on_its_way_is_kept_also_where_the_search_fails_meanwhile(tmp_path: Path) -> None:
    class Fails(ToyScorer):
        def score(self, templates: Sequence[Template]) -> list[Score]:
            if self.scored:
                begun.wait(10)
                raise RuntimeError("out of memory")
            return super().score(templates)

    class Slow:
        def propose(self, ask: ProposalRequest) -> Proposals:
            def answer() -> LMResponse:
                if ask.step == 2:
                    begun.set()
                    threading.Event().wait(0.1)
                return LMResponse((f"a {'very ' * ask.step}dark <CLASS>.",))

            return Proposals(ask.once(f"step {ask.step}/0", answer).texts)

    begun = threading.Event()
    with Journal(tmp_path) as journal, pytest.raises(RuntimeError, match="out of memory"):
        search(Slow(), configure(steps=3, prefetch=True), scorer=Fails(), journal=journal)
    assert [e["request_id"] for e in replay(tmp_path) if e["event"] == "lm_response"] == ["step 1/0", "step 2/0"]


def test_a_limit_in_the_middle_of_a_step_leaves_it_open_for_the_next_session(tmp_path: Path) -> None:
    class Two:
        """Asks twice a step, and gives what it has where it may not ask again."""

        def propose(self, ask: ProposalRequest) -> Proposals:
            texts = list(
                ask.once(f"step {ask.step}/0", lambda: LMResponse((f"a {'so ' * ask.step}dark <CLASS>.",))).texts
            )
            try:
                texts += ask.once(
                    f"step {ask.step}/1", lambda: LMResponse((f"a {'so ' * ask.step}blurry <CLASS>.",))
                ).texts
            except BudgetError as spent:
                return Proposals(tuple(texts), ended=spent)
            return Proposals(tuple(texts))

    plan = configure(steps=3)
    whole = search(Two(), plan)
    with Journal(tmp_path) as journal:
        part = search(Two(), plan, journal=journal, limits=Budget(max_lm_calls=3))
    assert (part.status, part.trials) == ("max_lm_calls", whole.trials[:4])  # what was paid for was tried
    with Journal(tmp_path) as journal:
        again = search(Two(), plan, journal=journal)
    assert (again.status, again.trials) == ("finished", whole.trials)

"""Proposers: one that needs no language model, and one that asks a real server on loopback."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pytest

from helpers.openai_server import KEY, OpenAIServer, Reply, text_of
from helpers.toy_pairs import pairs_of
from ipo_dspy.errors import BudgetError, InputError
from ipo_dspy.history import Trial
from ipo_dspy.lms.proposal_parsing import read_proposal
from ipo_dspy.optimizer.config import OptimizerConfig
from ipo_dspy.optimizer.search import Search
from ipo_dspy.optimizer.search_context import SearchContext
from ipo_dspy.phrase_bank import BANK, PLAIN_WORDS, Phrase
from ipo_dspy.proposers import EvolutionProposer, LMProposer, ProposalError, ProposalRequest, Proposals
from ipo_dspy.proposers.description_selection import tokens_in
from ipo_dspy.run.journal import FILE_NAME, Journal
from ipo_dspy.run.ledger import Budget, Ledger, Usage
from ipo_dspy.run.recorder import EventRecorder
from ipo_dspy.scoring.score import Score
from ipo_dspy.template import PLACEHOLDER, Template

LANDSCAPE = {"pixel art": 10.0, "blurry": 8.0, "on a dark background": 8.0, "inverted": 6.0, "photo": -4.0}


def accuracy(text: str) -> float:
    return 50.0 + sum(worth for phrase, worth in LANDSCAPE.items() if phrase in text)


def trial(text: str, index: int = 0, value: float | None = None) -> Trial:
    score = Score(accuracy(text) if value is None else value, 1.0)
    return Trial(Template.parse(text), score, index=index, step=0, tokens=9, key=text)


def asked(trials: list[Trial], **changes: Any) -> ProposalRequest:
    shown = tuple(sorted(trials, key=lambda t: t.rank, reverse=True))
    return ProposalRequest(**{"step": 1, "count": 8, "shown": shown, "trials": tuple(trials), **changes})


@cache  # a longer evolution begins with a shorter one
def evolve(seed: int, steps: int) -> list[Trial]:
    if not steps:
        return [trial("a photo of a <CLASS>.")]
    trials = evolve(seed, steps - 1)
    texts = EvolutionProposer().propose(asked(trials, step=steps, seed=seed)).texts
    return [*trials, *(trial(text, len(trials) + i) for i, text in enumerate(texts))]


def test_evolution_says_the_same_in_fewer_words() -> None:
    tied = [trial("a tilted rendering of a <CLASS> in shades of grey, hard to see."), trial("a <CLASS>.")]
    ask = replace(asked(tied), shown=tuple(tied))
    texts = EvolutionProposer().polish(ask).texts
    assert texts[0] == "a tilted grey rendering of a <CLASS>, hard to see."
    assert "a faint tilted grey rendering of a <CLASS>." in texts
    assert EvolutionProposer().polish(replace(ask, count=1)).texts == texts[:1]
    bank = tuple(phrase for phrase in BANK if phrase.text != "grey")
    assert not any("grey rendering" in text for text in EvolutionProposer(phrases=bank).polish(ask).texts)


def test_plain_words_are_shorter_phrases_of_the_bank_that_exclude_what_they_replace() -> None:
    groups = {phrase.text: set(phrase.groups) for phrase in BANK}
    for longer, plain in PLAIN_WORDS.items():
        assert len(plain.split()) < len(longer.split())
        assert groups[longer] & groups[plain], (longer, plain)


def test_evolution_is_a_pure_function_of_what_it_is_shown() -> None:
    proposer, ask = EvolutionProposer(), asked(evolve(0, 2), step=7, descriptions=("blurry",))
    first = proposer.propose(ask)
    proposer.propose(asked(evolve(1, 1)))
    assert proposer.propose(ask) == first == EvolutionProposer().propose(ask)
    assert proposer.propose(asked(list(ask.trials), step=8)).texts != first.texts
    assert len(first.texts) == 8


ELSEWHERE = """
import sys; sys.path.insert(0, sys.argv[1])
from test_proposers import evolve
print("\\n".join(str(t.template) for t in evolve(3, 3)))
"""


@pytest.mark.end_to_end
def test_evolution_is_the_same_in_every_process() -> None:
    here = [str(t.template) for t in evolve(3, 3)]
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, Path(__file__).parent],
        env={**os.environ, "PYTHONHASHSEED": "1"},  # here it is another one, drawn by Python
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == here


def test_evolution_never_proposes_what_was_tried() -> None:
    for seed in range(2):
        texts = [str(t.template).casefold() for t in evolve(seed, 6)]
        assert len(texts) == len(set(texts)) == 1 + 6 * 8


def test_what_evolution_writes_can_be_read() -> None:
    texts = [str(t.template) for seed in range(3) for t in evolve(seed, 8)]
    for text in texts:
        assert text.count(PLACEHOLDER) == 1, text
        assert "  " not in text, text
        assert text == text.strip(), text
        assert len(text.split()) <= 25, text
        assert not re.search(r"\ba (?:[aeiou]|x-)|\ban (?![aeiou]|x-)|\b(?:an?|the) (?:an?|the|of)\b", text), text
        assert not re.search(r"\bof (?:of|$|[.,])|\s[,.:]|[,:][,.:]|\.\.", text), text


@pytest.mark.end_to_end
@pytest.mark.parametrize("text", ["<CLASS>", "una foto de <CLASS>", "<CLASS>: a <CLASS>.", "a <CLASS>.\nthe <CLASS>."])
def test_evolution_starts_from_any_template(text: str) -> None:
    texts = EvolutionProposer().propose(asked([trial(text)])).texts
    assert len(texts) == 8
    assert all(Template.parse(one) for one in texts)


def random_best(seed: int, budget: int) -> float:
    """The best of as many captions with two random phrases of the same bank."""
    rng = np.random.default_rng(seed)
    by = {p: [x.text for x in BANK if x.position == p] for p in ("noun", "adjective", "after")}
    draw: Callable[[str], str] = lambda position: str(rng.choice(by[position]))  # noqa: E731
    return max(accuracy(f"a {draw('adjective')} {draw('noun')} of a <CLASS> {draw('after')}.") for _ in range(budget))


@pytest.mark.end_to_end
def test_evolution_finds_a_planted_optimum_far_better_than_random_draws() -> None:
    seeds = range(3)
    found = [max(t.score.accuracy for t in evolve(seed, 15)) for seed in seeds]
    drawn = [random_best(seed, 120) for seed in seeds]
    assert all(mine >= other for mine, other in zip(found, drawn, strict=True))
    assert np.mean(found) >= np.mean(drawn) + 6.0


@pytest.mark.end_to_end
def test_phrases_that_helped_come_more_often() -> None:
    def share(phrase: str, value: float) -> float:
        trials = [trial("a photo of a <CLASS>.", 0, 50.0), trial(f"a {phrase} photo of a <CLASS>.", 1, value)]
        trials += [trial(f"a {w} photo of a <CLASS>.", i, 50.0) for i, w in enumerate(["nice", "old", "big"], 2)]
        texts = [t for s in range(6) for t in EvolutionProposer().propose(asked(trials, seed=s)).texts]
        return sum(phrase in text for text in texts) / len(texts)

    assert share("grainy", 80.0) > share("grainy", 50.0) + 0.2
    assert share("grainy", 50.0) > share("grainy", 20.0)


def test_described_phrases_are_tried_first() -> None:
    def count(*descriptions: str) -> int:
        asks = [asked([trial("a photo of a <CLASS>.")], descriptions=descriptions, seed=seed) for seed in range(6)]
        return sum("watercolor" in text for ask in asks for text in EvolutionProposer().propose(ask).texts)

    assert count("watercolor painting, dark", "watercolor painting") > count("dark") + 5


def test_a_bank_of_ones_own() -> None:
    bank = (
        Phrase("X-ray", "medium", "noun"),
        Phrase("Frontal", "viewpoint", "adjective"),
        Phrase("in CT", "medium", "after"),
    )
    trials = [trial("a photo of a <CLASS>."), trial("an X-ray of a Frontal <CLASS> in CT.", 1)]
    texts = EvolutionProposer(phrases=bank).propose(asked(trials)).texts
    assert any("X-ray" in text for text in texts)
    with pytest.raises(InputError, match=r"phrases has no 'adjective' phrase; extend the bank: \(\*BANK, Phrase"):
        EvolutionProposer(phrases=bank[:1])


@pytest.fixture
def _own_cache(tmp_path: Path) -> Iterator[None]:
    before = dspy.cache
    dspy.configure_cache(disk_cache_dir=str(tmp_path / "cache"))
    yield
    dspy.cache.disk_cache.close()
    dspy.cache = before


def tagged(*texts: str) -> str:
    return "\n".join(f"<INS>{text}</INS>" for text in texts)


FIRST = [f"a {word} photo of a <CLASS>." for word in ("dark", "blurry", "old")]
ASK = asked([trial("a photo of a <CLASS>.")], count=3, task="Tell apart images of 2 classes: cat, dog.")


def propose(lm: dspy.BaseLM, ask: ProposalRequest = ASK, **options: Any) -> tuple[Proposals, Usage]:
    """Return the answer of a proposer, and its cost."""
    ledger = Ledger()
    once = partial(ledger.once, "self")
    return LMProposer(lm, **options).propose(replace(ask, once=once)), ledger.spent


@pytest.mark.usefixtures("_own_cache")
def test_one_request_brings_all_templates_and_the_cache_the_rest() -> None:
    with OpenAIServer({"Write 3 new": tagged(*FIRST)}) as server:
        proposals, spent = propose(server.lm())
        assert list(proposals.texts) == FIRST
        assert (spent.calls, spent.tokens, spent.unpriced, spent.estimated) == (1, server.tokens, 1, 0)
        (body,) = server.requests
        assert "a photo of a <CLASS>. (46.00 %, loss 1.000)" in text_of(body)
        assert ASK.task in text_of(body)
        assert "rollout_id" not in body

        again, spent = propose(server.lm())
        assert (again.texts, spent.calls, spent.tokens, len(server.requests)) == (proposals.texts, 0, 0, 1)
        propose(server.lm(), asked(list(ASK.trials), count=3, task=ASK.task, seed=1))
        assert len(server.requests) == 2
        assert server.unseen == []


@pytest.mark.usefixtures("_own_cache")
@pytest.mark.parametrize("texts", [FIRST[:1], FIRST[:2], [*FIRST, "a <CLASS>."], [*FIRST[:1], "a dog."]])
def test_a_step_takes_what_one_request_brings(texts: list[str]) -> None:
    with OpenAIServer({"Write 3 new": tagged(*texts)}) as server:
        proposals, spent = propose(server.lm())
        assert (list(proposals.texts), spent.calls, len(server.requests)) == (texts, 1, 1)


ANSWERS = json.loads((Path(__file__).parent / "data" / "answers.json").read_text())


@pytest.mark.usefixtures("_own_cache")
@pytest.mark.parametrize("given", ANSWERS, ids=[given["kind"] for given in ANSWERS])
def test_a_recorded_answer_takes_one_request(given: dict[str, Any]) -> None:
    with OpenAIServer({"Write 8 new": given["answer"]}) as server:
        ask = replace(ASK, count=8)
        if given["templates"]:
            texts = [str(read_proposal(text)) for text in propose(server.lm(), ask)[0].texts]
            assert texts == given["templates"]
        else:
            with pytest.raises(ProposalError, match="nothing in the answer can be used"):
                propose(server.lm(), ask)
        assert len(server.requests) == 1


@pytest.mark.usefixtures("_own_cache")
@pytest.mark.parametrize(
    "answer",
    [
        json.dumps(FIRST),
        json.dumps({"templates": FIRST}),
        f"<think>{tagged('a draft <CLASS>')}</think>{tagged(*FIRST)}",
        f"{tagged('a draft <CLASS>')}\n</think>\n{tagged(*FIRST)}",
        "<INS>" + "\n".join(FIRST) + "</INS>",
    ],
)
def test_a_list_in_another_form_takes_one_request(answer: str) -> None:
    with OpenAIServer({"Write 3 new": answer}) as server:
        proposals, spent = propose(server.lm())
        assert (list(proposals.texts), spent.calls) == (FIRST, 1)
        assert server.unseen == []


@pytest.mark.usefixtures("_own_cache")
def test_an_answer_that_is_one_unfinished_thought_is_a_fault() -> None:
    with OpenAIServer({"Write 3 new": "<think>Perhaps <INS>a <CLASS>.</INS>"}) as server:
        with pytest.raises(ProposalError, match="cut off within its thoughts; raise max_tokens"):
            propose(server.lm())
        assert len(server.requests) == 1


@pytest.mark.usefixtures("_own_cache")
def test_singles_are_requests_at_the_same_time() -> None:
    with OpenAIServer({"Write 1 new": tagged(FIRST[0])}, together=3) as server:
        proposals, spent = propose(server.lm(), request_mode="single", num_threads=3)
    assert (proposals.texts, spent.calls, server.unseen) == ((FIRST[0],) * 3, 3, [])


@pytest.mark.usefixtures("_own_cache")
def test_draws_are_completions_of_one_request_and_one_that_cannot_be_read_takes_nothing_from_the_others() -> None:
    reply = Reply(tagged(FIRST[0]), more=("I would rather not.", "", tagged(FIRST[1])))
    with OpenAIServer({"Write 1 new": reply}) as server:
        proposals, spent = propose(server.lm(), replace(ASK, count=4), request_mode="samples")
        (body,) = server.requests
    assert (body["n"], list(proposals.texts), spent.calls) == (4, FIRST[:2], 1)


def test_an_unknown_way_of_asking_lists_the_known() -> None:
    with pytest.raises(
        InputError, match="request_mode must be one of 'auto', 'batch', 'samples', 'single', got 'many'"
    ):
        LMProposer(request_mode="many")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="descriptions must be one of 'even', 'rotate', 'summary', got 'all'"):
        LMProposer(descriptions="all")  # type: ignore[arg-type]


@pytest.mark.usefixtures("_own_cache")
def test_a_limit_between_two_steps_leaves_the_first() -> None:
    with OpenAIServer({"Write 3 new": tagged(*FIRST[:2])}) as server:
        ask = replace(ASK, once=partial(Ledger(limits=Budget(max_lm_calls=1)).once, "self"))
        assert list(LMProposer(server.lm()).propose(ask).texts) == FIRST[:2]
        with pytest.raises(BudgetError, match="the limit of 1 LLM calls is reached"):
            LMProposer(server.lm()).propose(replace(ask, step=2))
        assert len(server.requests) == 1


@pytest.mark.usefixtures("_own_cache")
@pytest.mark.parametrize(
    ("reply", "message", "answered", "fatal"),
    [
        (Reply("overloaded", status=500), "gave no proposals: .*overloaded", False, False),
        (Reply(f"Wrong key: {KEY}", status=401), r"gave no proposals: .*key: \[hidden\]", False, True),
        (Reply("no such model", status=404), "gave no proposals: .*no such model", False, True),
        (Reply(body=b"<html>not JSON</html>"), "gave no proposals: ", False, False),
        (Reply(body=b"{}"), "gave no proposals: ", False, False),
        (Reply("I would rather not."), "can be used: 'I would rather not.'", True, False),
        (Reply(""), "the answer is empty", True, False),
        (Reply("", finish_reason="content_filter"), "content filter withheld the answer", True, False),
    ],
    ids=["500", "401", "404", "garbage", "empty object", "no template", "empty", "content filter"],
)
def test_what_goes_wrong_is_a_proposal_error(reply: Reply, message: str, answered: bool, fatal: bool) -> None:
    ledger = Ledger()
    with OpenAIServer({"Write 3 new": reply}) as server, pytest.raises(ProposalError, match=message) as caught:
        LMProposer(server.lm()).propose(replace(ASK, once=partial(ledger.once, "self")))
    assert KEY not in str(caught.value)
    assert (caught.value.answered, caught.value.fatal, ledger.spent.calls) == (answered, fatal, int(answered))


@pytest.mark.usefixtures("_own_cache")
def test_a_prompt_that_overflows_is_asked_with_fewer_descriptions_and_that_is_said() -> None:
    class Small(OpenAIServer):
        def answer(self, body: dict[str, Any]) -> Reply:
            self.requests.append(body)
            said = text_of(body)
            if len(said) > 3000:
                error = {"message": "maximum context length is 700 tokens", "code": "context_length_exceeded"}
                return Reply(status=400, body=json.dumps({"error": error}).encode())
            return Reply(tagged(*FIRST))

    logged: list[str] = []
    descriptions = tuple(f"a dark photo, grainy, number {i} {'of many ' * 8}" for i in range(60))
    ask = replace(ASK, descriptions=descriptions, log=logged.append)
    with Small({}) as server:
        proposer = LMProposer(server.lm())
        assert list(proposer.propose(ask).texts) == FIRST
        sizes = [len(text_of(body)) for body in server.requests]
        assert sizes == sorted(sizes, reverse=True)
        assert len(logged) == len(sizes) - 1 > 0
        assert "exceeds the context window of openai/toy; retrying with 50.0% of the descriptions" in logged[0]
        proposer.propose(replace(ask, step=2))
        assert len(server.requests) == len(sizes) + 1  # the window is learned once, not at each step


@pytest.mark.usefixtures("_own_cache")
def test_a_context_that_is_too_small_for_anything_ends_in_one_error() -> None:
    error = {"message": "maximum context length is 7 tokens", "code": "context_length_exceeded"}
    reply = Reply(status=400, body=json.dumps({"error": error}).encode())
    with OpenAIServer({"Write 3 new": reply}) as server, pytest.raises(ProposalError, match="maximum context"):
        LMProposer(server.lm()).propose(ASK)
    assert len(server.requests) < 10


@pytest.mark.usefixtures("_own_cache")
@pytest.mark.parametrize(("way", "changes"), [("even", False), ("rotate", True), ("summary", False)])
def test_descriptions_keep_to_their_budget(way: Any, changes: bool) -> None:
    descriptions = tuple(f"a grainy photo, number {i} of many" for i in range(500))
    summary = '[[ ## summary ## ]]\n["All are grainy."]\n\n[[ ## completed ## ]]'
    with OpenAIServer({"Write 3 new": tagged(*FIRST), "how the images of a data set look": summary}) as server:
        proposer = LMProposer(server.lm(), descriptions=way, description_tokens=400)
        ledger = Ledger()
        for step in (1, 2):
            ask = replace(ASK, step=step, descriptions=descriptions, once=partial(ledger.once, "self"))
            proposer.propose(ask)
        assert server.unseen == []
        asked = [text_of(body) for body in server.requests]
    first, second = (
        [line for line in text.splitlines() if line.startswith("- ") and "grainy" in line]
        for text in asked
        if "Write 3 new" in text
    )
    assert sum(map(tokens_in, first)) <= 450
    assert (first != second) == changes
    assert len(asked) == (3 if way == "summary" else 2)  # the summary is made once a run
    assert (first == ["- All are grainy."]) == (way == "summary")


def test_a_server_that_is_not_there() -> None:
    with OpenAIServer({}) as server:
        lm = server.lm(cache=False)
    with pytest.raises(ProposalError, match="gave no proposals") as caught:
        LMProposer(lm).propose(ASK)
    assert not caught.value.answered


@pytest.mark.usefixtures("_own_cache")
def test_no_key_in_journal_or_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class FlatScorer:
        def check(self, template: Template) -> Any:
            return type("Checked", (), {"key": str(template), "longest": 9})

        def score(self, templates: Any) -> list[Score]:
            return [Score(50.0, 1.0) for _ in templates]

        def tally_pairs(self, templates: Any) -> Any:
            return pairs_of(self.score(templates))

    refused = Reply(f"bad key {KEY} in Bearer {KEY}", status=500)
    replies: dict[str, Reply | str] = {"blurry photo": refused, "Write 3 new": tagged(*FIRST)}
    caplog.set_level("DEBUG", "ipo_dspy")
    with OpenAIServer(replies) as server, Journal(tmp_path / "run") as journal:
        config = OptimizerConfig(steps=3, prompts_per_step=3, prefetch=False)
        ledger = Ledger(EventRecorder(journal))
        engine = Search(FlatScorer(), SearchContext(proposer=LMProposer(server.lm()), config=config, ledger=ledger))
        result = engine.run([Template.parse("a photo of a <CLASS>.")])
        assert (result.status, server.unseen) == ("errors", [])
    kept = (tmp_path / "run" / FILE_NAME).read_text()
    assert "[hidden]" in kept
    assert KEY not in kept
    assert server.url not in kept
    assert KEY not in caplog.text


CHAT = '[[ ## templates ## ]]\n["a dark <CLASS>.", "the <CLASS>."]\n\n[[ ## completed ## ]]'
JSON = '{"templates": ["a dark <CLASS>.", "the <CLASS>."]}'


@pytest.mark.usefixtures("_own_cache")
@pytest.mark.parametrize(
    ("adapter", "reply"), [(dspy.ChatAdapter(), CHAT), (dspy.JSONAdapter(), JSON)], ids=["chat", "json"]
)
def test_other_adapters_work_too(adapter: dspy.Adapter, reply: str) -> None:
    with OpenAIServer({"a photo of a <CLASS>.": reply}) as server:
        ask = asked(list(ASK.trials), count=2)
        proposals = LMProposer(server.lm(), adapter=adapter).propose(ask)
        assert proposals.texts == ("a dark <CLASS>.", "the <CLASS>.")
        assert server.unseen == []


@pytest.mark.usefixtures("_own_cache")
def test_without_a_model_of_its_own_the_configured_one_is_asked() -> None:
    with OpenAIServer({"Write 3 new": tagged(*FIRST)}) as server, dspy.context(lm=server.lm()):
        assert list(LMProposer().propose(ASK).texts) == FIRST

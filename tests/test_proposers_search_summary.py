"""The request for templates: its parts on a search so far, and their order."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from helpers.toy_pairs import pairs_of
from ipo_dspy.errors import TemplateError
from ipo_dspy.history import Trial
from ipo_dspy.lms.adapters import ProposalAdapter
from ipo_dspy.lms.signatures import ProposeTemplates
from ipo_dspy.optimizer.config import OptimizerConfig
from ipo_dspy.optimizer.search import Search
from ipo_dspy.optimizer.search_context import SearchContext
from ipo_dspy.proposers import ProposalRequest, Proposals
from ipo_dspy.proposers.search_summary import briefing, described_phrases, phrase_effects, unlike
from ipo_dspy.run.ledger import Ledger
from ipo_dspy.run.recorder import EventRecorder
from ipo_dspy.scoring.score import Score
from ipo_dspy.template import Template

WORTH = {"blurry": 9.0, "grey": -6.0, "sketch": 4.0}


def trial(text: str, index: int, accuracy: float | None = None) -> Trial:
    value = 50.0 + sum(worth for word, worth in WORTH.items() if word in text) if accuracy is None else accuracy
    return Trial(Template.parse(text), Score(value, 2.0 - value / 100), index=index, step=index, tokens=9, key=text)


TEXTS = (
    "a photo of a <CLASS>.", "a blurry photo of a <CLASS>.", "a grey photo of a <CLASS>.", "a sketch of a <CLASS>.",
    "a blurry sketch of a <CLASS>.", "a blurry grey sketch of a <CLASS>.", "a blurry grey photo of a <CLASS>.",
    "a <CLASS> at night.", "the <CLASS>, a cartoon."
)  # fmt: skip
TRIALS = tuple(trial(text, index) for index, text in enumerate(TEXTS))
ASK = ProposalRequest(
    step=3,
    count=8,
    shown=TRIALS,
    trials=TRIALS,
    rejected=("a dog. (no class placeholder)",),
    descriptions=("blurry, at night", "blurry, in pale colors", "blurry"),
    guessed=True,
    task="Tell apart images of 2 classes: cat, dog.",
    steps=6,
    images=400,
    error=1.1,
    max_tokens=32,
    pending=("a dim <CLASS>.",),
)


def text_of(ask: ProposalRequest = ASK, feedback: Any = "both", count: int = 8) -> str:
    inputs = briefing(ask, count, list(ask.descriptions), feedback)
    system, user = ProposalAdapter().format(ProposeTemplates, [], inputs)
    assert system["content"] == ProposeTemplates.instructions
    return str(user["content"])


def test_a_request_says_what_is_known_and_what_stays_the_same_comes_first() -> None:
    text = text_of()
    parts = [
        "Task: Tell apart images of 2 classes: cat, dog.",
        "How training images look (share of images, guessed by CLIP, some are wrong): blurry 100%, at night 33%,",
        "Step 3 of 6, 9 templates tried on 400 images; differences below 2.2 points are mostly chance.",
        "A filled template has at most 32 tokens.",
        "The best so far that are unlike each other, best last (by accuracy, then loss):\n- ",
        "- a blurry sketch of a <CLASS>. (63.00 %, loss 1.370)\n\nThe others of the last step:\n- the <CLASS>, a",
        "The worst so far:\n- a grey photo of a <CLASS>. (44.00 %)\n\n",
        "What a phrase seems to add to the score (number of templates with it): blurry +",
        "Phrases of the images that no template has had: in pale colors.",
        "Being scored now:\n- a dim <CLASS>.",
        "Could not be used:\n- a dog. (no class placeholder)",
        "First think in a few lines",
        "Write 8 new template(s) that differ from all of these: 3 that join what helped, 3 that change one thing",
        "2 of a kind that was not tried. Each is one short sentence",
    ]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    later = text_of(replace(ASK, step=4, trials=TRIALS[:5], pending=(), rejected=()))
    assert later.split("Step")[0] == text.split("Step")[0]
    assert "Being scored" not in later
    assert "Could not" not in later


def test_the_first_request_has_nothing_to_build_on() -> None:
    text = text_of(replace(ASK, step=1, shown=TRIALS[:1], trials=TRIALS[:1], pending=(), rejected=(), error=None))
    assert "1 template tried on 400 images. A filled" in text
    assert "worst" not in text
    assert "seems to add" not in text
    assert "no template has had" not in text
    assert "all of these. Each" in text


def test_scores_that_are_hidden_are_in_no_part() -> None:
    assert "loss" not in text_of(feedback="accuracy").lower()
    only_loss = text_of(feedback="loss")
    assert "accuracy" not in only_loss.lower()
    assert "blurry -0.0" in only_loss  # it lowers the loss


def test_descriptions_in_sentences_stay_and_their_known_phrases_are_counted() -> None:
    texts = ("A blurry picture.", "It is taken at night and blurry.")
    text = text_of(replace(ASK, descriptions=texts, guessed=False))
    assert "How training images look (share of images): blurry 100%, picture 50%, at night 50%." in text
    assert "Descriptions of some training images:\n- A blurry picture.\n- It is taken" in text
    assert described_phrases([], guessed=False) == {}


def test_the_best_are_unlike_each_other() -> None:
    texts = [f"a {word} sketch of a small <CLASS> on a table." for word in ("blurry", "dark", "faint", "dim", "red")]
    ranked = [trial(text, i, 90.0 - i) for i, text in enumerate([*texts, "a <CLASS>.", "pixel art of <CLASS>."])]
    assert [one.index for one in unlike(ranked, 3)] == [0, 5, 6]
    assert [one.index for one in unlike(ranked, 5)] == [0, 1, 2, 5, 6]
    assert unlike(ranked[:1], 4) == ranked[:1]


def test_effects_of_phrases_are_those_of_a_known_truth() -> None:
    rng = np.random.default_rng(0)
    looks = ["blurry", "grey", "sketch", "tilted", "soft"]
    trials = []
    for index in range(60):
        held = [word for word in looks if rng.random() < 0.5]
        noise = float(rng.normal(0, 1.0))
        text = f"{' '.join([*held, str(index)])} <CLASS>."
        trials.append(trial(text, index, 50.0 + sum(WORTH.get(word, 0.0) for word in held) + noise))
    effects = {
        name: float(value)
        for name, value, _ in (line.rsplit(" ", 2) for line in phrase_effects(trials, "both", "accuracy"))
    }
    for word, worth in WORTH.items():
        assert effects[word] == pytest.approx(worth, abs=2.0)  # a ridge shrinks
    assert abs(effects.get("soft", 0.0)) < 1.5
    assert set(effects).isdisjoint(map(str, range(60)))  # in one trial each
    assert phrase_effects(TRIALS[:1], "both", "accuracy") == []


class Blind:
    """A proposer that shows errors and keeps what it was asked."""

    shows_error = True

    def __init__(self) -> None:
        self.asked: list[ProposalRequest] = []

    def propose(self, ask: ProposalRequest) -> Proposals:
        self.asked.append(ask)
        return Proposals((f"a {'very ' * ask.step}dark <CLASS>.", "no placeholder"))


class Toy:
    def check(self, template: Template) -> Any:
        if "<CLASS>" not in str(template):
            raise TemplateError("has no <CLASS>", reason="no class placeholder")
        return type("Checked", (), {"key": str(template), "longest": 9})

    def score(self, templates: Any) -> list[Score]:
        return [Score(50.0 + str(template).count("very"), 1.0) for template in templates]

    def tally_pairs(self, templates: Any) -> Any:
        return pairs_of(self.score(templates))


@pytest.mark.parametrize("prefetch", [False, True])
def test_a_request_names_what_is_being_scored_so_that_no_two_are_equal(prefetch: bool) -> None:
    proposer, recorder = Blind(), EventRecorder()
    recorder.state.search("self").setup |= {"images": 200, "classes": ["cat", "dog"]}
    config = OptimizerConfig(steps=3, prefetch=prefetch, choose="best", prompts_per_step=2)
    context = SearchContext(proposer=proposer, config=config, ledger=Ledger(recorder))
    Search(Toy(), context, max_tokens=20).run([Template.parse("a <CLASS>.")])
    first, second, third = proposer.asked
    assert first.error is None
    assert (first.steps, first.images, first.max_tokens, first.pending) == (3, 200, 20, ())
    assert second.pending == (("a very dark <CLASS>.",) if prefetch else ())
    assert text_of(first) != text_of(second)
    assert len(third.trials) == (2 if prefetch else 3)
    assert third.error is not None

"""Choices per image against a table filled name by name."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ipo_dspy.scoring.candidate_classes import CandidateClasses
from ipo_dspy.scoring.metrics import class_logits, predict, tally_logits, tally_templates

NAMES = ("cat", "dog", "emu", "fox", "gnu")
INDEX = {name: i for i, name in enumerate(NAMES)}
choices_of_images = st.lists(st.lists(st.sampled_from(NAMES), unique=True, max_size=5), max_size=20)


def by_hand(choices: list[list[str]]) -> torch.Tensor:
    return torch.tensor([[name in names for name in NAMES] for names in choices]).reshape(-1, len(NAMES)).bool()


@given(choices=choices_of_images, start=st.integers(0, 20), size=st.integers(0, 20))
def test_a_part_is_the_table_of_its_images(choices: list[list[str]], start: int, size: int) -> None:
    allowed = CandidateClasses.of(choices, INDEX)
    assert len(allowed) == len(choices)
    part = slice(start, start + size)
    assert torch.equal(allowed.forbidden(part), ~by_hand(choices)[part])
    room = torch.empty(len(by_hand(choices)[part]), len(NAMES), dtype=torch.bool)
    assert allowed.forbidden(part, out=room) is room
    assert torch.equal(room, ~by_hand(choices)[part])


def test_a_set_that_images_share_is_kept_once() -> None:
    allowed = CandidateClasses.of([("cat", "dog")] * 100 + [("emu",)], INDEX)
    assert (len(allowed.which), allowed.begins.tolist(), allowed.members.tolist()) == (101, [0, 2, 3], [0, 1, 2])


@given(choices=choices_of_images, block=st.integers(1, 21), seed=st.integers(0, 99))
def test_scores_are_those_of_the_table(choices: list[list[str]], block: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images, text = torch.randn(len(choices), 4, generator=generator), torch.randn(2, 5, 4, generator=generator)
    choices = [names or list(NAMES) for names in choices]
    labels = torch.tensor([INDEX[names[0]] for names in choices], dtype=torch.long)
    allowed = CandidateClasses.of(choices, INDEX)
    tallies = tally_templates(images, labels, text, logit_scale=2.0, allowed=allowed, block=block)
    for one, tally in zip(text, tallies, strict=True):
        logits = class_logits(images, one, logit_scale=2.0).masked_fill(~by_hand(choices), -torch.inf)
        wanted = tally_logits(logits, labels)
        assert (tally.images, tally.correct) == (wanted.images, wanted.correct)
        assert tally.loss == pytest.approx(wanted.loss, abs=1e-5)
    found, _ = predict(images, text[0], logit_scale=2.0, allowed=allowed, block=block)
    assert all(NAMES[i] in names for i, names in zip(found.tolist(), choices, strict=True))

"""Exact tests against their definitions: every possible outcome is enumerated."""

from itertools import combinations
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipo_dspy.scoring.exact_tests import fisher_test, mcnemar_test


@given(st.integers(0, 12), st.integers(0, 12))
def test_mcnemar_counts_the_coin_flips_that_break_as_many(broken: int, fixed: int) -> None:
    count = broken + fixed
    flips = sum(comb(count, k) for k in range(broken, count + 1))
    assert mcnemar_test(broken, fixed) == pytest.approx(flips / 2**count, rel=1e-12)


@given(st.data(), st.integers(1, 5), st.integers(1, 5))
def test_fisher_counts_the_ways_to_deal_the_correct_images(data: st.DataObject, images: int, before: int) -> None:
    correct, correct_before = data.draw(st.integers(0, images)), data.draw(st.integers(0, before))
    deals = list(combinations(range(images + before), correct + correct_before))
    as_few = [deal for deal in deals if sum(image < images for image in deal) <= correct]
    assert fisher_test(correct, images, correct_before, before) == pytest.approx(len(as_few) / len(deals), rel=1e-12)


def test_many_images_are_no_problem() -> None:
    assert mcnemar_test(50_000, 50_000) == pytest.approx(0.5 + comb(100_000, 50_000) / 2**100_001, rel=1e-6)
    assert fisher_test(50_000, 100_000, 50_000, 100_000) == pytest.approx(0.5, abs=2e-3)
    assert mcnemar_test(5_000, 0) == 0.0

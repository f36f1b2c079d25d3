"""Counts of a ranking: exact, whatever the order in which they are added."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.jobs.counting import EMPTY, Totals, add_up, make_ranking


@given(st.permutations(range(5)))
def test_totals_add_up_the_same_in_every_order(order: list[int]) -> None:
    parts = [EMPTY] + [Totals(samples=n, first=(n, 1), second=(7**n, n)) for n in range(1, 5)]
    total = EMPTY
    for i in order:
        total = total + parts[i]
    assert total == Totals(samples=10, first=(10, 4), second=(7 + 49 + 343 + 2401, 10))


def test_halves_add_up_whatever_their_grouping() -> None:
    parts = [
        (Totals(samples=n, first=(n,), second=(0,)), Totals(samples=1, first=(7,), second=(n,)))
        for n in range(1, 5)
    ]
    whole = add_up(parts)
    assert whole == add_up([add_up(parts[:1]), add_up([]), add_up(parts[1:])])
    assert whole[1] == Totals(samples=4, first=(28,), second=(10,))


def test_without_two_halves_nothing_is_compared() -> None:
    one = Totals(samples=1, first=(3, 1), second=(0, 0))
    common = {"ranking_id": "r", "codec_id": "c", "channels": 2, "keep": [1], "split": "d/train"}
    assert make_ranking((one, EMPTY), method="entropy", **common).halves is None
    assert make_ranking((EMPTY, EMPTY), method="random", **common).halves is None
    both = make_ranking((one, one), method="entropy", **common).halves
    assert (both.spearman, both.shared) == (pytest.approx(1), {1: 1})

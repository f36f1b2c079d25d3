"""Savings, bounds and BD-rate: arithmetic that must hold for every pair of curves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.evaluation.curves import Curve, bd_rate, bound, compare, rate_at, saving

RATES = st.floats(0.01, 2.0)
SCORES = st.floats(0.05, 0.95)
POINTS = st.lists(st.tuples(RATES, SCORES), min_size=1, max_size=8)


def _curve(points: list[tuple[float, float]], name: str = "curve") -> Curve:
    rates, scores = zip(*points, strict=True)
    return Curve(name=name, rates=rates, scores=scores)


@st.composite
def rising(draw: st.DrawFn, min_size: int = 4) -> Curve:
    """A curve on which more rate always buys a visibly better score."""
    size = draw(st.integers(min_size, 7))
    steps = st.lists(st.floats(0.05, 0.5), min_size=size, max_size=size)
    rates = 0.05 * np.exp(np.cumsum(draw(steps)))
    scores = 0.1 * np.cumsum(np.asarray(draw(steps)) + 0.1)
    return Curve(name="rising", rates=tuple(rates), scores=tuple(scores))


@given(POINTS)
def test_front_holds_exactly_the_points_that_nothing_beats(points):
    front_rates, front_scores = _curve(points).front
    assert np.all(np.diff(front_rates) > 0)
    assert np.all(np.diff(front_scores) > 0)
    front = set(zip(front_rates, front_scores, strict=True))
    beaten = {
        (r, s)
        for r, s in points
        if any((a <= r and b >= s) and (a < r or b > s) for a, b in points)
    }
    assert front == set(points) - beaten


@given(POINTS, st.randoms())
def test_front_does_not_depend_on_order_and_is_its_own_front(points, random):
    shuffled = list(points)
    random.shuffle(shuffled)
    first, second = _curve(points).front, _curve(shuffled).front
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(_curve(zip(*first, strict=True)).front, first)


@given(rising(min_size=2), st.floats(0.05, 3.0))
def test_scaled_rates_save_the_scale_everywhere(anchor, factor):
    test = Curve(name="scaled", rates=tuple(factor * r for r in anchor.rates), scores=anchor.scores)
    found = saving(anchor, test)
    assert found.maximum == pytest.approx(1 - factor, abs=1e-9)
    assert found.median == pytest.approx(1 - factor, abs=1e-9)
    assert found.overlap == (anchor.scores[0], anchor.scores[-1])


@given(rising(), rising())
def test_saving_lies_between_the_extremes_of_all_rates(anchor, test):
    found = saving(anchor, test)
    if found is None:
        assert anchor.scores[-1] < test.scores[0] or test.scores[-1] < anchor.scores[0]
        return
    ratios = [t / a for t in test.rates for a in anchor.rates]
    assert 1 - max(ratios) - 1e-9 <= found.median <= found.maximum <= 1 - min(ratios) + 1e-9
    low, high = found.overlap
    assert low <= found.maximum_at <= high
    at = np.array([found.maximum_at])
    assert found.maximum == pytest.approx(
        1 - rate_at(test, at)[0] / rate_at(anchor, at)[0], abs=1e-12
    )


@given(rising(), rising())
def test_maximum_is_not_missed_between_points(anchor, test):
    found = saving(anchor, test)
    if found is not None:
        scores = np.clip(np.linspace(*found.overlap, 777), *found.overlap)
        dense = 1 - rate_at(test, scores) / rate_at(anchor, scores)
        assert dense.max() <= found.maximum + 1e-9


@settings(deadline=None)  # the first call imports matplotlib
@given(rising(), st.floats(0.2, 3.0))
def test_beaten_points_change_nothing(anchor, factor):
    test = Curve(name="t", rates=tuple(factor * r for r in anchor.rates), scores=anchor.scores)
    worse = Curve(
        name="t",
        rates=(*test.rates, test.rates[-1] * 2),
        scores=(*test.scores, test.scores[0]),
    )
    assert saving(anchor, worse) == saving(anchor, test)
    assert bd_rate(anchor, worse) == bd_rate(anchor, test)


@settings(deadline=None)  # the first call imports matplotlib
@given(rising(), st.floats(0.2, 3.0))
def test_bd_rate_of_scaled_rates_is_the_scale(anchor, factor):
    test = Curve(name="t", rates=tuple(factor * r for r in anchor.rates), scores=anchor.scores)
    percent, reason = bd_rate(anchor, test)
    assert reason is None
    assert percent == pytest.approx(100 * (factor - 1), abs=1e-6)


def test_bd_rate_is_refused_with_few_or_falling_points():
    good = Curve(name="good", rates=(0.1, 0.2, 0.3, 0.4), scores=(0.4, 0.5, 0.55, 0.6))
    falling = Curve(name="falling", rates=(0.1, 0.2, 0.3, 0.4), scores=(0.4, 0.5, 0.45, 0.6))
    assert bd_rate(good, falling) == (
        None, "falling has 3 Pareto points of 4, BD-rate needs 4",
    )  # fmt: skip
    higher = Curve(name="higher", rates=good.rates, scores=(0.7, 0.75, 0.8, 0.9))
    assert bd_rate(good, higher) == (None, "no overlap in score")


def test_bound_uses_the_best_point_of_the_anchor():
    pixel = Curve(name="pixel", rates=(0.1, 0.2, 0.4), scores=(0.2, 0.3, 0.25))
    ours = Curve(name="ours", rates=(0.05, 0.3), scores=(0.35, 0.5))
    found = compare(pixel, ours)
    assert found.saving is None
    assert found.bound.at_least == pytest.approx(0.75)
    assert (found.bound.anchor_rate, found.bound.test_score) == (0.2, 0.35)


@settings(deadline=None)  # the first call imports matplotlib
@given(rising(), rising())
def test_comparison_says_exactly_one_thing(anchor, test):
    found = compare(anchor, test)
    assert sum(x is not None for x in (found.saving, found.bound, found.note)) == 1
    assert (found.bd_rate is None) != (found.bd_note is None)
    if found.bound is not None:
        assert 0 < found.bound.at_least < 1
        assert bound(anchor, test) == found.bound


def test_single_points_at_equal_score_are_compared():
    found = compare(_curve([(0.4, 0.5)], "a"), _curve([(0.1, 0.5)], "b"))
    assert found.saving.maximum == pytest.approx(0.75)
    assert found.saving.median == pytest.approx(0.75)


def test_no_saving_says_why():
    high = _curve([(0.1, 0.5), (0.2, 0.6)], "high")
    low = _curve([(0.1, 0.2), (0.2, 0.3)], "low")
    dear = _curve([(0.5, 0.7), (0.6, 0.8)], "dear")
    assert compare(high, low).note == "low reaches 0.3000 at most, high starts at 0.5000"
    assert compare(high, dear).note == (
        "dear starts at 0.5000 bpp, not below 0.2000 bpp, with which high reaches its best"
    )


@pytest.mark.parametrize(
    ("rates", "scores", "text"),
    [
        ((), (), "has 0 rates and 0 scores; give as many of each, and at least one"),
        ((0.1,), (0.1, 0.2), "has 1 rates and 2 scores"),
        ((0.0,), (0.5,), "rates must be finite and above 0"),
        ((0.1,), (float("nan"),), "scores finite"),
    ],
)
def test_bad_curves_are_refused(rates, scores, text):
    with pytest.raises(ValueError, match=text):
        Curve(name="bad", rates=rates, scores=scores)


def test_rate_outside_the_front_is_refused():
    with pytest.raises(ValueError, match=r"reaches scores 0\.5000 to 0\.6000, asked for 0\.7000"):
        rate_at(_curve([(0.1, 0.5), (0.2, 0.6)]), np.array([0.7]))

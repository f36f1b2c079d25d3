"""Savings, differences and seeds of whole sets of points."""

from __future__ import annotations

import dataclasses

import pytest

from tests.training.made_points import make_images, make_point, measured
from training.evaluation.comparisons import analyse, pair_methods
from training.evaluation.methods import make_methods
from training.reports.comparison_tables import savings_section

QUALITIES = ((1, 100, 0.60), (2, 140, 0.66), (3, 200, 0.71), (4, 280, 0.75))


def _curve(label, factor=1.0, better=0.0, **changes):
    """Four codecs; at each, `factor` of the bytes and `better` more accuracy."""
    return [
        measured(
            label,
            make_images(accuracy + better, rate=factor * rate, noise=changes.get("seed")),
            quality=q,
            codec_id=f"hyperprior-{q}",
            **changes,
        )
        for q, rate, accuracy in QUALITIES
    ]


def _none(**changes):
    return _curve("no gate", selection="none", keep=None, ranking_method=None, **changes)


def test_a_known_saving_is_found_with_an_interval_around_it():
    (saved,) = analyse([*_none(), *_curve("ours", factor=0.7)]).saved
    assert saved.found.saving.maximum == pytest.approx(0.3, abs=0.005)
    assert saved.found.bd_rate == pytest.approx(-30, abs=0.5)
    assert saved.median.low <= saved.found.saving.median <= saved.median.high
    # Both networks find the same images hard and large: pairing leaves only rounded bytes.
    assert saved.median.high - saved.median.low < 0.01
    assert saved.median.share == 1


def test_a_method_saves_nothing_against_its_like():
    (saved,) = analyse([*_none(), *_curve("ours")]).saved
    assert (saved.found.saving.maximum, saved.maximum.low, saved.maximum.high) == (0, 0, 0)
    noisy = [*_none(seed=1), *_curve("ours", seed=2)]
    (saved,) = analyse(noisy).saved
    assert saved.median.low < 0 < saved.median.high
    differences = analyse(noisy).differences
    assert len(differences) == 4
    assert sum(d.interval.low <= 0 <= d.interval.high for d in differences) >= 3


def test_without_an_overlap_the_bound_has_an_interval():
    pixel = _curve("pixel", better=-0.2, domain="pixel", selection="none", keep=None)
    (saved,) = analyse([*pixel, *_curve("ours", factor=0.5)]).saved
    assert saved.maximum is saved.median is None
    assert saved.found.bound.at_least == pytest.approx(1 - 50 / 280, abs=0.01)
    assert saved.at_least.low <= saved.found.bound.at_least <= saved.at_least.high


def test_seeds_are_averaged_and_their_spread_is_told():
    ours = [p for seed in (1, 2, 3) for p in _curve("ours", 0.6 + 0.1 * seed, seed=seed)]
    analysis = analyse([*_none(seed=1), *ours])
    (saved,) = analysis.saved
    assert len(saved.over_seeds) == 3
    assert max(saved.over_seeds) > saved.found.saving.maximum > min(saved.over_seeds)
    # An anchor with several seeds spreads what a method with one saves, too.
    turned = [dataclasses.replace(p, selection="none", keep=None) for p in ours]
    alone = [dataclasses.replace(p, selection="static", keep=16) for p in _none(seed=2)]
    assert len(analyse([*turned, *alone]).saved[0].over_seeds) == 3
    assert [s.seeds for s in analysis.spreads] == [(1, 2, 3)] * 4
    for spread in analysis.spreads:
        assert spread.low < spread.mean < spread.high
    for difference in analysis.differences:
        assert difference.rate == pytest.approx(0.8, abs=0.01)


def test_seeds_of_which_nothing_can_be_said_are_counted():
    none = measured("no gate", make_images(0.7), selection="none", keep=None)
    seeds = [measured("ours", make_images(a, rate=50), seed=s) for s, a in ((1, 0.75), (2, 0.6))]
    (saved,) = analyse([none, *seeds]).saved
    assert saved.over_seeds == (pytest.approx(0.5, abs=0.01), None)
    assert "50.0 % to 50.0 % (1 of 2 seeds)" in savings_section(analyse([none, *seeds])).markdown()


def test_too_few_points_are_said_not_guessed():
    (saved,) = analyse([_none()[0], _curve("ours", factor=0.5)[0]]).saved
    assert saved.found.bd_note == "no gate has 1 Pareto points of 1, BD-rate needs 4"
    assert saved.found.saving.maximum == pytest.approx(0.5, abs=0.01)


def test_points_of_different_images_have_no_intervals_and_a_reason():
    none = measured("no gate", make_images(0.7), selection="none", keep=None)
    analysis = analyse([none, measured("ours", make_images(0.7)[1:])])
    assert analysis.intervals == (None, None)
    assert analysis.saved[0].maximum is None
    assert analysis.differences[0].interval is None
    assert "no gate was measured on 40 images, ours on 39" in analysis.why_no_intervals


def test_networks_for_any_n_are_held_against_static_ones_of_as_many():
    points = [
        make_point("static-16 (variance)", ranking_method="variance"),
        make_point("any-16 (gate)", selection="any"),
        make_point("any-32 (gate)", selection="any", keep=32),
        make_point("any-16 (variance)", selection="any", ranking_method="variance"),
    ]
    pairs = [(a.name, t.name) for a, t in pair_methods(make_methods(points))]
    assert pairs == [
        ("static-16 (variance)", "any-16 (gate)"),
        ("any-16 (variance)", "any-16 (gate)"),
    ]

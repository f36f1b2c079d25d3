"""Verdicts of claims: seeds and images count together, and the choice of a test is held out."""

from __future__ import annotations

import numpy as np
import pytest

from tests.training.made_points import make_images, measured
from training.evaluation.methods import Method
from training.evaluation.resampling import draw_images
from training.experiments.grid import Claim
from training.experiments.verdicts import Verdict, judge, seed_weights

CLAIM = {"what": "w", "anchor": "anchor", "paper": "-", "aim": 0.3}


def method(name: str, accuracies: dict[str, list[float]], rate: float = 100.0) -> Method:
    """Returns a method with one network a codec and seed, by their accuracies."""
    points = [
        measured(
            name, make_images(accuracy, rate=rate * (1 + number), noise=seed),
            codec_id=codec, seed=seed,
        )
        for number, (codec, seeds) in enumerate(accuracies.items())
        for seed, accuracy in enumerate(seeds)
    ]  # fmt: skip
    return Method(name=name, points=tuple(points))


def verdict(*methods: Method, held_out: dict | None = None, **claim: object) -> Verdict:
    known = {m.name: m for m in methods}
    images = draw_images([p for m in methods for p in m.points], draws=300)
    tests = tuple(name for name in known if name != "anchor")
    found = judge(Claim(**{**CLAIM, "test": tests, **claim}), known, images, held_out or {})
    assert found is not None
    return found


def test_drawn_seeds_vary_as_the_mean_of_so_many_networks_does() -> None:
    scores_N = np.array([0.2, 0.5, 0.3])
    weights_DN = seed_weights(3, 20_000, np.random.default_rng(0))
    assert weights_DN.sum(axis=1) == pytest.approx(np.ones(20_000))
    means_D = weights_DN @ scores_N
    assert means_D.mean() == pytest.approx(scores_N.mean(), abs=2e-3)
    assert means_D.var() == pytest.approx(scores_N.var(ddof=1) / 3, rel=0.05)
    assert seed_weights(1, 5, np.random.default_rng(0)).tolist() == [[1.0]] * 5


def test_a_saving_that_seeds_and_images_agree_on_is_reached() -> None:
    anchor = method("anchor", {"q1": [0.5] * 3, "q2": [0.6] * 3}, rate=200)
    test = method("test", {"q1": [0.55] * 3, "q2": [0.7] * 3}, rate=100)
    found = verdict(anchor, test)
    assert (found.word, found.seeds, found.test) == ("reached", 3, "test")
    assert found.low <= found.value <= found.high
    assert verdict(anchor, test, aim=0.9).word == "shown, below the aim"


def test_fewer_than_three_seeds_show_nothing() -> None:
    anchor = method("anchor", {"q1": [0.5] * 3}, rate=200)
    test = method("test", {"q1": [0.6] * 2}, rate=100)
    assert verdict(anchor, test).word == "not shown: 2 of 3 seeds"
    # The teacher is one network, from which all of them start.
    known = {"anchor": method("anchor", {"q1": [0.5]}, rate=200), "test": test}
    images = draw_images([p for m in known.values() for p in m.points], draws=100)
    claim = Claim(**CLAIM, test=("test",))
    assert judge(claim, known, images, {}, frozenset({"anchor"})).seeds == 2


def test_seeds_that_disagree_show_nothing_though_every_image_agrees() -> None:
    anchor = method("anchor", {"q1": [0.6] * 3})
    better = verdict(anchor, method("test", {"q1": [0.63] * 3}), measure="points", aim=0.0)
    assert better.word == "reached"
    apart = verdict(anchor, method("test", {"q1": [0.9, 0.5, 0.5]}), measure="points", aim=0.0)
    assert apart.value > better.value
    assert apart.word == "not shown"


def test_draws_without_a_saving_count_against_it() -> None:
    anchor = method("anchor", {"q1": [0.6] * 3}, rate=100)
    found = verdict(anchor, method("test", {"q1": [0.4] * 3}, rate=50))
    assert (found.value, found.low, found.word) == (None, -np.inf, "not shown")


def test_scores_are_held_against_each_other_where_both_are_and_the_worst_codec_counts() -> None:
    anchor = method("anchor", {"q1": [0.5] * 3, "q2": [0.6] * 3})
    test = method("test", {"q2": [0.7] * 3, "q1": [0.55] * 3, "q3": [0.1] * 3})
    (low, _), (mine, _) = anchor.by_codec["q1"][:2], test.by_codec["q1"][:2]
    points = verdict(anchor, test, measure="points", aim=-0.1)
    scores = {n: [np.mean([p.score for p in m.by_codec[c]]) for c in ("q1", "q2")]
              for n, m in (("anchor", anchor), ("test", test))}  # fmt: skip
    differences = np.subtract(scores["test"], scores["anchor"])
    assert points.value == pytest.approx(differences.min())
    shares = np.divide(scores["test"], scores["anchor"]) - 1
    assert verdict(anchor, test, measure="relative").value == pytest.approx(shares.min())
    assert low.score < mine.score


def test_of_several_tests_the_held_out_samples_choose() -> None:
    anchor = method("anchor", {"q1": [0.5] * 3}, rate=200)
    lucky, good = method("lucky", {"q1": [0.7] * 3}), method("good", {"q1": [0.6] * 3})
    lucky = Method(name="lucky", points=lucky.points)
    shown = verdict(anchor, lucky, good, measure="points")
    assert (shown.test, shown.chosen) == ("lucky", "these images")
    held_out = {"anchor": {"q1": 0.5}, "lucky": {"q1": 0.51}, "good": {"q1": 0.6}}
    found = verdict(anchor, lucky, good, measure="points", held_out=held_out)
    assert (found.test, found.chosen) == ("good", "held-out samples")
    # A teacher has no held-out score: another method stands in for it in the choice alone.
    known = {m.name: m for m in (anchor, lucky, good)}
    known["other"] = method("other", {"q1": [0.55] * 3})
    images = draw_images([p for m in known.values() for p in m.points], draws=100)
    claim = Claim(**CLAIM, test=("lucky", "good"), measure="points")
    del held_out["anchor"]
    held_out["other"] = {"q1": 0.5}
    found = judge(claim, known, images, held_out, frozenset({"anchor"}), "other")
    assert (found.test, found.chosen) == ("good", "held-out samples")
    assert found.value == pytest.approx(shown.value - 0.1, abs=0.02)


def test_what_was_not_run_has_no_verdict() -> None:
    test = method("test", {"q1": [0.6]})
    assert judge(Claim(**CLAIM, test=("test",)), {"test": test}, None, {}) is None

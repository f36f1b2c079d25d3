"""Verdicts of claims: seeds and images count together, and the choice of a test is held out."""

from __future__ import annotations

import dataclasses

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
            codec_id=codec, seed=seed, checkpoint_sha256=f"{name}-{codec}-{seed}",
            constant_score=0.1,
        )
        for number, (codec, seeds) in enumerate(accuracies.items())
        for seed, accuracy in enumerate(seeds)
    ]  # fmt: skip
    return Method(name=name, points=tuple(points))


def verdict(
    *methods: Method, held_out: dict | None = None, paired: bool = False, **claim: object
) -> Verdict:
    known = {m.name: m for m in methods}
    images = draw_images([p for m in methods for p in m.points], draws=300)
    tests = tuple(name for name in known if name != "anchor")
    asked = Claim(**{**CLAIM, "test": tests, **claim})
    found = judge(asked, known, images, held_out or {}, paired=paired)
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


def test_the_opposite_can_be_shown_of_scores() -> None:
    anchor, worse = method("anchor", {"q1": [0.6] * 3}), method("test", {"q1": [0.55] * 3})
    scores = {"measure": "points", "aim": 0.0}
    assert verdict(anchor, worse, **scores).word == "not shown, the opposite is"
    assert verdict(anchor, method("test", {"q1": [0.65, 0.6, 0.55]}), **scores).word == "not shown"
    # Within an aim that allows for a loss it is not the opposite of what is claimed.
    assert verdict(anchor, worse, measure="points", aim=-0.1).word == "reached"
    assert verdict(anchor, worse, measure="points", aim=-0.05).word == "not shown"
    assert verdict(anchor, worse).word == "not shown"


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


def test_seeds_with_a_teacher_each_are_drawn_together() -> None:
    """What a seed's teacher gives to all of its networks says nothing of their difference."""
    anchor = method("anchor", {"q1": [0.3, 0.5, 0.7]})
    test = method("test", {"q1": [0.35, 0.55, 0.75]})
    claim = {"measure": "points", "aim": 0.0}
    assert verdict(anchor, test, paired=True, **claim).word == "reached"
    assert verdict(anchor, test, **claim).word == "not shown"
    apart = method("test", {"q1": [0.75, 0.55, 0.35]})
    assert verdict(anchor, apart, paired=True, **claim).word == "not shown"
    # A teacher of each seed counts as any network does.
    known = {"anchor": method("anchor", {"q1": [0.3, 0.5]}), "test": test}
    images = draw_images([p for m in known.values() for p in m.points], draws=100)
    asked = Claim(**CLAIM, test=("test",))
    assert judge(asked, known, images, {}, frozenset({"anchor"}), paired=True).seeds == 2


def test_seeds_with_a_teacher_each_are_compared_where_both_sides_have_them() -> None:
    anchor, test = method("anchor", {"q1": [0.7, 0.5, 0.5]}), method("test", {"q1": [0.65]})
    asked = {"measure": "points", "aim": 0.0}
    # Seed 0 is a good one for both: against the mean of three the worse network looked better.
    assert verdict(anchor, test, **asked).value > 0
    found = verdict(anchor, test, paired=True, **asked)
    assert found.value == pytest.approx(-0.05, abs=0.01)
    assert found.word == "not shown: 1 of 3 seeds"
    other = Method(name="test", points=(dataclasses.replace(test.points[0], seed=7),))
    images = draw_images([*anchor.points, *other.points], draws=100)
    known = {"anchor": anchor, "test": other}
    claim = Claim(**{**CLAIM, **asked}, test=("test",))
    assert judge(claim, known, images, {}, paired=True) is None


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


def test_tests_together_are_one_curve_of_which_none_is_taken() -> None:
    anchor = method("anchor", {"q1": [0.5] * 3}, rate=400)
    few, many = method("few", {"q1": [0.4] * 3}, rate=50), method("many", {"q1": [0.6] * 3}, 200)
    assert verdict(anchor, few).value is None
    assert verdict(anchor, many).value == pytest.approx(0.5, abs=0.01)
    found = verdict(anchor, few, many, together=True)
    assert (found.test, found.seeds) == ("few, many", 3)
    # Between them, on the curve of logarithmic rates: at 100 of the anchor's 400.
    assert found.value == pytest.approx(0.75, abs=0.03)
    assert found.word == "reached"
    # One of a single seed waits, though it would be the best.
    lucky = method("lucky", {"q1": [0.6]}, rate=20)
    again = verdict(anchor, few, many, lucky, together=True)
    assert (again.test, again.seeds) == ("few, many", 3)
    assert verdict(anchor, lucky, together=True).word == "not shown: 1 of 3 seeds"


def test_what_was_not_run_has_no_verdict() -> None:
    test = method("test", {"q1": [0.6]})
    assert judge(Claim(**CLAIM, test=("test",)), {"test": test}, None, {}) is None


def equals(number: int) -> list[Method]:
    """Returns two methods of four codecs and three seeds that differ by luck alone."""
    generator = np.random.default_rng(number)
    return [
        Method(
            name=name,
            points=tuple(
                measured(
                    name,
                    make_images(
                        0.5 + 0.05 * codec + generator.normal(0, 0.005),
                        images=6,
                        rate=100.0 * (1 + codec) * np.exp(generator.normal(0, 0.02)),
                    ),
                    codec_id=f"q{codec}", seed=seed,
                    checkpoint_sha256=f"{name}-{codec}-{seed}",
                )
                for codec in range(4)
                for seed in range(3)
            ),
        )
        for name in ("anchor", "test")
    ]  # fmt: skip


def test_of_equal_methods_nothing_is_shown() -> None:
    words = []
    for number in range(100):
        both = equals(number)
        images = draw_images([p for m in both for p in m.points], draws=40)
        claim = Claim(**{**CLAIM, "aim": 0.0}, test=("test",))
        words.append(judge(claim, {m.name: m for m in both}, images, {}).word)
    assert words.count("not shown") >= 95


def test_cuts_of_one_network_share_their_draws() -> None:
    """A seed that was lucky was so at every N: what two cuts differ by does not vary with it."""
    rows = {
        cut: method(cut, {"q1": [0.4 + gain, 0.6 + gain, 0.8 + gain]})
        for cut, gain in (("anchor", 0.0), ("test", 0.03))
    }
    apart = verdict(*rows.values(), measure="points", aim=0.0)
    together = [
        Method(
            name=name,
            points=tuple(
                dataclasses.replace(p, checkpoint_sha256=f"any-{p.seed}") for p in row.points
            ),
        )
        for name, row in rows.items()
    ]
    assert apart.word == "not shown"
    assert verdict(*together, measure="points", aim=0.0).word == "reached"


def test_rates_that_differ_much_between_seeds_stay_rates() -> None:
    images = [make_images(0.5, rate=rate) for rate in (1000.0, 10.0, 10.0)]
    points = [measured("test", i, codec_id="q1", seed=n) for n, i in enumerate(images)]
    anchor = method("anchor", {"q1": [0.5] * 3}, rate=100)
    assert verdict(anchor, Method(name="test", points=tuple(points))).word == "not shown"


def test_a_share_of_a_score_of_zero_is_none() -> None:
    anchor = method("anchor", {"q1": [0.5] * 3})
    zero = Method(
        name="anchor", points=tuple(dataclasses.replace(p, score=0.0) for p in anchor.points)
    )
    assert verdict(zero, method("test", {"q1": [0.6] * 3}), measure="relative").value is None

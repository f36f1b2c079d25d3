"""Verdicts of claims, over seeds and images together.

Another seed would have trained another network, and other pictures would have given it another
score. A hierarchical bootstrap (Davison and Hinkley 1997, section 3.8) draws both: images with
replacement, the same ones for every network, and of each method at each codec as many seeds as it
has; points of one network, cut at several N, share their draws. Where each seed has a teacher of
its own, a seed is the whole experiment again: all networks of a seed are drawn together, and seeds
that one side lacks are left out of both. So few
seeds, drawn again, vary too little by the factor (n − 1) / n of the variance; their deviations, of
scores and of log-rates, are stretched by its root.

The largest saving, which papers give, is above 0 for equal methods too, somewhere on their curves:
whether there is a saving is decided by the median over the scores that both reach.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from training.evaluation.comparisons import why_not_stated
from training.evaluation.curves import Curve, bound, saving
from training.evaluation.methods import Method
from training.evaluation.points import Point
from training.evaluation.resampling import LEVEL, Images
from training.experiments.grid import SAVING, Claim

LEAST_SEEDS = 3
"""With fewer, nothing is shown."""
Scores = Mapping[str, Mapping[str, float]]
"""Method -> codec id -> mean score on the held-out samples."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A claim and what its networks say of it.

    Attributes:
        test: The method that was taken, of those that the claim names.
        value: Of all images, means over seeds; None if it does not exist: no equal score is
            reached at less rate.
        low, high: The middle 95 % of the draws, -inf where there was no saving in them.
        typical_low: As `low`, of the median saving, which decides; equal to `low` for scores.
        seeds: Fewest of any point that it rests on; a teacher that all start from counts not.
        chosen: The samples on which the test was chosen.
        nothing: Why there can be no saving: one side is no better than what nothing learned gives.
    """

    claim: Claim
    test: str
    value: float | None
    low: float
    high: float
    typical_low: float
    seeds: int
    chosen: str
    nothing: str | None = None

    @property
    def word(self) -> str:
        """The verdict: shown where `typical_low` is above 0, reached where `low` meets the aim too.

        An aim below 0 is reached without that, where both meet it. Of scores the opposite can be
        shown as well; a saving that there is not says nothing of what the other one saves.
        """
        if self.nothing is not None:
            return f"no saving can be stated: {self.nothing}"
        if self.seeds < LEAST_SEEDS:
            return f"not shown: {self.seeds} of {LEAST_SEEDS} seeds"
        shown, aim = self.typical_low > 0, self.claim.aim
        if self.low >= aim and (shown or self.typical_low >= aim):
            return "reached"
        if self.claim.measure != SAVING and self.high < min(0.0, aim):
            return "not shown, the opposite is"
        return "shown, below the aim" if shown else "not shown"


def judge(
    claim: Claim,
    methods: Mapping[str, Method],
    images: Images | None,
    held_out: Scores,
    teachers: frozenset[str] = frozenset(),
    stand_in: str | None = None,
    *,
    paired: bool = False,
    seed: int = 0,
) -> Verdict | None:
    """Returns the verdict of a claim; None where its anchor or every test has no network yet.

    Args:
        claim: Of a grid.
        methods: By the names that claims have.
        images: Draws of images, the same for every point; without them nothing is shown.
        held_out: Chooses among several tests; where it lacks one, these same images choose.
        teachers: Methods that are the teacher itself, which has no held-out score.
        stand_in: The method that tests are held against for the choice where a teacher is anchor.
        paired: Networks of a seed, the n-th of every method's at a codec, are drawn together.
        seed: Of the draws of seeds.
    """
    anchor = methods.get(claim.anchor)
    tests = [methods[name] for name in claim.test if name in methods]
    tests = [test for test in tests if anchor and _comparable(claim, anchor, test)[1].points]
    if anchor is None or not tests:
        return None
    if claim.together:
        tests = [_joined(tests)]
    rival = methods.get(stand_in or "", anchor) if claim.anchor in teachers else anchor
    if claim.measure == SAVING:
        learned, theirs = [test.learned for test in tests], anchor.learned
        if theirs is None or not any(learned):
            return _nothing(claim, tests[0].name, anchor if theirs is None else tests[0])
        tests = [test for test in learned if test is not None]
        anchor, rival = theirs, rival.learned or theirs
    known = all(held_out.get(m.name, {}).keys() >= m.by_codec.keys() for m in (rival, *tests))
    best = _best(claim, rival if known else anchor, tests, held_out if known else None)
    if paired:
        anchor, best = _of_shared_seeds(anchor, best)
        if not anchor.points:
            return None
    anchor, test = _comparable(claim, anchor, best)
    drawn: list[tuple[float, float] | None] = [None]
    if images is not None:
        drawn = _drawn(claim, anchor, test, images, paired=paired, seed=seed)
    # A draw in which there is no saving speaks against one.
    values_D2 = np.array([(-np.inf, -np.inf) if pair is None else pair for pair in drawn])
    tail = (1 - LEVEL) / 2
    low, typical_low = np.quantile(values_D2, tail, axis=0, method="lower")
    high, _ = np.quantile(values_D2, 1 - tail, axis=0, method="higher")
    value = _measure(claim, _curve(anchor), _curve(test))
    both = (m for m in (anchor, test) if paired or m.name not in teachers)
    groups = [group for method in both for group in _groups(method)]
    return Verdict(
        claim=claim,
        test=test.name,
        value=None if value is None else value[0],
        low=float(low),
        high=float(high),
        typical_low=float(typical_low),
        seeds=min((len(group) for group in groups), default=LEAST_SEEDS),
        chosen="held-out samples" if known else "these images",
    )


def _best(claim: Claim, rival: Method, tests: Sequence[Method], held_out: Scores | None) -> Method:
    """Returns the best of several tests: by held-out scores, or by those that are reported."""

    def merit(test: Method) -> tuple[float, float]:
        pair = _comparable(claim, rival, test)
        curves = [_curve(m) if held_out is None else _held_curve(m, held_out) for m in pair]
        found = _measure(claim, *curves) or (-np.inf,)
        return found[0], max(curves[1].scores)

    return max(tests, key=merit)


def _joined(tests: Sequence[Method]) -> Method:
    """Returns the networks of several methods as one, whose curve goes through all of them.

    Those with fewer seeds wait until they have enough, if others have: chance would choose them.
    """
    enough = [t for t in tests if all(len(group) >= LEAST_SEEDS for group in _groups(t))]
    tests = enough or tests
    points = tuple(point for test in tests for point in test.points)
    return Method(name=", ".join(test.name for test in tests), points=points)


def _of_shared_seeds(*methods: Method) -> list[Method]:
    """Returns methods with the seeds alone that every point of all of them has, in one order.

    Another seed is another teacher, of which all networks of it are better or worse.
    """
    groups = [group for method in methods for group in _groups(method)]
    shared = set.intersection(*({point.seed for point in group} for group in groups))
    return [
        Method(
            name=method.name,
            points=tuple(
                sorted((p for p in method.points if p.seed in shared), key=lambda p: p.seed or 0)
            ),
        )
        for method in methods
    ]


def _nothing(claim: Claim, test: str, blind: Method) -> Verdict:
    """Returns the verdict of a claim of a saving one side of which learned nothing."""
    ends = dict.fromkeys(("low", "high", "typical_low"), -np.inf)
    why = why_not_stated(blind)
    return Verdict(claim=claim, test=test, value=None, seeds=0, chosen="-", nothing=why, **ends)


def seed_weights(seeds: int, draws: int, generator: np.random.Generator) -> np.ndarray:
    """Returns how much each seed counts in each draw, float64 [draws, seeds]; rows sum to 1."""
    drawn_DN = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds
    if seeds == 1:
        return drawn_DN
    mean = 1 / seeds
    weights_DN: np.ndarray = mean + (drawn_DN - mean) * (seeds / (seeds - 1)) ** 0.5
    return weights_DN


def _drawn(
    claim: Claim, anchor: Method, test: Method, images: Images, *, paired: bool, seed: int
) -> list[tuple[float, float] | None]:
    generator = np.random.default_rng(seed)
    drawn: dict[tuple[str, ...], np.ndarray] = {}

    def weights_of(group: Sequence[Point]) -> np.ndarray:
        """Draws seeds once for the points of the same networks, whatever they are cut at."""
        networks: tuple[str, ...] = (str(len(group)),)
        if not paired:
            networks = (group[0].codec_id, *(point.checkpoint_sha256 for point in group))
        if networks not in drawn:
            drawn[networks] = seed_weights(len(group), len(images.times_DS), generator)
        return drawn[networks]

    both = [_drawn_curves(method, images, weights_of) for method in (anchor, test)]
    return [a and t and _measure(claim, a, t) for a, t in zip(*both, strict=True)]


def _drawn_curves(
    method: Method, images: Images, weights_of: Callable[[Sequence[Point]], np.ndarray]
) -> list[Curve | None]:
    """Returns a method's curve in each draw of seeds and images; None where it has no score."""
    rates, scores = [], []
    for group in _groups(method):
        weights_DN = weights_of(group)
        bpp_DN, scores_DN = (
            np.stack([quantity(point) for point in group], axis=1)
            for quantity in (images.bpp, images.score)
        )
        # Some weights are negative: a mean of logarithms is a rate in any case.
        rates.append(np.exp((weights_DN * np.log(bpp_DN)).sum(axis=1)))
        scores.append((weights_DN * scores_DN).sum(axis=1))
    rates_DQ, scores_DQ = np.stack(rates, axis=1), np.stack(scores, axis=1)
    return [
        Curve(name=method.name, rates=tuple(rates_Q.tolist()), scores=tuple(scores_Q.tolist()))
        if np.isfinite(scores_Q).all()
        else None
        for rates_Q, scores_Q in zip(rates_DQ, scores_DQ, strict=True)
    ]


def _comparable(claim: Claim, anchor: Method, test: Method) -> tuple[Method, Method]:
    """Returns both methods; for scores at equal codec, at the codecs that both have."""
    if claim.measure == SAVING:
        return anchor, test
    shared = [codec for codec in anchor.by_codec if codec in test.by_codec]
    parts = [tuple(p for codec in shared for p in m.by_codec[codec]) for m in (anchor, test)]
    return Method(name=anchor.name, points=parts[0]), Method(name=test.name, points=parts[1])


def _groups(method: Method) -> list[list[Point]]:
    """Returns the points that are one but for their seeds: of one codec, and of one N."""
    found: dict[tuple[str, str], list[Point]] = {}
    for point in method.points:
        found.setdefault((point.codec_id, point.label), []).append(point)
    return list(found.values())


def _curve(method: Method) -> Curve:
    """Returns a method's rates and scores, means over seeds."""
    groups = _groups(method)
    return Curve(
        name=method.name,
        rates=tuple(float(np.mean([p.bpp for p in group])) for group in groups),
        scores=tuple(float(np.mean([p.score for p in group])) for group in groups),
    )


def _held_curve(method: Method, held_out: Scores) -> Curve:
    scores = [held_out[method.name][codec_id] for codec_id in method.by_codec]
    return Curve(name=method.name, rates=_curve(method).rates, scores=tuple(scores))


def _measure(claim: Claim, anchor: Curve, test: Curve) -> tuple[float, float] | None:
    """Returns a claim's number and the one that decides whether it is shown; None without one."""
    if claim.measure == SAVING:
        if at_equal_score := saving(anchor, test):
            return at_equal_score.maximum, at_equal_score.median
        certain = bound(anchor, test)
        return None if certain is None else (certain.at_least, certain.at_least)
    relative = claim.measure == "relative"
    if relative and min(anchor.scores) <= 0:
        return None
    pairs = zip(anchor.scores, test.scores, strict=True)
    value = min(mine / theirs - 1 if relative else mine - theirs for theirs, mine in pairs)
    return value, value

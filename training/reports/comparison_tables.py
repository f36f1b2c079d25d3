"""The report's sections that compare: savings, differences, seeds, rankings."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from latent_store.catalogue.rankings import Agreement, Ranking, compare_rankings
from training.evaluation.comparisons import Analysis, Difference, Saved
from training.evaluation.resampling import FEW_IMAGES, Interval
from training.tables import Section

_SAVINGS_NOTE = (
    "Log-rate is interpolated on each method's Pareto front; maximum and median are over the "
    "{metric} that both methods reach. Where they share none, “at least” is a bound: the other "
    "method's best {metric}, at its rate R, is reached or passed at rate r, which saves at least "
    "1 − r/R. Negative savings are losses. Points at or below what a prediction that never looks "
    "gives take no part: their rates mean nothing."
)
_HALVES = "halves of its samples"
NOT_STATED = "no saving can be stated"
_RARELY = 0.95
"""An interval of a quantity that exists in a smaller share of the draws tells the share."""


def savings_section(analysis: Analysis) -> Section:
    """Returns what each method saves; no rows if none is meant to beat another one here."""
    spread = any(s.over_seeds for s in analysis.saved)
    overlap = f"{analysis.metric} overlap"
    header = ["method", "against", "rate saved (max)", "(median)", overlap, "BD-rate"]
    header += ["over seeds"] if spread else []
    rows = [_saving_row(s)[: len(header)] for s in analysis.saved]
    reasons = dict.fromkeys(s.found.bd_note for s in analysis.saved if s.found.bd_note)
    notes = [_SAVINGS_NOTE.format(metric=analysis.metric)]
    if reasons:
        notes.append("No BD-rate: " + "; ".join(reasons) + ".")
    title = f"Rate saved at equal {analysis.metric}"
    return Section(title=title, header=header, rows=rows, text_columns=2, notes=tuple(notes))


def differences_section(analysis: Analysis) -> Section:
    """Returns the differences in score at equal codecs, one codec a column."""
    codecs = list(dict.fromkeys(d.point.codec_name for d in analysis.differences))
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for found in analysis.differences:
        text = f"{_signed(found)} at {100 * found.rate:.0f} %"
        cells.setdefault((found.test, found.anchor), {})[found.point.codec_name] = text
    rows = [(*pair, *(row.get(codec, "-") for codec in codecs)) for pair, row in cells.items()]
    note = (
        f"{analysis.metric} of the method less the other one's at one codec, hence at different "
        "rates: the percentage is the method's rate relative to the other one's. An interval "
        "without 0 is a difference that the choice of images does not explain; it says nothing "
        "about the chance in training."
    )
    title = f"Differences in {analysis.metric} at one codec"
    header = ("method", "against", *codecs)
    return Section(title=title, header=header, rows=rows, text_columns=2, notes=(note,))


def seeds_section(analysis: Analysis) -> Section:
    """Returns the spread over seeds; no rows if every method has one."""
    header = ("method", "codec", "seeds", f"{analysis.metric} (mean)", "min-max", "bpp (mean)")
    rows = [
        (
            *(s.name, s.point.codec_name, str(len(s.seeds)), f"{s.mean:.4f}"),
            *(f"{s.low:.4f}-{s.high:.4f}", f"{s.mean_bpp:.4f}"),
        )
        for s in analysis.spreads
    ]
    note = "Curves, savings and differences are those of the means over seeds."
    return Section(title="Seeds", header=header, rows=rows, text_columns=2, notes=(note,))


def rankings_section(rankings: Sequence[Ranking]) -> Section:
    """Returns how stable rankings are, and how far those of one codec agree."""
    rows = [_agreement_row(*found) for found in compare_all(rankings)]
    header = ("ranking", "against", "codec", "Spearman", "Kendall", "shared of the first N")
    note = (
        "Channels that are equally important share the mean of their ranks. In brackets, how many "
        "of the first N two random orders would share. Undetermined: in one of both rankings the "
        "cut runs through a tie."
    )
    title = "Agreement of rankings"
    return Section(title=title, header=header, rows=rows, text_columns=3, notes=(note,))


def compare_all(rankings: Sequence[Ranking]) -> list[tuple[Ranking, Ranking | None, Agreement]]:
    """Returns the agreement of each ranking's halves (second is None), then of each pair."""
    distinct = list({(r.codec_id, r.ranking_id): r for r in rankings}.values())
    found = [(ranking, None, ranking.halves) for ranking in distinct if ranking.halves is not None]
    pairs = itertools.combinations(distinct, 2)
    return found + [(a, b, compare_rankings(a, b)) for a, b in pairs if a.codec_id == b.codec_id]


def intervals_note(analysis: Analysis) -> str:
    """Returns what the intervals are, or why there are none."""
    if analysis.images is None:
        return f"No intervals: {analysis.why_no_intervals}."
    draws, images = analysis.images.times_DS.shape
    note = (
        f"Intervals hold 95 % of draws: {draws} times as many of the {images} images were drawn "
        "with replacement, the same ones for every network (paired bootstrap)."
    )
    if images < FEW_IMAGES:
        note += f" From only {images} images such intervals are too narrow."
    return note


def agreements(rankings: Sequence[Ranking]) -> list[dict[str, Any]]:
    """Returns the numbers of `rankings_section`, JSON-ready."""
    return [
        {
            "ranking": first.ranking_id,
            "against": _HALVES if second is None else second.ranking_id,
            "codec_id": first.codec_id,
            **dataclasses.asdict(agreement),
        }
        for first, second, agreement in compare_all(rankings)
    ]


def percent(value: float) -> str:
    """Returns a fraction in percent with one decimal."""
    return f"{100 * value:.1f} %"


def brackets(found: Interval | None) -> str:
    """Returns an interval of a fraction in percent, to stand behind it; empty without one."""
    return "" if found is None else f" [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def saving_words(saved: Saved) -> str:
    """Returns a saving or a bound as a part of a sentence."""
    found = saved.found
    if found.saving is not None:
        return (
            f"{found.test} saves up to {percent(found.saving.maximum)} of the rate at equal score"
            f"{_percents(saved.maximum)}, {percent(found.saving.median)} in the median"
            f"{_percents(saved.median)}"
        )
    least = 0.0 if found.bound is None else found.bound.at_least
    return f"{found.test} saves at least {percent(least)} of the rate{_percents(saved.at_least)}"


def doubt_words(saved: Saved, analysis: Analysis) -> str:
    """Returns what is said in place of a bound that the choice of images may explain; else nothing.

    A bound rests on the test's score being no lower. At one codec the paired difference tells
    whether that is more than chance; across codecs, the share of draws that have the bound.
    """
    found, images = saved.found, analysis.images
    if found.bound is None or images is None:
        return ""
    count, rate = images.times_DS.shape[1], f"{100 * (1 - found.bound.at_least):.0f} % of the rate"
    for difference in analysis.differences:
        pair = (difference.anchor, difference.test) == (found.anchor, found.test)
        if pair and math.isclose(difference.rate, 1 - found.bound.at_least) and difference.interval:
            if difference.interval.low > 0:
                return ""
            return (
                f"{found.test} shows no difference in {analysis.metric} that {count} images can "
                f"tell ({_signed(difference)}) at {rate}"
            )
    share = saved.at_least.share if saved.at_least else 0.0
    if share >= _RARELY:
        return ""
    return (
        f"{found.test} reaches the same {analysis.metric} at {rate} in only {100 * share:.0f} % of "
        f"draws of the {count} images"
    )


def chance_line(analysis: Analysis) -> str:
    """Returns how many seeds and images the findings rest on, and what intervals leave out."""
    seeds = Counter((p.label, p.codec_id) for p in analysis.points).values()
    images = [len(p.samples) for p in analysis.points]
    line = f"{_counted(seeds, 'seed')}, {_counted(images, 'image')}: "
    if analysis.images is None:
        return f"{line}no intervals, as {analysis.why_no_intervals}."
    return f"{line}intervals are of the choice of images; chance in training is not in them."


def difference_words(found: Difference) -> str:
    """Returns a difference at one codec as a sentence without its end."""
    return (
        f"At one codec {found.test} scores {_signed(found)} at {100 * found.rate:.0f} % of its rate"
    )


def _signed(found: Difference) -> str:
    ends = found.interval and f" [{found.interval.low:+.4f}, {found.interval.high:+.4f}]"
    return f"{found.score:+.4f}{ends or ''}"


def _counted(numbers: Collection[int], noun: str) -> str:
    """Returns the least and the largest number, and what they count."""
    least, most = min(numbers), max(numbers)
    return f"{least if least == most else f'{least} to {most}'} {noun}{'s' if most > 1 else ''}"


def _saving_row(saved: Saved) -> tuple[str, ...]:
    found, bound = saved.found, saved.found.bound
    median, overlap = "-", "none"
    if found.saving is not None:
        best = percent(found.saving.maximum) + _percents(saved.maximum)
        best += f" at {found.saving.maximum_at:.4f}"
        median = percent(found.saving.median) + _percents(saved.median)
        overlap = "{:.4f}-{:.4f}".format(*found.saving.overlap)
    elif bound is not None:
        best = (
            f"at least {percent(bound.at_least)}{_percents(saved.at_least)} "
            f"({bound.test_score:.4f} at {bound.test_rate:.4f} bpp, "
            f"{bound.anchor_score:.4f} at {bound.anchor_rate:.4f})"
        )
    else:
        best = f"{NOT_STATED}: {found.note}"
    bd_rate = "-" if found.bd_rate is None else f"{found.bd_rate:+.1f} %"
    return (found.test, found.anchor, best, median, overlap, bd_rate, _over_seeds(saved))


def _percents(found: Interval | None) -> str:
    share = 1.0 if found is None else found.share
    return brackets(found) + (f" in {100 * share:.0f} % of draws" if share < _RARELY else "")


def _over_seeds(saved: Saved) -> str:
    values = [value for value in saved.over_seeds if value is not None]
    if not values:
        return "-"
    of = f"{len(values)} of {len(saved.over_seeds)} seeds"
    return f"{percent(min(values))} to {percent(max(values))} ({of})"


def _agreement_row(first: Ranking, second: Ranking | None, found: Agreement) -> tuple[str, ...]:
    pair = (first,) if second is None else (first, second)
    shared = []
    for n, count in found.shared.items():
        tied = any(r.tied_at_cut.get(n) for r in pair)
        chance = f"{n * n / len(first.order):.1f}"
        shared.append(f"{n}: {count} ({chance}{', undetermined' if tied else ''})")
    return (
        first.ranking_id,
        _HALVES if second is None else second.ranking_id,
        first.codec_id.rsplit("-", 1)[-1],
        *("-" if c is None else f"{c:.3f}" for c in (found.spearman, found.kendall)),
        ", ".join(shared) or "-",
    )

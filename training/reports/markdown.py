"""`report.md` and `results.json`: what was found, one table, comparisons, notes on what counts."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latent_store.catalogue.rankings import Ranking
from training.evaluation.comparisons import Analysis, Difference, Saved, SeedSpread
from training.evaluation.points import Point, summary
from training.evaluation.resampling import Interval
from training.reports import comparison_tables
from training.tables import Section, align
from training.tasks.registry import find_task

_TEXT_COLUMNS = 2
_NOTES = (
    (
        "bpp is hyper + y + mask: the lengths of real entropy-coded strings, in bits, over "
        "original pixels, all images together. hyper is the z string, always whole. y is the whole "
        "natural string where all channels are kept and in the pixel domain, the scalable string "
        "up to the cut for ranked channels, and a string of exactly the chosen channels, coded "
        "image by image, for dynamic selection, whose mask is one bit a channel, in whole bytes."
    ),
    (
        "flush is the part of hyper and y that the ledger of symbols does not explain: what the "
        "coder writes to finish."
    ),
    "The header of a stream file, which tells sizes and checksums, is not counted.",
    "z is computed from all channels: the camera always runs g_a and h_a whole.",
    "PSNR is that of the full decode; selection does not change it.",
    (
        "GMAC counts multiply-adds behind the entropy decoder and h_s, at the first image's coded "
        "size: the network's, and in the pixel domain g_s's before it."
    ),
)
_TIES_NOTE = (
    "undetermined (k tied): the ranking's cut runs through k channels of equal score, so which of "
    "them a static network has was decided by the tie-break alone."
)


@dataclass(frozen=True, kw_only=True)
class ReportSetting:
    """The store, the split and the files that the points of one report have in common.

    Attributes:
        store: Its URL.
        decode: Which images' streams were decoded: `all`, `sample` or `none`.
        pictures: File names of the pictures, relative to the report.
        figures: File names and titles of the plots.
    """

    store: str
    dataset: str
    split: str
    decode: str
    pictures: tuple[str, ...] = ()
    figures: tuple[tuple[str, str], ...] = ()

    @property
    def split_name(self) -> str:
        """Dataset and split."""
        return f"{self.dataset}/{self.split}"


def results(
    analysis: Analysis, setting: ReportSetting, rankings: Sequence[Ranking] = ()
) -> dict[str, Any]:
    """Returns the content of `results.json`: every number of the report, no images.

    Of rankings the agreement is shown.
    """
    draws, images = (0, 0) if analysis.images is None else analysis.images.times_DS.shape
    return {
        "setting": dataclasses.asdict(setting),
        "points": [
            {**summary(point), "name": name, "score_interval": _ends(found)}
            for point, name, found in _named(analysis)
        ],
        "intervals": {"images": images, "draws": draws, "why_none": analysis.why_no_intervals},
        "comparisons": [dataclasses.asdict(saved) for saved in analysis.saved],
        "differences": [_without_point(d) for d in analysis.differences],
        "seeds": [_without_point(s) for s in analysis.spreads],
        "rankings": comparison_tables.agreements(rankings),
    }


def console_table(analysis: Analysis) -> str:
    """Returns the table for a terminal, columns aligned, without a trailing line break.

    Columns that say nothing of any network are left out.
    """
    heads, rows = columns(analysis.points), _rows(analysis)
    nothing = {head: {"-"} | ({"0.0000"} if head == "mask" else set()) for head in heads}
    filled = [i for i, head in enumerate(heads) if {row[i] for row in rows} - nothing[head]]
    return align([[row[i] for i in filled] for row in (heads, *rows)], _TEXT_COLUMNS)


def columns(points: Sequence[Point]) -> tuple[str, ...]:
    """Returns the heads of the table's columns."""
    return (
        *("network", "codec", "channels", "bpp", "hyper", "y", "mask", "flush"),
        *(points[0].metric, "95%", *points[0].more_scores, "permuted", "PSNR", "GMAC", "steps"),
    )


def constant_line(points: Sequence[Point]) -> str:
    """Returns what a network must beat, and who does not.

    That is always predicting the split's most frequent class. Where a task has no such baseline it
    is another picture's truth, where that was measured, else 0.
    """
    always = {
        (p.class_names[p.constant_class], p.metric, p.constant_score)
        for p in points
        if p.constant_class is not None and p.constant_score is not None
    }
    lines = [
        f"Always predicting {name!r}, the most frequent class, gives {metric} {score:.4f}."
        for name, metric, score in sorted(always)
    ]
    weak = dict.fromkeys(p.label for p in points if p.score <= p.floor)
    if weak:
        level = "that" if always else "chance"
        lines.append(f"No better than {level}, so that its rates mean nothing: {', '.join(weak)}.")
    return " ".join(lines)


def per_class_csv(analysis: Analysis) -> str:
    """Returns each class's score by network; empty where the split has not the class."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    heads = (f"{name} [{point.codec_id}]" for point, name, _ in _named(analysis))
    writer.writerow(["class", *heads])
    for index, name in enumerate(analysis.points[0].class_names):
        values = (p.class_scores[index] for p in analysis.points)
        writer.writerow([name, *("" if v is None else f"{v:.6f}" for v in values)])
    return file.getvalue()


def markdown(
    analysis: Analysis,
    setting: ReportSetting,
    rankings: Sequence[Ranking] = (),
    heading: str = "#",
) -> str:
    """Returns `report.md`; arguments as of `results`, and how the first heading begins."""
    points = analysis.points
    lines = "\n".join(f"- {line}" for line in notes(points, setting))
    sections = [
        f"{heading} {title(points, setting)}",
        *verdict(analysis),
        what_was_measured(points, setting),
        networks_section(analysis).markdown(),
        *(f"![{title}]({name})" for name, title in setting.figures),
        *(section.markdown() for section in comparisons(analysis, rankings)),
        per_class_section(analysis).markdown(),
        f"## What is counted\n\n{lines}",
    ]
    if setting.pictures:
        note = find_task(points[0].task).pictures_note
        sections += [f"## Pictures\n\n{note}", *(f"![{name}]({name})" for name in setting.pictures)]
    return "\n\n".join(section for section in sections if section) + "\n"


def title(points: Sequence[Point], setting: ReportSetting) -> str:
    """Returns the report's heading."""
    return f"Rate and {points[0].metric} on {setting.split_name}"


def verdict(analysis: Analysis) -> list[str]:
    """Returns what was found, in a few sentences, each a paragraph."""
    points, metric = analysis.points, analysis.metric
    best = max(range(len(points)), key=lambda i: points[i].score)
    rate = f"{points[best].bpp:.4f} bpp"
    lines = [f"Best {metric}: {points[best].score:.4f} at {rate}, by {analysis.names[best]}."]
    stated = [s for s in analysis.saved if s.found.largest is not None]
    anchors = dict.fromkeys(s.found.anchor for s in stated)
    lines += [f"Against {anchor}{_most_saved(analysis, anchor, stated)}." for anchor in anchors]
    for anchor in dict.fromkeys(s.found.anchor for s in analysis.saved):
        found = {s.found.test: s.found for s in analysis.saved if s.found.anchor == anchor}
        if all(f.note for f in found.values()):
            near = [d for d in analysis.differences if d.anchor == anchor and d.test in found]
            nearest = max(near, key=lambda d: d.score, default=None)
            note = found[nearest.test if nearest else next(iter(found))].note
            lines.append(f"Against {anchor} {comparison_tables.NOT_STATED}: {note}.")
            if nearest is not None:
                lines[-1] += f" {comparison_tables.difference_words(nearest)}."
    return [*lines, comparison_tables.chance_line(analysis), *filter(None, [constant_line(points)])]


def what_was_measured(points: Sequence[Point], setting: ReportSetting) -> str:
    """Returns images, store and codecs."""
    counts = sorted({len(p.samples) for p in points})
    images = " to ".join(str(c) for c in dict.fromkeys((counts[0], counts[-1])))
    codecs = ", ".join(dict.fromkeys(f"{p.codec_name} is `{p.codec_id}`" for p in points))
    return f"{images} images of `{setting.store}`. Codecs: {codecs}."


def networks_section(analysis: Analysis) -> Section:
    """Returns the table of all points."""
    points = analysis.points
    return Section(
        title="Networks",
        header=columns(points),
        rows=_rows(analysis),
        text_columns=_TEXT_COLUMNS,
        notes=tuple(filter(None, [comparison_tables.intervals_note(analysis), _thop_line(points)])),
    )


def comparisons(analysis: Analysis, rankings: Sequence[Ranking]) -> list[Section]:
    """Returns savings, differences, seeds and the agreement of rankings; some without rows."""
    return [
        comparison_tables.savings_section(analysis),
        comparison_tables.differences_section(analysis),
        comparison_tables.seeds_section(analysis),
        comparison_tables.rankings_section(rankings),
    ]


def per_class_section(analysis: Analysis) -> Section:
    """Returns the scores of the classes that the split has."""
    points = analysis.points
    names = points[0].class_names
    present = [i for i in range(len(names)) if any(p.class_scores[i] is not None for p in points)]
    scores = [[point.class_scores[i] for i in present] for point in points]
    rows = [
        (name, point.codec_name, *("-" if v is None else f"{v:.3f}" for v in values))
        for point, name, values in zip(points, analysis.names, scores, strict=True)
    ]
    header = ("network", "codec", *(names[i] for i in present))
    heading = f"{find_task(points[0].task).metric.class_title} by class"
    return Section(title=heading, header=header, rows=rows, text_columns=_TEXT_COLUMNS)


def notes(points: Sequence[Point], setting: ReportSetting) -> list[str]:
    """Returns what is counted, and how."""
    decoded = [sample.rate.decoded for point in points for sample in point.samples]
    streams = (
        f"Streams were decoded, and the network saw what came out, for {sum(decoded)} of "
        f"{len(decoded)} images (decode = {setting.decode})."
    )
    task = find_task(points[0].task)
    lines = [task.score_note, *_NOTES, streams]
    if any(p.tied for p in points):
        lines.append(_TIES_NOTE)
    if any(p.permuted_score is not None for p in points):
        lines.append(
            f"permuted is {task.metric.title} with each image's ŷ given to another image's "
            f"{task.annotations.component}."
        )
    return lines


def _most_saved(analysis: Analysis, anchor: str, stated: Sequence[Saved]) -> str:
    """Returns what saves most against an anchor; a bound only where it is no chance of images."""
    against = [s for s in stated if s.found.anchor == anchor and _largest(s) > 0]
    told = {id(s): comparison_tables.doubt_words(s, analysis) for s in against}
    best = max([s for s in against if not told[id(s)]] or against, key=_largest, default=None)
    if best is None:
        return f" nothing saves rate at equal {analysis.metric}"
    return f", {told[id(best)] or comparison_tables.saving_words(best)}"


def _largest(saved: Saved) -> float:
    return -math.inf if saved.found.largest is None else saved.found.largest


def _ends(found: Interval | None) -> list[float] | None:
    return None if found is None else [found.low, found.high]


def _without_point(found: Difference | SeedSpread) -> dict[str, Any]:
    # Not asdict: it would copy every image of the point only to drop it.
    names = (f.name for f in dataclasses.fields(found) if f.name != "point")
    values = {name: getattr(found, name) for name in names}
    if isinstance(found, Difference):
        values["interval"] = _ends(found.interval)
    return {**values, "codec_id": found.point.codec_id}


def _named(analysis: Analysis) -> Iterator[tuple[Point, str, Interval | None]]:
    return zip(analysis.points, analysis.names, analysis.intervals, strict=True)


def _rows(analysis: Analysis) -> list[tuple[str, ...]]:
    return [_row(*row) for row in _named(analysis)]


def _row(point: Point, name: str, found: Interval | None) -> tuple[str, ...]:
    numbers = summary(point)
    rates = ("bpp", "hyper_bpp", "y_bpp", "mask_bpp", "flush_bpp", "score")
    return (
        *(name, point.codec_name, _channels(numbers)),
        *(f"{numbers[rate]:.4f}" for rate in rates),
        "-" if found is None else f"{found.low:.4f}-{found.high:.4f}",
        *(f"{score:.4f}" for score in point.more_scores.values()),
        "-" if point.permuted_score is None else f"{point.permuted_score:.4f}",
        "-" if point.psnr is None else f"{point.psnr:.2f}",
        f"{point.macs / 1e9:.2f}",
        point.steps,
    )


def _channels(numbers: Mapping[str, Any]) -> str:
    if numbers["tied"]:
        return "{keep}, undetermined ({tied} tied)".format_map(numbers)
    if numbers["channels_min"] == numbers["channels_max"]:
        return str(numbers["channels_min"])
    return "{channels_mean:.1f} ({channels_min}-{channels_max})".format_map(numbers)


def _thop_line(points: Sequence[Point]) -> str:
    thop = [f"{p.label}: {p.macs_thop / 1e9:.2f}" for p in points if p.macs_thop != p.macs]
    start = "Counted as the tool thop counts transposed convolutions, at output positions, GMAC"
    return f"{start} would be {'; '.join(dict.fromkeys(thop))}." if thop else ""

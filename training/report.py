"""What an evaluation says: one table, savings between methods, and notes on what was counted."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from training.curves import Comparison, Curve, compare
from training.points import PIXEL_RAW, Point, by_label, summary

_COLUMNS = (
    "network", "codec", "channels", "bpp", "hyper", "y", "mask", "flush",
    "mIoU", "permuted", "PSNR", "GMAC",
)  # fmt: skip
_TEXT_COLUMNS = 2
_NOTES = (
    (
        "mIoU comes from one confusion matrix over all images, at original size, over classes that "
        "the labels contain; pixels labelled 255 are left out."
    ),
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
_SAVINGS_NOTE = (
    "Log-rate is interpolated on each method's Pareto front; maximum and median are over the mIoU "
    "that both methods reach. Where they share none, “at least” is a bound: the other method's "
    "best mIoU, at its rate R, is reached or passed at rate r, which saves at least 1 − r/R. "
    "Negative savings are losses."
)
_TIES_NOTE = (
    "undetermined (k tied): the ranking's cut runs through k channels of equal score, so which of "
    "them a static network has was decided by the tie-break alone."
)
_PICTURES_NOTE = "## Pictures\n\nDecoded picture, label, and each network's map."
_BASELINE_RANKINGS = ("variance", "entropy", "random")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the points of one report have in common.

    Attributes:
        store: The store's URL.
        dataset, split: The evaluated split.
        decode: Which images' streams were decoded: ``all``, ``sample`` or ``none``.
        pictures: File names of the pictures, relative to the report.
    """

    store: str
    dataset: str
    split: str
    decode: str
    pictures: tuple[str, ...] = ()


def curves(points: Sequence[Point]) -> list[Curve]:
    """Returns one curve a method, in order of appearance."""
    return [
        Curve(
            name=label,
            rates=tuple(p.bpp for p in members),
            scores=tuple(p.miou for p in members),
        )
        for label, members in by_label(points).items()
    ]


def comparisons(points: Sequence[Point]) -> list[Comparison]:
    """Returns what each method saves against the methods that it is meant to beat.

    Those are the pixel domain, all channels (``none``), and, for a network on the first N ranked
    channels, those of its kind on as many by a ranking that learned nothing from the task.
    """
    first = {point.label: point for point in reversed(points)}
    by_method = {curve.name: curve for curve in curves(points)}
    return [
        compare(by_method[anchor], by_method[test])
        for anchor in by_method
        for test in by_method
        if anchor != test and _is_anchor(first[anchor], first[test])
    ]


def results(points: Sequence[Point], setting: Setting) -> dict[str, Any]:
    """Returns the content of ``results.json``: every number of the report, no images."""
    return {
        "setting": dataclasses.asdict(setting),
        "points": [summary(point) for point in points],
        "comparisons": [dataclasses.asdict(c) for c in comparisons(points)],
    }


def console_table(points: Sequence[Point]) -> str:
    """Returns the table for a terminal, columns aligned, without a trailing line break."""
    rows = [_COLUMNS, *(_row(point) for point in points)]
    return align(rows, _TEXT_COLUMNS)


def constant_line(points: Sequence[Point]) -> str:
    """Returns what a network must beat: always predicting the split's most frequent class."""
    always = {(p.class_names[p.constant_class], p.constant_miou) for p in points}
    lines = [
        f"Always predicting {name!r}, the most frequent class, gives mIoU {miou:.4f}."
        for name, miou in sorted(always)
    ]
    weak = dict.fromkeys(p.label for p in points if p.miou <= p.constant_miou)
    if weak:
        lines.append(f"No better than that, so that its rates mean nothing: {', '.join(weak)}.")
    return " ".join(lines)


def align(rows: Sequence[Sequence[str]], text_columns: int) -> str:
    """Returns rows in columns: a rule below the header, numbers to the right.

    Args:
        rows: Header first; all of one length.
        text_columns: How many columns, from the left, hold text and stand to the left.
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i < text_columns else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([lines[0], rule, *lines[1:]])


def per_class_csv(points: Sequence[Point]) -> str:
    """Returns IoU by class and network; empty where the labels do not contain the class."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["class", *(f"{p.label} [{p.codec_id}]" for p in points)])
    for index, name in enumerate(points[0].class_names):
        values = (p.class_iou[index] for p in points)
        writer.writerow([name, *("" if v is None else f"{v:.6f}" for v in values)])
    return file.getvalue()


def markdown(points: Sequence[Point], setting: Setting) -> str:
    """Returns ``report.md``."""
    sections = [
        _head(points, setting),
        markdown_table(_COLUMNS, [_row(p) for p in points], _TEXT_COLUMNS),
        constant_line(points),
        _thop_line(points),
        "![Rate against mIoU](rate_miou.png)",
        _savings(comparisons(points)),
        _per_class(points),
        _notes(points, setting),
    ]
    if setting.pictures:
        sections += [_PICTURES_NOTE, *(f"![{name}]({name})" for name in setting.pictures)]
    return "\n\n".join(section for section in sections if section) + "\n"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int) -> str:
    """Returns a Markdown table whose first ``text_columns`` columns stand to the left."""
    marks = ["---" if i < text_columns else "---:" for i in range(len(header))]
    lines = [header, marks, *rows]
    return "\n".join("| " + " | ".join(c.replace("|", r"\|") for c in row) + " |" for row in lines)


def _is_anchor(anchor: Point, test: Point) -> bool:
    if anchor.domain == test.domain == "pixel":
        return anchor.label == PIXEL_RAW
    if anchor.domain == "pixel":
        return True
    if test.domain == "pixel":
        return False
    if anchor.selection == "none":
        return True
    return (
        anchor.selection == test.selection
        and anchor.keep is not None
        and anchor.keep == test.keep
        and anchor.ranking_method in _BASELINE_RANKINGS
        and test.ranking_method not in _BASELINE_RANKINGS
    )


def _row(point: Point) -> tuple[str, ...]:
    return (
        point.label,
        _codec_name(point),
        _channels(point),
        f"{point.bpp:.4f}",
        f"{point.hyper_bpp:.4f}",
        f"{point.y_bpp:.4f}",
        f"{point.mask_bpp:.4f}",
        f"{point.flush_bpp:.4f}",
        f"{point.miou:.4f}",
        "-" if point.permuted_miou is None else f"{point.permuted_miou:.4f}",
        "-" if point.psnr is None else f"{point.psnr:.2f}",
        f"{point.macs / 1e9:.2f}",
    )


def _codec_name(point: Point) -> str:
    digits = point.codec_id.rsplit("-", 1)[-1]
    return digits if point.quality is None else f"{digits} (q{point.quality})"


def _channels(point: Point) -> str:
    if point.tied:
        return f"{point.keep}, undetermined ({point.tied} tied)"
    if point.channels_min == point.channels_max:
        return str(point.channels_min)
    return f"{point.channels_mean:.1f} ({point.channels_min}-{point.channels_max})"


def _head(points: Sequence[Point], setting: Setting) -> str:
    counts = sorted({len(p.samples) for p in points})
    images = " to ".join(str(c) for c in dict.fromkeys((counts[0], counts[-1])))
    codecs = ", ".join(dict.fromkeys(f"`{p.codec_id}`" for p in points))
    return (
        f"# Rate and mIoU on {setting.dataset}/{setting.split}\n\n"
        f"{images} images of `{setting.store}`, codecs by the last digits of their ids: {codecs}."
    )


def _thop_line(points: Sequence[Point]) -> str:
    thop = [f"{p.label}: {p.macs_thop / 1e9:.2f}" for p in points if p.macs_thop != p.macs]
    if not thop:
        return ""
    return (
        "Counted as the tool thop counts transposed convolutions, at output positions, GMAC would "
        f"be {'; '.join(dict.fromkeys(thop))}."
    )


def _savings(found: Sequence[Comparison]) -> str:
    if not found:
        return ""
    rows = [_saving_row(c) for c in found]
    header = ("method", "against", "rate saved (max)", "(median)", "mIoU overlap", "BD-rate")
    reasons = dict.fromkeys(c.bd_note for c in found if c.bd_note)
    parts = [
        "## Rate saved at equal mIoU",
        markdown_table(header, rows, 2),
        _SAVINGS_NOTE,
    ]
    if reasons:
        parts.append("No BD-rate: " + "; ".join(reasons) + ".")
    return "\n\n".join(parts)


def _saving_row(found: Comparison) -> tuple[str, ...]:
    percent = "-" if found.bd_rate is None else f"{found.bd_rate:+.1f} %"
    names = (found.test, found.anchor)
    if found.saving is not None:
        low, high = found.saving.overlap
        best = f"{100 * found.saving.maximum:.1f} % at {found.saving.maximum_at:.4f}"
        median = f"{100 * found.saving.median:.1f} %"
        return (*names, best, median, f"{low:.4f}-{high:.4f}", percent)
    if found.bound is not None:
        b = found.bound
        least = (
            f"at least {100 * b.at_least:.1f} % ({b.test_score:.4f} at {b.test_rate:.4f} bpp, "
            f"{b.anchor_score:.4f} at {b.anchor_rate:.4f})"
        )
        return (*names, least, "-", "none", percent)
    return (*names, f"not shown: {found.note}", "-", "none", percent)


def _per_class(points: Sequence[Point]) -> str:
    rows = []
    for index, name in enumerate(points[0].class_names):
        values = [p.class_iou[index] for p in points]
        if any(v is not None for v in values):
            rows.append((name, *("-" if v is None else f"{v:.3f}" for v in values)))
    header = ("class", *(p.label for p in points))
    return "## IoU by class\n\n" + markdown_table(header, rows, 1)


def _notes(points: Sequence[Point], setting: Setting) -> str:
    decoded = sum(p.decoded for p in points)
    images = sum(len(p.samples) for p in points)
    streams = (
        f"Streams were decoded, and the network saw what came out, for {decoded} of {images} "
        f"images (decode = {setting.decode})."
    )
    lines = [*_NOTES, streams]
    if any(p.tied for p in points):
        lines.append(_TIES_NOTE)
    if any(p.permuted_miou is not None for p in points):
        lines.append("permuted is mIoU with each image's ŷ given to another image's label.")
    return "## What is counted\n\n" + "\n".join(f"- {line}" for line in lines)

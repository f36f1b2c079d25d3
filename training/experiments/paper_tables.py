"""The paper's tables in a grid's numbers, beside the paper's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from training.evaluation.comparisons import find_differences
from training.evaluation.methods import Method
from training.experiments.findings import Findings
from training.experiments.records import Timings
from training.reports.comparison_tables import brackets
from training.tables import Section
from training.transmission.latency import PAPER, PIXEL

PAPER_TABLE_1 = {
    "bpp": (0.084, 0.111, 0.154, 0.216),
    "pixel": (0.423, 0.514, 0.579, 0.648),
    "latent": (0.645, 0.673, 0.693, 0.702),
}
PAPER_TABLE_2 = {"deconv": (94, 0.6502, 0.6785), "res": (202, 0.6534, 0.6836)}
"""MACs in G as the paper counts them, mIoU at 0.067 and at 0.104 bpp."""
_NO_GATE = "no-gate"


def table_1(found: Findings) -> Section | None:
    """Compressed domain without selection against the pixel domain, codec by codec."""
    latent = found.methods.get(_NO_GATE)
    pixels = [found.methods[n] for n in ("pixel-raw", "pixel-decoded") if n in found.methods]
    if latent is None or not pixels:
        return None
    codecs = list(latent.by_codec)
    rows = [
        ("paper: bpp", *(f"{v:.3f}" for v in PAPER_TABLE_1["bpp"])),
        ("paper: pixel domain", *(f"{v:.3f}" for v in PAPER_TABLE_1["pixel"])),
        ("paper: compressed domain", *_with_gain(PAPER_TABLE_1["latent"], PAPER_TABLE_1["pixel"])),
        ("bpp", *(f"{v:.3f}" for v in latent.curve.rates)),
    ]
    for pixel in pixels:
        scores = _scores(pixel)
        rows.append((pixel.name, *(f"{scores[c]:.4f}" if c in scores else "-" for c in codecs)))
    mine = _scores(latent)
    for pixel in pixels:
        base = _scores(pixel)
        shared = [c for c in codecs if c in base]
        gains = _with_gain([mine[c] for c in shared], [base[c] for c in shared])
        cells = dict(zip(shared, gains, strict=True))
        row = (f"{latent.name}, against {pixel.name}", *(cells.get(c, "-") for c in codecs))
        rows += [row] if shared else []
    names = {codec_id: name for name, codec_id in found.grid.codecs.items()}
    header = ("mIoU", *(names[codec_id] for codec_id in codecs))
    padded = [row[: len(header)] + ("",) * (len(header) - len(row)) for row in rows]
    title = "Table 1: no selection against the pixel domain"
    return Section(title=title, header=header, rows=padded, text_columns=1)


def _scores(method: Method) -> dict[str, float]:
    return dict(zip(method.by_codec, method.curve.scores, strict=True))


def _with_gain(scores: Sequence[float], base: Sequence[float]) -> list[str]:
    pairs = zip(scores, base, strict=True)
    return [f"{s:.4f} ({100 * (s / b - 1):+.1f} %)" if b else f"{s:.4f}" for s, b in pairs]


def table_2(found: Findings) -> Section | None:
    """The transforms, at the codecs that all of their methods were run at."""
    methods = [found.methods[n] for n in found.grid.transforms if n in found.methods]
    if not methods:
        return None
    shared = [c for c in methods[0].by_codec if all(c in m.by_codec for m in methods)]
    rows = [
        (f"paper: {name}", f"{g} (thop)", "-", f"{low:.4f} at 0.067, {high:.4f} at 0.104")
        for name, (g, low, high) in PAPER_TABLE_2.items()
    ]
    for method in methods if shared else ():
        first = method.by_codec[shared[0]][0]
        macs = first.macs_parts["transform"] / 1e9
        whole = f"{first.macs / 1e9:.2f} ({first.macs_thop / 1e9:.2f} by thop)"
        curve = method.curve
        means = dict(zip(method.by_codec, zip(curve.scores, curve.rates, strict=True), strict=True))
        scores = ", ".join(f"{means[c][0]:.4f} at {means[c][1]:.3f}" for c in shared)
        rows.append((method.name, f"{macs:.2f}", whole, scores))
    header = ("transform", "its GMAC", "network's GMAC", "mIoU at bpp")
    return Section(title="Table 2: the transform modules", header=header, rows=rows, text_columns=1)


def table_3(timings: Timings) -> Section:
    """Returns the latencies: each side's time, and its share of the pixel domain's."""
    pixel = next((x for x in timings.latencies if x["kind"] == PIXEL), None)
    rows = [_latency_row(latency, pixel) for latency in timings.latencies]
    header = (
        "network", "channels sent", "encode (ms)", "of pixel's", "paper",
        "decode + task (ms)", "of pixel's", "paper",
    )  # fmt: skip
    setting = timings.setting
    note = (
        f"On {setting['device']} with {setting['threads']} CPU threads, one picture of "
        f"{setting['pictures'][0]} a run: medians of {setting['repeats']} runs in which the "
        "networks take turns, in brackets the 10 % and 90 % quantiles. The paper's shares are of "
        "1024×2048 pictures on a GeForce RTX 3090."
    )
    title = "Table 3: latency"
    return Section(title=title, header=header, rows=rows, text_columns=1, notes=(note,))


def _latency_row(latency: Mapping[str, Any], pixel: Mapping[str, Any] | None) -> tuple[str, ...]:
    cells = [latency["kind"], f"{latency['channels']:.0f}"]
    for side, name in enumerate(("encode", "decode")):
        spread = latency[name]
        ours = "-" if pixel is None else f"{spread['median'] / pixel[name]['median']:.2f}"
        paper = PAPER.get(latency["kind"])
        theirs = "-" if paper is None else f"{paper[side] / PAPER[PIXEL][side]:.2f}"
        cells += [f"{spread['median']:.0f} ({spread['p10']:.0f}-{spread['p90']:.0f})", ours, theirs]
    return tuple(cells)


def any_n(found: Findings) -> Section:
    """One network for every N, whose record has a point for each, against a network for each N."""
    several = [p for r in found.records if len(r.points) > 1 for p in r.points]
    keeps = {p.label: p.keep for p in several}
    rows = [
        (
            *(difference.test, difference.anchor, f"{difference.point.score:.4f}"),
            f"{100 * difference.score:+.2f}{brackets(difference.interval)}",
        )
        for name, keep in keeps.items()
        if (static := found.methods.get(f"frequency-{keep}"))
        for difference in find_differences(static, found.methods[name], found.analysis.images)
    ]
    note = "Points of mIoU, one network for all N less the static network of that N, same codec."
    header = ("N channels", "against", "mIoU", "difference in points")
    title = "One network for every N"
    return Section(title=title, header=header, rows=rows, text_columns=2, notes=(note,))

"""The report of a grid: the paper's tables and figures in our numbers, beside the paper's.

Made of records alone: neither a store nor a checkpoint is needed.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from latent_store import Ranking
from latent_store.storage.local_files import write_text
from training.evaluation.comparisons import Analysis, analyse, find_differences
from training.evaluation.methods import Method
from training.evaluation.points import Point
from training.experiments.grid import Claim, Grid
from training.experiments.learning import held_out_scores, learning_chart, write_curves
from training.experiments.records import Record, Timings
from training.experiments.verdicts import LEAST_SEEDS, Verdict, judge
from training.reports import markdown, page, plots
from training.reports.charts import Chart, channels_chart, rate_chart
from training.reports.comparison_tables import brackets, percent
from training.reports.page_data import page_data
from training.tables import Section
from training.transmission.latency import PAPER, PIXEL

PAPER_TABLE_1 = {
    "bpp": (0.084, 0.111, 0.154, 0.216),
    "pixel": (0.423, 0.514, 0.579, 0.648),
    "latent": (0.645, 0.673, 0.693, 0.702),
}
PAPER_TABLE_2 = {"deconv": (94, 0.6502, 0.6785), "res": (202, 0.6534, 0.6836)}
"""MACs in G as the paper counts them, mIoU at 0.067 and at 0.104 bpp."""
_ONE_TEACHER = "All networks start from one teacher, which is not drawn."
_TEACHERS = "Each seed has a teacher of its own, and all networks of a seed are drawn together."
_NO_GATE = "no-gate"
_CLAIMS_NOTE = (
    "At one codec, or at equal {metric} (log-rate interpolated on each curve's Pareto front, the "
    "largest saving over the overlap, or the bound without one). In brackets the middle 95 % of "
    "draws of seeds and images together (hierarchical bootstrap). Shown: all of it lies above "
    "0, for a saving all of that of its median over the overlap. Reached: all of it lies above the "
    "aim too. Nothing is shown by fewer than {seeds} seeds. {teachers} Of several tests "
    "the best is taken, as “chosen on” says (held against the first of the learning curves where "
    "the teacher is the anchor)."
)


@dataclass(frozen=True, kw_only=True)
class Findings:
    """A grid's records, and what follows from their points.

    Attributes:
        analysis: Of all points.
        methods: The grid's name of a method -> its points at every codec and seed; each cut of an
            any-N network is a method of its own, `any-16`.
        claims: Of the grid, each with its verdict; None where it was not run.
        missing: Runs of the grid without a record.
        timings: Of the grid's networks; None if they were not timed.
    """

    grid: Grid
    records: tuple[Record, ...]
    analysis: Analysis
    methods: Mapping[str, Method]
    claims: tuple[tuple[Claim, Verdict | None], ...]
    missing: tuple[str, ...]
    timings: Timings | None = None


def find(grid: Grid, records: Sequence[Record], timings: Timings | None = None) -> Findings:
    """Collects records of one task; several points of one record (any-N) become methods."""
    by_label: dict[str, list[Point]] = {}
    curves: dict[str, list[Point]] = {}
    for record in records:
        for point in record.points:
            several = len(record.points) > 1
            method = str(record.config["method"])
            by_label.setdefault(point.label if several else method, []).append(point)
            if several:
                curve = f"{method}-N" if point.stop is None else f"{method}-stop"
                curves.setdefault(curve, []).append(point)
    finished = {record.name for record in records}
    rows = {n: Method(name=n, points=tuple(p)) for n, p in (by_label | curves).items()}
    analysis = analyse([point for record in records for point in record.points])
    held_out, images = held_out_scores(grid, records), analysis.images
    teachers = frozenset(name for name, method in grid.methods.items() if method.teacher)
    stand_in, paired = (grid.curves[0] if grid.curves else None), grid.teacher_per_seed
    return Findings(
        grid=grid,
        records=tuple(records),
        analysis=analysis,
        methods={name: rows[name] for name in by_label},
        claims=tuple(
            (claim, judge(claim, rows, images, held_out, teachers, stand_in, paired=paired))
            for claim in grid.claims
        ),
        missing=tuple(run.name for run in grid.runs() if run.name not in finished),
        timings=timings,
    )


def write_report(
    found: Findings, rankings: Sequence[Ranking], command: str, output: Path
) -> tuple[Path, ...]:
    """Writes report.html, report.md, results.json, learning.csv and the figures.

    Args:
        found: What the grid's records give.
        rankings: Those of the grid, for their agreement.
        command: What makes this report.
        output: Folder.

    Returns:
        The paths of report.md, results.json and report.html.
    """
    setting = markdown.ReportSetting(
        store=f"grid {found.grid.name}",
        dataset=found.grid.dataset,
        split=found.grid.val_split,
        decode="sample",
    )
    charts, claims, facts = _charts(found), _claims(found), _facts(found, command)
    plots.write_figures(charts, output)
    learned = write_curves(found.grid, found.records, output)
    tables = [
        *(section for section in (learned, _table_1(found), _table_2(found)) if section),
        *([table_3(found.timings)] if found.timings else []),
        _any_n(found),
    ]
    parts = [
        f"# {_title(found)}",
        *_verdict(found),
        *facts,
        *(section.markdown() for section in (claims, *tables)),
        *(f"## {chart.title}\n\n![]({chart.name}.png)" for chart in charts),
        markdown.markdown(found.analysis, setting, rankings, heading="##"),
    ]
    content = {
        "grid": found.grid.name,
        "command": command,
        "missing": list(found.missing),
        "claims": [_claim_json(*judged) for judged in found.claims],
        "latency": found.timings and dataclasses.asdict(found.timings),
        **markdown.results(found.analysis, setting, rankings),
    }
    write_text(output / "results.json", json.dumps(content, indent=1) + "\n")
    write_text(output / "report.md", "\n\n".join(s for s in parts if s) + "\n")
    savings, *others = markdown.comparisons(found.analysis, rankings)
    whole = page.Page(
        title=_title(found),
        verdict=_verdict(found),
        facts=facts,
        first=[claims],
        tables=[
            *tables,
            savings,
            markdown.networks_section(found.analysis),
            markdown.per_class_section(found.analysis),
            *others,
        ],
        methods=markdown.notes(found.analysis.points, setting),
        notes={},
    )
    drawn = [*charts, *filter(None, [learning_chart(found.grid, found.records)])]
    data = page_data(found.analysis, drawn, rankings, codecs=_codec_names(found))
    write_text(output / "report.html", page.render(whole, data))
    return output / "report.md", output / "results.json", output / "report.html"


def _charts(found: Findings) -> list[Chart]:
    """Returns figure 5, and figure 6 where the middle codec has networks of several N."""
    points, images, codecs = found.analysis.points, found.analysis.images, _codec_names(found)
    middle = found.grid.codecs[found.grid.middle]
    # Methods of the middle quality alone have figure 6. A grid of one codec, or one that has hardly
    # begun, has no curves: its points are shown.
    curves = [m for m in found.methods.values() if len(m.by_codec) > 1]
    on_curves = {id(point) for method in curves for point in method.points}
    over_rates = [p for p in points if p.codec_id != middle or id(p) in on_curves] or points
    at_middle = [p for p in points if p.codec_id == middle]
    first = rate_chart(over_rates, images, "figure5", codecs)
    title = f"Figure 5: rate against {found.analysis.metric} over the qualities"
    second = channels_chart(at_middle, images, "figure6", codecs)
    if second is None:
        return [dataclasses.replace(first, title=title)]
    swept = f"Figure 6: N channels at {found.grid.middle} (numbers: N)"
    return [dataclasses.replace(first, title=title), dataclasses.replace(second, title=swept)]


def _codec_names(found: Findings) -> dict[str, str]:
    """Returns the grid's short names by codec ids."""
    return {codec_id: name for name, codec_id in found.grid.codecs.items()}


def _title(found: Findings) -> str:
    grid = found.grid
    return f"{grid.name}: rate and {found.analysis.metric} on {grid.dataset}, beside the paper's"


def _verdict(found: Findings) -> list[str]:
    """Returns how the claims stand, in a sentence or two."""
    words = ["not run" if verdict is None else verdict.word for _, verdict in found.claims]
    parts = Counter(word.partition(":")[0] for word in words)
    stand = ", ".join(f"{count} {word}" for word, count in parts.most_common())
    lines = [f"Of {len(words)} claims: {stand}."] if words else []
    if few := [word for word in words if word.startswith("not shown:")]:
        lines.append(
            f"{len(few)} of them rest on fewer than {LEAST_SEEDS} seeds, by which nothing is shown."
        )
    if found.missing:
        lines.append(f"**Not run yet: {', '.join(found.missing)}.**")
    return [*lines, *filter(None, [markdown.constant_line(found.analysis.points)])]


def _facts(found: Findings, command: str) -> list[str]:
    grid = found.grid
    machines = sorted(
        {
            f"{r.facts['device']} of {r.facts['cores']} cores, torch {r.facts['torch']}"
            for r in found.records
            if "device" in r.facts
        }
    )
    seconds = sum(r.facts["seconds"] for r in found.records)
    seeds = sorted({int(r.config["seed"]) for r in found.records})
    images = len(found.analysis.points[0].samples)
    return [
        (
            f"{len(found.records)} networks, {images} validation images, codecs "
            f"{', '.join(grid.codecs)}, seeds {', '.join(map(str, seeds))}; made on "
            f"{'; '.join(machines)} in {seconds / 60:.0f} minutes of runs, several at a time."
        ),
        f"Every number, table and figure: `{command}`",
        (
            "The paper's numbers are of Cityscapes at 1024×2048, 400 epochs and CompressAI's own "
            "weights; only savings and the order of methods can be compared with them."
        ),
    ]


def _claims(found: Findings) -> Section:
    rows = [_claim_row(claim, verdict) for claim, verdict in found.claims]
    header = ("what", "paper", "aim", "here", "verdict", "by", "chosen on")
    teachers = _TEACHERS if found.grid.teacher_per_seed else _ONE_TEACHER
    metric = found.analysis.metric
    note = _CLAIMS_NOTE.format(metric=metric, seeds=LEAST_SEEDS, teachers=teachers)
    title = "Claims"
    return Section(title=title, header=header, rows=rows, text_columns=1, notes=(note,))


def _claim_row(claim: Claim, verdict: Verdict | None) -> tuple[str, ...]:
    def shown(value: float) -> str:
        points = claim.measure == "points"
        return f"{100 * value:.2f} points" if points else percent(value)

    first = (claim.what, claim.paper, f"≥ {shown(claim.aim)}")
    if verdict is None:
        return (*first, "-", "not run", "-", "-")
    value = "none" if verdict.value is None else shown(verdict.value)
    low = "none" if verdict.low == -math.inf else shown(verdict.low)
    high = "none" if verdict.high == -math.inf else shown(verdict.high)
    by = f"{verdict.test} against {claim.anchor}"
    chosen = verdict.chosen if len(claim.test) > 1 else "-"
    return (*first, f"{value} [{low}, {high}]", verdict.word, by, chosen)


def _claim_json(claim: Claim, verdict: Verdict | None) -> dict[str, Any]:
    """Returns a claim and its verdict; null for what does not exist."""
    content: dict[str, Any] = msgspec.to_builtins(claim)
    if verdict is None:
        return content | {"verdict": "not run"}
    numbers = {name: getattr(verdict, name) for name in ("value", "low", "high")}
    finite = {k: v if v is not None and math.isfinite(v) else None for k, v in numbers.items()}
    words = {"by": verdict.test, "chosen": verdict.chosen, "seeds": verdict.seeds}
    return content | finite | words | {"verdict": verdict.word}


def _table_1(found: Findings) -> Section | None:
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


def _table_2(found: Findings) -> Section | None:
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
        points = [method.by_codec[codec][0] for codec in shared]
        macs = points[0].macs_parts["transform"] / 1e9
        whole = f"{points[0].macs / 1e9:.2f} ({points[0].macs_thop / 1e9:.2f} by thop)"
        scores = ", ".join(f"{p.score:.4f} at {p.bpp:.3f}" for p in points)
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


def _any_n(found: Findings) -> Section:
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

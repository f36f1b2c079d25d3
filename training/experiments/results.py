"""The report of a grid: the paper's tables and figures in our numbers, beside the paper's.

Made of records alone: neither a store nor a checkpoint is needed.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from latent_store import Ranking
from latent_store.storage.local_files import write_text
from training.experiments.findings import Findings
from training.experiments.grid import Claim
from training.experiments.learning import learning_chart, write_curves
from training.experiments.paper_tables import any_n, table_1, table_2, table_3
from training.experiments.verdicts import LEAST_SEEDS, Verdict
from training.reports import markdown, page, plots
from training.reports.charts import Chart, channels_chart, rate_chart
from training.reports.comparison_tables import percent
from training.reports.page_data import page_data
from training.tables import Section

_ONE_TEACHER = "All networks start from one teacher, which is not drawn."
_TEACHERS = "Each seed has a teacher of its own, and all networks of a seed are drawn together."
_CLAIMS_NOTE = (
    "At one codec, or at equal {metric} (log-rate interpolated on each curve's Pareto front, the "
    "largest saving over the overlap, or the bound without one). In brackets the middle 95 % of "
    "draws of seeds and images together (hierarchical bootstrap). Shown: all of it lies above "
    "0, for a saving all of that of its median over the overlap. Reached: all of it lies above the "
    "aim too. Nothing is shown by fewer than {seeds} seeds. {teachers} Of several tests "
    "the best is taken, as “chosen on” says (held against the first of the learning curves where "
    "the teacher is the anchor)."
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
        *(section for section in (learned, table_1(found), table_2(found)) if section),
        *([table_3(found.timings)] if found.timings else []),
        any_n(found),
    ]
    parts = [
        f"# {_title(found)}",
        *_verdict(found),
        *facts,
        *([f"**{_missing(found)}**"] if found.missing else []),
        *(section.markdown() for section in (claims, *tables)),
        *(f"## {chart.title}\n\n![]({chart.name}.png)" for chart in charts),
        markdown.markdown(found.analysis, setting, rankings, heading="##"),
    ]
    content = _content(found, command) | markdown.results(found.analysis, setting, rankings)
    write_text(output / "results.json", json.dumps(content, indent=1) + "\n")
    write_text(output / "report.md", "\n\n".join(s for s in parts if s) + "\n")
    savings, *others = markdown.comparisons(found.analysis, rankings)
    networks = markdown.networks_section(found.analysis)
    tables += [savings, networks, markdown.per_class_section(found.analysis), *others]
    methods = markdown.notes(found.analysis.points, setting)
    whole = page.Page(
        title=_title(found),
        verdict=_verdict(found),
        facts=facts,
        first=[claims],
        tables=tables,
        methods=[*methods, *([_missing(found)] if found.missing else [])],
        notes={},
    )
    drawn = [*charts, *filter(None, [learning_chart(found.grid, found.records)])]
    data = page_data(found.analysis, drawn, rankings, codecs=_codec_names(found))
    write_text(output / "report.html", page.render(whole, data))
    return output / "report.md", output / "results.json", output / "report.html"


def _content(found: Findings, command: str) -> dict[str, Any]:
    return {
        "grid": found.grid.name,
        "command": command,
        "missing": list(found.missing),
        "claims": [_claim_json(*judged) for judged in found.claims],
        "latency": found.timings and dataclasses.asdict(found.timings),
    }


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
    stand = "; ".join(f"{count} {word}" for word, count in parts.most_common())
    lines = [f"Of {len(words)} claims: {stand}."] if words else []
    if few := [word for word in words if word.startswith("not shown:")]:
        rest = "rests" if len(few) == 1 else "rest"
        lines.append(
            f"{len(few)} of them {rest} on fewer than {LEAST_SEEDS} seeds, by which nothing is "
            "shown."
        )
    if found.missing:
        runs = len(found.missing) + len(found.records)
        lines.append(f"{len(found.missing)} of {runs} runs are still to run.")
    return [*lines, *filter(None, [markdown.constant_line(found.analysis.points)])]


def _missing(found: Findings) -> str:
    return f"Not run yet: {', '.join(found.missing)}."


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
    made = {r.config["codec"] for r in found.records}
    codecs = ", ".join(codec for codec in grid.codecs if codec in made)
    images = len(found.analysis.points[0].samples)
    return [
        (
            f"{len(found.records)} networks, {images} validation images, codecs "
            f"{codecs}, seeds {', '.join(map(str, seeds))}; made on "
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
    chosen = verdict.chosen if len(claim.test) > 1 and not claim.together else "-"
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

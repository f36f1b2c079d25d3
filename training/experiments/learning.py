"""Learning curves: the score on the samples that no network is trained on, as training goes on."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from latent_store.storage.local_files import write_text
from training.experiments.grid import Grid
from training.experiments.records import Record
from training.reports import plots
from training.reports.charts import Chart, Mark, Series, paint
from training.tables import Section

_FLAT = 0.01
"""A curve is flat at its end if its last fifth gains less, in points of the score."""
_LAST = 0.8


def held_out_scores(grid: Grid, records: Sequence[Record]) -> dict[str, dict[str, float]]:
    """Returns the last scores on the held-out samples, means over seeds: method -> codec id."""
    found: dict[str, dict[str, list[float]]] = {}
    for record in records:
        if record.curve:
            codec_id = grid.codecs[record.config["codec"]]
            scores = found.setdefault(record.config["method"], {}).setdefault(codec_id, [])
            scores.append(record.curve[-1][1])
    return {
        method: {codec_id: float(np.mean(scores)) for codec_id, scores in codecs.items()}
        for method, codecs in found.items()
    }


def write_curves(grid: Grid, records: Sequence[Record], folder: Path) -> Section | None:
    """Writes learning.csv, of every record, and learning.png, of the grid's `curves`.

    Returns:
        A section of the report; None where no record has a curve.
    """
    records = [record for record in records if record.curve]
    if not records:
        return None
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("method", "codec", "seed", "step", "score"))
    for record in records:
        run = [record.config[name] for name in ("method", "codec", "seed")]
        rows.writerows((*run, step, f"{score:.6f}") for step, score in record.curve)
    write_text(folder / "learning.csv", text.getvalue())
    drawn = _drawn(grid, records)
    chart = learning_chart(grid, records)
    if chart is None:
        return None
    plots.write_figures([chart], folder)
    target = np.mean([record.curve[-1][1] for record in drawn.get(grid.curves[0], ())] or [np.nan])
    header = (
        "method",
        "seeds",
        "last score",
        "gain in the last fifth",
        f"as {grid.curves[0]} ends",
    )
    table = [_row(name, found, float(target)) for name, found in drawn.items()]
    note = (
        f"Of the samples held out of training ({', '.join(grid.hold_out)}), codec {grid.middle}; "
        "mean and extremes over seeds. The last column is the first step with the score that "
        f"{grid.curves[0]} has at its end, in the mean of its seeds. Gains of {_FLAT:.2f} or more "
        "say that training had not ended."
    )
    return Section(
        title="Learning curves",
        header=header,
        rows=table,
        text_columns=1,
        notes=(note,),
        figure="learning.png",
    )


def _row(name: str, records: Sequence[Record], target: float) -> tuple[str, ...]:
    last = [record.curve[-1][1] for record in records]
    gains: list[float] = []
    reached: list[str] = []
    for record in records:
        steps, scores = np.array(record.curve, np.float64).T
        gains += (scores[-1] - scores[steps <= _LAST * steps[-1]][-1:]).tolist()
        there = steps[scores >= target]
        reached.append(f"{there[0]:.0f}" if there.size else "never")
    spread = f"{np.mean(last):.4f} ({min(last):.4f}-{max(last):.4f})"
    gain = f"{np.mean(gains):+.4f}" if gains else "-"
    return (name, str(len(records)), spread, gain, ", ".join(reached))


def learning_chart(grid: Grid, records: Sequence[Record]) -> Chart | None:
    """Returns steps against the held-out score of the grid's `curves`, means over seeds."""
    drawn = _drawn(grid, records)
    colours = paint([(name, number) for number, name in enumerate(drawn)])
    series = [
        Series(
            name=name,
            kind=name,
            colour=colour,
            form=number,
            dashed=False,
            marks=tuple(_marks(found)),
        )
        for number, ((name, found), colour) in enumerate(zip(drawn.items(), colours, strict=True))
    ]
    if not series:
        return None
    return Chart(
        name="learning",
        title=f"Learning curves at {grid.middle}",
        x_title="steps",
        y_title="score on the held-out samples",
        series=tuple(series),
        unit="steps",
        log=False,
        words=("line: mean over seeds", "hue: method"),
    )


def _marks(records: Sequence[Record]) -> Iterator[Mark]:
    """Yields the mean over seeds at each step that all of them were measured at."""
    curves = {record.config["seed"]: dict(record.curve) for record in records}
    for step in sorted(set.intersection(*(set(curve) for curve in curves.values()))):
        scores = {seed: curve[step] for seed, curve in curves.items()}
        dots = tuple((float(step), score, f"seed {seed}") for seed, score in scores.items())
        yield Mark(
            x=float(step),
            y=float(np.mean(list(scores.values()))),
            name=f"step {step}",
            dots=dots if len(dots) > 1 else (),
        )


def _drawn(grid: Grid, records: Sequence[Record]) -> dict[str, list[Record]]:
    """Returns the records with a curve at the middle codec, by the grid's `curves`."""
    found = {
        name: [
            r
            for r in records
            if r.curve and (r.config["method"], r.config["codec"]) == (name, grid.middle)
        ]
        for name in grid.curves
    }
    return {name: kept for name, kept in found.items() if kept}

"""Learning curves: the score on the samples that no network is trained on, as training goes on."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from latent_store.storage.local_files import write_text
from training.experiments.grid import Grid
from training.experiments.records import Record
from training.tables import section

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


def write_curves(grid: Grid, records: Sequence[Record], folder: Path) -> str:
    """Writes learning.csv, of every record, and learning.png, of the grid's `curves`.

    Returns:
        A section of the report; empty where no record has a curve.
    """
    records = [record for record in records if record.curve]
    if not records:
        return ""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("method", "codec", "seed", "step", "score"))
    for record in records:
        run = [record.config[name] for name in ("method", "codec", "seed")]
        rows.writerows((*run, step, f"{score:.6f}") for step, score in record.curve)
    write_text(folder / "learning.csv", text.getvalue())
    drawn = {
        name: [r for r in records if (r.config["method"], r.config["codec"]) == (name, grid.middle)]
        for name in grid.curves
    }
    drawn = {name: found for name, found in drawn.items() if found}
    if not drawn:
        return ""
    _draw(drawn, grid.middle, folder / "learning.png")
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
    return section("Learning curves", header, table, 1, "![](learning.png)", note)


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


def _draw(curves: Mapping[str, Sequence[Record]], codec: str, path: Path) -> None:
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, (name, records) in enumerate(curves.items()):
        for record in records:
            label = name if record is records[0] else None
            axes.plot(*zip(*record.curve, strict=True), f"C{number}", label=label, linewidth=1.2)
    axes.set(xlabel="steps", ylabel=f"score on the held-out samples, {codec}")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=140)

"""What a grid's records say together, before it is written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from training.evaluation.comparisons import Analysis, analyse
from training.evaluation.methods import Method
from training.evaluation.points import Point
from training.experiments.grid import Claim, Grid
from training.experiments.learning import held_out_scores
from training.experiments.records import Record, Timings
from training.experiments.verdicts import Verdict, judge


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

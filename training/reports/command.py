"""The work of `evaluate-from-store`: networks measured on a split, and what is written of that."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import latent_store
from latent_store.catalogue.rankings import Ranking
from latent_store.codec.numerics import choose_device
from latent_store.console import progress
from latent_store.storage.local_files import write_text
from latent_store.storage.location import Location
from latent_store.storage.object_stores import open_location
from training.evaluation.comparisons import Analysis, analyse
from training.evaluation.evaluation_split import EvaluationSplit
from training.evaluation.measure import measure, point_key
from training.evaluation.networks_to_evaluate import (
    EvaluatedNetwork,
    distinct_labels,
    find_networks,
    require_classes,
)
from training.evaluation.points import Point, read_point, write_point
from training.reports import markdown, page, plots
from training.reports.album import album
from training.reports.charts import charts_of
from training.reports.image_scores import mean_scores, worst
from training.reports.page_data import page_data
from training.reports.pictures import ShownPicture, kept_path, show, write_strip
from training.tasks.registry import find_task


def evaluate(
    split: EvaluationSplit,
    networks: Sequence[EvaluatedNetwork],
    rows: np.ndarray,
    folder: Path,
    shown: Collection[int] = (),
) -> list[Point]:
    """Returns the networks' points on rows, in their order, with labels that tell them apart.

    Those that `folder` keeps are not measured again; it also keeps what networks say of the rows
    that are shown.
    """
    points = []
    for evaluated, label in zip(networks, distinct_labels(networks), strict=True):
        key = point_key(split, evaluated, rows)
        point = read_point(folder, key)
        if point is None:
            with progress(total=len(rows), desc=label, unit="image") as bar:

                def keep(row: int, prediction: Any, bar: Any = bar, key: str = key) -> None:
                    if row in shown:
                        split.task.keep(kept_path(split, folder, key, row), prediction)
                    bar.update()

                point = measure(split, evaluated, rows, keep)
            write_point(folder, point)
        # The file's name and the label may have changed since; the numbers have not.
        name, seed, trained = evaluated.path.name, evaluated.seed, evaluated.trained
        point = dataclasses.replace(point, label=label, checkpoint=name, seed=seed, trained=trained)
        points.append(point)
    return points


def run(args: argparse.Namespace) -> int:
    """Measures what the flags of the command name and writes its report; returns 0."""
    store = latent_store.open(args.store)
    networks = find_networks(args.checkpoint, store, args.codec, args.stop_confidence)
    split = EvaluationSplit(
        store[f"{args.dataset}/{args.split}"],
        find_task(networks[0].config.task),
        decode=args.decode,
        permute=args.permute_latents,
        batch_size=args.batch_size,
        device=str(choose_device(args.device)),
    )
    require_classes(networks, split.class_names)
    rows = split.rows(networks, args.max_samples)
    shown = rows[np.unique(np.linspace(0, len(rows) - 1, args.pictures).round().astype(int))]
    points = evaluate(split, networks, rows, args.output / "points", shown.tolist())
    originals = None if args.data_root is None else open_location(args.data_root)
    strips, pictures = _pictures(split, networks, points, rows, shown, args.output, originals)
    analysis = analyse(points)
    charts = charts_of(points, analysis.images)
    setting = markdown.ReportSetting(
        store=store.url,
        dataset=args.dataset,
        split=args.split,
        decode=args.decode,
        pictures=strips,
        figures=plots.write_figures(charts, args.output),
    )
    ids = dict.fromkeys((p.codec_id, p.ranking_id) for p in points if p.ranking_id is not None)
    rankings = [store.ranking(*both) for both in ids]
    content = json.dumps(markdown.results(analysis, setting, rankings), indent=1)
    write_text(args.output / "results.json", content + "\n")
    write_text(args.output / "per_class.csv", markdown.per_class_csv(analysis))
    write_text(args.output / "report.md", markdown.markdown(analysis, setting, rankings))
    bits = {p.codec_id: _channel_bits(split, p.codec_id, rows) for p in points}
    data = page_data(analysis, charts, rankings, bits, pictures)
    text = page.render(_page(analysis, setting, rankings, originals=originals is not None), data)
    write_text(args.output / "report.html", text)
    lines = [markdown.console_table(analysis), markdown.constant_line(points)]
    sys.stdout.writelines(f"{line}\n" for line in lines if line)
    sys.stdout.write(f"report: {args.output / 'report.md'}, {args.output / 'report.html'}\n")
    return 0


def _pictures(
    split: EvaluationSplit,
    networks: Sequence[EvaluatedNetwork],
    points: Sequence[Point],
    rows: np.ndarray,
    shown: np.ndarray,
    output: Path,
    originals: Location | None,
) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    """Writes a strip of each row that is shown; returns their names, and the page's pictures.

    The page has as many more: those that the networks find hardest.
    """
    hardest = [int(rows[i]) for i in worst(mean_scores(points), len(shown))]
    hardest = [row for row in hardest if row not in shown]
    names: list[str] = []

    def drawn() -> Iterator[tuple[str, ShownPicture]]:
        wanted = [*shown.tolist(), *hardest]
        for picture in show(split, networks, points, wanted, output / "points", originals):
            if picture.row in shown:
                names.append(write_strip(picture, points, output))
            yield "sample" if picture.row in shown else "worst", picture

    pictures = album(drawn(), max(1, len(shown) + len(hardest)))
    return tuple(names), pictures


def _channel_bits(split: EvaluationSplit, codec_id: str, rows: np.ndarray) -> list[float]:
    """Returns each channel's bits in a picture, mean over rows."""
    mean_C = split.latents(codec_id).column("channel_bits", rows).mean(axis=0, dtype=np.float64)
    return [float(bits) for bits in mean_C]


def _page(
    analysis: Analysis,
    setting: markdown.ReportSetting,
    rankings: Sequence[Ranking],
    *,
    originals: bool,
) -> page.Page:
    points = analysis.points
    savings, *others = markdown.comparisons(analysis, rankings)
    shown = find_task(points[0].task).pictures_note
    if not originals:
        shown += " A store has no originals: --data_root shows them too."
    confusion = ""
    if any(p.confusion is None for p in points) and any(p.confusion for p in points):
        confusion = (
            "Networks that were measured before it was kept have none: delete OUTPUT/points."
        )
    return page.Page(
        title=markdown.title(points, setting),
        verdict=markdown.verdict(analysis),
        facts=[markdown.what_was_measured(points, setting)],
        first=[savings],
        tables=[
            markdown.networks_section(analysis),
            markdown.per_class_section(analysis),
            *others,
        ],
        methods=markdown.notes(points, setting),
        notes={"pictures": shown, "confusion": confusion},
    )

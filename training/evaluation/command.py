"""The work of `evaluate-from-store`: networks measured on a split, and what is written of that."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import latent_store
from latent_store.codec.numerics import choose_device
from latent_store.console import progress
from latent_store.storage.local_files import write_text
from training.evaluation import plots, report
from training.evaluation.comparisons import analyse
from training.evaluation.evaluation_pictures import kept_path, write_pictures
from training.evaluation.evaluation_split import EvaluationSplit
from training.evaluation.measure import measure, point_key
from training.evaluation.networks_to_evaluate import (
    EvaluatedNetwork,
    distinct_labels,
    find_networks,
    require_classes,
)
from training.evaluation.points import Point, read_point, write_point
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
        name, seed = evaluated.path.name, evaluated.seed
        points.append(dataclasses.replace(point, label=label, checkpoint=name, seed=seed))
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
    analysis = analyse(points)
    setting = report.ReportSetting(
        store=store.url,
        dataset=args.dataset,
        split=args.split,
        decode=args.decode,
        pictures=write_pictures(split, networks, points, shown, args.output),
        figures=plots.write_figures(analysis, args.output),
    )
    ids = dict.fromkeys((p.codec_id, p.ranking_id) for p in points if p.ranking_id is not None)
    rankings = [store.ranking(*both) for both in ids]
    content = json.dumps(report.results(analysis, setting, rankings), indent=1)
    write_text(args.output / "results.json", content + "\n")
    write_text(args.output / "per_class.csv", report.per_class_csv(analysis))
    write_text(args.output / "report.md", report.markdown(analysis, setting, rankings))
    lines = [report.console_table(analysis), report.constant_line(points)]
    sys.stdout.writelines(f"{line}\n" for line in lines if line)
    sys.stdout.write(f"report: {args.output / 'report.md'}\n")
    return 0

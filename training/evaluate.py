"""The command `evaluate-from-store`: networks of every kind on one split, in one table."""

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
from latent_store.console import Number, make_parser, progress, run_command
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
from training.selection.rates import DECODE_MODES
from training.tasks.registry import find_task

PROG = "evaluate-from-store"
_DESCRIPTION = """Measures networks on a split of a store: mIoU or AP, and real bits per pixel.

Every checkpoint that is given becomes a row of one table, whatever its domain, selection and
codec; all must be of one task, segmentation or detection. What was measured is kept in
OUTPUT/points, so that a second call measures only what is new. Writes report.md, results.json,
per_class.csv, rate_miou.png or rate_ap50.png, where there are several N also channels_CODEC.png,
and pictures/ below OUTPUT.
"""
_EXAMPLE = """example:
  evaluate-from-store --store city.zarr --dataset cityscapes --split val \\
      --checkpoint runs/*/last.pt runs/teacher.pt --permute_latents --output evaluation
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    args = _parser().parse_args(argv)
    return run_command(PROG, lambda: _evaluate(args))


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


def _evaluate(args: argparse.Namespace) -> int:
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


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(PROG, _DESCRIPTION, _EXAMPLE)
    add = parser.add_argument
    add("--store", required=True, metavar="URL", help="the latent store")
    add("--dataset", required=True, help="dataset id in the store, e.g. cityscapes")
    add("--split", default="val", help="split to measure on")
    add(
        "--checkpoint",
        required=True,
        nargs="+",
        type=Path,
        metavar="F",
        help="files of train-from-store or train-teacher; all networks see the same images",
    )
    add("--output", required=True, type=Path, metavar="DIR", help="folder for the report")
    add(
        "--codec",
        nargs="+",
        metavar="ID",
        help="codecs whose decoded pictures teachers get (default: those of the other checkpoints, "
        "or the store's only one)",
    )
    add(
        "--decode",
        choices=DECODE_MODES,
        default="all",
        help="which images' streams are decoded, compared with the store and fed to the network: "
        "all, every 16th, or none (lengths are real in any case)",
    )
    add(
        "--permute_latents",
        action="store_true",
        help="also give each image's latents to another image's label or boxes: a network that "
        "looks at its input must fall",
    )
    add(
        "--stop_confidence",
        nargs="+",
        type=Number(float, 0, 1),
        default=[],
        metavar="T",
        help="also measure networks for any N that read the channels up to one cut after the "
        "other, until the mean probability of the likeliest class is T or more",
    )
    count = Number(int, 1)
    add("--max_samples", type=count, metavar="N", help="measure on the first N images only")
    add("--batch_size", type=count, default=1, help="images in one forward pass")
    shown = Number(int)
    add("--pictures", type=shown, default=4, metavar="K", help="images shown side by side, or 0")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())

"""The command `evaluate-from-store`: networks of every kind on one split, in one table."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch

import latent_store
from latent_store.codec import tensor_to_image
from latent_store.codec.panels import save_png, strip
from latent_store.console import make_parser, progress, run_command
from latent_store.errors import LatentStoreError
from latent_store.layout import coded_size
from latent_store.rankings import Ranking
from training import plots, report
from training.bench import Bench, Options
from training.candidates import Candidate, distinct_labels, find_candidates
from training.classes import CITYSCAPES_COLOURS, class_names
from training.comparisons import analyse
from training.inference import Pipeline
from training.measure import measure, point_key
from training.pictures import colourise, read_labels
from training.points import Point, read_point, write_point, write_text
from training.rates import DECODE_MODES, WholeStreams
from training.trainer_config import choose_device

PROG = "evaluate-from-store"
_DESCRIPTION = """Measures networks on a split of a store: mIoU and real bits per pixel.

Every checkpoint that is given becomes a row of one table, whatever its domain, selection and
codec. What was measured is kept in OUTPUT/points, so that a second call measures only what is new.
Writes report.md, results.json, per_class.csv, rate_miou.png, where there are several N also
channels_CODEC.png, and pictures/ below OUTPUT.
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
    bench: Bench,
    candidates: Sequence[Candidate],
    rows: np.ndarray,
    folder: Path,
    shown: Collection[int] = (),
) -> list[Point]:
    """Measures every candidate whose point is not in ``folder`` yet.

    Args:
        bench: The split.
        candidates: Networks with their codecs.
        rows: From :meth:`Bench.rows`.
        folder: Keeps one JSON file a point, and the maps of ``shown``.
        shown: Rows whose maps are kept for pictures.

    Returns:
        Points in the order of the candidates, with labels that tell them apart.
    """
    points = []
    for candidate, label in zip(candidates, distinct_labels(candidates), strict=True):
        key = point_key(bench, candidate, rows)
        point = read_point(folder, key)
        if point is None:
            with progress(total=len(rows), desc=label, unit="image") as bar:

                def keep(row: int, map_HW: np.ndarray, bar=bar, key=key) -> None:
                    if row in shown:
                        save_png(_map_path(folder, key, row), map_HW)
                    bar.update()

                point = measure(bench, candidate, rows, keep)
            write_point(folder, point)
        # The file's name and the label may have changed since; the numbers have not.
        now = {"label": label, "checkpoint": candidate.path.name, "seed": candidate.seed}
        points.append(dataclasses.replace(point, **now))
    return points


def write_report(
    points: Sequence[Point],
    setting: report.Setting,
    output: Path,
    rankings: Sequence[Ranking] = (),
) -> None:
    """Writes report.md, results.json, per_class.csv and the plots below ``output``.

    Args:
        points: What was measured.
        setting: What it was measured on; the plots are added to it.
        output: The folder.
        rankings: Those whose agreement is shown.
    """
    figures = plots.write_figures(points, output)
    setting = dataclasses.replace(setting, figures=figures)
    analysis = analyse(points)
    content = json.dumps(report.results(points, setting, rankings, analysis), indent=1)
    write_text(output / "results.json", content + "\n")
    write_text(output / "per_class.csv", report.per_class_csv(points))
    write_text(output / "report.md", report.markdown(points, setting, rankings, analysis))


def write_pictures(
    bench: Bench,
    candidates: Sequence[Candidate],
    points: Sequence[Point],
    rows: np.ndarray,
    output: Path,
) -> tuple[str, ...]:
    """Writes one strip a row: decoded picture, label, and the map of each network.

    Returns:
        The files' names relative to ``output``.
    """
    maps = [
        _maps(bench, candidate, rows, output / "points", point.key)
        for candidate, point in zip(candidates, points, strict=True)
    ]
    names = []
    for row in rows.tolist():
        panels = [("decoded picture", _decoded_picture(bench, candidates[0], row))]
        panels.append(("label", colourise(bench.read_labels(row), CITYSCAPES_COLOURS)))
        for point, found in zip(points, maps, strict=True):
            panels.append((_title(point, points), colourise(found[row], CITYSCAPES_COLOURS)))
        name = f"pictures/{row:06d}_{_file_name(bench.split.sample_ids([row])[0])}.png"
        save_png(output / name, strip(panels))
        names.append(name)
    return tuple(names)


def _evaluate(args: argparse.Namespace) -> int:
    _check(args)
    store = latent_store.open(args.store)
    split = store[f"{args.dataset}/{args.split}"]
    names = split.labels().class_names or class_names(args.dataset)
    candidates = find_candidates(args.checkpoint, store, names, args.codec)
    options = Options(
        decode=args.decode,
        permute=args.permute_latents,
        batch_size=args.batch_size,
        device=str(choose_device(args.device)),
    )
    bench = Bench(store, split, names, options)
    rows = bench.rows(candidates, args.max_samples)
    shown = rows[np.unique(np.linspace(0, len(rows) - 1, args.pictures).round().astype(int))]
    points = evaluate(bench, candidates, rows, args.output / "points", shown.tolist())
    setting = report.Setting(
        store=store.url,
        dataset=args.dataset,
        split=args.split,
        decode=args.decode,
        pictures=write_pictures(bench, candidates, points, shown, args.output),
    )
    ids = dict.fromkeys((p.codec_id, p.ranking_id) for p in points if p.ranking_id is not None)
    rankings = [store.ranking(*both) for both in ids]
    write_report(points, setting, args.output, rankings)
    sys.stdout.write(f"{report.console_table(points)}\n{report.constant_line(points)}\n")
    sys.stdout.write(f"report: {args.output / 'report.md'}\n")
    return 0


def _check(args: argparse.Namespace) -> None:
    for name, least in (("max_samples", 1), ("batch_size", 1), ("pictures", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            message = f"--{name} must be at least {least}, got {value}"
            raise LatentStoreError(message)


def _map_path(folder: Path, key: str, row: int) -> Path:
    return folder / f"{key}-maps" / f"{row:06d}.png"


def _maps(
    bench: Bench, candidate: Candidate, rows: np.ndarray, folder: Path, key: str
) -> dict[int, np.ndarray]:
    """Returns a network's maps of rows at original size; those kept before are read back."""
    paths = {row: _map_path(folder, key, row) for row in rows.tolist()}
    missing = [row for row, path in paths.items() if not path.exists()]
    if missing:
        pipeline = Pipeline(bench, candidate)
        for row in missing:
            height, width = (int(n) for n in bench.split.sizes([row])[0])
            maps_BHW, _ = pipeline.segment([row], coded_size(height, width))
            save_png(paths[row], maps_BHW[0, :height, :width])
    return {row: read_labels(path) for row, path in paths.items()}


def _decoded_picture(bench: Bench, candidate: Candidate, row: int) -> np.ndarray:
    height, width = (int(n) for n in bench.split.sizes([row])[0])
    codec_id = candidate.spec.codec_id
    codec = bench.codec(codec_id)
    received = WholeStreams(codec, bench.latents(codec_id), "none").receive(
        [row], coded_size(height, width)
    )
    x_hat_BCHW = codec.reconstruct(torch.from_numpy(received.y_hat_BCHW))
    return tensor_to_image(x_hat_BCHW)[0, :height, :width]


def _title(point: Point, points: Sequence[Point]) -> str:
    several = len({p.codec_id for p in points}) > 1
    suffix = f" {point.codec_id[-8:]}" if several else ""
    return f"{point.label}{suffix}, {point.bpp:.3f} bpp"


def _file_name(sample_id: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", sample_id)[:80]


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
        help="also give each image's latents to another image's label: a network that looks at its "
        "input must fall",
    )
    add("--max_samples", type=int, metavar="N", help="measure on the first N images only")
    add("--batch_size", type=int, default=1, help="images in one forward pass")
    add("--pictures", type=int, default=4, metavar="K", help="images shown side by side, or 0")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())

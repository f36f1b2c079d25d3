"""The command `evaluate-from-store`: networks of every kind on one split, in one table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from latent_store.console import Number, add_storage_flag, make_parser, run_command
from latent_store.storage.object_stores import input_file
from training.selection.rates import DECODE_MODES

PROG = "evaluate-from-store"
_DESCRIPTION = """Measures networks on a split of a store: mIoU or AP, and real bits per pixel.

Every checkpoint that is given becomes a row of one table, whatever its domain, selection and
codec; all must be of one task, segmentation or detection. What was measured is kept in
OUTPUT/points, so that a second call measures only what is new. Writes report.html, one file with
everything in it, report.md, results.json, per_class.csv, rate_miou or rate_ap50 (.png, .svg), where
there are several N also channels_CODEC, and pictures/ below OUTPUT.
"""
_EXAMPLE = """example:
  evaluate-from-store --store city.zarr --dataset cityscapes --split val \\
      --checkpoint runs/*/last.pt runs/teacher.pt --permute_latents --output evaluation
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    args = _parser().parse_args(argv)
    return run_command(PROG, lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    # Loads torch, which parsing needs not.
    from training.reports import command

    return command.run(args)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(PROG, _DESCRIPTION, _EXAMPLE)
    add = parser.add_argument
    add("--store", required=True, metavar="URL", help="the latent store")
    add_storage_flag(parser)
    add("--dataset", required=True, help="dataset id in the store, e.g. cityscapes")
    add("--split", default="val", help="split to measure on")
    add(
        "--checkpoint",
        required=True,
        nargs="+",
        type=input_file,
        metavar="F",
        help="files of train-from-store or train-teacher; all networks see the same images",
    )
    add("--output", required=True, type=Path, metavar="DIR", help="folder for the report")
    _add_measures(parser)
    shown = Number(int)
    add(
        "--pictures",
        type=shown,
        default=4,
        metavar="K",
        help="images shown, or 0; report.html also has the K with the lowest scores",
    )
    add(
        "--data_root",
        metavar="D",
        help="the data root that was encoded: pictures are then shown as they were, too",
    )
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser


def _add_measures(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of what is measured, and how."""
    add = parser.add_argument
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


if __name__ == "__main__":
    sys.exit(main())

"""`train-teacher`: DeepLab v3, or for boxes Faster R-CNN, on raw pictures.

Its first two layers give the features that students distil, its weights are where students
start, and it is itself the pixel-domain reference ("trained on raw").

    train-teacher --dataset cityscapes --data_root /data/cityscapes --output runs/teacher
    train-teacher --dataset cityscapes --data_root /data/cityscapes --output runs/small \\
        --preset cpu --epochs 20
    train-teacher --dataset voc --voc_task detection --year 2007 --data_root /data/VOCdevkit \\
        --split trainval --val_split test --pretrained imagenet --output runs/detection-teacher

Several GPUs share every batch under `torchrun --standalone --nproc_per_node 4 --no-python
train-teacher`; `--batch_size` counts all of them.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from latent_store.console import add_storage_flag, make_parser, run_command
from pipelines.teacher_training.config import CONFIGS, TeacherConfig
from training.data.loader_config import LoaderConfig
from training.flags import add_flags, read_flags
from training.presets import add_preset_flag, parse_with_preset
from training.trainer.job import TrainerConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see `--help`."""
    args = parse_with_preset(make_flags(), argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return run_command("train-teacher", lambda: _run(args))


def make_flags() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = make_parser("train-teacher", __doc__ or "")
    parser.add_argument("--output", type=Path, required=True, help="folder of the run")
    half = "folder for the finished teacher's file in half precision, named as stores name it"
    parser.add_argument("--publish", type=Path, metavar="DIR", help=half)
    add_storage_flag(parser)
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output")
    add_preset_flag(parser)
    for config, title in zip(CONFIGS, ("data and network", "batches", "training"), strict=True):
        add_flags(parser, config, title)
    return parser


def _run(args: argparse.Namespace) -> int:
    # They load torch, which neither parsing nor a spawned worker needs: it imports this module.
    from pipelines.teacher_training.publishing import publish
    from pipelines.teacher_training.training import train_teacher
    from training.tasks.registry import headline
    from training.trainer.ranks import joined

    with joined() as ranks:
        if not ranks.first:
            logging.disable(logging.INFO)
        result = train_teacher(
            read_flags(args, TeacherConfig),
            read_flags(args, LoaderConfig),
            read_flags(args, TrainerConfig),
            args.output,
            resume=args.resume,
            ranks=ranks,
        )
    if not ranks.first:
        return 0
    score = f"{headline(result.scores)}, " if result.scores else ""
    print(f"{result.checkpoint}: {score}{result.step} steps in {result.seconds:.0f} s")
    if args.publish is not None:
        path = publish(result.checkpoint, args.publish)
        print(f"{path}: {path.stat().st_size} bytes in half precision")
    return 0


if __name__ == "__main__":
    sys.exit(main())

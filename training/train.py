"""`train-from-store`: trains a segmentation or detection network on the latents of a store.

    train-from-store --store cv.zarr --dataset cityscapes --output runs/dynamic --selection dynamic
    train-from-store --store cv.zarr --dataset cityscapes --output runs/static-16 \\
        --selection static --mask frequency --keep 16
    train-from-store --store cv.zarr --dataset cityscapes --output runs/any \\
        --selection any --mask frequency
    train-from-store --store cv.zarr --dataset cityscapes --output runs/small --preset cpu
    train-from-store --store voc.zarr --dataset voc2007 --split trainval --output runs/detector \\
        --task detection --selection dynamic

Several GPUs, each with its part of every batch (--batch_size counts all of them):

    torchrun --standalone --nproc_per_node 4 --no-python train-from-store --store cv.zarr ...
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from latent_store.console import add_storage_flag, make_parser, run_command
from training.data.loader_config import LoaderConfig
from training.flags import add_flags, read_flags
from training.presets import add_preset_flag, parse_with_preset
from training.trainer.job import CONFIGS, DataConfig, Job, ModelConfig, TrainerConfig

COMMAND = "train-from-store"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_with_preset(make_arguments(), argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return run_command(COMMAND, lambda: _main(args))


def make_arguments() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = make_parser(COMMAND, __doc__ or "")
    parser.add_argument("--output", type=Path, required=True, help="folder of the run")
    add_storage_flag(parser)
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output")
    add_preset_flag(parser)
    titles = ("data", "network and loss", "batches", "training")
    for config, title in zip(CONFIGS, titles, strict=True):
        add_flags(parser, config, title)
    return parser


def _main(args: argparse.Namespace) -> int:
    # They load torch, which neither parsing nor a spawned worker needs: it imports this module.
    from training.tasks.registry import headline
    from training.trainer.assembly import train
    from training.trainer.ranks import joined

    job = Job(
        data=read_flags(args, DataConfig),
        model=read_flags(args, ModelConfig),
        loader=read_flags(args, LoaderConfig),
        trainer=read_flags(args, TrainerConfig),
        output=args.output,
        resume=args.resume,
    )
    with joined() as ranks:
        if not ranks.first:
            logging.disable(logging.INFO)
        result = train(job, ranks)
    if not ranks.first:
        return 0
    score = f"{headline(result.scores)}, " if result.scores else ""
    print(
        f"{result.checkpoint}: {score}{result.step} steps in {result.seconds:.0f} s, "
        f"{result.wait_share:.0%} of it waiting for data"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The command `python -m training.latency`: times cameras and servers, as the paper's table 3."""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import latent_store
from latent_store.console import MOST_THREADS, Number, add_storage_flag, make_parser, run_command
from latent_store.errors import DatasetError
from latent_store.storage.local_files import write_text
from latent_store.storage.object_stores import input_file
from latent_store.store import LatentStore

PROG = "training.latency"
_DESCRIPTION = """Times a camera and a server with networks of every kind, stage by stage.

The pictures are those that a split's latents decode to, or given ones; after a warm-up, each run
takes the next one. Writes latency.json and latency.md below OUTPUT, beside the paper's table 3.
"""
_EXAMPLE = """example:
  python -m training.latency --store city.zarr --dataset cityscapes --split val \\
      --checkpoint runs/teacher/last.pt runs/dynamic/last.pt runs/static-16/last.pt --output latency
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    args = _parser().parse_args(argv)
    return run_command(PROG, lambda: _measure(args))


def _measure(args: argparse.Namespace) -> int:
    # They load torch, which parsing needs not.
    import torch

    from latent_store.codec.numerics import choose_device
    from training.transmission.latency import latency_markdown, open_all, table, time_all

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    device = str(choose_device(args.device))
    cpu = f"CPU ({platform.processor() or platform.machine()})"
    store = latent_store.open(args.store)
    pictures = _pictures(args, store)
    codec = store.codec_checkpoint(store.codec(args.codec).codec_id)
    networks = [ends for path in args.checkpoint for ends in open_all(path, device, codec)]
    found = time_all(networks, pictures, args.repeats, args.warm_up)
    setting = {
        "store": store.url,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else cpu,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "repeats": args.repeats,
        "warm_up": args.warm_up,
        "pictures": [f"{image.shape[1]}x{image.shape[0]}" for image in pictures],
    }
    content = {"setting": setting, "latencies": [dataclasses.asdict(x) for x in found]}
    write_text(args.output / "latency.json", json.dumps(content, indent=1) + "\n")
    write_text(args.output / "latency.md", latency_markdown(found, setting))
    sys.stdout.write(f"{table(found, markdown=False)}\n")
    sys.stdout.write(f"on {setting['device']}, {setting['threads']} CPU threads\n")
    sys.stdout.write(f"written: {args.output / 'latency.md'}\n")
    return 0


def _pictures(args: argparse.Namespace, store: LatentStore) -> list[np.ndarray]:
    if args.image:
        from latent_store.codec.pictures import read_image

        return [read_image(path) for path in args.image]
    split = store[f"{args.dataset}/{args.split}"]
    rows = split.common_rows(split.latents(args.codec))[: args.max_samples]
    if not len(rows):
        raise DatasetError(
            f"{split.plan.name} of {store.url} has no latents to decode pictures from; encode "
            "some, or give --image"
        )
    return [split.decode(int(row), codec=args.codec) for row in rows]


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(PROG, _DESCRIPTION, _EXAMPLE)
    add = parser.add_argument
    add("--store", required=True, metavar="URL", help="the latent store")
    add_storage_flag(parser)
    add("--dataset", default="cityscapes", help="dataset whose pictures are decoded")
    add("--split", default="val", help="split whose pictures are decoded")
    add("--codec", metavar="ID", help="codec of those pictures and of teachers")
    count = Number(int, 1)
    add("--max_samples", type=count, default=1, metavar="N", help="pictures that take turns")
    add("--image", nargs="+", type=Path, metavar="I", help="time these pictures instead")
    add(
        "--checkpoint",
        required=True,
        nargs="+",
        type=input_file,
        metavar="F",
        help="networks to time",
    )
    add("--output", required=True, type=Path, metavar="DIR", help="folder for the tables")
    add("--repeats", type=count, default=20, help="timed runs of each network")
    add("--warm_up", type=Number(int), default=3, help="runs before them, which are not counted")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add(
        "--threads",
        type=Number(int, 1, MOST_THREADS),
        help="CPU threads of torch (default: torch's own)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

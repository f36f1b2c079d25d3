"""The commands for new pictures: pictures to stream files, stream files to results, tables."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latent_store.codec import StreamFile, read_image, read_stream_file, write_stream_file
from latent_store.codec.numerics import choose_device
from latent_store.errors import (
    CheckpointError,
    DatasetError,
    IdentityError,
    IntegrityError,
    JobFailedError,
    LatentStoreError,
    RankingError,
)
from latent_store.storage.local_files import write_text
from training.tables import align
from training.tasks.base import Task
from training.tasks.registry import find_task
from training.transmission.camera_server import Stopwatch, Transmission, open_transmission
from training.transmission.inference import require_stops

STREAM_SUFFIX = ".stream"

Write = Callable[[Path, Any, np.ndarray, Sequence[str]], None]
"""A task's `write`."""


def transmit(args: argparse.Namespace, task: Task, **options: Any) -> int:
    """Runs the command of a task on the flags of `transmission_parser`; returns its exit status.

    One input that fails does not keep the others from being done. The options are those of the
    task's `write`.

    Raises:
        LatentStoreError: Flags contradict each other.
        CheckpointError: The checkpoint's network is for another task.
        DatasetError, IntegrityError, IdentityError, RankingError: The only input is no picture, is
            a damaged stream file or another codec's, or has other channels than the network takes.
        JobFailedError: Of several inputs at least one failed for such a reason.
    """
    inputs: Sequence[Path] = args.image or args.stream
    if args.encode_only and args.stream:
        raise LatentStoreError("--encode_only goes with --image: a stream is encoded already")
    if args.stop_confidence is not None and args.image and (args.keep or args.encode_only):
        other = "keep" if args.keep else "encode_only"
        raise LatentStoreError(
            "--stop_confidence is for a server that reads one cut of a stream after the other: "
            f"leave it out with --image and --{other}, or give the stream that a camera wrote "
            "without --keep to --stream"
        )
    names = Counter(path.stem for path in inputs)
    if twice := sorted(name for name, number in names.items() if number > 1):
        raise LatentStoreError(
            f"two inputs are named {twice[0]}: their outputs would overwrite each other; run them "
            "with different --output folders"
        )
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    device = str(choose_device(args.device))
    ends = open_transmission(args.checkpoint, device, args.codec_checkpoint, args.keep)
    if (found := find_task(ends.network.config.task)) is not task:
        raise CheckpointError(
            f"{args.checkpoint} is a network for {found.name}; use `{found.command}`, or a "
            f"checkpoint for {task.name}"
        )
    if args.stop_confidence is not None:
        require_stops(str(args.checkpoint), ends.network.config)
    write = functools.partial(task.write, **options)
    sent, failed = [], {}
    for path in inputs:
        try:
            sent.append(_transmit_one(ends, path, args, write))
        except (DatasetError, IntegrityError, IdentityError, RankingError) as error:
            if len(inputs) == 1:
                raise
            failed[str(path)] = " ".join(str(error).split())
    if sent:
        sys.stdout.write(f"{_tables(sent)}\n\nwritten to {args.output}\n")
    if args.json is not None:
        content = {
            "checkpoint": str(args.checkpoint),
            "codec_id": ends.codec.spec.codec_id,
            "pictures": sent,
            "failed": failed,
        }
        write_text(args.json, json.dumps(content, indent=1) + "\n")
    if failed:
        reasons = "; ".join(failed.values())
        raise JobFailedError(f"{len(failed)} of {len(inputs)} inputs failed: {reasons}")
    return 0


def _tables(sent: Sequence[Mapping[str, Any]]) -> str:
    """Returns bytes and milliseconds for a terminal."""
    parts = ("hyper", "y", "mask", "header", "file")
    heads = ("header (not in bpp)" if part == "header" else part for part in parts)
    header = ("picture", "size", "channels", *heads, "bpp")
    rows = [
        (
            *(numbers["name"], f"{numbers['width']}x{numbers['height']}", str(numbers["channels"])),
            *(str(numbers["bytes"][part]) for part in parts),
            f"{numbers['bpp']:.4f}",
        )
        for numbers in sent
    ]
    tables = [f"bytes (bpp = hyper + y + mask)\n{align([header, *rows], 2)}"]
    for side in ("camera", "server"):
        times = {numbers["name"]: numbers["milliseconds"][side] for numbers in sent}
        stages = list(dict.fromkeys(stage for found in times.values() for stage in found))
        if stages:
            rows = [
                (name, *(f"{found[s]:.1f}" if s in found else "-" for s in stages))
                for name, found in times.items()
            ]
            tables.append(f"{side}, milliseconds\n{align([('picture', *stages), *rows], 1)}")
    return "\n\n".join(tables)


def _encode(ends: Transmission, image: Path, stream_file: Path) -> Stopwatch:
    """Runs the camera's side: a picture to a stream file."""
    watch = Stopwatch(ends.network.device)
    image_HWC = read_image(image)
    watch.lap("read")
    stream = ends.send(image_HWC, watch)
    stream_file.parent.mkdir(parents=True, exist_ok=True)
    write_stream_file(stream_file, stream)
    watch.lap("write")
    return watch


def _decode(
    ends: Transmission, stream: StreamFile, image: Path | None, base: Path, write: Write
) -> Stopwatch:
    """Runs the server's side: a stream to the files of the task.

    They are drawn on the picture where the camera's is at hand, else on what the received channels
    decode to.
    """
    watch = Stopwatch(ends.network.device)
    prediction, y_hat_CHW = ends.receive(stream, watch)
    size = stream.height, stream.width
    picture_HWC = read_image(image) if image else ends.decoded_picture(y_hat_CHW, size)
    write(base, prediction, picture_HWC, ends.network.class_names)
    return watch


def _transmit_one(
    ends: Transmission, path: Path, args: argparse.Namespace, write: Write
) -> dict[str, Any]:
    """Returns one picture's bytes, and the milliseconds of each stage on each side; JSON-ready."""
    image, stream_file = (path if args.image else None), path
    camera: dict[str, float] = {}
    server: dict[str, float] = {}
    if image:
        stream_file = args.output / f"{path.stem}{STREAM_SUFFIX}"
        camera = _encode(ends, image, stream_file).milliseconds
    stream = read_stream_file(stream_file)
    header = stream_file.stat().st_size - sum(stream.part_bytes.values())
    if not args.encode_only:
        if args.stop_confidence is not None:
            stream = ends.until_confident(stream, args.stop_confidence)
        server = _decode(ends, stream, image, args.output / path.stem, write).milliseconds
    parts = stream.part_bytes
    return {
        "name": path.stem,
        "height": stream.height,
        "width": stream.width,
        "selection": stream.selection,
        "channels": len(stream.channels),
        "bytes": {
            "hyper": parts["z"],
            "y": parts["y"],
            "mask": parts["mask"],
            "header": header,
            "file": header + sum(parts.values()),
        },
        "bpp": stream.bpp,
        "milliseconds": {"camera": camera, "server": server},
    }

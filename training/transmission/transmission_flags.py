"""The flags of the commands for new pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

from latent_store.console import MOST_THREADS, Number, add_storage_flag, make_parser
from latent_store.storage.object_stores import input_file


def transmission_parser(command: str, description: str, example: str) -> argparse.ArgumentParser:
    """Returns the parser of a task's command, with the flags that all have."""
    parser = make_parser(command, description, example)
    add = parser.add_argument
    add(
        "--checkpoint",
        required=True,
        type=input_file,
        metavar="F",
        help="a file of train-from-store",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--image", nargs="+", type=Path, metavar="I", help="pictures to send")
    source.add_argument("--stream", nargs="+", type=Path, metavar="S", help="stream files received")
    add("--encode_only", action="store_true", help="stop at the stream file: the camera's side")
    add("--output", required=True, type=Path, metavar="DIR", help="folder for streams and results")
    add(
        "--codec_checkpoint",
        type=input_file,
        metavar="F",
        help="the codec for a teacher's checkpoint, which carries none",
    )
    add(
        "--keep",
        type=Number(int, 1),
        metavar="N",
        help="with a network for any N: send, or use, the first N channels only (default: a stream "
        "that can be cut at every N, and all that came of it)",
    )
    add(
        "--stop_confidence",
        type=Number(float, 0, 1),
        metavar="T",
        help="with a network for any N: read the channels up to one cut after the other, until the "
        "mean probability of the likeliest class is T or more",
    )
    add_storage_flag(parser)
    add("--json", type=Path, metavar="F", help="also write bytes and milliseconds to this file")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add(
        "--threads",
        type=Number(int, 1, MOST_THREADS),
        help="CPU threads of torch (default: torch's own)",
    )
    return parser  # fmt: skip

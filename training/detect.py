"""The command `detect`: one new picture to a stream file, and from that file alone to objects."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from latent_store.console import Number, run_command
from training.tasks.detections import SHOWN_SCORE
from training.transmission.transmission_flags import transmission_parser

COMMAND = "detect"
_DESCRIPTION = """Detects objects in new pictures as a camera and a server would.

Camera: picture -> frozen encoder -> the channels that the checkpoint selects -> NAME.stream.
Server: NAME.stream -> entropy decoder -> network -> NAME_boxes.json with all objects found, and
NAME_boxes.png with those drawn that reach --least_score. Prints the bytes of each part of the
stream and the milliseconds of each stage. The codec travels inside the checkpoint. Pictures may
have any size.
"""
_EXAMPLE = """examples:
  detect --checkpoint runs/detector/last.pt --image street.jpg --output out
  detect --checkpoint runs/detector/last.pt --image street.jpg --encode_only --output camera
  detect --checkpoint runs/detector/last.pt --stream camera/street.stream --output server
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = transmission_parser(COMMAND, _DESCRIPTION, _EXAMPLE)
    parser.add_argument(
        "--least_score",
        type=Number(float, most=1),
        default=SHOWN_SCORE,
        metavar="S",
        help="draw what has this score or more; NAME_boxes.json has everything (default: "
        "%(default)s)",
    )
    args = parser.parse_args(argv)
    return run_command(COMMAND, lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    # They load torch, which parsing needs not.
    from training.tasks.detection import DETECTION
    from training.transmission.command import transmit

    return transmit(args, DETECTION, least_score=args.least_score)


if __name__ == "__main__":
    sys.exit(main())

"""The command `segment`: one new picture to a stream file, and from that file alone to a map."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from latent_store.console import run_command
from training.transmission.transmission_flags import transmission_parser

COMMAND = "segment"
_DESCRIPTION = """Segments new pictures as a camera and a server would.

Camera: picture -> frozen encoder -> the channels that the checkpoint selects -> NAME.stream.
Server: NAME.stream -> entropy decoder -> network -> NAME_labelTrainIds.png, NAME_colour.png and
NAME_overlay.png. Prints the bytes of each part of the stream and the milliseconds of each stage.
The codec travels inside the checkpoint. Pictures may have any size.
"""
_EXAMPLE = """examples:
  segment --checkpoint runs/static16/last.pt --image street.png --output out
  segment --checkpoint runs/static16/last.pt --image street.png --encode_only --output camera
  segment --checkpoint runs/static16/last.pt --stream camera/street.stream --output server
  segment --checkpoint runs/any/last.pt --keep 32 --image street.png --output out
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    args = transmission_parser(COMMAND, _DESCRIPTION, _EXAMPLE).parse_args(argv)
    return run_command(COMMAND, lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    # They load torch, which parsing needs not.
    from training.tasks.segmentation import SEGMENTATION
    from training.transmission.command import transmit

    return transmit(args, SEGMENTATION)


if __name__ == "__main__":
    sys.exit(main())

"""The command `segment`: one new picture to a stream file, and from that file alone to a map."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from latent_store.console import run_command
from latent_store.tools.panels import save_png
from training.tasks.classes import class_colours
from training.tasks.pictures import colourise, overlay
from training.transmission.command import COMMANDS, transmission_parser, transmit
from training.transmission.link import Link

TASK = "segmentation"
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
    args = transmission_parser(TASK, _DESCRIPTION, _EXAMPLE).parse_args(argv)
    return run_command(COMMANDS[TASK], lambda: transmit(args, TASK, write_maps))


def write_maps(link: Link, base: Path, map_HW: np.ndarray, image_HWC: np.ndarray) -> None:
    """Writes a map as it is, in its classes' colours, and over the picture.

    Args:
        link: Names the classes.
        base: Path of the files up to `_labelTrainIds.png`, `_colour.png`, `_overlay.png`.
        map_HW: Uint8 class ids.
        image_HWC: Uint8 RGB of the same size.
    """
    colours = class_colours(link.class_names)
    for part, picture in (
        ("labelTrainIds", map_HW),
        ("colour", colourise(map_HW, colours)),
        ("overlay", overlay(image_HWC, map_HW, colours)),
    ):
        save_png(base.with_name(f"{base.name}_{part}.png"), picture)


if __name__ == "__main__":
    sys.exit(main())

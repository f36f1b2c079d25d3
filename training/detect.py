"""The command `detect`: one new picture to a stream file, and from that file alone to objects."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from latent_store.console import run_command
from latent_store.errors import LatentStoreError
from latent_store.storage.location import write_atomically
from latent_store.tools.panels import save_png
from training.tasks.box_pictures import SHOWN_SCORE, draw_detections
from training.tasks.classes import class_colours
from training.tasks.detection_metrics import Detections
from training.transmission.command import COMMANDS, transmission_parser, transmit
from training.transmission.link import Link

TASK = "detection"
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
    parser = transmission_parser(TASK, _DESCRIPTION, _EXAMPLE)
    parser.add_argument(
        "--least_score",
        type=float,
        default=SHOWN_SCORE,
        metavar="S",
        help="draw what has this score or more; NAME_boxes.json has everything (default: "
        "%(default)s)",
    )
    args = parser.parse_args(argv)
    return run_command(COMMANDS[TASK], lambda: _detect(args))


def write_boxes(
    link: Link, base: Path, found: Detections, image_HWC: np.ndarray, *, least_score: float
) -> None:
    """Writes what was found: all of it as JSON, surest first, and a picture with boxes.

    Args:
        link: Names the classes.
        base: Path of the files up to `_boxes.json` and `_boxes.png`.
        found: In pixels of the original picture.
        image_HWC: That picture, uint8 RGB.
        least_score: Of what is drawn.
    """
    objects = [
        {
            "class": link.class_names[found.labels_N[index]],
            "score": float(found.scores_N[index]),
            "box": found.boxes_N4[index].tolist(),
        }
        for index in np.argsort(-found.scores_N, kind="stable")
    ]
    height, width = image_HWC.shape[:2]
    content = {"height": height, "width": width, "objects": objects}
    text = json.dumps(content, indent=1) + "\n"
    write_atomically(base.with_name(f"{base.name}_boxes.json"), text.encode())
    colours = class_colours(link.class_names)
    drawn_HWC = draw_detections(image_HWC, found, link.class_names, colours, least_score)
    save_png(base.with_name(f"{base.name}_boxes.png"), drawn_HWC)


def _detect(args: argparse.Namespace) -> int:
    if not 0 <= args.least_score <= 1:
        raise LatentStoreError(f"--least_score must be in [0, 1], got {args.least_score}")
    return transmit(args, TASK, functools.partial(write_boxes, least_score=args.least_score))


if __name__ == "__main__":
    sys.exit(main())

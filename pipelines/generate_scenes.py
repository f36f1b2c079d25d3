"""`generate-scenes`: write procedural street scenes in the folder layout of Cityscapes.

Whatever reads Cityscapes reads the result, so the whole chain runs without a downloaded dataset.
"""

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from latent_store.console import make_parser, progress, run_command
from pipelines.scenes import (
    COUNTABLE_LABELS,
    LARGEST,
    SMALLEST,
    TRAIN_FIRST,
    VAL_FIRST,
    Scene,
    SceneError,
    render_scene,
)

COMMAND = "generate-scenes"
FRAME = 19  # Cityscapes annotates the twentieth frame of each sequence

_MOST_SCENES = VAL_FIRST - TRAIN_FIRST
_TREES = ("leftImg8bit", "gtFine")


@dataclass(frozen=True, kw_only=True)
class SceneSet:
    """Which scenes are written: numbers of pictures, their size in pixels, seed, city's name."""

    train: int = 64
    val: int = 24
    height: int = 256
    width: int = 512
    seed: int = 0
    city: str = "procedural"

    def __post_init__(self) -> None:
        for name in ("train", "val"):
            if not 0 <= getattr(self, name) <= _MOST_SCENES:
                raise SceneError(
                    f"--{name} must be 0 to {_MOST_SCENES} scenes, not {getattr(self, name)}"
                )
        if not self.train + self.val:
            raise SceneError("--train and --val are both 0; ask for at least one scene")
        for name in ("height", "width"):
            if not SMALLEST <= getattr(self, name) <= LARGEST:
                raise SceneError(
                    f"--{name} must be {SMALLEST} to {LARGEST} pixels, not {getattr(self, name)}"
                )
        if self.seed < 0:
            raise SceneError(f"--seed must be 0 or more, not {self.seed}")
        # File names are split at underscores by everything that reads Cityscapes.
        if not (self.city.isascii() and self.city.isalnum()):
            raise SceneError(f"--city must be letters and digits only, not {self.city!r}")


def cityscapes_instance_ids(scene: Scene) -> np.ndarray:
    """Return uint16 [height, width] as in Cityscapes' gtFine_instanceIds.

    A pixel of a countable object is labelId * 1000 + k, k = 0, 1, … within its label; every other
    pixel is its labelId.
    """
    ids = scene.label_ids_HW.astype(np.uint16)
    for label in COUNTABLE_LABELS:
        inside = (scene.label_ids_HW == label) & (scene.instance_ids_HW > 0)
        _, rank = np.unique(scene.instance_ids_HW[inside], return_inverse=True)
        ids[inside] = label * 1000 + rank
    return ids


def write_scene(root: Path, split: str, city: str, number: int, scene: Scene) -> None:
    """Write one scene's picture, labelIds and instanceIds below a Cityscapes root."""
    stem = f"{city}_{number:06d}_{FRAME:06d}"
    pictures, annotations = (root / tree / split / city for tree in _TREES)
    for folder in (pictures, annotations):
        folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene.image_HWC).save(pictures / f"{stem}_leftImg8bit.png")
    Image.fromarray(scene.label_ids_HW).save(annotations / f"{stem}_gtFine_labelIds.png")
    ids = Image.fromarray(cityscapes_instance_ids(scene))
    ids.save(annotations / f"{stem}_gtFine_instanceIds.png")


def generate_scenes(output: Path, scenes: SceneSet, *, overwrite: bool = False) -> int:
    """Draw and write all scenes.

    Args:
        output: The new dataset's root.
        scenes: What to draw; train and val never share a scene.
        overwrite: Replace this city's pictures in a root that already has content.

    Returns:
        The number of scenes written.

    Raises:
        SceneError: If the output has content and overwrite is not set.
    """
    if output.exists() and not output.is_dir():
        raise SceneError(f"--output {output} is a file; name a folder")
    if output.is_dir() and any(output.iterdir()):
        if not overwrite:
            raise SceneError(
                f"--output {output} is not empty; name a new folder, or give --overwrite to "
                f"replace the pictures of city {scenes.city!r} in it"
            )
        for tree in _TREES:
            for split in ("train", "val"):
                shutil.rmtree(output / tree / split / scenes.city, ignore_errors=True)
    jobs = [("train", k, TRAIN_FIRST + k) for k in range(scenes.train)]
    jobs += [("val", k, VAL_FIRST + k) for k in range(scenes.val)]
    for split, number, index in progress(jobs, desc="drawing scenes", unit="scene"):
        scene = render_scene(scenes.seed, index, scenes.height, scenes.width)
        write_scene(output, split, scenes.city, number, scene)
    return len(jobs)


def _parser() -> argparse.ArgumentParser:
    default = SceneSet()
    parser = make_parser(
        COMMAND, "Write procedural street scenes in the folder layout of Cityscapes."
    )
    add = parser.add_argument
    add("--output", type=Path, required=True, metavar="DIR", help="the dataset's root")
    add("--train", type=int, default=default.train, help="scenes in the train split")
    add("--val", type=int, default=default.val, help="scenes in the val split")
    add("--height", type=int, default=default.height, help="of a picture, in pixels")
    add("--width", type=int, default=default.width, help="of a picture, in pixels")
    add("--seed", type=int, default=default.seed, help="the same seed gives the same scenes")
    add("--city", default=default.city, help="name that stands where Cityscapes has a city")
    add("--layout", choices=("cityscapes",), default="cityscapes", help="layout of the folders")
    add("--overwrite", action="store_true", help="replace this city's pictures in --output")
    return parser


def _run(args: argparse.Namespace) -> int:
    names = SceneSet.__dataclass_fields__
    scenes = SceneSet(**{name: value for name, value in vars(args).items() if name in names})
    count = generate_scenes(args.output, scenes, overwrite=args.overwrite)
    print(f"{args.output}: {count} scenes of {scenes.height}x{scenes.width}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run `generate-scenes`; return the exit status (2 for bad usage)."""
    args = _parser().parse_args(argv)
    return run_command(COMMAND, lambda: _run(args))


if __name__ == "__main__":
    raise SystemExit(main())

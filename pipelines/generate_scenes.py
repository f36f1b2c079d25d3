"""`generate-scenes`: write procedural street scenes in the folder layout of Cityscapes, or of VOC.

Whatever reads these datasets reads the result, so the whole chain runs without a downloaded one.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from latent_store.console import make_parser, run_command
from pipelines.scenes.scene import (
    COUNTABLE_LABELS,
    LARGEST,
    SMALLEST,
    Scene,
    SceneError,
    render_scene,
)
from pipelines.scenes.sets import make_room, require_counts, scene_jobs
from pipelines.scenes.voc_scenes import VocScenes, generate_voc_scenes

COMMAND = "generate-scenes"
FRAME = 19  # Cityscapes annotates the twentieth frame of each sequence

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
        require_counts(self.train, self.val, self.seed)
        for name in ("height", "width"):
            if not SMALLEST <= getattr(self, name) <= LARGEST:
                raise SceneError(
                    f"--{name} must be {SMALLEST} to {LARGEST} pixels, not {getattr(self, name)}"
                )
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
    folders = [f"{tree}/{split}/{scenes.city}" for tree in _TREES for split in ("train", "val")]
    make_room(output, folders, f"city {scenes.city!r}", overwrite=overwrite)
    for split, number, index in scene_jobs(scenes.train, scenes.val):
        scene = render_scene(scenes.seed, index, scenes.height, scenes.width)
        write_scene(output, split, scenes.city, number, scene)
    return scenes.train + scenes.val


LAYOUTS = {"cityscapes": (SceneSet, generate_scenes), "voc": (VocScenes, generate_voc_scenes)}


def _parser() -> argparse.ArgumentParser:
    default, voc = SceneSet(), VocScenes()
    parser = make_parser(
        COMMAND, "Write procedural street scenes in the folder layout of Cityscapes or PASCAL VOC."
    )
    add = parser.add_argument
    add("--output", type=Path, required=True, metavar="DIR", help="the dataset's root")
    add("--layout", choices=sorted(LAYOUTS), default="cityscapes", help="layout of the folders")
    add("--train", type=int, default=default.train, help="scenes in the train split")
    add("--val", type=int, default=default.val, help="scenes in the val split")
    add("--seed", type=int, default=default.seed, help="the same seed gives the same scenes")
    add("--overwrite", action="store_true", help="replace this city's or year's pictures")
    # Without defaults, so that what the layout does not know is refused.
    add = parser.add_argument_group("layout cityscapes").add_argument
    add("--height", type=int, help=f"of a picture, in pixels (default: {default.height})")
    add("--width", type=int, help=f"of a picture, in pixels (default: {default.width})")
    add("--city", help=f"stands where Cityscapes has a city (default: {default.city})")
    add = parser.add_argument_group("layout voc").add_argument
    add("--longest", type=int, help=f"side of the pictures, in pixels (default: {voc.longest})")
    add("--year", type=int, help=f"of the folder and the scenes (default: {voc.year})")
    return parser


def _run(args: argparse.Namespace) -> int:
    kind, generate = LAYOUTS[args.layout]
    given = {name: value for name, value in vars(args).items() if value is not None}
    known = kind.__dataclass_fields__.keys()
    for other, (config, _) in LAYOUTS.items():
        strange = given.keys() & config.__dataclass_fields__.keys() - known
        if strange:
            raise SceneError(
                f"--{min(strange)} is of --layout {other}, not of {args.layout}; leave it out"
            )
    scenes = kind(**{name: given[name] for name in given.keys() & known})
    count = generate(args.output, scenes, overwrite=args.overwrite)
    print(f"{args.output}: {count} scenes of {_size(scenes)}")
    return 0


def _size(scenes: SceneSet | VocScenes) -> str:
    if isinstance(scenes, VocScenes):
        return f"up to {scenes.longest}x{scenes.longest}"
    return f"{scenes.height}x{scenes.width}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run `generate-scenes`; return the exit status (2 for bad usage)."""
    args = _parser().parse_args(argv)
    return run_command(COMMAND, lambda: _run(args))


if __name__ == "__main__":
    raise SystemExit(main())

"""Procedural street scenes in the layout of Cityscapes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.datasets.cityscapes import IMAGE_SUFFIX, IMAGES, LABEL_SUFFIX, LABELS
from pipelines.scenes.camera import COUNTABLE_LABELS
from pipelines.scenes.scene import LARGEST, SMALLEST, Scene, render_scene
from pipelines.scenes.sets import SceneError, SceneSet
from training.flags import flag

FRAME = 19  # Cityscapes annotates the twentieth frame of each sequence


@dataclass(frozen=True, kw_only=True)
class CityscapesScenes(SceneSet):
    """Scenes of one size, in the folders of one city."""

    height: int = flag("of a picture, in pixels", default=256, least=SMALLEST, most=LARGEST)
    width: int = flag("of a picture, in pixels", default=512, least=SMALLEST, most=LARGEST)
    city: str = flag("stands where Cityscapes has a city", default="procedural")

    def __post_init__(self) -> None:
        super().__post_init__()
        # File names are split at underscores by everything that reads Cityscapes.
        if not (self.city.isascii() and self.city.isalnum()):
            raise SceneError(f"--city must be letters and digits only, not {self.city!r}")

    @property
    def size(self) -> str:
        """The pictures' height and width."""
        return f"{self.height}x{self.width}"

    @property
    def owned(self) -> tuple[str, list[str]]:
        """The city and its folders."""
        trees = [f"{tree}/{split}" for tree in (IMAGES, LABELS) for split in ("train", "val")]
        return f"city {self.city!r}", [f"{tree}/{self.city}" for tree in trees]

    def write_scene(self, root: Path, split: str, number: int, index: int) -> None:
        """Writes a scene's picture, labelIds and instanceIds."""
        scene = render_scene(self.seed, index, self.height, self.width, plain=self.plain)
        ids = cityscapes_instance_ids(scene)
        for tree, suffix, array in (
            (IMAGES, IMAGE_SUFFIX, scene.image_HWC),
            (LABELS, LABEL_SUFFIX, scene.label_ids_HW),
            (LABELS, "_gtFine_instanceIds.png", ids),
        ):
            path = root / tree / split / self.city / f"{self.city}_{number:06d}_{FRAME:06d}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)


def cityscapes_instance_ids(scene: Scene) -> np.ndarray:
    """Returns uint16 [height, width] as in Cityscapes' gtFine_instanceIds.

    A pixel of a countable object is labelId * 1000 + k, k = 0, 1, … within its label; every other
    pixel is its labelId.
    """
    ids = scene.label_ids_HW.astype(np.uint16)
    for label in COUNTABLE_LABELS:
        inside = (scene.label_ids_HW == label) & (scene.instance_ids_HW > 0)
        _, rank = np.unique(scene.instance_ids_HW[inside], return_inverse=True)
        ids[inside] = label * 1000 + rank
    return ids

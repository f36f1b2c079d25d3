"""The frame of a set of generated scenes, whatever folder layout it is written in."""

import shutil
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from latent_store.console import MOST_SEED, progress
from latent_store.errors import LatentStoreError
from training.flags import Flags, flag

# Disjoint ranges of scene numbers, so that nothing is tested on what it was trained on.
TRAIN_FIRST, VAL_FIRST, CODEC_TRAIN_FIRST, CODEC_CHECK_FIRST = 0, 1_000_000, 2_000_000, 3_000_000
MOST_SCENES = VAL_FIRST - TRAIN_FIRST


class SceneError(LatentStoreError):
    """A scene was asked for that cannot be drawn."""


@dataclass(frozen=True, kw_only=True)
class SceneSet(Flags, ABC):
    """Scenes of two splits, which share none; a layout says how each is written.

    Raises:
        LatentStoreError: If a number is out of range.
        SceneError: If there is no scene.
    """

    train: int = flag("scenes in the train split", default=64, most=MOST_SCENES)
    val: int = flag("scenes in the val split", default=24, most=MOST_SCENES)
    seed: int = flag("the same seed gives the same scenes", default=0, most=MOST_SEED)
    plain: bool = flag("eight classes, near objects and no clutter", default=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.train + self.val:
            raise SceneError("--train and --val are both 0; ask for at least one scene")

    @property
    def pictures(self) -> list[tuple[str, int]]:
        """The split and the number in it, from 0, of every picture."""
        counts = (("train", self.train), ("val", self.val))
        return [(split, number) for split, count in counts for number in range(count)]

    @property
    @abstractmethod
    def size(self) -> str:
        """The pictures' size, in words."""

    @property
    @abstractmethod
    def owned(self) -> tuple[str, list[str]]:
        """The set's name, and the folders below a dataset's root that are its alone."""

    @abstractmethod
    def write_scene(self, root: Path, split: str, number: int, index: int) -> None:
        """Draws scene `index` and writes it as picture `number`, from 0, of a split."""

    def generate(self, root: Path, *, overwrite: bool = False) -> int:
        """Draws and writes all scenes below a dataset's root; returns their number.

        Raises:
            SceneError: If the root has content and `overwrite`, to replace what the set owns in it,
                is not set.
        """
        name, folders = self.owned
        if root.exists() and not root.is_dir():
            raise SceneError(f"--output {root} is a file; name a folder")
        if root.is_dir() and any(root.iterdir()):
            if not overwrite:
                raise SceneError(
                    f"--output {root} is not empty; name a new folder, or give --overwrite to "
                    f"replace the pictures of {name} in it"
                )
            for folder in folders:
                shutil.rmtree(root / folder, ignore_errors=True)
        for split, number in progress(self.pictures, desc="drawing scenes", unit="scene"):
            first = TRAIN_FIRST if split == "train" else VAL_FIRST
            self.write_scene(root, split, number, first + number)
        return len(self.pictures)
